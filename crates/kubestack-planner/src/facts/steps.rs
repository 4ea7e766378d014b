//! What was sent, what came of it, and what planning wants to have remembered.

use super::Outcome;
use crate::memory::{AgentMemory, Note, counts_against_label};
use crate::step::{Step, Target};
use crate::world::{Backoff, Flight, NodeState, World};
use kubestack_core::agent::{AgentView, Drained};
use kubestack_core::cause::FailureCause;
use kubestack_core::error::ErrorKind;
use kubestack_core::marks::Marks;
use kubestack_core::name::{AgentName, LabelName, MasterName, ProviderName};
use kubestack_core::provider::{MarkPatch, Unit, UnitPhase};
use std::collections::BTreeSet;

impl World {
    pub(super) fn sent(&mut self, step: Step) {
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
    pub(super) fn counts_were_served(&mut self, needs: &BTreeSet<LabelName>) {
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

    pub(super) fn ended(&mut self, agent: &AgentName, outcome: Outcome) {
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
                let seen = self.providers.values().any(|state| state.has_unit(agent));
                if !(seen && matches!(flight.step, Step::Launch(_))) {
                    self.flights.insert(agent.clone(), Flight { doubt: Some(now), ..flight });
                }
            }
            Outcome::Failed { kind, text, cause, enrolled, at_master, pause } => {
                let target = backoff_target(&flight.step, kind, at_master);
                let known = self.backoff.get(&target).map_or((0, now), |known| (known.attempts, known.until));
                let backoff = match known {
                    // Sent before that pause began, with the one that began it: no new try that failed.
                    (attempts, until) if until > now => {
                        let asked = matches!(kind, ErrorKind::RateLimited { .. });
                        let until = if asked { until.max(now + pause) } else { until };
                        Backoff { attempts, until, error: text }
                    }
                    (attempts, _) => {
                        Backoff { attempts: attempts.saturating_add(1), until: now + pause, error: text }
                    }
                };
                self.backoff.insert(target, backoff);
                if let Step::Launch(launch) = &flight.step {
                    if let Some(cause) = cause_of_refusal(kind, cause, at_master) {
                        let place = (&launch.label, &launch.provider);
                        self.memory.failed(place, cause, now, &self.settings.policy);
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
    pub(super) fn done(&mut self, agent: &AgentName, step: &Step, unit: Option<Unit>) {
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
                        known.unit.phase = UnitPhase::TERMINATING;
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

    pub(super) fn marked(&mut self, agent: &AgentName, provider: &ProviderName, patch: &MarkPatch) {
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
    pub(super) fn node_enrolled(&mut self, master: Option<&MasterName>, marks: Marks) {
        let Some(name) = master else { return };
        let lists =
            self.settings.masters.get(name).is_some_and(|settings| settings.capabilities.lists_agents);
        let (Some(state), true) = (self.masters.get_mut(name), lists) else { return };
        let (agent, now) = (marks.agent(), self.now);
        let mut view = AgentView::new(agent.as_str());
        view.marks = Some(marks);
        state.nodes.entry(agent).or_insert(NodeState { view, began: now, drained: None });
    }

    pub(super) fn noted(&mut self, notes: Vec<Note>) {
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
}

/// Why a launch failed that ended with such an error; `None` if that says nothing about its label.
pub fn cause_of_refusal(
    kind: ErrorKind,
    cause: Option<FailureCause>,
    at_master: bool,
) -> Option<FailureCause> {
    let passing = matches!(kind, ErrorKind::Transient | ErrorKind::RateLimited { .. } | ErrorKind::Conflict);
    let blame = if at_master { FailureCause::EnrolmentRefused } else { FailureCause::LaunchFailed };
    cause.or((!passing).then_some(blame))
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
