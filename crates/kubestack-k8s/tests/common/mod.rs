//! What the tests of this crate share: what the engine would hand to the provider, and a real cluster.
#![allow(dead_code, clippy::unwrap_used, clippy::panic, reason = "shared by several test binaries")]

pub mod leader;
pub mod site;

use kubestack_core::prelude::*;
use std::collections::BTreeMap;
use std::time::Duration;

/// What the engine hands to the provider of that instance.
pub fn context(instance: &str) -> BuildContext {
    kubestack_testkit::host::context("k8s", instance)
}

pub fn marks(instance: &str, serial: u64) -> Marks {
    Marks::new(instance.into(), "small".into(), "k8s".into(), None, (1, serial), "h".into())
}

pub fn label() -> LabelSpec {
    let mut label = LabelSpec::new("small");
    label.image = Some("registry.invalid/agent:1".into());
    label
}

/// A label whose pod is patched so.
pub fn patched(patch: serde_json::Value) -> LabelSpec {
    let mut label = label();
    label.pod = Some(Fragment::from_value(patch));
    label
}

/// The value of every secret in these tests: it may stand in a Secret, and nowhere else.
pub const SECRET: &str = "s3cret-7d1f";

/// An enrolment with a secret.
pub fn enrolment() -> Enrolment {
    let mut enrolment = Enrolment::default();
    enrolment.env.insert("MASTER".into(), "http://queue.invalid".into());
    enrolment.secrets.insert("TOKEN".into(), SECRET.into());
    enrolment
}

/// What a watch has told so far, kept and restarted as the engine does it.
pub struct View<'a> {
    provider: &'a dyn SlaveProvider,
    watch: Option<Box<dyn UnitWatch>>,
    /// By name and uid.
    pub units: BTreeMap<(AgentName, Uid), Unit>,
    /// Complete looks so far.
    pub looks: u32,
    /// Up to when the view is complete.
    pub as_of: Moment,
    /// What the watches failed with.
    pub errors: Vec<Error>,
}

impl<'a> View<'a> {
    pub fn new(provider: &'a dyn SlaveProvider) -> Self {
        let as_of = Moment::default();
        Self { provider, watch: None, units: BTreeMap::new(), looks: 0, as_of, errors: Vec::new() }
    }

    /// Takes in the next event, or an error.
    #[expect(clippy::disallowed_methods, reason = "a failed watch is started again after a pause")]
    pub async fn next(&mut self) {
        let watch = match &mut self.watch {
            Some(watch) => watch,
            none => match self.provider.watch().await {
                Ok(watch) => none.insert(watch),
                Err(error) => {
                    self.errors.push(error);
                    return tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
        };
        match watch.next().await {
            Ok(event) => self.take(event),
            Err(error) => {
                self.errors.push(error);
                self.watch = None;
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }

    fn take(&mut self, event: WatchEvent) {
        match event {
            WatchEvent::Complete { began, units } => {
                self.looks += 1;
                self.as_of = self.as_of.max(began);
                self.units =
                    units.into_iter().map(|unit| ((unit.name.clone(), unit.uid.clone()), unit)).collect();
            }
            WatchEvent::Applied(unit) => {
                let key = (unit.name.clone(), unit.uid.clone());
                if let Some(before) = self.units.get(&key) {
                    assert!(before.version <= unit.version, "{before:?} then {unit:?}");
                }
                self.units.insert(key, unit);
            }
            WatchEvent::Gone(unit) => {
                self.units.remove(&(unit.name, unit.uid));
            }
            WatchEvent::Current { as_of } => {
                assert!(as_of > self.as_of, "no news");
                self.as_of = as_of;
            }
            other => panic!("{other:?}"),
        }
    }

    /// Watches until that holds.
    pub async fn until(&mut self, what: &str, holds: impl Fn(&Self) -> bool) {
        let watching = async {
            while self.looks == 0 || !holds(self) {
                self.next().await;
            }
        };
        let waited = tokio::time::timeout(Duration::from_secs(180), watching).await;
        assert!(waited.is_ok(), "never {what}: {:?}, errors {:?}", self.units, self.errors);
    }

    pub async fn until_gone(&mut self, name: &AgentName) {
        self.until("gone", |view| view.phase(name).is_none()).await;
    }

    /// The phase of the unit of that name; of a pod rather than of a remnant.
    pub fn phase(&self, name: &AgentName) -> Option<&UnitPhase> {
        let phases = self.units.iter().filter(|((known, _), _)| known == name).map(|(_, unit)| &unit.phase);
        phases.max_by_key(|phase| **phase != UnitPhase::Remnant)
    }
}
