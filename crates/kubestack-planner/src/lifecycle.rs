//! The way of one agent from its launch to its end: what its state alone asks for, whatever the demand.
//!
//! ```text
//!  requested ► launching ► idle ► busy ► done ► draining ► detached ► destroyed
//!                 └─────────┴── failed, not wanted ──┘
//! ```
//! The order on the way out is always: drain, see it idle in a read that began after the drain was
//! acknowledged, remove the node (the master refuses while it is busy), take the unit away.

use crate::agent::{Agent, AgentState};
use crate::memory::{Note, patience};
use crate::step::{Reason, Step, Target};
use crate::world::{Hold, NodeState, World};
use kubestack_core::agent::Drained;
use kubestack_core::cause::FailureCause;
use kubestack_core::master::{MasterCapabilities, OneJob};
use kubestack_core::name::{LabelName, MasterName};
use kubestack_core::provider::{MarkPatch, UnitPhase};
use kubestack_core::time::Moment;
use std::collections::{BTreeMap, BTreeSet};

/// Collects what planning decides.
#[derive(Debug, Default)]
pub(crate) struct Draft {
    pub steps: Vec<(Step, Reason)>,
    pub notes: Vec<Note>,
    pub wake: Option<Moment>,
    /// Masters that a decision waits for a later look at.
    pub looks: BTreeSet<MasterName>,
    /// Held agents by label, those that are about to be held included.
    pub held: BTreeMap<LabelName, u32>,
}

impl Draft {
    pub fn step(&mut self, step: Step, reason: Reason) {
        self.steps.push((step, reason));
    }

    /// Look again at `at`.
    pub fn wake(&mut self, at: Moment) {
        self.wake = Some(self.wake.map_or(at, |known| known.min(at)));
    }

    /// Whether `at` has come; if not, look again then.
    pub fn due(&mut self, now: Moment, at: Moment) -> bool {
        if now < at {
            self.wake(at);
        }
        now >= at
    }
}

/// What an agent's own state asks for.
pub(crate) fn advance(world: &World, agent: &Agent<'_>, draft: &mut Draft) {
    if !is_free(world, agent, draft) {
        return;
    }
    duplicates(world, agent, draft);
    let way = Way { world, agent };
    if way.operator(draft) || way.lifetime(draft) {
        return;
    }
    match &agent.state {
        AgentState::Held(_) | AgentState::Requested | AgentState::Terminating => {}
        AgentState::Launching => way.launching(draft),
        AgentState::Idle => way.idle(draft),
        AgentState::Busy => way.busy(draft),
        AgentState::Unknown => way.unknown(draft),
        AgentState::Done => way.done(draft),
        AgentState::Draining => way.leave(way.draining_reason(), draft),
        AgentState::Detached => way.destroy(Reason::Detached, draft),
        AgentState::Forgotten => way.forgotten(draft),
        AgentState::Ended => way.ended(draft),
        AgentState::Orphan => way.orphan(draft),
    }
}

/// Sends an agent on its way out, for that reason, as far as one step goes.
pub(crate) fn retire(world: &World, agent: &Agent<'_>, reason: Reason, draft: &mut Draft) {
    if is_free(world, agent, draft) {
        Way { world, agent }.leave(reason, draft);
    }
}

/// Whether no step about it is under way, and none failed a moment ago.
fn is_free(world: &World, agent: &Agent<'_>, draft: &mut Draft) -> bool {
    let until = world.backed_off(&Target::Agent(agent.name.clone()));
    until.into_iter().for_each(|until| draft.wake(until));
    agent.flight.is_none() && until.is_none()
}

/// Two units of one name: the younger goes, by its uid.
fn duplicates(world: &World, agent: &Agent<'_>, draft: &mut Draft) {
    let Some(eldest) = agent.unit.filter(|_| agent.twins) else { return };
    for (provider, state) in &world.providers {
        for unit in state.units.get(agent.name).into_iter().flat_map(|units| units.values()) {
            let other = unit.unit.uid != eldest.unit.uid;
            if other && unit.destroyed.is_none() && !matches!(unit.unit.phase, UnitPhase::Terminating { .. })
            {
                let step = Step::Destroy {
                    agent: agent.name.clone(),
                    provider: provider.clone(),
                    uid: unit.unit.uid.clone(),
                    version: unit.unit.version,
                    only_if_not_started: false,
                };
                draft.step(step, Reason::Duplicate);
            }
        }
    }
}

struct Way<'a> {
    world: &'a World,
    agent: &'a Agent<'a>,
}

impl Way<'_> {
    fn capabilities(&self) -> MasterCapabilities {
        let settings = self.agent.master.and_then(|master| self.world.settings.masters.get(master));
        settings.map(|settings| settings.capabilities).unwrap_or_default()
    }

    fn master_is_fresh(&self) -> bool {
        let state = self.agent.master.and_then(|master| self.world.masters.get(master));
        state.is_some_and(|state| !self.world.is_stale(state.health.heard))
    }

    fn provider_is_fresh(&self) -> bool {
        let state = self.world.providers.get(self.agent.provider);
        state.is_some_and(|state| !self.world.is_stale(state.health.heard))
    }

    /// The operator's word about this agent. True if nothing else is to be done now.
    fn operator(&self, draft: &mut Draft) -> bool {
        let (world, agent) = (self.world, self.agent);
        match (world.intent.holds.get(agent.name), agent.unit) {
            (Some(Hold::Hold(text)), Some(unit)) if unit.unit.marks.held.is_none() => {
                self.mark(MarkPatch::Held(text.clone()), Reason::Operator, draft);
                return true;
            }
            (Some(Hold::Release), Some(unit)) if unit.unit.marks.held.is_some() => {
                self.mark(MarkPatch::Released, Reason::Operator, draft);
                return true;
            }
            _ => {}
        }
        let Some(despite_busy) = world.intent.deletes.get(agent.name) else { return false };
        if *despite_busy {
            self.kill(Reason::Operator, draft);
            return true;
        }
        match agent.state {
            AgentState::Launching | AgentState::Idle => self.leave(Reason::Operator, draft),
            AgentState::Held(_) => self.leave(Reason::Operator, draft),
            _ => return false,
        }
        true
    }

    /// Whatever it does, it may not live longer than that.
    fn lifetime(&self, draft: &mut Draft) -> bool {
        let (world, agent) = (self.world, self.agent);
        let held = matches!(agent.state, AgentState::Held(_));
        let gone = matches!(agent.state, AgentState::Orphan | AgentState::Ended | AgentState::Terminating);
        let limit = agent.settings.and_then(|label| label.max_lifetime);
        let Some(limit) = limit.filter(|_| !held && !gone && agent.unit.is_some()) else { return false };
        if !draft.due(world.now, agent.born(world) + limit) {
            return false;
        }
        let cause = FailureCause::LifetimeExceeded;
        self.fail(cause, draft);
        self.kill(Reason::Failed { cause }, draft);
        true
    }

    fn launching(&self, draft: &mut Draft) {
        let (world, agent) = (self.world, self.agent);
        let Some(unit) = agent.unit else { return };
        if self.unwanted(draft) {
            return;
        }
        if let Some(cause) = agent.failure() {
            return self.give_up(cause, draft);
        }
        let born = agent.born(world);
        let pending = match &unit.unit.phase {
            UnitPhase::Pending { cause, .. } => *cause,
            _ => None,
        };
        if let Some((cause, patience)) = pending.and_then(|cause| Some((cause, patience(cause)?)))
            && draft.due(world.now, born + patience)
        {
            return self.give_up(cause, draft);
        }
        let started = unit.unit.phase == UnitPhase::Running;
        let connected = agent.memory.is_some_and(|memory| memory.connected);
        if let Some(master) = agent.master
            && started
            && self.capabilities().needs_connect
            && !connected
        {
            let step = Step::Connect { agent: agent.name.clone(), master: master.clone() };
            draft.step(step, Reason::Running);
            return;
        }
        let Some(label) = agent.settings else { return };
        // While its master does not answer, nobody can tell whether it attached.
        let visible = agent.master.is_none() || self.master_is_fresh();
        if visible && draft.due(world.now, born + label.launch_timeout) {
            self.give_up(pending.unwrap_or(FailureCause::NeverAttached), draft);
        }
    }

    fn give_up(&self, cause: FailureCause, draft: &mut Draft) {
        self.fail(cause, draft);
        if !self.keep_for_inspection(cause, draft) {
            self.leave(Reason::Failed { cause }, draft);
        }
    }

    fn idle(&self, draft: &mut Draft) {
        if self.unwanted(draft) {
            return;
        }
        if let Some(cause) = self.agent.failure() {
            return self.leave(Reason::Failed { cause }, draft);
        }
        let (world, agent) = (self.world, self.agent);
        let Some(offered) = agent.memory.and_then(|memory| memory.offered_since) else { return };
        if draft.due(world.now, offered + world.settings.policy.offer_timeout) {
            let cause = FailureCause::OfferedNotTaken;
            self.fail(cause, draft);
            self.leave(Reason::Failed { cause }, draft);
        }
    }

    /// Reasons to let go of an agent that has no job, whatever the demand.
    fn unwanted(&self, draft: &mut Draft) -> bool {
        let (world, agent) = (self.world, self.agent);
        let reason = if agent.settings.is_none() {
            Reason::LabelGone
        } else if world.intent.drain_all.is_some() {
            Reason::DrainAll
        } else if agent.is_used() || agent.is_current() {
            return false;
        } else {
            Reason::TemplateChanged
        };
        self.leave(reason, draft);
        true
    }

    /// It was attached and is offline now, or its master cannot tell what it does.
    fn unknown(&self, draft: &mut Draft) {
        let (world, agent) = (self.world, self.agent);
        let idle = agent.node.is_some_and(|node| node.view.activity.is_idle());
        let Some(label) = agent.settings else { return };
        if idle && self.master_is_fresh() && draft.due(world.now, agent.since(world) + label.launch_timeout) {
            let cause = FailureCause::NeverAttached;
            self.leave(Reason::Failed { cause }, draft);
        }
    }

    fn done(&self, draft: &mut Draft) {
        let (world, agent) = (self.world, self.agent);
        if self.capabilities().agents_end_by_themselves
            && !draft.due(world.now, agent.since(world) + world.settings.policy.lost_grace)
        {
            return;
        }
        self.leave(Reason::Done, draft);
    }

    fn draining_reason(&self) -> Reason {
        match self.agent.failure() {
            Some(cause) => Reason::Failed { cause },
            None if self.agent.is_used() => Reason::Done,
            None => Reason::Draining,
        }
    }

    /// The next step on the way out of an agent that has no job as far as can be seen.
    fn leave(&self, reason: Reason, draft: &mut Draft) {
        let agent = self.agent;
        if agent.flight.is_some() {
            return;
        }
        match (agent.master, agent.node) {
            (Some(master), Some(node)) => {
                if !self.master_is_fresh() || node.view.activity.is_busy() {
                    return;
                }
                let drains = self.capabilities().drains;
                if drains && node.view.drained == Drained::No {
                    let step = Step::Drain { agent: agent.name.clone(), master: master.clone() };
                    draft.step(step, reason);
                } else if !drains || seen_idle_since_drain(node) {
                    self.remove_node(false, reason, draft);
                } else {
                    self.look(draft);
                }
            }
            (Some(_), None) => {
                let detached = agent.memory.is_some_and(|memory| memory.detached);
                let listed = self.capabilities().lists_agents;
                if detached || (listed && matches!(agent.state, AgentState::Forgotten)) {
                    self.destroy(reason, draft);
                } else if !listed && agent.failure().is_some() {
                    // Its master shows what is connected, and never showed this one: it has no job.
                    self.destroy(reason, draft);
                } else if !listed {
                    self.destroy_unstarted(reason, draft);
                }
            }
            (None, _) => self.destroy_unstarted(reason, draft),
        }
    }

    /// Takes it away whatever it does: the operator's word, or its lifetime.
    fn kill(&self, reason: Reason, draft: &mut Draft) {
        if self.agent.node.is_some() && self.master_is_fresh() {
            self.remove_node(true, reason, draft);
        } else {
            self.destroy(reason, draft);
        }
    }

    fn forgotten(&self, draft: &mut Draft) {
        let (world, agent) = (self.world, self.agent);
        if !self.master_is_fresh() {
            return;
        }
        let restarted = agent.memory.is_some_and(|memory| memory.forgotten);
        let missing = agent.memory.and_then(|memory| memory.node_missing.or(memory.unit_seen));
        let since = missing.unwrap_or_else(|| agent.born(world));
        // A master that refuses it for that long does not want it back.
        let in_vain = world.now.since(since) > world.settings.policy.forgotten_grace * 2;
        if let (Some(master), Some(unit)) = (agent.master, agent.unit)
            && restarted
            && !in_vain
            && self.capabilities().re_enrols
        {
            let marks = Box::new(unit.unit.marks.clone());
            let step = Step::ReEnrol { agent: agent.name.clone(), master: master.clone(), marks };
            draft.step(step, Reason::Forgotten);
            return;
        }
        let ripe = since + world.settings.policy.forgotten_grace;
        if !draft.due(world.now, ripe) {
            return;
        }
        if agent.master_read(world).is_none_or(|read| read < ripe) {
            // It may be back since the last look.
            self.look(draft);
        } else {
            let cause = FailureCause::NodeRemoved;
            self.fail(cause, draft);
            let reason = if agent.is_used() { Reason::Done } else { Reason::Failed { cause } };
            self.destroy(reason, draft);
        }
    }

    fn ended(&self, draft: &mut Draft) {
        let (world, agent) = (self.world, self.agent);
        let Some(unit) = agent.unit else { return };
        let ended = agent.memory.and_then(|memory| memory.unit_ended).unwrap_or(world.now);
        // A job may have begun and ended between two looks: only a look begun after the end can tell.
        let told = agent.node.is_none_or(|node| node.began > ended);
        if !told && self.master_is_fresh() {
            self.look(draft);
            return;
        }
        let cause = if told { self.cause_of_end() } else { agent.failure() };
        if let Some(cause) = cause {
            self.fail(cause, draft);
            if unit.destroyed.is_none() && self.keep_for_inspection(cause, draft) {
                return;
            }
        }
        let reason = match cause {
            _ if unit.unit.phase == UnitPhase::Remnant => Reason::Remnant,
            Some(cause) => Reason::Failed { cause },
            None => Reason::Done,
        };
        if let Some(node) = agent.node {
            if self.master_is_fresh() {
                self.remove_lost(node, ended, reason, draft);
                return;
            }
            if node.view.marks.is_none() {
                // The unit is all that tells whose node it is: it stays until its master answers.
                return;
            }
        }
        // With its master down the removal of the node is owed; its marks will tell whose it is.
        if unit.unit.phase == UnitPhase::Remnant
            && !draft.due(world.now, agent.born(world) + world.settings.policy.step_deadline * 2)
        {
            return;
        }
        self.destroy(reason, draft);
    }

    /// Why the unit ended, unless it did so because its work was over or because we wanted it to.
    fn cause_of_end(&self) -> Option<FailureCause> {
        let agent = self.agent;
        if let Some(known) = agent.failure() {
            return Some(known);
        }
        let UnitPhase::Ended { cause, .. } = agent.unit.map(|unit| &unit.unit.phase)? else { return None };
        let drained = agent.node.is_some_and(|node| node.view.drained != Drained::No);
        let detached = agent.memory.is_some_and(|memory| memory.detached);
        let destroyed = agent.unit.is_some_and(|unit| unit.destroyed.is_some());
        if drained || detached || destroyed {
            return None;
        }
        if agent.is_used() || (agent.master.is_none() && cause.is_none()) {
            return *cause;
        }
        let attached = agent.memory.is_some_and(|memory| memory.attached);
        let itself = attached && self.capabilities().agents_end_by_themselves;
        cause.or((!itself).then_some(FailureCause::CrashLoop))
    }

    fn orphan(&self, draft: &mut Draft) {
        let (world, agent) = (self.world, self.agent);
        let Some(node) = agent.node.filter(|_| self.master_is_fresh() && self.provider_is_fresh()) else {
            return;
        };
        let Some(memory) = agent.memory else { return };
        if let Some(gone) = memory.unit_gone {
            self.remove_lost(node, gone, Reason::OrphanNode, draft);
            return;
        }
        let ripe = memory.first_seen + world.settings.policy.step_deadline * 2;
        let complete = world.providers.get(agent.provider).and_then(|state| state.complete);
        if memory.never_launched && !node.view.activity.is_busy() {
            self.remove_node(false, Reason::OrphanNode, draft);
        } else if draft.due(world.now, ripe) && complete.is_some_and(|complete| complete >= ripe) {
            self.remove_lost(node, ripe, Reason::OrphanNode, draft);
        }
    }

    /// Removes the node of a unit that ended or vanished at `since`. A master that still shows a job on it
    /// gets a grace to notice by itself.
    fn remove_lost(&self, node: &NodeState, since: Moment, reason: Reason, draft: &mut Draft) {
        let world = self.world;
        let ripe = since + world.settings.policy.lost_grace;
        if node.view.activity.is_idle() {
            self.remove_node(false, reason, draft);
        } else if draft.due(world.now, ripe) && node.began < ripe {
            self.look(draft);
        } else if world.now >= ripe {
            let cause = FailureCause::LostWhileBusy;
            self.fail(cause, draft);
            self.remove_node(true, Reason::Failed { cause }, draft);
        }
    }

    fn look(&self, draft: &mut Draft) {
        draft.looks.extend(self.agent.master.cloned());
    }

    fn remove_node(&self, despite_busy: bool, reason: Reason, draft: &mut Draft) {
        if let Some(master) = self.agent.master {
            let agent = self.agent.name.clone();
            draft.step(Step::RemoveNode { agent, master: master.clone(), despite_busy }, reason);
        }
    }

    fn destroy_unstarted(&self, reason: Reason, draft: &mut Draft) {
        let settings = self.world.settings.providers.get(self.agent.provider);
        let conditional = settings.is_some_and(|settings| settings.capabilities.conditional_destroy);
        let pending =
            self.agent.unit.is_some_and(|unit| matches!(unit.unit.phase, UnitPhase::Pending { .. }));
        if conditional && pending {
            self.destroy_unit(true, reason, draft);
        }
    }

    fn destroy(&self, reason: Reason, draft: &mut Draft) {
        self.destroy_unit(false, reason, draft);
    }

    fn destroy_unit(&self, only_if_not_started: bool, reason: Reason, draft: &mut Draft) {
        let (world, agent) = (self.world, self.agent);
        let Some(unit) = agent.unit else { return };
        if let Some(asked) = unit.destroyed {
            // The platform took the request; only if it is still there much later is it asked again.
            let policy = &world.settings.policy;
            if !draft.due(world.now, asked + policy.destroy_grace + policy.step_deadline * 2) {
                return;
            }
        }
        let step = Step::Destroy {
            agent: agent.name.clone(),
            provider: agent.provider.clone(),
            uid: unit.unit.uid.clone(),
            version: unit.unit.version,
            only_if_not_started,
        };
        draft.step(step, reason);
    }

    fn mark(&self, patch: MarkPatch, reason: Reason, draft: &mut Draft) -> bool {
        let settings = self.world.settings.providers.get(self.agent.provider);
        let (Some(unit), true) = (self.agent.unit, settings.is_some_and(|s| s.capabilities.marks)) else {
            return false;
        };
        let step = Step::Mark {
            agent: self.agent.name.clone(),
            provider: self.agent.provider.clone(),
            uid: unit.unit.uid.clone(),
            patch,
        };
        draft.step(step, reason);
        true
    }

    /// It has its one job. A master that would give it another takes it out now, and not when it is idle again: then
    /// the next job may be on it already.
    fn busy(&self, draft: &mut Draft) {
        let (agent, can) = (self.agent, self.capabilities());
        let open = agent.node.is_some_and(|node| {
            node.view.activity.is_busy() && node.view.online && node.view.drained == Drained::No
        });
        let drains = can.one_job == OneJob::Observed && can.drains && open && self.master_is_fresh();
        let Some(master) = agent.master.filter(|_| drains) else {
            self.remember_use(draft);
            return;
        };
        let targets = [Target::Master(master.clone()), Target::Agent(agent.name.clone())];
        let failed = targets.iter().any(|target| self.world.backoff.contains_key(target));
        // The drain goes first, for it is in a race; but one that cannot be done is no reason to forget the job.
        if failed && self.remember_use(draft) {
            return;
        }
        draft.step(Step::Drain { agent: agent.name.clone(), master: master.clone() }, Reason::JobBegan);
    }

    /// Writes the evidence of its start on the unit, so that a restart knows it too. False if there is nothing to write.
    fn remember_use(&self, draft: &mut Draft) -> bool {
        let agent = self.agent;
        let marked = agent.unit.is_none_or(|unit| unit.unit.marks.used.is_some());
        if agent.master.is_none() || marked || !agent.is_used() {
            return false;
        }
        let job = agent.memory.and_then(|memory| memory.used.as_ref()).and_then(|(_, job)| job.clone());
        self.mark(MarkPatch::Used(job.unwrap_or_else(|| "?".to_owned())), Reason::JobBegan, draft);
        true
    }

    fn fail(&self, cause: FailureCause, draft: &mut Draft) {
        if self.agent.failure().is_none() {
            draft.notes.push(Note::Failed { agent: self.agent.name.clone(), cause });
        }
    }

    /// Holds a failed agent where its label asks for that and has not enough of them yet.
    fn keep_for_inspection(&self, cause: FailureCause, draft: &mut Draft) -> bool {
        let agent = self.agent;
        let most = agent.settings.map_or(0, |label| label.hold_on_failure);
        if most == 0 || agent.memory.is_some_and(|memory| memory.was_held) {
            return false;
        }
        let held = draft.held.get(agent.label).copied().unwrap_or(0);
        let text = format!("failed: {cause}");
        let keep =
            held < most && self.mark(MarkPatch::Held(text), Reason::KeptForInspection { cause }, draft);
        if keep {
            *draft.held.entry(agent.label.clone()).or_insert(0) += 1;
        }
        keep
    }
}

/// Whether a read that began after the drain was acknowledged showed it idle.
fn seen_idle_since_drain(node: &NodeState) -> bool {
    node.view.activity.is_idle() && node.drained.is_some_and(|drained| node.began > drained)
}
