//! Agents: their state, derived from what provider and master show, their marks, and the steps in flight.

use crate::memory::AgentMemory;
use crate::settings::LabelSettings;
use crate::step::Step;
use crate::world::{Flight, Hold, NodeState, UnitState, World};
use kubestack_core::agent::{Activity, Drained};
use kubestack_core::cause::FailureCause;
use kubestack_core::marks::Marks;
use kubestack_core::name::{AgentName, LabelName, MasterName, ProviderName, Uid};
use kubestack_core::provider::{MarkPatch, UnitPhase};
use kubestack_core::time::Moment;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// How far an agent is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "state")]
#[non_exhaustive]
pub enum AgentState {
    /// Its launch was sent.
    Requested,
    /// Its unit exists, it has not attached yet.
    Launching,
    /// Attached, waiting for a job.
    Idle,
    /// A job is on it, or may be.
    Busy,
    /// Its master cannot tell, or it was attached and is offline now: it may be busy.
    Unknown,
    /// Its one job is over.
    Done,
    /// It takes no new job and has none.
    Draining,
    /// We removed its node; its unit goes next.
    Detached,
    /// Its node is missing in the master, but not by our hand.
    Forgotten,
    /// Its unit ended.
    Ended,
    /// The platform is taking its unit away.
    Terminating,
    /// Its node has no unit.
    Orphan,
    /// Nothing touches it.
    Held(HeldReason),
}

/// Why an agent is held.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "why")]
pub enum HeldReason {
    /// By its mark.
    Marked {
        /// The reason that the mark gives.
        text: String,
    },
    /// Somebody took it out of service in the CI system.
    DrainedByOthers,
    /// Its provider is no longer configured.
    ProviderUnknown,
    /// Its master is no longer configured.
    MasterUnknown,
}

impl fmt::Display for AgentState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Requested => "requested",
            Self::Launching => "launching",
            Self::Idle => "idle",
            Self::Busy => "busy",
            Self::Unknown => "unknown",
            Self::Done => "done",
            Self::Draining => "draining",
            Self::Detached => "detached",
            Self::Forgotten => "forgotten",
            Self::Ended => "ended",
            Self::Terminating => "terminating",
            Self::Orphan => "orphan",
            Self::Held(_) => "held",
        })
    }
}

impl fmt::Display for HeldReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Marked { text } => f.write_str(text),
            Self::DrainedByOthers => f.write_str("somebody took it out of service in the CI system"),
            Self::ProviderUnknown => f.write_str("its provider is not configured any more"),
            Self::MasterUnknown => f.write_str("its master is not configured any more"),
        }
    }
}

/// One agent of ours, as everything that is known shows it.
#[derive(Clone, Debug)]
pub struct Agent<'a> {
    /// Its name.
    pub name: &'a AgentName,
    /// Its label.
    pub label: &'a LabelName,
    /// Its provider.
    pub provider: &'a ProviderName,
    /// Its master, if it has one.
    pub master: Option<&'a MasterName>,
    /// Agents of the same label, provider and master have the same number here, from 0 on without gaps.
    pub kind: usize,
    /// What is configured for its label, if it still is.
    pub settings: Option<&'a LabelSettings>,
    /// The id of the bound demand that it is for.
    pub bound: Option<&'a str>,
    /// The oldest unit of its name.
    pub unit: Option<&'a UnitState>,
    /// There are other units of its name.
    pub twins: bool,
    /// Its node.
    pub node: Option<&'a NodeState>,
    /// The step under way.
    pub flight: Option<&'a Flight>,
    /// What is remembered of it.
    pub memory: Option<&'a AgentMemory>,
    /// How far it is.
    pub state: AgentState,
}

/// What is known under one name.
#[derive(Default)]
struct Parts<'a> {
    unit: Option<(&'a ProviderName, &'a UnitState)>,
    twins: bool,
    node: Option<(&'a MasterName, &'a NodeState)>,
    flight: Option<&'a Flight>,
    memory: Option<&'a AgentMemory>,
}

/// Parts by name, sorted.
type Named<'a> = (&'a AgentName, Parts<'a>);

/// All agents of ours, sorted by name.
pub fn agents(world: &World) -> Vec<Agent<'_>> {
    // All lists are sorted by name, and nearly every name is remembered: to go along the memory costs few
    // comparisons, where a look-up per list and name would cost many times as much.
    let remembered = world.memory.agents.iter();
    let mut all: Vec<Named<'_>> =
        remembered.map(|(name, memory)| (name, Parts { memory: Some(memory), ..Parts::default() })).collect();
    let mut others = BTreeMap::new();
    for (provider, state) in &world.providers {
        join(&mut all, &mut others, &state.units, |parts, units| parts.add_units(provider, units));
    }
    for (master, state) in &world.masters {
        join(&mut all, &mut others, &state.nodes, |parts, node| {
            parts.node.get_or_insert((master, node));
        });
    }
    join(&mut all, &mut others, &world.flights, |parts, flight| parts.flight = Some(flight));
    if !others.is_empty() {
        all.extend(others);
        all.sort_by_key(|(name, _)| *name);
    }
    let mut kinds = Kinds::default();
    let agents = all.into_iter().filter_map(|(name, parts)| {
        let mut agent = parts.agent(name)?;
        let unknown = kinds.tell(world, &mut agent);
        agent.state = agent.derive(world, unknown);
        Some(agent)
    });
    agents.collect()
}

/// Adds each part of `list` to what is known under its name; names that are not in `all` go to `others`.
fn join<'a, T>(
    all: &mut [Named<'a>],
    others: &mut BTreeMap<&'a AgentName, Parts<'a>>,
    list: &'a BTreeMap<AgentName, T>,
    add: impl Fn(&mut Parts<'a>, &'a T),
) {
    let mut at = 0;
    for (name, part) in list {
        let found = seek(all, at, name);
        let (Ok(next) | Err(next)) = found;
        at = next;
        match all.get_mut(at).filter(|_| found.is_ok()) {
            Some((_, parts)) => add(parts, part),
            None => add(others.entry(name).or_default(), part),
        }
    }
}

/// Where `name` is, or would be, in `all` from `from` on: looked for in steps that double, for it is mostly near.
fn seek(all: &[Named<'_>], from: usize, name: &AgentName) -> Result<usize, usize> {
    let (mut low, mut step) = (from, 1);
    while all.get(low + step - 1).is_some_and(|(entry, _)| *entry < name) {
        low += step;
        step *= 2;
    }
    let window = all.get(low..all.len().min(low + step)).unwrap_or_default();
    let found = window.binary_search_by(|(entry, _)| (*entry).cmp(name));
    found.map(|at| low + at).map_err(|at| low + at)
}

impl<'a> Parts<'a> {
    /// Two of one name: the older one is the agent, the younger goes (see `duplicates`).
    fn add_units(&mut self, provider: &'a ProviderName, units: &'a BTreeMap<Uid, UnitState>) {
        let age = |known: &'a UnitState| (known.unit.created, &known.unit.uid);
        let Some(unit) = units.values().min_by_key(|known| age(known)) else { return };
        self.twins |= units.len() > 1 || self.unit.is_some();
        if self.unit.is_none_or(|(_, known)| age(unit) < age(known)) {
            self.unit = Some((provider, unit));
        }
    }

    /// The agent, unless this is somebody else's node, or only the memory of an agent that is gone.
    fn agent(self, name: &'a AgentName) -> Option<Agent<'a>> {
        let unit = self.unit.map(|(_, unit)| unit);
        let node = self.node.map(|(_, node)| node);
        if unit.is_none() && self.flight.is_none() && node.is_none() {
            return None;
        }
        let marks =
            unit.map(|unit| &unit.unit.marks).or_else(|| node.and_then(|node| node.view.marks.as_ref()));
        let launch = self.flight.and_then(|flight| match &flight.step {
            Step::Launch(launch) => Some(launch),
            _ => None,
        });
        // A node without marks is ours only if a unit of ours has, or is known to have had, exactly its name.
        let (label, provider, master, bound) = match (marks, launch, self.memory) {
            (Some(Marks { label, provider, master, demand, .. }), ..) => {
                (label, provider, master.as_ref(), demand.as_deref())
            }
            (None, Some(launch), _) => {
                let bound = launch.demand.as_ref().map(|demand| demand.id.as_str());
                (&launch.label, &launch.provider, launch.master.as_ref(), bound)
            }
            (None, None, Some(memory)) => (&memory.label, &memory.provider, memory.master.as_ref(), None),
            (None, None, None) => return None,
        };
        Some(Agent {
            name,
            label,
            // Where it really is counts, whatever its marks say.
            provider: self.unit.map_or(provider, |(provider, _)| provider),
            master: master.or(self.node.map(|(master, _)| master)),
            kind: 0,
            settings: None,
            bound,
            unit,
            twins: self.twins,
            node,
            flight: self.flight,
            memory: self.memory,
            state: AgentState::Requested,
        })
    }
}

/// Numbers the agents that are alike. Neighbours in the order of names mostly have the same label, so that
/// few of them need a look-up.
#[derive(Default)]
struct Kinds<'a> {
    labels: BTreeMap<&'a LabelName, Vec<Kind<'a>>>,
    count: usize,
    last: Option<(Kind<'a>, &'a LabelName)>,
}

#[derive(Clone, Copy)]
struct Kind<'a> {
    number: usize,
    provider: &'a ProviderName,
    master: Option<&'a MasterName>,
    settings: Option<&'a LabelSettings>,
    provider_known: bool,
    master_known: bool,
}

impl<'a> Kinds<'a> {
    /// Says what kind the agent is, and what of it is not configured any more.
    fn tell(&mut self, world: &'a World, agent: &mut Agent<'a>) -> Option<HeldReason> {
        let alike = |kind: &Kind<'_>| kind.provider == agent.provider && kind.master == agent.master;
        let last = self.last.filter(|(kind, label)| *label == agent.label && alike(kind));
        let kind = last.map(|(kind, _)| kind).unwrap_or_else(|| {
            let of_label = self.labels.entry(agent.label).or_default();
            of_label.iter().copied().find(alike).unwrap_or_else(|| {
                let settings = world.settings.labels.get(agent.label);
                let (provider, master) = (agent.provider, agent.master);
                let provider_known = world.providers.contains_key(provider);
                let master_known = master.is_none_or(|master| world.masters.contains_key(master));
                let number = self.count;
                let kind = Kind { number, provider, master, settings, provider_known, master_known };
                self.count += 1;
                of_label.push(kind);
                kind
            })
        });
        self.last = Some((kind, agent.label));
        agent.kind = kind.number;
        agent.settings = kind.settings;
        match (kind.provider_known, kind.master_known) {
            (false, _) => Some(HeldReason::ProviderUnknown),
            (true, false) => Some(HeldReason::MasterUnknown),
            (true, true) => None,
        }
    }
}

impl<'a> Agent<'a> {
    /// `unknown`: what of its kind is not configured any more.
    fn derive(&self, world: &World, unknown: Option<HeldReason>) -> AgentState {
        if let Some(text) = self.unit.and_then(|unit| unit.unit.marks.held.as_ref()) {
            return AgentState::Held(HeldReason::Marked { text: text.clone() });
        }
        if let Some(unknown) = unknown {
            return AgentState::Held(unknown);
        }
        let launching = self.flight.is_some_and(|flight| matches!(flight.step, Step::Launch(_)));
        let came = self.unit.is_some_and(|unit| unit.unit.phase != UnitPhase::Remnant);
        if launching && !came {
            return AgentState::Requested;
        }
        let Some(unit) = self.unit else { return AgentState::Orphan };
        match &unit.unit.phase {
            UnitPhase::Ended { .. } | UnitPhase::Remnant => return AgentState::Ended,
            UnitPhase::Terminating { .. } => return AgentState::Terminating,
            UnitPhase::Pending { .. } | UnitPhase::Running => {}
            _ => return AgentState::Unknown,
        }
        let running = unit.unit.phase == UnitPhase::Running;
        if self.master.is_none() {
            // Nobody can tell whether it has a job: once started it counts as busy until it ends.
            return if running { AgentState::Busy } else { AgentState::Launching };
        }
        match self.node {
            Some(node) => self.attached(node),
            None if self.memory.is_some_and(|memory| memory.detached) => AgentState::Detached,
            None if self.is_missing(world) => AgentState::Forgotten,
            None => AgentState::Launching,
        }
    }

    /// Whether the master, which would show the node if it knew it, was read and did not, by a read that began after
    /// it was told to expect the agent.
    fn is_missing(&self, world: &World) -> bool {
        let settings = self.master.and_then(|master| world.settings.masters.get(master));
        let lists = settings.is_some_and(|settings| settings.capabilities.lists_agents);
        let known = lists || self.memory.is_some_and(|memory| memory.attached);
        let told = self.memory.and_then(|memory| memory.unit_seen);
        let later = self.master_read(world).zip(told).is_some_and(|(read, told)| read > told);
        known && later && self.flight.is_none_or(|flight| !matches!(flight.step, Step::Launch(_)))
    }

    /// When the last read of its master began.
    pub fn master_read(&self, world: &World) -> Option<Moment> {
        self.master.and_then(|master| world.masters.get(master)).and_then(|state| state.began)
    }

    /// The state of an agent whose unit lives and whose node exists.
    fn attached(&self, node: &NodeState) -> AgentState {
        if node.view.drained == Drained::ByOthers {
            return AgentState::Held(HeldReason::DrainedByOthers);
        }
        match node.view.activity {
            Activity::Slots { used: 1.., .. } => AgentState::Busy,
            Activity::Unknown => AgentState::Unknown,
            // Its master has forgotten its job as well: to show none proves nothing before it is back.
            Activity::Slots { .. } if self.memory.is_some_and(|memory| memory.awaited) => AgentState::Unknown,
            Activity::Slots { .. } => match self.used_since(node) {
                // Evidence that came in after this look began: the look may simply be the older of the two.
                Some(evidence) if evidence >= node.began => AgentState::Busy,
                _ if node.view.drained == Drained::ByUs => AgentState::Draining,
                Some(_) => AgentState::Done,
                None if node.view.online => AgentState::Idle,
                None if self.memory.is_some_and(|memory| memory.attached) => AgentState::Unknown,
                None => AgentState::Launching,
            },
        }
    }

    /// When the first evidence came in that its job began.
    fn used_since(&self, node: &NodeState) -> Option<Moment> {
        let remembered = self.memory.and_then(|memory| memory.used.as_ref()).map(|(at, _)| *at);
        let marked = self.unit.is_some_and(|unit| unit.unit.marks.used.is_some()) || node.view.used;
        remembered.or(marked.then(Moment::default))
    }

    /// Whether it is held, or about to be.
    pub fn is_held(&self) -> bool {
        let step = self.flight.map(|flight| &flight.step);
        matches!(self.state, AgentState::Held(_))
            || matches!(step, Some(Step::Mark { patch: MarkPatch::Held(_), .. }))
    }

    /// Whether it has begun its one job, as far as is known.
    pub fn is_used(&self) -> bool {
        self.memory.is_some_and(|memory| memory.used.is_some())
            || self.unit.is_some_and(|unit| unit.unit.marks.used.is_some())
            || self.node.is_some_and(|node| node.view.used)
    }

    /// Whether it holds capacity on its provider: a unit that has not ended, or one that may come to be.
    pub fn holds_capacity(&self) -> bool {
        self.state == AgentState::Requested || self.unit.is_some_and(|unit| unit.unit.phase.holds_capacity())
    }

    /// Whether it can still serve demand.
    pub fn is_supply(&self, world: &World) -> bool {
        let coming = matches!(self.state, AgentState::Requested | AgentState::Launching | AgentState::Idle);
        let wanted = self.memory.is_none_or(|memory| memory.failure.is_none())
            && !world.intent.deletes.contains_key(self.name)
            && !matches!(world.intent.holds.get(self.name), Some(Hold::Hold(_)));
        let leaving = matches!(
            self.flight.map(|flight| &flight.step),
            Some(Step::Drain { .. } | Step::RemoveNode { .. } | Step::Destroy { .. })
        );
        coming && wanted && !leaving && !self.is_used() && self.is_current()
    }

    /// Whether its label is configured and its template is the label's.
    pub fn is_current(&self) -> bool {
        let template = match (self.unit, self.flight.map(|flight| &flight.step)) {
            (Some(unit), _) => &unit.unit.marks.template,
            (None, Some(Step::Launch(launch))) => &launch.template,
            _ => return false,
        };
        self.settings.is_some_and(|label| label.template == *template)
    }

    /// When its unit was made, or its launch was sent.
    pub fn born(&self, world: &World) -> Moment {
        let seen = self.memory.map(|memory| memory.first_seen);
        let made = self.unit.map(|unit| unit.unit.created);
        made.or(seen).or(self.flight.map(|flight| flight.sent)).unwrap_or(world.now)
    }

    /// Since when it is as idle or as offline as it is.
    pub fn since(&self, world: &World) -> Moment {
        self.memory.and_then(|memory| memory.since).unwrap_or_else(|| self.born(world))
    }

    /// Why it failed, if it did.
    pub fn failure(&self) -> Option<FailureCause> {
        self.memory.and_then(|memory| memory.failure)
    }
}
