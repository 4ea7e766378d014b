//! The watch: pods are units, and a Secret without its pod is the remnant of one.

use crate::api::{Api, JSON, PARTIAL, PARTIAL_LIST};
use crate::fault::{Answer, Effect, Fault};
use crate::feed::{Change, Feed};
use crate::object::{Meta, Partial, Pod};
use crate::{marks, phase};
use http::StatusCode;
use kubestack_core::prelude::*;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

/// A Secret is a remnant if for so long no pod came for it: it is made a moment before its pod, and deleted a
/// moment after.
const SETTLE: Duration = Duration::from_secs(10);

/// A running watch.
pub struct KubeWatch {
    instance: InstanceName,
    api: Arc<Api>,
    pods: Feed<Pod>,
    secrets: Feed<Partial>,
    listed: bool,
    /// The units that were told.
    units: BTreeMap<AgentName, Uid>,
    /// All Secrets of ours.
    kept: BTreeMap<AgentName, Kept>,
    events: VecDeque<WatchEvent>,
    told_current: Moment,
}

/// A Secret of ours.
struct Kept {
    unit: Unit,
    /// Since when it has no pod, as far as we know.
    alone: Option<Moment>,
    /// It was told as a remnant.
    told: bool,
}

/// The unit that a pod is, if it is that instance's.
pub fn unit(pod: &Pod, instance: &InstanceName) -> Option<Unit> {
    let marks = marks::read(&pod.metadata, instance)?;
    let phase = phase::phase(pod, marks.used.is_some());
    Some(made(&pod.metadata, marks, phase))
}

/// The unit that a Secret is as long as it has no pod, if it is that instance's.
fn remnant(secret: &Partial, instance: &InstanceName) -> Option<Unit> {
    let marks = marks::read(&secret.metadata, instance)?;
    Some(made(&secret.metadata, marks, UnitPhase::Remnant))
}

fn made(meta: &Meta, marks: Marks, phase: UnitPhase) -> Unit {
    Unit::new(meta.uid.as_str().into(), marks, phase, meta.created()).version(meta.version())
}

impl KubeWatch {
    pub fn new(api: Arc<Api>, instance: InstanceName) -> Self {
        let selector = marks::selector(&instance);
        Self {
            pods: Feed::new(api.clone(), "pods", &selector, (JSON, JSON)),
            secrets: Feed::new(api.clone(), "secrets", &selector, (PARTIAL, PARTIAL_LIST)),
            instance,
            api,
            listed: false,
            units: BTreeMap::new(),
            kept: BTreeMap::new(),
            events: VecDeque::new(),
            told_current: Moment::default(),
        }
    }

    /// Lists everything. Secrets first: one whose pod is made meanwhile has it in the second list.
    async fn list(&mut self) -> Answer<()> {
        let secrets = self.secrets.list(|secret| remnant(secret, &self.instance)).await?;
        let mut units = self.pods.list(|pod| unit(pod, &self.instance)).await?;
        let mut before = std::mem::take(&mut self.kept);
        self.units.clear();
        self.units.extend(units.iter().map(|unit| (unit.name.clone(), unit.uid.clone())));
        for secret in secrets {
            self.keep(secret);
        }
        for (name, kept) in &mut self.kept {
            let known = before.remove(name).filter(|known| known.unit.uid == kept.unit.uid);
            if let (Some(known), Some(alone)) = (known, kept.alone) {
                kept.alone = known.alone.or(Some(alone));
                kept.told = known.told;
                units.extend(known.told.then(|| kept.unit.clone()));
            }
        }
        self.listed = true;
        self.told_current = self.proven();
        self.events.clear();
        self.events.push_back(WatchEvent::Complete { began: self.told_current, units });
        Ok(())
    }

    fn proven(&self) -> Moment {
        self.pods.proven.min(self.secrets.proven)
    }

    fn pod_changed(&mut self, change: Change<Pod>) {
        match change {
            Change::Applied(pod) => {
                let Some(unit) = unit(&pod, &self.instance) else { return };
                if let Some(kept) = self.kept.get_mut(&unit.name) {
                    kept.alone = None;
                    if std::mem::take(&mut kept.told) {
                        self.events.push_back(WatchEvent::Gone(kept.unit.reference()));
                    }
                }
                self.units.insert(unit.name.clone(), unit.uid.clone());
                self.events.push_back(WatchEvent::Applied(unit));
            }
            Change::Gone(pod) => {
                let name = AgentName::new(&pod.metadata.name);
                let uid = Uid::new(&pod.metadata.uid);
                // Its marks may have been taken away by hand: what was told is told off.
                if self.units.get(&name) != Some(&uid) {
                    return;
                }
                self.units.remove(&name);
                if let Some(kept) = self.kept.get_mut(&name) {
                    kept.alone = Some(self.api.now());
                }
                self.events.push_back(WatchEvent::Gone(UnitRef::new(name, uid)));
            }
            Change::Proven => {}
            Change::Lost => self.listed = false,
        }
    }

    fn secret_changed(&mut self, change: Change<Partial>) {
        match change {
            Change::Applied(secret) => {
                if let Some(secret) = remnant(&secret, &self.instance) {
                    self.keep(secret);
                }
            }
            Change::Gone(secret) => {
                let name = AgentName::new(&secret.metadata.name);
                let same =
                    self.kept.get(&name).is_some_and(|kept| kept.unit.uid.as_str() == secret.metadata.uid);
                if let Some(kept) = self.kept.remove(&name).filter(|kept| same && kept.told) {
                    self.events.push_back(WatchEvent::Gone(kept.unit.reference()));
                }
            }
            Change::Proven => {}
            Change::Lost => self.listed = false,
        }
    }

    fn keep(&mut self, unit: Unit) {
        let alone = (!self.units.contains_key(&unit.name)).then(|| self.api.now());
        self.kept.entry(unit.name.clone()).or_insert(Kept { unit, alone, told: false });
    }

    /// Tells the Secrets that have been alone for long enough.
    fn tell_remnants(&mut self) {
        let now = self.api.now();
        for kept in self.kept.values_mut() {
            if !kept.told && kept.alone.is_some_and(|alone| alone + SETTLE <= now) {
                kept.told = true;
                self.events.push_back(WatchEvent::Applied(kept.unit.clone()));
            }
        }
    }

    /// How long until the next one has been.
    fn until_remnant(&self) -> Option<Duration> {
        let alone = self.kept.values().filter(|kept| !kept.told).filter_map(|kept| kept.alone).min()?;
        Some((alone + SETTLE).since(self.api.now()))
    }

    async fn advance(&mut self) -> Answer<()> {
        if !self.listed {
            return self.list().await;
        }
        let remnant = self.until_remnant();
        let api = self.api.clone();
        tokio::select! {
            biased;
            change = self.pods.next() => {
                let change = change?;
                self.pods.confirm();
                self.pod_changed(change);
            }
            change = self.secrets.next() => {
                let change = change?;
                self.secrets.confirm();
                self.secret_changed(change);
            }
            () = api.sleep(remnant.unwrap_or_default()), if remnant.is_some() => self.tell_remnants(),
        }
        let as_of = self.proven();
        if self.listed && as_of > self.told_current {
            self.told_current = as_of;
            self.events.push_back(WatchEvent::Current { as_of });
        }
        Ok(())
    }
}

#[async_trait]
impl UnitWatch for KubeWatch {
    async fn next(&mut self) -> Result<WatchEvent> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(event);
            }
            match self.advance().await {
                Ok(()) => {}
                // The server has forgotten where we were: all is listed again, which is no failure.
                Err(fault) if self.listed && fault.is(StatusCode::GONE) => self.listed = false,
                Err(fault) => return Err(told(fault, &self.api)),
            }
        }
    }
}

fn told(fault: Fault, api: &Api) -> Error {
    let missing = fault.is(StatusCode::NOT_FOUND);
    let error =
        fault.error(&format!("watch pods and Secrets in namespace `{}`", api.namespace), Effect::None);
    if missing { Error::invalid(format!("{error}; create the namespace, or set `namespace`")) } else { error }
}
