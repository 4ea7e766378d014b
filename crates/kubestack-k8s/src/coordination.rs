//! Who leads, by a Lease and a ConfigMap (docs/adr/0007).
//!
//! ```text
//!  leader     renews the Lease every fifth of its duration, or 3 s; is sure of its lead for two thirds of the duration after
//!             the begin of the last renewal that was answered; sends nothing beyond that
//!  contender  looks as often; takes the Lease over once it stood still for the whole duration by its own clock
//! ```
//!
//! Each write names the version that it changes, so of two that act at once one is told. Clocks of two hosts are never
//! compared; they only have to run about as fast (3:2).

use crate::api::{Api, JSON};
use crate::config::Access;
use crate::fault::{Answer, Effect, Fault};
use crate::provider::refused;
use crate::record::{self, ConfigMap, Kept, Lease, object};
use http::StatusCode;
use kubestack_core::name::slug;
use kubestack_core::prelude::*;
use kubestack_core::time::Span;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{OnceCell, watch};

const LEASES: &str = "leases.coordination.k8s.io";
const CONFIG_MAPS: &str = "configmaps";
/// However long the lease: one that was given up is to be noticed soon.
const SLOWEST: Duration = Duration::from_secs(3);
/// A write that others got ahead of is made again so often.
const TRIES: u32 = 5;

/// One that wants to lead, or does.
pub struct KubeCoordination(Arc<Contender>);

struct Contender {
    access: Access,
    api: OnceCell<Api>,
    /// Of both objects.
    name: String,
    /// Of this very start: one that was killed and started again is somebody else.
    identity: String,
    lease: Duration,
    /// Nothing if it is not held.
    lead: watch::Sender<Option<Lead>>,
    waits_for: Mutex<Option<String>>,
    map: tokio::sync::Mutex<OwnMap>,
}

/// A lead.
#[derive(Clone, Copy, PartialEq)]
struct Lead {
    term: u64,
    /// Sure until then.
    until: Moment,
}

/// The ConfigMap as this leader knows it.
#[derive(Default)]
struct OwnMap {
    term: u64,
    version: String,
    data: BTreeMap<&'static str, String>,
}

/// The state of a Lease that a contender has seen, and since when by its own clock.
#[derive(Default)]
struct Seen {
    version: String,
    since: Moment,
}

/// What came of one look at the Lease.
enum Look {
    Leads(Leadership),
    /// Somebody else does; that long is to be waited at most.
    Waits(Duration),
}

impl KubeCoordination {
    pub(crate) fn new(access: Access, lease: Duration) -> Self {
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let start = access.context.clock.now().as_micros();
        Self(Arc::new(Contender {
            api: OnceCell::new(),
            name: format!("kubestack-{}", slug(access.context.instance.as_str())),
            identity: format!("{}_{}_{start:x}", host.trim(), std::process::id()),
            access,
            lease,
            lead: watch::Sender::new(None),
            waits_for: Mutex::default(),
            map: tokio::sync::Mutex::default(),
        }))
    }
}

impl Contender {
    async fn api(&self) -> Result<&Api> {
        self.api.get_or_try_init(|| self.access.open()).await
    }

    fn clock(&self) -> &dyn Clock {
        &*self.access.context.clock
    }

    fn now(&self) -> Moment {
        self.clock().now()
    }

    /// Between two renewals, and between two looks of one that waits; no request may take longer.
    fn pace(&self) -> Duration {
        (self.lease / 5).min(SLOWEST)
    }

    fn holds(&self) -> bool {
        self.lead.borrow().is_some_and(|lead| self.now() < lead.until)
    }

    /// The lead is sure from a write that began then and was answered, unless it is lost meanwhile.
    fn sure_from(&self, began: Moment) -> Moment {
        began + self.lease * 2 / 3
    }

    /// Ends the lead, if it is one.
    fn lose(&self, why: &str) {
        if self.lead.send_replace(None).is_some() {
            tracing::error!("the lead is lost: {why}");
        }
    }

    fn wait_for(&self, what: String) {
        let mut known = self.waits_for.lock().unwrap_or_else(PoisonError::into_inner);
        if known.as_ref() != Some(&what) {
            tracing::info!("standing by: {what}");
            *known = Some(what);
        }
    }

    async fn bounded<T>(&self, asking: impl Future<Output = Answer<T>>) -> Answer<T> {
        tokio::select! {
            biased;
            answer = asking => answer,
            () = self.clock().sleep(self.pace()) => {
                Err(Fault::NoAnswer(format!("no answer within {}", Span(self.pace()))))
            }
        }
    }

    /// One of our two objects, if it is there.
    async fn read<T: DeserializeOwned>(&self, api: &Api, kind: &str) -> Answer<Option<T>> {
        match self.bounded(api.get(&format!("{}/{}", path(api, kind), self.name), JSON)).await {
            Ok(object) => Ok(Some(object)),
            Err(fault) if fault.is(StatusCode::NOT_FOUND) => Ok(None),
            Err(fault) => Err(fault),
        }
    }

    /// Changes that state of one of our two objects, or makes it.
    async fn write<T: DeserializeOwned>(
        &self,
        api: &Api,
        kind: &str,
        version: Option<&str>,
        content: Value,
    ) -> Answer<T> {
        let (name, instance) = (&self.name, &self.access.context.instance);
        let object =
            object(if kind == LEASES { "Lease" } else { "ConfigMap" }, name, instance, version, content);
        let path = path(api, kind);
        match version {
            Some(_) => self.bounded(api.patch(&path, name, &object)).await,
            None => self.bounded(api.create(&path, &object)).await,
        }
    }

    fn told(&self, fault: Fault, doing: &str, kind: &str) -> Error {
        let mut error = fault.error(&format!("{doing} {kind} {}", self.name), Effect::None);
        error.message = error.message.replace("deploy/role.yaml", "deploy/coordination.yaml");
        error
    }

    async fn look(self: &Arc<Self>, seen: &mut Seen) -> Result<Look> {
        let api = self.api().await?;
        let read = |kind| move |fault| self.told(fault, "read", kind);
        let lease: Option<Lease> = self.read(api, LEASES).await.map_err(read(LEASES))?;
        let held = lease.as_ref().and_then(|lease| Some((lease, lease.holder()?)));
        if let Some((lease, holder)) = held.filter(|(_, holder)| *holder != self.identity) {
            let (now, version) = (self.now(), &lease.metadata.resource_version);
            if seen.version != *version {
                *seen = Seen { version: version.clone(), since: now };
            }
            let rest = (seen.since + lease.duration().unwrap_or(self.lease)).since(now);
            if !rest.is_zero() {
                self.wait_for(format!("{holder} leads instance `{}`", self.access.context.instance));
                return Ok(Look::Waits(rest));
            }
            tracing::warn!(
                holder,
                "the leader has not been heard of for as long as it wanted; its lead is taken over"
            );
        }
        let map: Option<ConfigMap> = self.read(api, CONFIG_MAPS).await.map_err(read(CONFIG_MAPS))?;
        let known = map.as_ref().map(Kept::read).unwrap_or_default();
        let term = known.term.max(lease.as_ref().map_or(0, Lease::term)) + 1;
        let (began, version) =
            (self.now(), lease.as_ref().map(|lease| lease.metadata.resource_version.as_str()));
        let content = record::taken(&self.identity, self.lease, term, began);
        let lease_before = lease.as_ref();
        let taken: Lease = match self.write(api, LEASES, version, content).await {
            Ok(taken) => taken,
            // Somebody was faster.
            Err(fault) if fault.is(StatusCode::CONFLICT) => return Ok(Look::Waits(self.pace())),
            Err(fault) if version.is_none() && fault.is(StatusCode::NOT_FOUND) => {
                return Err(refused(fault, &format!("make {LEASES} {}", self.name), api));
            }
            Err(fault) => return Err(self.told(fault, "take", LEASES)),
        };
        self.lead.send_replace(Some(Lead { term, until: self.sure_from(began) }));
        let renewing = self.clone().keep_up(term, taken.metadata.resource_version);
        self.access.context.spawner.spawn("lead", Box::pin(renewing));
        let clean = |kept: &Kept| kept.is_clean(lease_before);
        match self.begin(api, term, clean).await {
            Ok(leadership) => Ok(Look::Leads(leadership)),
            Err(error) => {
                // Nothing was sent yet: the next one need not wait.
                if let Err(fault) = self.give_up(api).await {
                    tracing::debug!("{}", self.told(fault, "release", LEASES));
                }
                Err(error)
            }
        }
    }

    /// Notes the term, and reads what the leader before has left.
    async fn begin(&self, api: &Api, term: u64, clean: impl Fn(&Kept) -> bool) -> Result<Leadership> {
        for _ in 0..TRIES {
            let map: Option<ConfigMap> =
                self.read(api, CONFIG_MAPS).await.map_err(|fault| self.told(fault, "read", CONFIG_MAPS))?;
            let kept = map.as_ref().map(Kept::read).unwrap_or_default();
            if kept.term >= term || !self.holds() {
                return Err(Error::conflict("another daemon took the lead meanwhile"));
            }
            let mut data = Map::from_iter([("term".to_owned(), term.to_string().into())]);
            let version = map.as_ref().map(|map| map.metadata.resource_version.as_str());
            if version.is_some() {
                data.insert("clean".to_owned(), Value::Null);
            }
            for (key, text) in &kept.damaged {
                data.insert(format!("{key}-damaged"), text.as_str().into());
                data.entry(key.clone()).or_insert(Value::Null);
            }
            let written: ConfigMap = match self.write(api, CONFIG_MAPS, version, data.into()).await {
                Ok(written) => written,
                // The last words of the leader before, most likely.
                Err(fault) if fault.is(StatusCode::CONFLICT) || fault.is(StatusCode::NOT_FOUND) => continue,
                Err(fault) => return Err(self.told(fault, "write", CONFIG_MAPS)),
            };
            for (key, _) in &kept.damaged {
                tracing::error!(
                    "`{key}` of ConfigMap {} was damaged and was put aside as `{key}-damaged`; what it said is lost",
                    self.name
                );
            }
            let mut own = self.map.lock().await;
            own.term = term;
            own.version = written.metadata.resource_version;
            let text = |key: &str| written.data.as_ref().and_then(|data| data.get(key).cloned());
            own.data = ["intent", "memory"].into_iter().filter_map(|key| Some((key, text(key)?))).collect();
            return Ok(Leadership::new(term, clean(&kept), kept.memory, kept.intent));
        }
        Err(Error::transient(format!("ConfigMap {} is changed by others all the time", self.name)))
    }

    /// Renews the Lease until that lead ends.
    async fn keep_up(self: Arc<Self>, term: u64, version: String) {
        let mut version = Some(version);
        let mut pause = self.pace();
        loop {
            self.clock().sleep(pause).await;
            if self.lead.borrow().is_none_or(|lead| lead.term != term) {
                return;
            }
            let renewed = self.renew(&mut version).await;
            if !self.holds() {
                let late = || Error::transient("the renewal came too late");
                return self.lose(&renewed.err().unwrap_or_else(late).message);
            }
            pause = match renewed {
                Ok(()) => self.pace(),
                Err(error) => {
                    tracing::warn!("the lead was not renewed, and is tried again: {error}");
                    self.pace() / 3
                }
            };
        }
    }

    /// Renews once. After a failure the version is not known, and read first.
    async fn renew(&self, version: &mut Option<String>) -> Result<()> {
        let api = self.api().await?;
        let began = self.now();
        let known = match version.take() {
            Some(known) => known,
            None => {
                let lease: Option<Lease> =
                    self.read(api, LEASES).await.map_err(|fault| self.told(fault, "read", LEASES))?;
                let holder = lease.as_ref().map(|lease| lease.holder().unwrap_or("nobody"));
                match lease.as_ref().filter(|_| holder == Some(&self.identity)) {
                    Some(lease) => lease.metadata.resource_version.clone(),
                    None => {
                        let why = match holder {
                            Some(holder) => format!("{holder} has it"),
                            None => "the Lease was deleted".to_owned(),
                        };
                        self.lose(&why);
                        return Err(Error::conflict(why));
                    }
                }
            }
        };
        let renewed: Lease = self
            .write(api, LEASES, Some(&known), record::renewed(began))
            .await
            .map_err(|fault| self.told(fault, "renew", LEASES))?;
        *version = Some(renewed.metadata.resource_version);
        let until = self.sure_from(began);
        // Given up meanwhile, or over, it is not taken back.
        let now = self.now();
        self.lead.send_if_modified(|lead| match lead {
            Some(lead) if now < lead.until => std::mem::replace(&mut lead.until, until) != until,
            _ => false,
        });
        Ok(())
    }

    /// Keeps one entry of the ConfigMap, or takes it away.
    async fn keep(&self, key: &'static str, text: Option<String>) -> Result<()> {
        let api = self.api().await?;
        let mut own = self.map.lock().await;
        if own.data.get(key) == text.as_ref() {
            return Ok(());
        }
        for _ in 0..TRIES {
            if !self.holds() {
                return Err(Error::conflict("this daemon does not lead any more"));
            }
            let content = json!({key: text});
            match self.write::<ConfigMap>(api, CONFIG_MAPS, Some(&own.version), content).await {
                Ok(written) => {
                    own.version = written.metadata.resource_version;
                    match text {
                        Some(text) => own.data.insert(key, text),
                        None => own.data.remove(key),
                    };
                    return Ok(());
                }
                Err(fault) if fault.is(StatusCode::CONFLICT) || fault.is(StatusCode::NOT_FOUND) => {}
                Err(fault) => return Err(self.told(fault, "write", CONFIG_MAPS)),
            }
            // Somebody changed it, or deleted it, or our own last write had its effect after all.
            let map: Option<ConfigMap> =
                self.read(api, CONFIG_MAPS).await.map_err(|fault| self.told(fault, "read", CONFIG_MAPS))?;
            let Some(map) = map else {
                let mut data: Map<String, Value> =
                    own.data.iter().map(|(key, text)| ((*key).to_owned(), text.as_str().into())).collect();
                data.insert("term".to_owned(), own.term.to_string().into());
                let made = self.write::<ConfigMap>(api, CONFIG_MAPS, None, data.into()).await;
                let made = made.map_err(|fault| self.told(fault, "make", CONFIG_MAPS))?;
                tracing::warn!("ConfigMap {} was deleted, and is made again", self.name);
                own.version = made.metadata.resource_version;
                continue;
            };
            if Kept::read(&map).term > own.term {
                self.lose("another daemon has noted a later term");
            }
            own.version = map.metadata.resource_version;
        }
        Err(Error::transient(format!("ConfigMap {} is changed by others all the time", self.name)))
    }

    /// Ends the lead, and says so on the Lease.
    async fn give_up(&self, api: &Api) -> Answer<()> {
        if self.lead.send_replace(None).is_none() {
            return Ok(());
        }
        let mut tries = 0;
        loop {
            let lease: Option<Lease> = self.read(api, LEASES).await?;
            let Some(lease) = lease.filter(|lease| lease.holder() == Some(&self.identity)) else {
                return Ok(());
            };
            let content = record::released(self.now());
            tries += 1;
            match self.write::<Lease>(api, LEASES, Some(&lease.metadata.resource_version), content).await {
                // A renewal that was under way.
                Err(fault) if fault.is(StatusCode::CONFLICT) && tries < TRIES => {}
                answer => return answer.map(drop),
            }
        }
    }
}

/// Where objects of that kind are.
fn path(api: &Api, kind: &str) -> String {
    match kind.split_once('.') {
        Some((kind, group)) => format!("/apis/{group}/v1/namespaces/{}/{kind}", api.namespace),
        None => kind.to_owned(),
    }
}

#[async_trait]
impl Coordination for KubeCoordination {
    async fn acquire(&self) -> Result<Leadership> {
        let mut seen = Seen::default();
        loop {
            let rest = match self.0.look(&mut seen).await {
                Ok(Look::Leads(leadership)) => return Ok(leadership),
                Ok(Look::Waits(rest)) => rest,
                // What is wrong at once is for an operator to mend; what goes wrong later may mend itself.
                Err(error)
                    if matches!(error.kind, ErrorKind::Unauthorized | ErrorKind::Invalid)
                        && self.waits_for().is_none() =>
                {
                    return Err(error);
                }
                Err(error) => {
                    self.0.wait_for(error.message);
                    self.0.pace()
                }
            };
            self.0.clock().sleep(rest.min(self.0.pace())).await;
        }
    }

    fn waits_for(&self) -> Option<String> {
        self.0.waits_for.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn peek(&self) -> Result<Leadership> {
        let api = self.0.api().await?;
        let map: Option<ConfigMap> =
            self.0.read(api, CONFIG_MAPS).await.map_err(|fault| self.0.told(fault, "read", CONFIG_MAPS))?;
        let kept = map.as_ref().map(Kept::read).unwrap_or_default();
        Ok(Leadership::new(kept.term + 1, kept.clean == Some(kept.term), kept.memory, kept.intent))
    }

    fn holds(&self) -> bool {
        self.0.holds()
    }

    async fn lost(&self) {
        let mut changes = self.0.lead.subscribe();
        loop {
            let rest = match *changes.borrow_and_update() {
                Some(lead) if self.0.now() < lead.until => lead.until.since(self.0.now()),
                _ => return,
            };
            tokio::select! {
                biased;
                _ = changes.changed() => {}
                () = self.0.clock().sleep(rest) => {}
            }
        }
    }

    async fn save_intent(&self, intent: Value) -> Result<()> {
        self.0.keep("intent", Some(intent.to_string())).await
    }

    async fn save_memory(&self, memory: Value) -> Result<()> {
        let text = record::pack(&memory);
        if text.is_none() {
            tracing::warn!(
                "what is remembered does not fit into a ConfigMap and is not kept; a takeover would be slower"
            );
        }
        self.0.keep("memory", text).await
    }

    async fn release(&self, clean: bool) -> Result<()> {
        let api = self.0.api().await?;
        if clean && self.0.holds() {
            let term = self.0.map.lock().await.term;
            self.0.keep("clean", Some(term.to_string())).await?;
        }
        self.0.give_up(api).await.map_err(|fault| self.0.told(fault, "release", LEASES))
    }

    async fn probe(&self) -> Vec<Probe> {
        let api = match self.0.api().await {
            Ok(api) => api,
            Err(error) => return vec![Probe::new("the way to the cluster", Err(error))],
        };
        let mut probes = Vec::new();
        for kind in [LEASES, CONFIG_MAPS] {
            for (verb, name) in
                [("create", None), ("get", Some(&*self.0.name)), ("patch", Some(&*self.0.name))]
            {
                let whose = name.map_or(String::new(), |name| format!(" {name}"));
                let what = format!("may {verb} {kind}{whose}");
                let result = match self.0.bounded(api.may(verb, kind, name)).await {
                    Ok(true) => Ok(()),
                    Ok(false) => Err(Error::unauthorized(format!(
                        "not permitted in namespace `{}`: without it no daemon can lead; give the daemon's role this verb \
                         (deploy/coordination.yaml)",
                        api.namespace
                    ))),
                    Err(fault) => {
                        let error = fault.error("ask for permissions", Effect::None);
                        return vec![Probe::new("what is permitted", Err(error))];
                    }
                };
                probes.push(Probe::new(what, result));
            }
        }
        probes
    }
}
