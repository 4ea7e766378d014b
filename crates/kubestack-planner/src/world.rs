//! The world: all that was seen, the limits, the steps under way and the time. The planner's only input.

use crate::memory::Memory;
use crate::settings::Settings;
use crate::step::{Step, Target};
use kubestack_core::agent::AgentView;
use kubestack_core::demand::DemandSnapshot;
use kubestack_core::name::{AgentName, InstanceName, LabelName, MasterName, ProviderName, SourceName, Uid};
use kubestack_core::provider::{Unit, UnitPhase};
use kubestack_core::resources::Resources;
use kubestack_core::time::Moment;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// All observations, settings, steps in flight, and the time. Changed only by [`World::apply`].
#[derive(Clone, Debug)]
pub struct World {
    /// Now.
    pub now: Moment,
    /// This installation.
    pub instance: InstanceName,
    /// The leader's term.
    pub term: u64,
    /// The serial of the next agent.
    pub next_serial: u64,
    /// A new leader launches nothing before this moment: sends of its predecessor may still land.
    pub launch_from: Moment,
    /// What is configured.
    pub settings: Settings,
    /// What the demand sources showed.
    pub demand: BTreeMap<SourceName, DemandState>,
    /// What the providers showed.
    pub providers: BTreeMap<ProviderName, ProviderState>,
    /// What the masters showed.
    pub masters: BTreeMap<MasterName, MasterState>,
    /// Steps under way, or in doubt; at most one per agent.
    pub flights: BTreeMap<AgentName, Flight>,
    /// What must not be tried before some moment.
    pub backoff: BTreeMap<Target, Backoff>,
    /// What the operator wants.
    pub intent: Intent,
    /// What is remembered.
    pub memory: Memory,
}

impl World {
    /// A world in which nothing was seen yet.
    pub fn new(instance: InstanceName, term: u64, settings: Settings, now: Moment) -> Self {
        let mut world = Self {
            now,
            instance,
            term,
            next_serial: 1,
            launch_from: now,
            settings: Settings::default(),
            demand: BTreeMap::new(),
            providers: BTreeMap::new(),
            masters: BTreeMap::new(),
            flights: BTreeMap::new(),
            backoff: BTreeMap::new(),
            intent: Intent::default(),
            memory: Memory::default(),
        };
        world.configure(settings);
        world
    }

    /// Whether an observation last refreshed at `heard` is too old to launch or conclude anything from.
    pub fn is_stale(&self, heard: Option<Moment>) -> bool {
        heard.is_none_or(|heard| self.now.since(heard) > self.settings.policy.stale_after)
    }

    /// Until when `target` must not be tried, if it is so now.
    pub fn backed_off(&self, target: &Target) -> Option<Moment> {
        self.backoff.get(target).map(|backoff| backoff.until).filter(|until| *until > self.now)
    }
}

/// How a source, provider or master answers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// The moment of the last good answer.
    pub heard: Option<Moment>,
    /// The error since then, if any.
    pub error: Option<String>,
}

/// What one demand source showed.
#[derive(Clone, Debug, Default)]
pub struct DemandState {
    /// The last complete demand.
    pub snapshot: Option<DemandSnapshot>,
    /// Since when each demand of it waits, in the same order.
    pub since: Vec<Moment>,
    /// What its demands need, and whether they have ids: each combination once, for a look is planned from many
    /// times and most of its demands are alike.
    pub kinds: Vec<(BTreeSet<LabelName>, bool)>,
    /// Which of `kinds` each demand is, in the same order.
    pub kind_of: Vec<usize>,
    /// How the source answers.
    pub health: Health,
}

/// What one provider showed.
#[derive(Clone, Debug, Default)]
pub struct ProviderState {
    /// Units by name and uid; some platforms allow two of one name.
    pub units: BTreeMap<AgentName, BTreeMap<Uid, UnitState>>,
    /// What is not among `units` was absent in a complete read that began then.
    pub complete: Option<Moment>,
    /// Units that are gone since then, while an older read might still show them.
    pub gone: BTreeMap<Uid, Moment>,
    /// How the provider answers.
    pub health: Health,
    /// What it could still take, and when that was read.
    pub free: Option<(Moment, Resources)>,
}

impl ProviderState {
    /// Whether a unit of that name has come to be. What a launch under way has left so far is none: the unit itself
    /// may still come.
    pub fn has_unit(&self, name: &AgentName) -> bool {
        let mut units = self.units.get(name).into_iter().flat_map(BTreeMap::values);
        units.any(|known| known.unit.phase != UnitPhase::Remnant)
    }
}

/// One unit, and how fresh the view of it is.
#[derive(Clone, Debug)]
pub struct UnitState {
    /// As it was seen last.
    pub unit: Unit,
    /// When the read or call that showed it began; a complete read that began later may contradict it.
    pub began: Moment,
    /// The platform has taken the request to take it away since then.
    pub destroyed: Option<Moment>,
}

/// What one master showed.
#[derive(Clone, Debug, Default)]
pub struct MasterState {
    /// Nodes by name: ours, and those that nobody marked.
    pub nodes: BTreeMap<AgentName, NodeState>,
    /// When the last read began.
    pub began: Option<Moment>,
    /// Nodes that we removed, while an older read might still show them.
    pub removed: BTreeMap<AgentName, Moment>,
    /// How the master answers.
    pub health: Health,
    /// It takes no new work at present.
    pub quiet: bool,
    /// What it calls its present run.
    pub session: Option<String>,
}

/// One node, and how fresh the view of it is.
#[derive(Clone, Debug)]
pub struct NodeState {
    /// As it was seen last.
    pub view: AgentView,
    /// When the read or call that showed it began.
    pub began: Moment,
    /// It is known to be drained by us since then.
    pub drained: Option<Moment>,
}

/// A step under way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flight {
    /// What was sent.
    pub step: Step,
    /// When.
    pub sent: Moment,
    /// Since when its outcome is unknown: only a later read settles it.
    pub doubt: Option<Moment>,
}

/// Something not to be tried again too soon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backoff {
    /// Failures in a row.
    pub attempts: u32,
    /// Not before.
    pub until: Moment,
    /// What went wrong, in words.
    pub error: String,
}

/// What the operator wants. Kept by coordination across restarts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Intent {
    /// Launch nothing; the words are the operator's reason.
    pub paused: Option<String>,
    /// Launch nothing and let all idle agents go; the words are the operator's reason.
    pub drain_all: Option<String>,
    /// Agents to hold (with the reason) or to release.
    pub holds: BTreeMap<AgentName, Hold>,
    /// Agents to delete; `true`: even while busy.
    pub deletes: BTreeMap<AgentName, bool>,
    /// Agents to create, by request number.
    pub creates: BTreeMap<u64, LabelName>,
    /// The number of the next request.
    pub next_request: u64,
}

/// A wish about holding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Hold {
    /// Hold it, for that reason.
    Hold(String),
    /// Hold it no more.
    Release,
}
