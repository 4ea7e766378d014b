//! What is really the case on the simulated systems.

use super::oracle::TOLD_WITHIN;
use super::rng::Rng;
use super::scenario::{Archetype, Scenario};
use kubestack_core::agent::{Activity, AgentView, Drained};
use kubestack_core::cause::FailureCause;
use kubestack_core::completion::{Completion, CompletionEvent};
use kubestack_core::demand::{Binding, Demand};
use kubestack_core::error::{Error, Result};
use kubestack_core::marks::Marks;
use kubestack_core::master::Explanation;
use kubestack_core::name::{AgentName, ProviderName, Uid};
use kubestack_core::provider::{MarkPatch, Unit, UnitPhase, UnitRef, WatchEvent};
use kubestack_core::time::Moment;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// A promise that was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Its number in design §7.
    pub promise: u8,
    /// When.
    pub at: Moment,
    /// How.
    pub text: String,
}

/// A change that a call makes, now or, if it is late, some time after its caller gave up.
#[derive(Clone, Debug)]
pub(super) enum Effect {
    Enrol { queue: String, marks: Marks },
    Drain { queue: String, agent: AgentName },
    Remove { queue: String, agent: AgentName, despite_busy: bool },
    Launch { provider: ProviderName, marks: Marks },
    Destroy { unit: UnitRef, only_if_not_started: bool },
    Mark { unit: UnitRef, patch: MarkPatch },
}

/// What a call gets back.
pub(super) enum Done {
    Nothing,
    Unit(Box<Unit>),
    Exists,
    Refused,
}

/// Something that happens by itself at its time.
#[derive(Clone, Debug)]
pub(super) enum Event {
    JobArrives(usize),
    JobCancelled(usize),
    UnitStarts(Uid),
    AgentAttaches(Uid),
    JobEnds(usize, Uid),
    WorkerGivesUp(Uid),
    UnitGone(Uid),
    Late(Effect),
    BackInService(String, String),
    WaitIsJudged(usize, bool),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum JobState {
    Unborn,
    Queued,
    Running,
    Done,
    Cancelled,
}

#[derive(Clone, Debug)]
pub(super) struct Node {
    pub view: AgentView,
    pub job: Option<usize>,
}

#[derive(Clone, Debug)]
pub(super) struct SimUnit {
    pub unit: Unit,
    pub provider: ProviderName,
    /// Of a worker without a master: the job it took.
    pub job: Option<usize>,
}

pub(super) struct Truth {
    pub now: Moment,
    pub start: Moment,
    pub scenario: Scenario,
    pub rng: Rng,
    pub units: BTreeMap<Uid, SimUnit>,
    pub nodes: BTreeMap<String, BTreeMap<String, Node>>,
    pub sessions: BTreeMap<String, u32>,
    pub jobs: Vec<JobState>,
    pub events: BTreeMap<(Moment, u64), Event>,
    pub watches: Vec<(ProviderName, WatchEvent)>,
    pub hints: Vec<(String, Completion)>,
    pub trace: Vec<String>,
    pub violations: Vec<Violation>,
    pub names: BTreeSet<AgentName>,
    /// Until then the sends of a crashed engine may land beside those of its successor.
    pub handover: Moment,
    /// Agents that the operator allowed to be taken whatever they do.
    pub condemned: BTreeSet<AgentName>,
    pub exposed: u32,
    /// Since when each job that was queued waits, or waited last.
    pub queued: BTreeMap<usize, Moment>,
    /// What the users of each queue were told.
    pub told: BTreeMap<String, Vec<Explanation>>,
    sequence: u64,
}

impl Truth {
    pub fn new(scenario: Scenario, now: Moment) -> Self {
        let rng = Rng::new(scenario.seed, "truth");
        let jobs = vec![JobState::Unborn; scenario.jobs.len()];
        let nodes = scenario.queues.iter().map(|queue| (queue.name.clone(), BTreeMap::new())).collect();
        let mut truth = Self {
            now,
            start: now,
            scenario,
            rng,
            units: BTreeMap::new(),
            nodes,
            sessions: BTreeMap::new(),
            jobs,
            events: BTreeMap::new(),
            watches: Vec::new(),
            hints: Vec::new(),
            trace: Vec::new(),
            violations: Vec::new(),
            names: BTreeSet::new(),
            handover: now,
            condemned: BTreeSet::new(),
            exposed: 0,
            queued: BTreeMap::new(),
            told: BTreeMap::new(),
            sequence: 0,
        };
        for (index, job) in truth.scenario.jobs.clone().into_iter().enumerate() {
            truth.after(job.at, Event::JobArrives(index));
            if let Some(at) = job.cancelled {
                truth.after(at, Event::JobCancelled(index));
            }
        }
        truth.plant_strangers();
        truth
    }

    /// Things that are not ours and look as if they might be.
    fn plant_strangers(&mut self) {
        for (provider, instance) in self.scenario.providers.clone().into_iter().zip(["other", "sim2"]) {
            let marks = Marks::new(instance.into(), "l0".into(), provider.clone(), None, (1, 1), "t".into());
            let uid = Uid::new(format!("stranger-{provider}"));
            let unit = Unit::new(uid.clone(), marks, UnitPhase::Running, self.now);
            self.units.insert(uid, SimUnit { unit, provider, job: None });
        }
        for nodes in self.nodes.values_mut() {
            let mut view = AgentView::new("sim-looks-like-ours-1-1");
            view.online = true;
            nodes.insert(view.name.clone(), Node { view, job: None });
        }
    }

    fn is_stranger(&self, agent: &AgentName) -> bool {
        !self.names.contains(agent)
    }

    pub fn say(&mut self, text: String) {
        let at = self.now.since(self.start).as_millis();
        self.trace.push(format!("{at:>8} {text}"));
    }

    pub fn broken(&mut self, promise: u8, text: String) {
        self.say(format!("VIOLATION of promise {promise}: {text}"));
        self.violations.push(Violation { promise, at: self.now, text });
    }

    pub fn after(&mut self, delay: Duration, event: Event) {
        self.sequence += 1;
        self.events.insert((self.now + delay, self.sequence), event);
    }

    pub fn is_quiet(&self) -> bool {
        self.now.since(self.start) >= self.scenario.quiet
    }

    /// When something happens next.
    pub fn next_event(&self) -> Option<Moment> {
        self.events.first_key_value().map(|((at, _), _)| *at)
    }

    /// Lets everything happen that is due.
    pub fn advance(&mut self, now: Moment) {
        while let Some(entry) = self.events.first_entry().filter(|entry| entry.key().0 <= now) {
            let ((at, _), event) = entry.remove_entry();
            self.now = self.now.max(at);
            self.happen(event);
        }
        self.now = self.now.max(now);
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::JobArrives(job) => {
                self.set_job(job, JobState::Queued);
                self.assign();
            }
            Event::JobCancelled(job) => {
                if self.jobs.get(job) == Some(&JobState::Queued) {
                    self.set_job(job, JobState::Cancelled);
                }
            }
            Event::UnitStarts(uid) => self.unit_starts(&uid),
            Event::AgentAttaches(uid) => self.attach(&uid),
            Event::JobEnds(job, uid) => self.job_ends(job, &uid),
            Event::WorkerGivesUp(uid) => {
                if self.units.get(&uid).is_some_and(|unit| unit.job.is_none()) {
                    self.end_unit(&uid, None);
                }
            }
            Event::UnitGone(uid) => self.unit_gone(&uid),
            Event::WaitIsJudged(job, suspected) => self.judge_wait(job, suspected),
            Event::Late(effect) => {
                self.say(format!("late: {effect:?}"));
                let _ = self.effect(effect);
            }
            Event::BackInService(queue, name) => {
                if let Some(node) = self.nodes.get_mut(&queue).and_then(|nodes| nodes.get_mut(&name)) {
                    node.view.drained = Drained::No;
                }
                self.assign();
            }
        }
    }

    fn set_job(&mut self, job: usize, state: JobState) {
        if let Some(known) = self.jobs.get_mut(job) {
            *known = state;
        }
        self.say(format!("job {job} {state:?}"));
        if state == JobState::Queued {
            self.queued.insert(job, self.now);
            self.after(TOLD_WITHIN, Event::WaitIsJudged(job, false));
        }
    }

    pub fn archetype(&self, queue: &str) -> Archetype {
        self.scenario.archetype(queue).unwrap_or(Archetype::JenkinsLike)
    }

    fn unit_starts(&mut self, uid: &Uid) {
        let Some(unit) =
            self.units.get_mut(uid).filter(|unit| matches!(unit.unit.phase, UnitPhase::Pending { .. }))
        else {
            return;
        };
        if !unit.unit.marks.label.as_str().is_empty() {
            unit.unit.phase = UnitPhase::Running;
        }
        unit.unit.version += 1;
        let master = unit.unit.marks.master.clone();
        let (label, event) = (unit.unit.marks.label.clone(), WatchEvent::Applied(unit.unit.clone()));
        let provider = unit.provider.clone();
        self.watches.push((provider, event));
        if master.is_some() {
            let delay = self.rng.millis(0, 3000);
            self.after(delay, Event::AgentAttaches(uid.clone()));
            return;
        }
        // A worker takes waiting work as it starts, or waits a little and gives up.
        let job = (0..self.jobs.len()).find(|job| {
            let spec = self.scenario.jobs.get(*job);
            self.jobs.get(*job) == Some(&JobState::Queued)
                && spec.is_some_and(|spec| spec.needs.contains(&label))
        });
        match job {
            Some(job) => {
                self.set_job(job, JobState::Running);
                if let Some(unit) = self.units.get_mut(uid) {
                    unit.job = Some(job);
                }
                let takes = self.scenario.jobs.get(job).map_or(Duration::ZERO, |spec| spec.takes);
                self.after(takes, Event::JobEnds(job, uid.clone()));
            }
            None => self.after(Duration::from_secs(4), Event::WorkerGivesUp(uid.clone())),
        }
    }

    fn attach(&mut self, uid: &Uid) {
        let Some(unit) = self.units.get(uid).filter(|unit| unit.unit.phase == UnitPhase::Running) else {
            return;
        };
        let (name, master) = (unit.unit.name.to_string(), unit.unit.marks.master.clone());
        let Some(master) = master else { return };
        match self.nodes.get_mut(master.as_str()).and_then(|nodes| nodes.get_mut(&name)) {
            Some(node) => {
                node.view.online = true;
                self.say(format!("{name} attached"));
                self.hint(master.as_str(), &name, None);
                self.assign();
            }
            // It tries again: its master may expect it again.
            None => self.after(Duration::from_secs(2), Event::AgentAttaches(uid.clone())),
        }
    }

    /// News, if it is not lost.
    fn hint(&mut self, queue: &str, agent: &str, event: Option<(CompletionEvent, usize)>) {
        if self.scenario.faults > 0 && self.rng.chance(self.scenario.faults) {
            return;
        }
        let kind = event.map_or(CompletionEvent::Finalized, |(kind, _)| kind);
        let mut hint = Completion::new(if event.is_some() { agent } else { "" }, kind, self.now);
        if let Some((_, job)) = event {
            hint.job = Some(job.to_string());
        }
        self.hints.push((queue.to_owned(), hint.clone()));
        if self.scenario.faults > 0 && self.rng.chance(100) {
            self.hints.push((queue.to_owned(), hint));
        }
    }

    /// Gives waiting jobs to agents that can take them.
    fn assign(&mut self) {
        for job in 0..self.jobs.len() {
            if self.jobs.get(job) != Some(&JobState::Queued) {
                continue;
            }
            let Some(spec) = self.scenario.jobs.get(job).cloned() else { continue };
            let Some(queue) = self.scenario.queues.get(spec.queue).map(|queue| queue.name.clone()) else {
                continue;
            };
            let archetype = self.archetype(&queue);
            if archetype == Archetype::Masterless {
                continue;
            }
            let alive: BTreeSet<String> = self
                .units
                .values()
                .filter(|unit| unit.unit.phase == UnitPhase::Running)
                .map(|unit| unit.unit.name.to_string())
                .collect();
            let Some(nodes) = self.nodes.get_mut(&queue) else { continue };
            let taker = nodes.values_mut().find(|node| {
                let Some(marks) = &node.view.marks else { return false };
                let free = node.view.online && node.job.is_none() && node.view.drained == Drained::No;
                let fresh = archetype == Archetype::JenkinsLike || !node.view.used;
                let own = archetype != Archetype::Bound || marks.demand.as_deref() == Some(&*job.to_string());
                free && fresh && own && spec.needs.contains(&marks.label) && alive.contains(&node.view.name)
            });
            let Some(node) = taker else { continue };
            let again = node.view.used;
            node.job = Some(job);
            node.view.used = true;
            node.view.job = Some(job.to_string());
            node.view.activity = Activity::Slots { used: 1, total: 1 };
            let name = node.view.name.clone();
            self.exposed += u32::from(again);
            self.set_job(job, JobState::Running);
            self.say(format!("job {job} on {name}"));
            self.hint(&queue, &name, Some((CompletionEvent::Started, job)));
            let unit = self.units.values().find(|unit| unit.unit.name.as_str() == name);
            if let Some(uid) = unit.map(|unit| unit.unit.uid.clone()) {
                self.after(spec.takes, Event::JobEnds(job, uid));
            }
        }
    }

    fn job_ends(&mut self, job: usize, uid: &Uid) {
        let Some(unit) = self.units.get(uid).filter(|unit| unit.unit.phase == UnitPhase::Running) else {
            return;
        };
        let name = unit.unit.name.to_string();
        if unit.job == Some(job) {
            self.set_job(job, JobState::Done);
            self.end_unit(uid, None);
            return;
        }
        let Some(queue) = unit.unit.marks.master.as_ref().map(ToString::to_string) else { return };
        let Some(node) = self.nodes.get_mut(&queue).and_then(|nodes| nodes.get_mut(&name)) else { return };
        if node.job != Some(job) {
            return;
        }
        node.job = None;
        node.view.job = None;
        node.view.activity = Activity::Slots { used: 0, total: 1 };
        self.set_job(job, JobState::Done);
        self.hint(&queue, &name, Some((CompletionEvent::Finalized, job)));
        if self.archetype(&queue) == Archetype::JenkinsLike {
            self.assign();
        } else {
            self.end_unit(uid, None);
        }
    }

    /// The unit's processes end; a job on it is lost, and queued again.
    pub fn end_unit(&mut self, uid: &Uid, cause: Option<FailureCause>) {
        let Some(unit) = self.units.get_mut(uid).filter(|unit| unit.unit.phase.holds_capacity()) else {
            return;
        };
        let terminating = unit.unit.phase == UnitPhase::TERMINATING;
        unit.unit.phase = UnitPhase::Ended { cause, text: String::new() };
        unit.unit.version += 1;
        let (name, provider) = (unit.unit.name.to_string(), unit.provider.clone());
        let (job, event) = (unit.job.take(), WatchEvent::Applied(unit.unit.clone()));
        let master = unit.unit.marks.master.clone();
        if !terminating {
            self.watches.push((provider, event));
        }
        self.say(format!("{name} ended ({cause:?})"));
        if let Some(job) = job.filter(|job| self.jobs.get(*job) == Some(&JobState::Running)) {
            self.set_job(job, JobState::Queued);
        }
        if let Some(master) = master {
            self.disconnect(master.as_str(), &name);
        }
    }

    /// The master notices that the agent is gone. Its job stays on the node for a while, as it does in Jenkins.
    fn disconnect(&mut self, queue: &str, name: &str) {
        let archetype = self.archetype(queue);
        let Some(node) = self.nodes.get_mut(queue).and_then(|nodes| nodes.get_mut(name)) else { return };
        node.view.online = false;
        if archetype != Archetype::JenkinsLike {
            let job = node.job.take();
            node.view.job = None;
            node.view.activity = Activity::Slots { used: 0, total: 1 };
            if let Some(job) = job.filter(|job| self.jobs.get(*job) == Some(&JobState::Running)) {
                self.set_job(job, JobState::Queued);
                self.assign();
            }
        }
    }

    fn unit_gone(&mut self, uid: &Uid) {
        self.end_unit(uid, None);
        if let Some(unit) = self.units.remove(uid) {
            self.say(format!("{} gone", unit.unit.name));
            self.watches.push((unit.provider, WatchEvent::Gone(unit.unit.reference())));
        }
    }

    /// Carries out a change, and judges it.
    pub fn effect(&mut self, effect: Effect) -> Result<Done> {
        self.say(format!("effect {}", short(&effect)));
        match effect {
            Effect::Enrol { queue, marks } => Ok(self.enrol(&queue, marks)),
            Effect::Drain { queue, agent } => self.drain(&queue, &agent),
            Effect::Remove { queue, agent, despite_busy } => self.remove(&queue, &agent, despite_busy),
            Effect::Launch { provider, marks } => self.launch(&provider, marks),
            Effect::Destroy { unit, only_if_not_started } => self.destroy(&unit, only_if_not_started),
            Effect::Mark { unit, patch } => self.mark(&unit, &patch),
        }
    }

    fn enrol(&mut self, queue: &str, marks: Marks) -> Done {
        let name = marks.agent();
        if self.archetype(queue) == Archetype::Bound {
            let job = marks.demand.as_ref().and_then(|id| id.parse::<usize>().ok());
            if job.and_then(|job| self.jobs.get(job)) != Some(&JobState::Queued) {
                return Done::Refused;
            }
        }
        self.names.insert(name.clone());
        let Some(nodes) = self.nodes.get_mut(queue) else { return Done::Refused };
        if nodes.contains_key(name.as_str()) {
            return Done::Exists;
        }
        let mut view = AgentView::new(name.as_str());
        view.marks = Some(marks);
        nodes.insert(name.to_string(), Node { view, job: None });
        Done::Nothing
    }

    fn drain(&mut self, queue: &str, agent: &AgentName) -> Result<Done> {
        let there = self.nodes.get(queue).is_some_and(|nodes| nodes.contains_key(agent.as_str()));
        if there && self.is_stranger(agent) {
            self.broken(5, format!("{agent} is not ours and was drained"));
        }
        let node = self.nodes.get_mut(queue).and_then(|nodes| nodes.get_mut(agent.as_str()));
        let node = node.ok_or_else(|| Error::not_found("no such node"))?;
        if node.view.drained == Drained::No {
            node.view.drained = Drained::ByUs;
        }
        Ok(Done::Nothing)
    }

    fn remove(&mut self, queue: &str, agent: &AgentName, despite_busy: bool) -> Result<Done> {
        let there = self.nodes.get(queue).is_some_and(|nodes| nodes.contains_key(agent.as_str()));
        if there && self.is_stranger(agent) {
            self.broken(5, format!("{agent} is not ours and was removed"));
        }
        let Some(node) = self.nodes.get_mut(queue).and_then(|nodes| nodes.get(agent.as_str())) else {
            return Ok(Done::Nothing);
        };
        let job = node.job;
        if job.is_some() && !despite_busy {
            return Err(Error::conflict("busy"));
        }
        let alive =
            self.units.values().any(|unit| unit.unit.name == *agent && unit.unit.phase == UnitPhase::Running);
        if job.is_some() && alive && !self.condemned.contains(agent) {
            self.broken(1, format!("{agent} had a job and lived when its node was removed"));
        }
        self.forget_node(queue, agent.as_str());
        Ok(Done::Nothing)
    }

    /// The node is gone; a job on it is queued again.
    pub fn forget_node(&mut self, queue: &str, name: &str) {
        let node = self.nodes.get_mut(queue).and_then(|nodes| nodes.remove(name));
        let job = node.and_then(|node| node.job);
        if let Some(job) = job.filter(|job| self.jobs.get(*job) == Some(&JobState::Running)) {
            self.set_job(job, JobState::Queued);
            self.assign();
        }
        // Its agent, if it lives, keeps trying to come back.
        let uid = self
            .units
            .values()
            .find(|unit| unit.unit.name.as_str() == name)
            .map(|unit| unit.unit.uid.clone());
        if let Some(uid) = uid {
            self.after(Duration::from_secs(2), Event::AgentAttaches(uid));
        }
    }

    fn launch(&mut self, provider: &ProviderName, marks: Marks) -> Result<Done> {
        let name = marks.agent();
        let known = self.units.values().find(|unit| unit.unit.name == name);
        if let Some(known) = known {
            return Ok(Done::Unit(Box::new(known.unit.clone())));
        }
        let uid = Uid::new(format!("u{}-{name}", self.sequence));
        self.names.insert(name);
        let pending = UnitPhase::Pending { cause: None, text: String::new() };
        let unit = Unit::new(uid.clone(), marks, pending, self.now).version(1);
        self.watches.push((provider.clone(), WatchEvent::Applied(unit.clone())));
        let held = SimUnit { unit: unit.clone(), provider: provider.clone(), job: None };
        self.units.insert(uid.clone(), held);
        let delay = self.rng.millis(100, 5000);
        let broken =
            !self.is_quiet() && self.scenario.faults > 0 && self.rng.chance(self.scenario.faults / 2);
        if broken {
            // It ends at once, without having done anything.
            self.end_unit(&uid, Some(FailureCause::CrashLoop));
        } else {
            self.after(delay, Event::UnitStarts(uid));
        }
        self.judge_caps(&unit.marks);
        self.judge_bound(&unit.marks);
        Ok(Done::Unit(Box::new(unit)))
    }

    fn destroy(&mut self, reference: &UnitRef, only_if_not_started: bool) -> Result<Done> {
        let Some(unit) = self.units.get_mut(&reference.uid) else { return Ok(Done::Nothing) };
        if unit.unit.marks.instance.as_str() != "sim" {
            self.broken(5, format!("{reference:?} is not ours and was destroyed"));
            return Ok(Done::Nothing);
        }
        let started = !matches!(unit.unit.phase, UnitPhase::Pending { .. });
        if only_if_not_started && started {
            return Err(Error::conflict("it has started"));
        }
        let (name, worker) = (unit.unit.name.clone(), unit.job.is_some());
        let running = unit.unit.phase == UnitPhase::Running;
        let on_node =
            self.nodes.values().filter_map(|nodes| nodes.get(name.as_str())).any(|node| node.job.is_some());
        if running && (worker || on_node) && !self.condemned.contains(&name) {
            self.broken(1, format!("{name} had a job and was destroyed"));
        }
        let Some(unit) = self.units.get_mut(&reference.uid) else { return Ok(Done::Nothing) };
        if unit.unit.phase.holds_capacity() {
            unit.unit.phase = UnitPhase::TERMINATING;
            unit.unit.version += 1;
            let event = (unit.provider.clone(), WatchEvent::Applied(unit.unit.clone()));
            self.watches.push(event);
        }
        let delay = self.rng.millis(0, 2500);
        self.after(delay, Event::UnitGone(reference.uid.clone()));
        Ok(Done::Nothing)
    }

    fn mark(&mut self, reference: &UnitRef, patch: &MarkPatch) -> Result<Done> {
        let unit = self.units.get_mut(&reference.uid).ok_or_else(|| Error::not_found("no such unit"))?;
        patch.apply(&mut unit.unit.marks);
        unit.unit.version += 1;
        let unit = unit.unit.clone();
        let provider = unit.marks.provider.clone();
        self.watches.push((provider, WatchEvent::Applied(unit.clone())));
        Ok(Done::Unit(Box::new(unit)))
    }

    /// The complete demand of one queue.
    pub fn demand(&self, queue: &str) -> Vec<Demand> {
        let archetype = self.archetype(queue);
        let mine = |job: usize| {
            let spec = self.scenario.jobs.get(job)?;
            let name = &self.scenario.queues.get(spec.queue)?.name;
            (name == queue && self.jobs.get(job) == Some(&JobState::Queued)).then_some(spec)
        };
        let mut counts: BTreeMap<BTreeSet<_>, u32> = BTreeMap::new();
        let mut demands = Vec::new();
        for (job, spec) in (0..self.jobs.len()).filter_map(|job| Some((job, mine(job)?))) {
            if archetype == Archetype::Masterless {
                *counts.entry(spec.needs.clone()).or_default() += 1;
                continue;
            }
            let mut demand = Demand::job(job.to_string(), spec.needs.iter().cloned());
            if archetype == Archetype::Bound {
                demand.binding = Binding::Bound;
            }
            demands.push(demand);
        }
        demands.extend(counts.into_iter().map(|(needs, count)| Demand::count(count, needs)));
        demands
    }
}

fn short(effect: &Effect) -> String {
    match effect {
        Effect::Enrol { queue, marks } => {
            let job = marks.demand.as_ref().map_or(String::new(), |job| format!(" for job {job}"));
            format!("enrol {} at {queue}{job}", marks.agent())
        }
        Effect::Drain { agent, .. } => format!("drain {agent}"),
        Effect::Remove { agent, despite_busy, .. } => format!("remove {agent} despite_busy={despite_busy}"),
        Effect::Launch { provider, marks } => format!("launch {} on {provider}", marks.agent()),
        Effect::Destroy { unit, .. } => format!("destroy {}", unit.name),
        Effect::Mark { unit, patch } => format!("mark {} {patch:?}", unit.name),
    }
}
