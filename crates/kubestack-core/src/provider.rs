//! Providers: platforms on which agents run.
//!
//! The smallest provider there can be, on a platform that keeps its units in memory:
//! ```
//! use kubestack_core::prelude::*;
//! use std::collections::BTreeMap;
//! use std::sync::{Arc, Mutex};
//! use std::time::Duration;
//!
//! #[derive(Clone)]
//! struct Memory {
//!     clock: Arc<dyn Clock>,
//!     units: Arc<Mutex<BTreeMap<AgentName, Unit>>>,
//! }
//!
//! #[async_trait]
//! impl SlaveProvider for Memory {
//!     fn capabilities(&self) -> ProviderCapabilities {
//!         let mut capabilities = ProviderCapabilities::default();
//!         capabilities.marks = true;
//!         capabilities
//!     }
//!
//!     async fn watch(&self) -> Result<Box<dyn UnitWatch>> {
//!         Ok(Box::new(Looks { platform: self.clone(), pause: Duration::ZERO }))
//!     }
//!
//!     async fn launch(&self, request: &LaunchRequest) -> Result<Unit> {
//!         let mut units = self.units.lock().map_err(|_| Error::bug("a launch panicked"))?;
//!         // Idempotent by name: asked again, it is the same unit.
//!         let unit = units.entry(request.name.clone()).or_insert_with(|| {
//!             let uid = Uid::new(format!("unit-of-{}", request.name));
//!             Unit::new(uid, request.marks.clone(), UnitPhase::Running, self.clock.now())
//!         });
//!         Ok(unit.clone())
//!     }
//!
//!     async fn destroy(&self, request: &DestroyRequest) -> Result<()> {
//!         let mut units = self.units.lock().map_err(|_| Error::bug("a launch panicked"))?;
//!         // Only the very unit that was seen; one that is gone already is fine.
//!         units.retain(|_, unit| unit.reference() != request.unit);
//!         Ok(())
//!     }
//!
//!     async fn mark(&self, unit: &UnitRef, patch: &MarkPatch) -> Result<Unit> {
//!         let mut units = self.units.lock().map_err(|_| Error::bug("a launch panicked"))?;
//!         let known = units.values_mut().find(|known| known.reference() == *unit);
//!         let known = known.ok_or_else(|| Error::not_found(format!("there is no unit {}", unit.name)))?;
//!         patch.apply(&mut known.marks);
//!         Ok(known.clone())
//!     }
//! }
//!
//! /// A platform without a watch of its own is looked at again and again.
//! struct Looks {
//!     platform: Memory,
//!     pause: Duration,
//! }
//!
//! #[async_trait]
//! impl UnitWatch for Looks {
//!     async fn next(&mut self) -> Result<WatchEvent> {
//!         self.platform.clock.sleep(self.pause).await;
//!         self.pause = Duration::from_secs(2);
//!         // The moment before the read, not after it: what changes meanwhile may be in it or not.
//!         let began = self.platform.clock.now();
//!         let units = self.platform.units.lock().map_err(|_| Error::bug("a launch panicked"))?;
//!         Ok(WatchEvent::Complete { began, units: units.values().cloned().collect() })
//!     }
//! }
//! ```
//! How it is registered and gets its config: [`registry`](crate::registry).

use crate::cause::FailureCause;
use crate::coordination::Coordination;
use crate::error::Result;
use crate::label::LabelSpec;
use crate::marks::Marks;
use crate::master::Enrolment;
use crate::name::{AgentName, LabelName, Uid};
use crate::probe::Probe;
use crate::resources::Resources;
use crate::template::Templates;
use crate::time::Moment;
use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;

/// How far a unit is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum UnitPhase {
    /// Not yet started; nothing of ours has run in it.
    Pending {
        /// Why it has not started, where the platform says so. A cause here is not yet a failure: whether
        /// to wait is decided by the engine, with a patience per cause.
        cause: Option<FailureCause>,
        /// The platform's own words.
        text: String,
    },
    /// It runs, or may run.
    Running,
    /// It ended and holds no capacity any more.
    Ended {
        /// Why, if it failed; `None` for a normal end.
        cause: Option<FailureCause>,
        /// The platform's own words, with the last log lines where there are any.
        text: String,
    },
    /// The platform is taking it away; it still holds capacity.
    Terminating {
        /// Why, where the platform does so by itself and says it; `None` where somebody asked for it.
        cause: Option<FailureCause>,
        /// The platform's own words.
        text: String,
    },
    /// No unit, only something that belongs to one and was left behind (a Secret, a directory).
    Remnant,
}

impl UnitPhase {
    /// Being taken away because somebody asked for it.
    pub const TERMINATING: Self = Self::Terminating { cause: None, text: String::new() };

    /// Whether it holds capacity of the platform.
    pub fn holds_capacity(&self) -> bool {
        matches!(self, Self::Pending { .. } | Self::Running | Self::Terminating { .. })
    }
}

/// One launched unit (a pod, a process) as its provider shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Unit {
    /// The agent's name.
    pub name: AgentName,
    /// What the platform calls it, unique over all time.
    pub uid: Uid,
    /// Grows with each change of the unit, where the platform counts changes; of two views of one uid the
    /// one with the larger version is the newer. 0 where it does not.
    pub version: u64,
    /// Its marks.
    pub marks: Marks,
    /// How far it is.
    pub phase: UnitPhase,
    /// When the platform made it.
    pub created: Moment,
}

impl Unit {
    /// A unit in that phase.
    pub fn new(uid: Uid, marks: Marks, phase: UnitPhase, created: Moment) -> Self {
        Self { name: marks.agent(), uid, version: 0, marks, phase, created }
    }

    /// Sets the version.
    #[must_use]
    pub fn version(mut self, version: u64) -> Self {
        self.version = version;
        self
    }

    /// Names this unit.
    pub fn reference(&self) -> UnitRef {
        UnitRef { name: self.name.clone(), uid: self.uid.clone() }
    }
}

/// Names one unit for good: a platform may use a name again, never a uid.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[non_exhaustive]
pub struct UnitRef {
    /// The agent's name.
    pub name: AgentName,
    /// The unit's uid.
    pub uid: Uid,
}

impl UnitRef {
    /// Names that unit.
    pub fn new(name: AgentName, uid: Uid) -> Self {
        Self { name, uid }
    }
}

/// What a provider tells about its units. Only units that carry our instance's mark are told.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "nearly every event is the large one")]
#[non_exhaustive]
pub enum WatchEvent {
    /// All units there are: what is not in it was not there when the read began.
    Complete {
        /// When the read began.
        began: Moment,
        /// All units of this instance.
        units: Vec<Unit>,
    },
    /// This unit is new or changed.
    Applied(Unit),
    /// This unit is gone.
    Gone(UnitRef),
    /// Nothing else has changed up to that moment. Keeps the view from counting as stale, and proves
    /// absence as a complete read would.
    Current {
        /// Up to when the view is known to be complete.
        as_of: Moment,
    },
}

/// A running watch.
#[async_trait]
pub trait UnitWatch: Send {
    /// The next event; the first one is [`WatchEvent::Complete`]. After an error the engine drops the watch
    /// and starts another. Cancel-safe.
    async fn next(&mut self) -> Result<WatchEvent>;
}

/// What a provider can do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ProviderCapabilities {
    /// [`SlaveProvider::mark`] works. Without it, evidence of use lives only as long as the daemon.
    pub marks: bool,
    /// [`SlaveProvider::destroy`] honours [`DestroyRequest::only_if_not_started`].
    pub conditional_destroy: bool,
}

/// Asks for one unit.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct LaunchRequest {
    /// The agent's name; launching is idempotent by it.
    pub name: AgentName,
    /// The template.
    pub label: LabelSpec,
    /// The marks to put on it.
    pub marks: Marks,
    /// What lets it attach to its master, if it has one. Secrets in it are handed over by environment or
    /// file, never by argument, and never stand in anything that the platform shows to others.
    pub enrolment: Option<Enrolment>,
}

impl LaunchRequest {
    /// Asks for a unit with these marks.
    pub fn new(label: LabelSpec, marks: Marks, enrolment: Option<Enrolment>) -> Self {
        Self { name: marks.agent(), label, marks, enrolment }
    }
}

/// Asks to take one unit away.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DestroyRequest {
    /// Which; by uid, so that a newer one of the same name is never hit.
    pub unit: UnitRef,
    /// Only if it has not started: if it has, that is a [`Conflict`](crate::error::ErrorKind::Conflict).
    pub only_if_not_started: bool,
    /// The version that was seen, as an additional precondition where the platform knows versions.
    pub version: u64,
    /// How long it may take to end by itself after being asked.
    pub grace: Duration,
}

impl DestroyRequest {
    /// Asks to take that unit away, whatever it does.
    pub fn new(unit: UnitRef, grace: Duration) -> Self {
        Self { unit, only_if_not_started: false, version: 0, grace }
    }
}

/// A change of marks on a unit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum MarkPatch {
    /// It began its job.
    Used(String),
    /// It is held, for that reason.
    Held(String),
    /// It is held no more.
    Released,
}

impl MarkPatch {
    /// Applies the change.
    pub fn apply(&self, marks: &mut Marks) {
        match self {
            Self::Used(job) => marks.used = Some(job.clone()),
            Self::Held(reason) => marks.held = Some(reason.clone()),
            Self::Released => marks.held = None,
        }
    }
}

/// What the users of a platform may want to know: an agent failed, or could not even be launched.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Failure {
    /// The agent.
    pub agent: AgentName,
    /// Its label.
    pub label: LabelName,
    /// Its unit; `None` where the platform, or the agent's master, refused the launch.
    pub unit: Option<Uid>,
    /// Why.
    pub cause: FailureCause,
    /// What is known besides, for people; known secrets are masked.
    pub text: String,
}

impl Failure {
    /// That agent failed.
    pub fn new(
        agent: AgentName,
        label: LabelName,
        unit: Option<Uid>,
        cause: FailureCause,
        text: impl Into<String>,
    ) -> Self {
        Self { agent, label, unit, cause, text: text.into() }
    }
}

/// A platform on which agents run.
#[async_trait]
pub trait SlaveProvider: Send + Sync {
    /// What it can do. Constant over its life.
    fn capabilities(&self) -> ProviderCapabilities;

    /// Starts to tell about its units: those that carry this instance's mark, and no others.
    async fn watch(&self) -> Result<Box<dyn UnitWatch>>;

    /// One complete read: when it began, and all units of this instance. It changes nothing, and may run beside
    /// a daemon that tends the same units: a provider whose watch also cleans up or takes units on has one of
    /// its own.
    async fn look(&self) -> Result<(Moment, Vec<Unit>)> {
        let mut watch = self.watch().await?;
        loop {
            if let WatchEvent::Complete { began, units } = watch.next().await? {
                return Ok((began, units));
            }
        }
    }

    /// Tries what a daemon will need of the platform, with these labels' units, without a change to anything:
    /// each thing by itself, see [`probe`](crate::probe). Where one failure makes the others pointless (nobody
    /// answers), it comes alone.
    async fn probe(&self, _labels: &[LabelSpec]) -> Vec<Probe> {
        vec![Probe::new("read all units", self.look().await.map(drop))]
    }

    /// Launches one unit. Idempotent by name: if a unit of that name with our mark exists, it is returned.
    /// An error other than [`UnknownOutcome`](crate::error::ErrorKind::UnknownOutcome) means that no unit
    /// was made and none will appear.
    async fn launch(&self, request: &LaunchRequest) -> Result<Unit>;

    /// Takes one unit away, with all that belongs to it. Not found is success. Returns once the platform
    /// has taken the request; the unit may be [`Terminating`](UnitPhase::Terminating) for a while.
    async fn destroy(&self, request: &DestroyRequest) -> Result<()>;

    /// Changes marks on a unit and returns the unit as it is then.
    async fn mark(&self, unit: &UnitRef, patch: &MarkPatch) -> Result<Unit>;

    /// What the platform could still take beyond its present units, where that can be known; a limit on their number
    /// as [`Resources::AGENTS`].
    async fn capacity(&self) -> Result<Option<Resources>> {
        Ok(None)
    }

    /// Tells the platform's own users of a failure, where it has a place for that. Called once for each agent that
    /// failed, and for each refused launch, of which there may be many. Nothing depends on it.
    async fn report(&self, _failure: &Failure) -> Result<()> {
        Ok(())
    }

    /// Keeps which daemon of this installation leads, where the platform can (see [`coordination`](crate::coordination)):
    /// one that is not heard of for `lease` loses the lead. To be asked once. The rest of the provider may fail or
    /// hang without harm to it.
    fn coordination(&self, _lease: Duration) -> Option<Arc<dyn Coordination>> {
        None
    }

    /// Keeps templates of labels, where the platform has a place for them (see [`template`](crate::template)).
    fn templates(&self) -> Option<&dyn Templates> {
        None
    }

    /// The last lines of a unit's own log, at most that many; empty where there is none. The engine asks before it
    /// takes a failed agent away.
    async fn log_tail(&self, _unit: &UnitRef, _lines: usize) -> Result<String> {
        Ok(String::new())
    }
}
