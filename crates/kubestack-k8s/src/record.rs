//! The two objects of an installation that say who leads: a Lease, and a ConfigMap with what survives a leader. What
//! they mean is decided here; who asks for them is [`coordination`](crate::coordination).
//!
//! Source of the fields: the Kubernetes API reference, `coordination/v1` Lease and `core/v1` ConfigMap.

use crate::marks;
use crate::object::Meta;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flate2::Compression;
use flate2::read::ZlibDecoder;
use flate2::write::ZlibEncoder;
use kubestack_core::prelude::*;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::time::Duration;

/// A ConfigMap holds 1 MiB (Kubernetes, "ConfigMaps"). Whatever memory takes more of it than this is not kept, so that
/// there is always room for the intent.
const MAX_MEMORY: usize = 768 << 10;
/// No memory of ours is larger when it is unpacked.
const MAX_UNPACKED: u64 = 64 << 20;

/// Memory as it stands in a ConfigMap: zlib, then base64. `None` if it does not fit.
pub fn pack(memory: &Value) -> Option<String> {
    let mut packed = ZlibEncoder::new(Vec::new(), Compression::fast());
    serde_json::to_writer(&mut packed, memory).ok()?;
    packed.flush().ok()?;
    Some(STANDARD.encode(packed.finish().ok()?)).filter(|text| text.len() <= MAX_MEMORY)
}

fn unpack(text: &str) -> Option<Value> {
    let packed = STANDARD.decode(text).ok()?;
    serde_json::from_reader(ZlibDecoder::new(&*packed).take(MAX_UNPACKED)).ok()
}

/// Who leads.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Lease {
    pub metadata: Meta,
    pub spec: LeaseSpec,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LeaseSpec {
    /// Nobody, if it is not there or empty.
    pub holder_identity: Option<String>,
    pub lease_duration_seconds: Option<u32>,
    /// The term of its holder.
    pub lease_transitions: Option<u32>,
}

impl Lease {
    pub fn holder(&self) -> Option<&str> {
        self.spec.holder_identity.as_deref().filter(|holder| !holder.is_empty())
    }

    /// How long it is to be respected after its last change.
    pub fn duration(&self) -> Option<Duration> {
        Some(Duration::from_secs(self.spec.lease_duration_seconds?.into()))
    }

    pub fn term(&self) -> u64 {
        self.spec.lease_transitions.unwrap_or(0).into()
    }
}

/// A Lease that this holder takes for that term.
pub fn taken(holder: &str, lease: Duration, term: u64, now: Moment) -> Value {
    json!({
        "holderIdentity": holder,
        "leaseDurationSeconds": lease.as_secs(),
        "acquireTime": time(now),
        "renewTime": time(now),
        "leaseTransitions": term,
    })
}

/// A holder that is still there.
pub fn renewed(now: Moment) -> Value {
    json!({"renewTime": time(now)})
}

/// Nobody.
pub fn released(now: Moment) -> Value {
    json!({"holderIdentity": null, "leaseDurationSeconds": 1, "renewTime": time(now)})
}

/// With the six digits that a `MicroTime` has.
fn time(now: Moment) -> String {
    let micros = i64::try_from(now.as_micros()).unwrap_or_default();
    format!("{:.6}", jiff::Timestamp::from_microsecond(micros).unwrap_or_default())
}

/// What survives a leader.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ConfigMap {
    pub metadata: Meta,
    pub data: Option<BTreeMap<String, String>>,
}

/// What a ConfigMap says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Kept {
    /// The last one that is noted.
    pub term: u64,
    /// The term whose leader stopped in good order.
    pub clean: Option<u64>,
    pub intent: Value,
    pub memory: Option<Value>,
    /// What is there and cannot be read: key and value.
    pub damaged: Vec<(String, String)>,
}

impl Kept {
    pub fn read(map: &ConfigMap) -> Self {
        let mut damaged = Vec::new();
        let data = map.data.as_ref();
        let mut number = |key: &str| -> Option<u64> {
            let text = data?.get(key)?;
            text.parse().inspect_err(|_| damaged.push((key.to_owned(), text.clone()))).ok()
        };
        let (term, clean) = (number("term").unwrap_or(0), number("clean"));
        let intent = data.and_then(|data| data.get("intent")).map_or(Value::Null, |text| {
            serde_json::from_str(text).unwrap_or_else(|_| {
                damaged.push(("intent".to_owned(), text.clone()));
                Value::Null
            })
        });
        // Without it a takeover is slower, and that is all.
        let memory = data.and_then(|data| data.get("memory")).and_then(|text| unpack(text));
        Self { term, clean, intent, memory, damaged }
    }

    /// Whether the leader of the last term cannot have anything under way: there was none, it stopped in good order, or it
    /// never came so far as to note its term.
    pub fn is_clean(&self, lease: Option<&Lease>) -> bool {
        let first = self.term == 0 && lease.is_none_or(|lease| lease.term() == 0);
        first && self.damaged.is_empty() || self.term > 0 && self.clean == Some(self.term)
    }
}

/// An object of that kind and name with that content. With a version only that very state of it may be changed.
pub fn object(
    kind: &str,
    name: &str,
    instance: &InstanceName,
    version: Option<&str>,
    content: Value,
) -> Value {
    let api = if kind == "Lease" { "coordination.k8s.io/v1" } else { "v1" };
    let mut object = Map::new();
    object.insert("apiVersion".to_owned(), api.into());
    object.insert("kind".to_owned(), kind.into());
    let metadata = match version {
        Some(version) => json!({"resourceVersion": version}),
        None => json!({"name": name, "labels": marks::of_instance(instance)}),
    };
    object.insert("metadata".to_owned(), metadata);
    object.insert(if kind == "Lease" { "spec" } else { "data" }.to_owned(), content);
    object.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(data: &[(&str, &str)]) -> ConfigMap {
        let data = data.iter().map(|(key, text)| ((*key).to_owned(), (*text).to_owned())).collect();
        ConfigMap { data: Some(data), ..ConfigMap::default() }
    }

    fn lease(term: u32) -> Lease {
        let spec = LeaseSpec { lease_transitions: Some(term), ..LeaseSpec::default() };
        Lease { spec, ..Lease::default() }
    }

    #[test]
    fn only_who_stopped_in_good_order_and_who_never_was_left_nothing_under_way() {
        let clean =
            |data: &[(&str, &str)], lease: Option<Lease>| Kept::read(&map(data)).is_clean(lease.as_ref());
        assert!(clean(&[], None));
        assert!(clean(&[("term", "3"), ("clean", "3")], Some(lease(3))));
        // The leader of term 4 took the Lease and got no further.
        assert!(clean(&[("term", "3"), ("clean", "3")], Some(lease(4))));
        assert!(!clean(&[("term", "3"), ("clean", "2")], Some(lease(3))));
        assert!(!clean(&[("term", "3")], Some(lease(3))));
        assert!(!clean(&[], Some(lease(3))), "the map was deleted");
        assert!(!clean(&[("term", "x"), ("clean", "3")], None));
    }

    #[test]
    fn memory_is_packed_and_unpacked_and_damage_to_it_is_no_damage() {
        let memory = json!({"agents": {"a": {"first_seen": 1}}});
        let text = pack(&memory).unwrap();
        assert_eq!(Kept::read(&map(&[("memory", &text)])).memory, Some(memory));
        for damage in ["", "y", &text[..text.len() - 8]] {
            let kept = Kept::read(&map(&[("memory", damage)]));
            assert_eq!((kept.memory, kept.damaged), (None, Vec::new()), "{damage}");
        }
    }
}
