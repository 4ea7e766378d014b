//! Facts: the one way in which the world changes. Recorded in order, they replay a run.

use crate::memory::{AgentMemory, Note, counts_against_label};
use crate::settings::Settings;
use crate::step::{Step, Target};
use crate::world::{
    Backoff, DemandState, Flight, Health, Intent, MasterState, NodeState, ProviderState, UnitState, World,
};
use kubestack_core::agent::{AgentView, AgentsSnapshot, Drained};
use kubestack_core::cause::FailureCause;
use kubestack_core::completion::{Completion, CompletionEvent};
use kubestack_core::demand::DemandSnapshot;
use kubestack_core::error::ErrorKind;
use kubestack_core::marks::Marks;
use kubestack_core::name::{AgentName, LabelName, MasterName, ProviderName, SourceName, Uid};
use kubestack_core::provider::{MarkPatch, Unit, UnitPhase, UnitRef};
use kubestack_core::resources::Resources;
use kubestack_core::time::Moment;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Something that became known. The moment is that of its arrival.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Fact {
    /// Time passed.
    Now,
    /// The configuration is this from now on.
    Configured(Box<Settings>),
    /// The operator wants this from now on.
    Intended(Intent),
    /// A source showed its complete demand.
    Demand(SourceName, DemandSnapshot),
    /// A source failed.
    DemandFailed(SourceName, String),
    /// A provider showed all its units; the read began then.
    Units(ProviderName, Moment, Vec<Unit>),
    /// A provider showed one unit.
    UnitApplied(ProviderName, Unit),
    /// A provider reported that one unit is gone.
    UnitGone(ProviderName, UnitRef),
    /// A provider's view is complete up to that moment.
    UnitsCurrent(ProviderName, Moment),
    /// A provider failed.
    ProviderFailed(ProviderName, String),
    /// What a provider could still take; the read began then.
    Capacity(ProviderName, Moment, Option<Resources>),
    /// A master showed all its agents.
    Agents(MasterName, AgentsSnapshot),
    /// A master failed.
    MasterFailed(MasterName, String),
    /// News about an agent. A hint, never the truth.
    Hint(Completion),
    /// A step was sent.
    Sent(Step),
    /// A step came to an end.
    Ended(AgentName, Outcome),
    /// What planning wants to have remembered.
    Noted(Vec<Note>),
}

/// How a step ended.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Outcome {
    /// It had its effect.
    Done,
    /// It had its effect, and this is the unit as it is then.
    Unit(Unit),
    /// It had no effect (of a launch: made no unit).
    Failed {
        /// What kind of error.
        kind: ErrorKind,
        /// What happened, in words.
        text: String,
        /// Why an agent cannot be launched, where known.
        cause: Option<FailureCause>,
        /// Of a launch: the master was told to expect the agent before it failed.
        enrolled: bool,
        /// Of a launch: the master failed, not the provider.
        at_master: bool,
        /// How long to wait before anything like it is tried again.
        pause: Duration,
    },
    /// Whether it had its effect is unknown.
    Unknown,
}

impl World {
    /// Takes in one fact that arrived at `at`.
    pub fn apply(&mut self, at: Moment, fact: Fact) {
        self.now = self.now.max(at);
        match fact {
            Fact::Now => {}
            Fact::Configured(settings) => self.configure(*settings),
            Fact::Intended(intent) => self.intent = intent,
            Fact::Demand(source, snapshot) => self.demand_read(source, snapshot),
            Fact::DemandFailed(source, error) => {
                if let Some(state) = self.demand.get_mut(&source) {
                    state.health.error = Some(error);
                }
            }
            Fact::Units(provider, began, units) => self.units_read(&provider, began, units),
            Fact::UnitApplied(provider, unit) => self.unit_seen(&provider, unit, at),
            Fact::UnitGone(provider, reference) => self.unit_gone(&provider, &reference),
            Fact::UnitsCurrent(provider, as_of) => self.units_current(&provider, as_of),
            Fact::ProviderFailed(provider, error) => {
                if let Some(state) = self.providers.get_mut(&provider) {
                    state.health.error = Some(error);
                }
            }
            Fact::Capacity(provider, began, free) => {
                if let Some(state) = self.providers.get_mut(&provider) {
                    state.free = free.map(|free| (began, free));
                }
            }
            Fact::Agents(master, snapshot) => self.agents_read(&master, snapshot),
            Fact::MasterFailed(master, error) => {
                if let Some(state) = self.masters.get_mut(&master) {
                    state.health.error = Some(error);
                }
            }
            Fact::Hint(hint) => self.hinted(&hint),
            Fact::Sent(step) => self.sent(step),
            Fact::Ended(agent, outcome) => self.ended(&agent, outcome),
            Fact::Noted(notes) => self.noted(notes),
        }
    }

    /// Systems that left the configuration are forgotten; those that came are not seen yet.
    pub(crate) fn configure(&mut self, settings: Settings) {
        self.demand.retain(|name, _| settings.sources.contains_key(name));
        self.providers.retain(|name, _| settings.providers.contains_key(name));
        self.masters.retain(|name, _| settings.masters.contains_key(name));
        for name in settings.sources.keys() {
            self.demand.entry(name.clone()).or_default();
        }
        for name in settings.providers.keys() {
            self.providers.entry(name.clone()).or_default();
        }
        for name in settings.masters.keys() {
            self.masters.entry(name.clone()).or_default();
        }
        // Another template or cause may have been mended by the operator's change: try again at once.
        for (label, by_provider) in &mut self.memory.breakers {
            let changed = settings.labels.get(label).map(|new| &new.template)
                != self.settings.labels.get(label).map(|old| &old.template);
            if changed {
                by_provider.clear();
            }
        }
        self.memory.breakers.retain(|_, by_provider| !by_provider.is_empty());
        self.settings = settings;
    }

    fn demand_read(&mut self, source: SourceName, snapshot: DemandSnapshot) {
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

    fn units_read(&mut self, provider: &ProviderName, began: Moment, units: Vec<Unit>) {
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
                    absent.push((name.clone(), known.unit.clone()));
                }
                keep
            });
        }
        state.units.retain(|_, by_uid| !by_uid.is_empty());
        state.gone.retain(|_, gone| *gone >= began);
        for (name, _) in absent {
            self.note_unit_gone(provider, &name);
        }
        for unit in units {
            self.unit_seen(provider, unit, began);
        }
        self.units_current(provider, began);
    }

    /// Nothing but what was told has changed up to `as_of`.
    fn units_current(&mut self, provider: &ProviderName, as_of: Moment) {
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
                    let settled = state.units.contains_key(agent) || as_of >= doubt + deadline;
                    if settled && !state.units.contains_key(agent) {
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

    fn unit_seen(&mut self, provider: &ProviderName, unit: Unit, began: Moment) {
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
        {
            self.flights.remove(&unit.name);
        }
        let destroyed = by_uid.get(&unit.uid).and_then(|known| known.destroyed);
        by_uid.insert(unit.uid.clone(), UnitState { unit, began, destroyed });
    }

    fn unit_gone(&mut self, provider: &ProviderName, reference: &UnitRef) {
        let now = self.now;
        let Some(state) = self.providers.get_mut(provider) else { return };
        state.gone.insert(reference.uid.clone(), now);
        if let Some(by_uid) = state.units.get_mut(&reference.name) {
            by_uid.remove(&reference.uid);
            if by_uid.is_empty() {
                state.units.remove(&reference.name);
                self.note_unit_gone(provider, &reference.name);
            }
        }
        self.forget_if_gone(&reference.name);
    }

    fn note_unit_gone(&mut self, provider: &ProviderName, name: &AgentName) {
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

    fn agents_read(&mut self, master: &MasterName, snapshot: AgentsSnapshot) {
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

    fn hinted(&mut self, hint: &Completion) {
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

    fn sent(&mut self, step: Step) {
        let now = self.now;
        if let Step::Launch(launch) = &step {
            self.next_serial = self.next_serial.max(launch.serial + 1);
            let mut memory =
                AgentMemory::new(now, launch.label.clone(), launch.provider.clone(), launch.master.clone());
            memory.class.clone_from(&launch.class);
            memory.request = launch.request;
            self.memory.agents.insert(launch.agent.clone(), memory);
            if let Some(request) = launch.request {
                self.intent.creates.remove(&request);
            }
            let class = launch.class.clone();
            self.counts_were_served(&class);
        }
        self.flights.insert(step.agent().clone(), Flight { step, sent: now, doubt: None });
    }

    /// Nobody tells the age of a count. Its oldest job is taken to be the one that an agent was just launched for:
    /// with the age of its first sight for ever, it would win each tie.
    fn counts_were_served(&mut self, needs: &BTreeSet<LabelName>) {
        let now = self.now;
        for (source, state) in &mut self.demand {
            let demands = state.snapshot.iter().flat_map(|snapshot| &snapshot.demands);
            for (demand, since) in demands.zip(&mut state.since) {
                if demand.id.is_none() && demand.since.is_none() && demand.needs == *needs {
                    *since = now;
                    if let Some(seen) = self.memory.first_seen.get_mut(source) {
                        seen.insert(crate::step::join(needs), now);
                    }
                }
            }
        }
    }

    fn ended(&mut self, agent: &AgentName, outcome: Outcome) {
        let now = self.now;
        let Some(flight) = self.flights.remove(agent) else { return };
        if !matches!(outcome, Outcome::Unknown | Outcome::Failed { .. }) {
            for target in targets_of(&flight.step) {
                self.backoff.remove(&target);
            }
        }
        match outcome {
            Outcome::Done => self.done(agent, &flight.step, None),
            Outcome::Unit(unit) => self.done(agent, &flight.step, Some(unit)),
            Outcome::Unknown => {
                // What a watch told meanwhile may have settled it already.
                let seen = self.providers.values().any(|state| state.units.contains_key(agent));
                if !(seen && matches!(flight.step, Step::Launch(_))) {
                    self.flights.insert(agent.clone(), Flight { doubt: Some(now), ..flight });
                }
            }
            Outcome::Failed { kind, text, cause, enrolled, at_master, pause } => {
                let target = backoff_target(&flight.step, kind, at_master);
                let attempts = self.backoff.get(&target).map_or(0, |backoff| backoff.attempts);
                let until = now + pause;
                self.backoff
                    .insert(target, Backoff { attempts: attempts.saturating_add(1), until, error: text });
                if let Step::Launch(launch) = &flight.step {
                    let passing = matches!(
                        kind,
                        ErrorKind::Transient | ErrorKind::RateLimited { .. } | ErrorKind::Conflict
                    );
                    if !passing || cause.is_some() {
                        let blame = if at_master {
                            FailureCause::EnrolmentRefused
                        } else {
                            FailureCause::LaunchFailed
                        };
                        let place = (&launch.label, &launch.provider);
                        self.memory.failed(place, cause.unwrap_or(blame), now, &self.settings.policy);
                    }
                    if enrolled {
                        let marks = launch.marks(&self.instance, self.term);
                        self.node_enrolled(launch.master.as_ref(), marks);
                    }
                    if let Some(memory) = self.memory.agents.get_mut(agent) {
                        memory.never_launched = true;
                    }
                }
            }
        }
        self.forget_if_gone(agent);
    }

    /// Believes an acknowledged effect until a read that began later contradicts it.
    fn done(&mut self, agent: &AgentName, step: &Step, unit: Option<Unit>) {
        let now = self.now;
        match step {
            Step::Launch(launch) => {
                if let Some(unit) = unit {
                    self.unit_seen(&launch.provider, unit, now);
                }
                self.node_enrolled(launch.master.as_ref(), launch.marks(&self.instance, self.term));
            }
            Step::ReEnrol { master, marks, .. } => {
                self.node_enrolled(Some(master), (**marks).clone());
                if let Some(memory) = self.memory.agents.get_mut(agent) {
                    memory.forgotten = false;
                    memory.awaited = true;
                }
            }
            Step::Connect { .. } => {
                if let Some(memory) = self.memory.agents.get_mut(agent) {
                    memory.connected = true;
                }
            }
            Step::Drain { master, .. } => {
                let node = self.masters.get_mut(master).and_then(|state| state.nodes.get_mut(agent));
                if let Some(node) = node {
                    node.view.drained = Drained::ByUs;
                    node.drained = Some(now);
                }
            }
            Step::RemoveNode { master, .. } => {
                if let Some(state) = self.masters.get_mut(master) {
                    state.nodes.remove(agent);
                    state.removed.insert(agent.clone(), now);
                }
                if let Some(memory) = self.memory.agents.get_mut(agent) {
                    memory.detached = true;
                }
            }
            Step::Destroy { provider, uid, .. } => {
                let units = self.providers.get_mut(provider).and_then(|state| state.units.get_mut(agent));
                if let Some(known) = units.and_then(|units| units.get_mut(uid)) {
                    known.began = now;
                    known.destroyed = Some(now);
                    if known.unit.phase.holds_capacity() {
                        known.unit.phase = UnitPhase::Terminating;
                    }
                }
            }
            Step::Mark { provider, patch, .. } => {
                match unit {
                    Some(unit) => self.unit_seen(provider, unit, now),
                    None => self.marked(agent, provider, patch),
                }
                self.intent.holds.remove(agent);
            }
        }
    }

    fn marked(&mut self, agent: &AgentName, provider: &ProviderName, patch: &MarkPatch) {
        let now = self.now;
        let units = self.providers.get_mut(provider).and_then(|state| state.units.get_mut(agent));
        for known in units.into_iter().flat_map(|units| units.values_mut()) {
            patch.apply(&mut known.unit.marks);
            known.began = known.began.max(now);
            let memory = self.memory.agents.get_mut(agent);
            memory.into_iter().for_each(|memory| memory.was_held |= known.unit.marks.held.is_some());
        }
    }

    /// A master that lists its agents shows this one from now on.
    fn node_enrolled(&mut self, master: Option<&MasterName>, marks: Marks) {
        let Some(name) = master else { return };
        let lists =
            self.settings.masters.get(name).is_some_and(|settings| settings.capabilities.lists_agents);
        let (Some(state), true) = (self.masters.get_mut(name), lists) else { return };
        let (agent, now) = (marks.agent(), self.now);
        let mut view = AgentView::new(agent.as_str());
        view.marks = Some(marks);
        state.nodes.entry(agent).or_insert(NodeState { view, began: now, drained: None });
    }

    fn noted(&mut self, notes: Vec<Note>) {
        let now = self.now;
        for note in notes {
            match note {
                Note::Surplus { agent, surplus } => {
                    if let Some(memory) = self.memory.agents.get_mut(&agent) {
                        memory.surplus_since = surplus.then_some(now);
                    }
                }
                Note::Offered { agent, offered } => {
                    if let Some(memory) = self.memory.agents.get_mut(&agent) {
                        memory.offered_since = offered.then_some(now);
                    }
                }
                Note::Failed { agent, cause } => {
                    let Some(memory) = self.memory.agents.get_mut(&agent) else { continue };
                    if memory.failure.replace(cause).is_none() && counts_against_label(cause) {
                        let (label, provider) = (memory.label.clone(), memory.provider.clone());
                        self.memory.failed((&label, &provider), cause, now, &self.settings.policy);
                    }
                }
            }
        }
    }

    /// Drops what is remembered of agents that are gone, once no demand snapshot can still show their job
    /// as waiting.
    fn forget_gone(&mut self) {
        let settled = self.settled();
        let mut agents = std::mem::take(&mut self.memory.agents);
        agents.retain(|name, memory| self.keeps(name, memory, settled));
        self.memory.agents = agents;
    }

    /// The same for one agent: with thousands of them, not each step that ends can be worth a look at all.
    fn forget_if_gone(&mut self, name: &AgentName) {
        let settled = self.settled();
        if let Some(mut memory) = self.memory.agents.remove(name)
            && self.keeps(name, &mut memory, settled)
        {
            self.memory.agents.insert(name.clone(), memory);
        }
    }

    /// No snapshot shows anything older than that.
    fn settled(&self) -> Moment {
        let began = |state: &DemandState| state.snapshot.as_ref().map_or(self.now, |snapshot| snapshot.began);
        self.demand.values().map(began).min().unwrap_or(self.now)
    }

    fn keeps(&mut self, name: &AgentName, memory: &mut AgentMemory, settled: Moment) -> bool {
        // Where it should be is asked first: that is where it nearly always is. Before its systems were seen at all,
        // after a restart, nobody knows that it is gone.
        let unseen = self.providers.get(&memory.provider).is_some_and(|state| state.complete.is_none())
            || memory
                .master
                .as_ref()
                .and_then(|master| self.masters.get(master))
                .is_some_and(|state| state.began.is_none());
        if unseen {
            return true;
        }
        let unit = |state: &ProviderState| state.units.contains_key(name);
        let node = |state: &MasterState| state.nodes.contains_key(name);
        let there = self.providers.get(&memory.provider).is_some_and(unit)
            || memory.master.as_ref().and_then(|master| self.masters.get(master)).is_some_and(node)
            || self.flights.contains_key(name)
            || self.providers.values().any(unit)
            || self.masters.values().any(node);
        if there {
            return true;
        }
        // An owed removal: the master could not be asked yet whether the node is really gone.
        let keep = *memory.gone.get_or_insert(self.now) >= settled;
        if !keep {
            self.intent.holds.remove(name);
            self.intent.deletes.remove(name);
            self.backoff.remove(&Target::Agent(name.clone()));
        }
        keep
    }
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

/// What an error of that kind makes wait: the agent, launches like this one, or the whole system.
pub fn backoff_target(step: &Step, kind: ErrorKind, at_master: bool) -> Target {
    let whole_system = matches!(kind, ErrorKind::RateLimited { .. } | ErrorKind::Unauthorized);
    match step {
        Step::Launch(launch) => match (&launch.master, whole_system) {
            (Some(master), true) if at_master => Target::Master(master.clone()),
            (_, true) => Target::Provider(launch.provider.clone()),
            (_, false) => Target::Launches(launch.label.clone(), launch.provider.clone()),
        },
        step => {
            let system = step.targets().next().filter(|_| whole_system);
            system.unwrap_or_else(|| Target::Agent(step.agent().clone()))
        }
    }
}

/// Where a success ends the back-off.
fn targets_of(step: &Step) -> Vec<Target> {
    let mut targets: Vec<Target> = step.targets().collect();
    targets.push(match step {
        Step::Launch(launch) => Target::Launches(launch.label.clone(), launch.provider.clone()),
        step => Target::Agent(step.agent().clone()),
    });
    targets
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
    memory: &mut crate::memory::Memory,
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
