//! What systems show. Observations are ordered by when their read began.

use crate::memory::{AgentMemory, Memory, Removal};
use crate::step::Step;
use crate::world::{DemandState, Health, NodeState, UnitState, World};
use kubestack_core::agent::{AgentView, AgentsSnapshot, Drained};
use kubestack_core::cause::FailureCause;
use kubestack_core::completion::{Completion, CompletionEvent};
use kubestack_core::demand::DemandSnapshot;
use kubestack_core::name::{AgentName, LabelName, MasterName, ProviderName, SourceName, Uid};
use kubestack_core::provider::{Unit, UnitPhase, UnitRef};
use kubestack_core::time::Moment;
use std::collections::{BTreeMap, BTreeSet};

impl World {
    pub(super) fn demand_read(&mut self, source: SourceName, snapshot: DemandSnapshot) {
        let now = self.now;
        let Some(state) = self.demand.get_mut(&source) else { return };
        if state.snapshot.as_ref().is_some_and(|known| known.began > snapshot.began) {
            return;
        }
        let known = self.memory.first_seen.remove(&source).unwrap_or_default();
        let mut seen = BTreeMap::new();
        let mut ages = Vec::with_capacity(snapshot.demands.len());
        for demand in &snapshot.demands {
            ages.push(demand.since.unwrap_or_else(|| {
                let key = demand.id.clone().unwrap_or_else(|| crate::step::join(&demand.needs));
                let since = known.get(&key).copied().unwrap_or(now);
                if demand.waiting > 0 {
                    seen.insert(key, since);
                }
                since
            }));
        }
        if !seen.is_empty() {
            self.memory.first_seen.insert(source, seen);
        }
        let (kinds, kind_of) = kinds(&snapshot);
        let health = Health { heard: Some(now), error: None };
        *state = DemandState { snapshot: Some(snapshot), since: ages, kinds, kind_of, health };
        self.forget_gone();
    }

    pub(super) fn units_read(&mut self, provider: &ProviderName, began: Moment, units: Vec<Unit>) {
        let Some(state) = self.providers.get_mut(provider) else { return };
        if state.complete.is_some_and(|complete| complete > began) {
            return;
        }
        let listed: BTreeSet<Uid> = units.iter().map(|unit| unit.uid.clone()).collect();
        let mut absent = Vec::new();
        for (name, by_uid) in &mut state.units {
            by_uid.retain(|uid, known| {
                // What was acknowledged after the read began is not contradicted by it.
                let keep = listed.contains(uid) || known.began >= began;
                if !keep {
                    absent.push((name.clone(), wanted(known).then(|| Removal::silent(uid))));
                }
                keep
            });
        }
        state.units.retain(|_, by_uid| !by_uid.is_empty());
        state.gone.retain(|_, gone| *gone >= began);
        for (name, removal) in absent {
            if let Some(removal) = removal {
                self.note_removal(&name, None, removal);
            }
            self.note_unit_gone(provider, &name);
        }
        for unit in units {
            self.unit_seen(provider, unit, began);
        }
        self.units_current(provider, began);
    }

    /// Nothing but what was told has changed up to `as_of`.
    pub(super) fn units_current(&mut self, provider: &ProviderName, as_of: Moment) {
        let now = self.now;
        let Some(state) = self.providers.get_mut(provider) else { return };
        state.complete = state.complete.max(Some(as_of));
        state.health = Health { heard: Some(now), error: None };
        let state = &*state;
        let deadline = self.settings.policy.step_deadline;
        let mut never_launched = Vec::new();
        self.flights.retain(|agent, flight| {
            let Some(doubt) = flight.doubt else { return true };
            let settled = match &flight.step {
                // The effect may land as late as one deadline after we gave up on it.
                Step::Launch(launch) if launch.provider == *provider => {
                    let settled = state.has_unit(agent) || as_of >= doubt + deadline;
                    if settled && !state.has_unit(agent) {
                        never_launched.push(agent.clone());
                    }
                    settled
                }
                Step::Destroy { provider: target, .. } | Step::Mark { provider: target, .. } => {
                    target == provider && as_of > doubt
                }
                _ => false,
            };
            !settled
        });
        for agent in never_launched {
            if let Some(memory) = self.memory.agents.get_mut(&agent) {
                memory.never_launched = true;
            }
        }
        self.forget_gone();
    }

    pub(super) fn unit_seen(&mut self, provider: &ProviderName, unit: Unit, began: Moment) {
        if unit.marks.instance != self.instance {
            return;
        }
        let now = self.now;
        let Some(state) = self.providers.get_mut(provider) else { return };
        if state.gone.contains_key(&unit.uid) {
            return;
        }
        let by_uid = state.units.entry(unit.name.clone()).or_default();
        if let Some(known) = by_uid.get_mut(&unit.uid) {
            let versions = known.unit.version > 0 && unit.version > 0 && known.unit.version != unit.version;
            let older = if versions { known.unit.version > unit.version } else { known.began > began };
            known.began = known.began.max(began);
            if older {
                return;
            }
        }
        if !self.memory.agents.contains_key(&unit.name) {
            let marks = &unit.marks;
            let memory = AgentMemory::new(now, marks.label.clone(), provider.clone(), marks.master.clone());
            self.memory.agents.insert(unit.name.clone(), memory);
            // Its master may have shown its node before anybody could tell whose it is.
            let seen =
                self.masters.iter().find_map(|(name, state)| Some((name, state.nodes.get(&unit.name)?)));
            let attached = seen.and_then(|(master, node)| {
                remember_node(&mut self.memory, master, &unit.name, &node.view, None, now)
            });
            if let Some((label, provider)) = attached {
                self.memory.succeeded(&label, &provider);
            }
        }
        let Some(memory) = self.memory.agents.get_mut(&unit.name) else { return };
        memory.gone = None;
        memory.unit_seen.get_or_insert(now);
        memory.never_launched = false;
        memory.was_held |= unit.marks.held.is_some();
        if let Some(job) = &unit.marks.used
            && memory.used.is_none()
        {
            memory.used = Some((Moment::default(), Some(job.clone()).filter(|job| job != "?")));
        }
        if matches!(unit.phase, UnitPhase::Ended { .. }) {
            memory.unit_ended.get_or_insert(now);
        }
        // Without a master there is nothing to attach to: to run is all that can be seen.
        let success = unit.phase == UnitPhase::Running && unit.marks.master.is_none() && !memory.attached;
        if success {
            memory.attached = true;
            // It takes work as it starts: a look that began before still shows that work as waiting.
            memory.used.get_or_insert((now, None));
            self.memory.succeeded(&unit.marks.label, provider);
        }
        if let Some(flight) = self.flights.get(&unit.name)
            && flight.doubt.is_some()
            && matches!(flight.step, Step::Launch(_))
            && unit.phase != UnitPhase::Remnant
        {
            self.flights.remove(&unit.name);
        }
        let before = by_uid.get(&unit.uid);
        let destroyed = before.and_then(|known| known.destroyed);
        let removal = match &unit.phase {
            UnitPhase::Terminating { cause, text } if before.is_some_and(wanted) => {
                let removal = Removal { uid: unit.uid.clone(), text: text.clone() };
                Some((unit.name.clone(), *cause, removal))
            }
            _ => None,
        };
        by_uid.insert(unit.uid.clone(), UnitState { unit, began, destroyed });
        if let Some((name, cause, removal)) = removal {
            self.note_removal(&name, cause, removal);
        }
    }

    /// A unit that nobody here wanted to go is taken away, or is gone.
    fn note_removal(&mut self, name: &AgentName, cause: Option<FailureCause>, removal: Removal) {
        let asked = self.flights.get(name).is_some_and(|flight| matches!(flight.step, Step::Destroy { .. }));
        let Some(memory) = self.memory.agents.get_mut(name) else { return };
        if asked || memory.detached || memory.failure.is_some() {
            return;
        }
        // What became of a job on it, its master will tell.
        memory.failure = cause.or(memory.used.is_none().then_some(FailureCause::UnitRemoved));
        memory.removal = Some(removal);
    }

    pub(super) fn unit_gone(&mut self, provider: &ProviderName, reference: &UnitRef) {
        let now = self.now;
        let Some(state) = self.providers.get_mut(provider) else { return };
        state.gone.insert(reference.uid.clone(), now);
        if let Some(by_uid) = state.units.get_mut(&reference.name) {
            let wanted = by_uid.remove(&reference.uid).is_some_and(|known| wanted(&known));
            if by_uid.is_empty() {
                state.units.remove(&reference.name);
                if wanted {
                    self.note_removal(&reference.name, None, Removal::silent(&reference.uid));
                }
                self.note_unit_gone(provider, &reference.name);
            }
        }
        self.forget_if_gone(&reference.name);
    }

    pub(super) fn note_unit_gone(&mut self, provider: &ProviderName, name: &AgentName) {
        if self.providers.get(provider).is_some_and(|state| state.units.contains_key(name)) {
            return;
        }
        if let Some(memory) = self.memory.agents.get_mut(name) {
            memory.unit_gone.get_or_insert(self.now);
        }
        let settled = self.flights.get(name).is_some_and(|flight| {
            flight.doubt.is_some() && matches!(flight.step, Step::Destroy { .. } | Step::Mark { .. })
        });
        if settled {
            self.flights.remove(name);
        }
    }

    pub(super) fn agents_read(&mut self, master: &MasterName, snapshot: AgentsSnapshot) {
        let now = self.now;
        let Some(state) = self.masters.get_mut(master) else { return };
        if state.began.is_some_and(|began| began > snapshot.began) {
            return;
        }
        let AgentsSnapshot { began, agents, quiet, session, .. } = snapshot;
        let restarted = state.session.is_some() && state.session != session;
        state.began = Some(began);
        state.health = Health { heard: Some(now), error: None };
        state.quiet = quiet;
        state.session = session;
        let mut before = std::mem::take(&mut state.nodes);
        let mut attached = Vec::new();
        for view in agents {
            let foreign = view.marks.as_ref().is_some_and(|marks| marks.instance != self.instance);
            let name = AgentName::new(&view.name);
            let removed = state.removed.get(&name).is_some_and(|removed| *removed >= began);
            if foreign || removed {
                continue;
            }
            let known = before.remove(&name);
            if let Some(attach) = remember_node(&mut self.memory, master, &name, &view, known.as_ref(), now) {
                attached.push(attach);
            }
            state.nodes.insert(name, merge_node(view, began, known, now));
        }
        for (name, known) in before {
            if known.began >= began {
                state.nodes.insert(name, known);
            } else if let Some(memory) = self.memory.agents.get_mut(&name) {
                // A removal in doubt that had its effect after all is ours, not somebody's hand.
                let doubt = self.flights.get(&name).and_then(|flight| match flight.step {
                    Step::RemoveNode { .. } => flight.doubt,
                    _ => None,
                });
                memory.detached |= doubt.is_some_and(|doubt| began > doubt);
                memory.node_missing.get_or_insert(now);
                memory.forgotten |= restarted;
            }
        }
        state.removed.retain(|_, removed| *removed >= began);
        for (label, provider) in attached {
            self.memory.succeeded(&label, &provider);
        }
        self.flights.retain(|_, flight| {
            let at_master = match &flight.step {
                Step::Drain { master: target, .. }
                | Step::RemoveNode { master: target, .. }
                | Step::Connect { master: target, .. }
                | Step::ReEnrol { master: target, .. } => target == master,
                _ => false,
            };
            !(at_master && flight.doubt.is_some_and(|doubt| began > doubt))
        });
        self.forget_gone();
    }

    pub(super) fn hinted(&mut self, hint: &Completion) {
        // Exactly one of our names, or nothing: events of foreign nodes change nothing.
        let known = self.masters.values().any(|state| state.nodes.contains_key(hint.agent.as_str()))
            || self.providers.values().any(|state| state.units.contains_key(hint.agent.as_str()));
        let began = matches!(
            hint.event,
            CompletionEvent::Started | CompletionEvent::Completed | CompletionEvent::Finalized
        );
        if let Some(memory) = self.memory.agents.get_mut(hint.agent.as_str())
            && known
            && began
        {
            remember_use(memory, self.now, hint.job.clone());
        }
    }
}

/// Whether a unit was to live on as far as we know.
fn wanted(known: &UnitState) -> bool {
    known.destroyed.is_none() && matches!(known.unit.phase, UnitPhase::Pending { .. } | UnitPhase::Running)
}

/// The combinations of labels and having an id among the demands, sorted, and which of them each demand is.
fn kinds(snapshot: &DemandSnapshot) -> (Vec<(BTreeSet<LabelName>, bool)>, Vec<usize>) {
    let mut first: BTreeMap<(&BTreeSet<LabelName>, bool), usize> = BTreeMap::new();
    let mut kind_of = Vec::with_capacity(snapshot.demands.len());
    for demand in &snapshot.demands {
        let next = first.len();
        kind_of.push(*first.entry((&demand.needs, demand.id.is_some())).or_insert(next));
    }
    let mut place = vec![0; first.len()];
    for (sorted, met) in first.values().enumerate() {
        place.get_mut(*met).into_iter().for_each(|place| *place = sorted);
    }
    for kind in &mut kind_of {
        *kind = place.get(*kind).copied().unwrap_or(0);
    }
    (first.into_keys().map(|(needs, ids)| (needs.clone(), ids)).collect(), kind_of)
}

fn remember_use(memory: &mut AgentMemory, now: Moment, job: Option<String>) {
    match &mut memory.used {
        None => memory.used = Some((now, job)),
        Some((_, known)) if known.is_none() => *known = job,
        Some(_) => {}
    }
}

/// Remembers what a look at the node tells; returns its label and provider if it is attached for the first time.
fn remember_node(
    memory: &mut Memory,
    master: &MasterName,
    name: &AgentName,
    view: &AgentView,
    known: Option<&NodeState>,
    now: Moment,
) -> Option<(LabelName, ProviderName)> {
    let entry = match (memory.agents.get_mut(name), &view.marks) {
        (Some(entry), _) => entry,
        (None, Some(marks)) => memory.agents.entry(name.clone()).or_insert(AgentMemory::new(
            now,
            marks.label.clone(),
            marks.provider.clone(),
            Some(master.clone()),
        )),
        (None, None) => return None,
    };
    entry.gone = None;
    entry.node_missing = None;
    entry.detached = false;
    if view.activity.is_busy() || view.used || view.job.is_some() {
        remember_use(entry, now, view.job.clone());
    }
    if let Some(run) = view.run.as_ref().or(view.job.as_ref())
        && entry.run.as_ref() != Some(run)
    {
        entry.more_jobs += u32::from(entry.run.is_some());
        entry.run = Some(run.clone());
    }
    let changed =
        known.is_none_or(|known| known.view.online != view.online || known.view.activity != view.activity);
    if changed || entry.since.is_none() {
        entry.since = Some(now);
    }
    let first = view.online && !entry.attached;
    entry.attached |= view.online;
    entry.awaited &= !view.online && !view.activity.is_busy();
    first.then(|| (entry.label.clone(), entry.provider.clone()))
}

/// The new view of a node, with an acknowledged drain kept if the read began before the acknowledgement.
fn merge_node(mut view: AgentView, began: Moment, known: Option<NodeState>, now: Moment) -> NodeState {
    let acknowledged = known.and_then(|known| known.drained);
    let drained = match (view.drained, acknowledged) {
        (Drained::ByUs, Some(since)) => Some(since),
        (Drained::ByUs, None) => Some(now),
        (Drained::No, Some(since)) if since >= began => {
            view.drained = Drained::ByUs;
            Some(since)
        }
        (Drained::No | Drained::ByOthers, _) => None,
    };
    NodeState { view, began, drained }
}
