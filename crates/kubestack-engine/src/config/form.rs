//! The form of the file, section by section.

use kubestack_core::config::SecretRef;
use kubestack_core::registry::nearest;
use kubestack_core::resources::Quantity;
use kubestack_core::time::Span;
use kubestack_planner::settings::{Limit, Policy};
use serde::Deserialize;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

/// Keys at the top of the file.
pub(super) const SECTIONS: [&str; 13] = [
    "instance",
    "demand-listeners",
    "destroy-listeners",
    "jenkins",
    "kubernetes",
    "masters",
    "providers",
    "labels",
    "limits",
    "console",
    "coordination",
    "policy",
    "state_dir",
];

/// A cap: `agents`, and any resource by its name.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct LimitForm {
    agents: Option<u32>,
    #[serde(flatten, deserialize_with = "resources")]
    resources: BTreeMap<String, Quantity>,
}

/// Any name may be a resource; one that looks like a known key is that key, misspelt. Taken as a resource it
/// would limit nothing.
fn resources<'de, D: serde::Deserializer<'de>>(from: D) -> Result<BTreeMap<String, Quantity>, D::Error> {
    const KEYS: [&str; 3] = ["agents", "cpu", "memory"];
    let resources = BTreeMap::<String, Quantity>::deserialize(from)?;
    for name in resources.keys().filter(|name| !KEYS.contains(&name.as_str())) {
        if let Some(near) = nearest(name, KEYS) {
            let text = format!("there is no resource `{name}`, did you mean `{near}`?");
            return Err(serde::de::Error::custom(text));
        }
    }
    Ok(resources)
}

impl LimitForm {
    pub fn limit(&self) -> Limit {
        Limit { agents: self.agents, resources: kubestack_core::resources::Resources(self.resources.clone()) }
    }
}

/// One or several names.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged, expecting = "expected a name or a list of names")]
pub(super) enum Names {
    One(String),
    Several(Vec<String>),
}

impl Names {
    pub fn list(&self) -> Vec<String> {
        match self {
            Self::One(name) => vec![name.clone()],
            Self::Several(names) => names.clone(),
        }
    }
}

/// One label.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LabelForm {
    pub name: String,
    pub image: Option<String>,
    pub cpu: Option<Quantity>,
    pub memory: Option<Quantity>,
    #[serde(default)]
    pub provides: BTreeSet<String>,
    pub max: Option<u32>,
    #[serde(default)]
    pub min_ready: u32,
    pub weight: Option<u32>,
    pub provider: Option<Names>,
    pub masters: Option<Names>,
    pub attach: Option<String>,
    #[serde(default)]
    pub unlabelled: bool,
    #[serde(default)]
    pub env: BTreeMap<String, SecretRef>,
    pub pod: Option<Value>,
    pub idle_timeout: Option<Span>,
    pub launch_timeout: Option<Span>,
    pub max_lifetime: Option<Span>,
    #[serde(default)]
    pub hold_on_failure: u32,
}

/// Deadlines and graces; what is absent has its default.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct PolicyForm {
    step_deadline: Option<Span>,
    concurrency: Option<u32>,
    stale_after: Option<Span>,
    surplus_grace: Option<Span>,
    forgotten_grace: Option<Span>,
    lost_grace: Option<Span>,
    offer_timeout: Option<Span>,
    destroy_grace: Option<Span>,
    breaker_pause: Option<Span>,
    breaker_max: Option<Span>,
    pub master_poll: Option<Span>,
    pub stop_grace: Option<Span>,
}

impl PolicyForm {
    /// Those of the keys that no zero makes sense for: with one, every step would be too late, every look stale,
    /// or one look would follow the other without a rest.
    pub fn never_zero(&self) -> [(&'static str, Option<Span>); 3] {
        [
            ("step_deadline", self.step_deadline),
            ("stale_after", self.stale_after),
            ("master_poll", self.master_poll),
        ]
    }

    pub fn policy(&self) -> Policy {
        let mut policy = Policy::default();
        let set = |field: &mut Duration, span: Option<Span>| {
            if let Some(span) = span {
                *field = span.0;
            }
        };
        set(&mut policy.step_deadline, self.step_deadline);
        set(&mut policy.stale_after, self.stale_after);
        set(&mut policy.surplus_grace, self.surplus_grace);
        set(&mut policy.forgotten_grace, self.forgotten_grace);
        set(&mut policy.lost_grace, self.lost_grace);
        set(&mut policy.offer_timeout, self.offer_timeout);
        set(&mut policy.destroy_grace, self.destroy_grace);
        set(&mut policy.breaker_pause, self.breaker_pause);
        set(&mut policy.breaker_max, self.breaker_max);
        policy.concurrency = self.concurrency.unwrap_or(policy.concurrency).max(1);
        policy
    }
}

/// What every entry of `masters`, `providers` and the listeners has; the rest is its plugin's.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct EntryForm {
    pub name: String,
    #[serde(rename = "type")]
    pub type_name: String,
    #[serde(default)]
    pub limits: LimitForm,
    pub masters: Option<Names>,
    pub merge_group: Option<String>,
}

/// Where the leader's term, the operator's intent and advisory memory are kept: in a directory of this host, or by a
/// provider whose platform can.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct CoordinationForm {
    pub dir: Option<PathBuf>,
    pub provider: Option<String>,
    pub lease_duration: Option<Span>,
}
