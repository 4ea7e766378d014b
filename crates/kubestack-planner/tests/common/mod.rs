//! A small stage for planner tests. The world changes through facts only, and every plan that a test asks
//! for is planned twice and checked.
#![allow(dead_code, reason = "each test binary uses its own part of it")]

use kubestack_core::agent::{Activity, AgentView, AgentsSnapshot, Drained};
use kubestack_core::cause::FailureCause;
use kubestack_core::completion::{Completion, CompletionEvent};
use kubestack_core::demand::{Demand, DemandRef, DemandSnapshot};
use kubestack_core::error::ErrorKind;
use kubestack_core::marks::Marks;
use kubestack_core::master::{MasterCapabilities, OneJob};
use kubestack_core::name::{AgentName, LabelName, Uid};
use kubestack_core::provider::{MarkPatch, ProviderCapabilities, Unit, UnitPhase};
use kubestack_core::resources::Resources;
use kubestack_core::time::Moment;
use kubestack_planner::settings::{
    LabelSettings, Limit, MasterSettings, ProviderSettings, Settings, SourceSettings,
};
use kubestack_planner::{Fact, Intent, Launch, Outcome, Plan, Step, World, check, plan};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// That many seconds after the start of the test.
pub fn at(seconds: u64) -> Moment {
    Moment::from_millis(1_000_000_000 + seconds * 1000)
}

pub fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A master that can do everything.
pub fn able() -> MasterCapabilities {
    let mut able = MasterCapabilities::default();
    able.lists_agents = true;
    able.drains = true;
    able.re_enrols = true;
    able.one_job = OneJob::Enforced;
    able
}

/// A provider that can do everything.
pub fn capable() -> ProviderCapabilities {
    let mut capable = ProviderCapabilities::default();
    capable.marks = true;
    capable.conditional_destroy = true;
    capable
}

pub fn resources(pairs: &[(&str, &str)]) -> Resources {
    Resources(pairs.iter().map(|(name, amount)| ((*name).to_owned(), amount.parse().unwrap())).collect())
}

pub fn agents(count: u32) -> Limit {
    Limit { agents: Some(count), ..Limit::default() }
}

/// Settings by example: masters with a source of the same name, providers, and labels that may run on all.
pub fn settings(masters: &[&str], providers: &[&str], labels: &[&str]) -> Settings {
    let mut settings = Settings::default();
    for name in masters {
        let master = MasterSettings { capabilities: able(), ..MasterSettings::default() };
        settings.masters.insert((*name).into(), master);
        let source = SourceSettings { masters: BTreeSet::from([(*name).into()]), merge_group: None };
        settings.sources.insert((*name).into(), source);
    }
    for name in providers {
        let provider = ProviderSettings { capabilities: capable(), ..ProviderSettings::default() };
        settings.providers.insert((*name).into(), provider);
    }
    for name in labels {
        let label = LabelSettings {
            template: "t".to_owned(),
            providers: providers.iter().map(|name| (*name).into()).collect(),
            masters: masters.iter().map(|name| (*name).into()).collect(),
            ..LabelSettings::default()
        };
        settings.labels.insert((*name).into(), label);
    }
    settings
}

/// One master `m`, one provider `p`, one label `a`.
pub fn simple() -> Settings {
    settings(&["m"], &["p"], &["a"])
}

/// No master: the source `s` counts work for agents of label `a` on `p`.
pub fn masterless() -> Settings {
    let mut settings = settings(&[], &["p"], &["a"]);
    settings.sources.insert("s".into(), SourceSettings::default());
    settings
}

pub fn label<'a>(settings: &'a mut Settings, name: &str) -> &'a mut LabelSettings {
    settings.labels.get_mut(name).unwrap()
}

pub fn able_of<'a>(settings: &'a mut Settings, master: &str) -> &'a mut MasterCapabilities {
    &mut settings.masters.get_mut(master).unwrap().capabilities
}

pub fn count(waiting: u32, needs: &[&str]) -> Demand {
    Demand::count(waiting, needs.iter().map(|label| LabelName::from(*label)))
}

pub fn job(id: &str, needs: &[&str]) -> Demand {
    Demand::job(id, needs.iter().map(|label| LabelName::from(*label)))
}

/// How an agent is seen by its provider and its master.
#[derive(Clone, Debug, PartialEq)]
pub enum Seen {
    /// Its unit is pending (with a cause), its node offline.
    Pending(Option<FailureCause>),
    /// Its unit runs, its node is offline.
    Launching,
    /// Attached and free.
    Idle,
    /// With a job on it.
    Busy,
    /// The same, the master tells which.
    BusyWith(&'static str),
    /// Attached, and the master cannot tell what it does.
    Unknown,
    /// Free, and the master knows that it had its job.
    Used,
    /// Drained by us, free.
    Drained,
    /// Drained by us, with a job on it.
    DrainedBusy,
    /// Drained by somebody else.
    DrainedByOthers,
    /// Its unit ended (with a cause), its node is offline.
    Ended(Option<FailureCause>),
    /// Its unit ended and its node still shows a job.
    EndedBusy,
    /// Its unit is being taken away, its node is gone.
    Terminating,
    /// A unit that runs, no node.
    UnitOnly,
    /// A unit that is pending, no node.
    PendingOnly,
    /// A unit that ended, no node.
    EndedOnly,
    /// Something that a unit left behind.
    Remnant,
    /// A node without a unit, offline.
    NodeOnly,
    /// A node without a unit that shows a job.
    NodeOnlyBusy,
}

/// One agent of the test.
#[derive(Clone, Debug)]
pub struct Who {
    pub marks: Marks,
    pub uid: Uid,
    pub created: Moment,
    pub version: u64,
}

/// The agent with that number, of label `a` or another, on `p` for `m`.
pub fn who(label: &str, serial: u64) -> Who {
    let marks = Marks::new("ci".into(), label.into(), "p".into(), Some("m".into()), (1, serial), "t".into());
    Who { uid: format!("uid-{label}-{serial}").into(), marks, created: at(0), version: 0 }
}

impl Who {
    pub fn on(mut self, provider: &str) -> Self {
        self.marks.provider = provider.into();
        self
    }

    pub fn of(mut self, master: &str) -> Self {
        self.marks.master = Some(master.into());
        self
    }

    pub fn alone(mut self) -> Self {
        self.marks.master = None;
        self
    }

    pub fn bound(mut self, id: &str) -> Self {
        self.marks.demand = Some(id.to_owned());
        self
    }

    pub fn template(mut self, template: &str) -> Self {
        self.marks.template = template.to_owned();
        self
    }

    pub fn used(mut self, job: &str) -> Self {
        self.marks.used = Some(job.to_owned());
        self
    }

    pub fn held(mut self, reason: &str) -> Self {
        self.marks.held = Some(reason.to_owned());
        self
    }

    pub fn created(mut self, created: u64) -> Self {
        self.created = at(created);
        self
    }

    pub fn uid(mut self, uid: &str) -> Self {
        self.uid = uid.into();
        self
    }

    pub fn version(mut self, version: u64) -> Self {
        self.version = version;
        self
    }

    pub fn name(&self) -> AgentName {
        self.marks.agent()
    }

    /// The agent that this launch is about, as its unit shows it.
    pub fn launched(stage: &Stage, launch: &Launch, time: u64) -> Self {
        let unit = stage.unit_of(launch, time);
        Self { marks: unit.marks, uid: unit.uid, created: unit.created, version: 0 }
    }

    /// Its unit in that phase.
    pub fn unit(&self, phase: UnitPhase) -> Unit {
        Unit::new(self.uid.clone(), self.marks.clone(), phase, self.created).version(self.version)
    }

    /// Its unit, as far as it is seen so.
    pub fn unit_seen(&self, seen: &Seen) -> Option<Unit> {
        let phase = match seen {
            Seen::NodeOnly | Seen::NodeOnlyBusy => return None,
            Seen::Pending(cause) => UnitPhase::Pending { cause: *cause, text: String::new() },
            Seen::PendingOnly => UnitPhase::Pending { cause: None, text: String::new() },
            Seen::Ended(cause) => UnitPhase::Ended { cause: *cause, text: String::new() },
            Seen::EndedBusy | Seen::EndedOnly => UnitPhase::Ended { cause: None, text: String::new() },
            Seen::Terminating => UnitPhase::TERMINATING,
            Seen::Remnant => UnitPhase::Remnant,
            _ => UnitPhase::Running,
        };
        Some(self.unit(phase))
    }

    /// Its node, as far as it is seen so.
    pub fn node_seen(&self, seen: &Seen) -> Option<AgentView> {
        self.marks.master.as_ref()?;
        let mut node = AgentView::new(self.name().as_str());
        let mut marks = self.marks.clone();
        (marks.used, marks.held) = (None, None);
        node.marks = Some(marks);
        let busy = Activity::Slots { used: 1, total: 1 };
        match seen {
            Seen::UnitOnly | Seen::PendingOnly | Seen::EndedOnly | Seen::Terminating | Seen::Remnant => {
                return None;
            }
            Seen::Pending(_) | Seen::Launching | Seen::Ended(_) | Seen::NodeOnly => {}
            Seen::Idle => node.online = true,
            Seen::Busy => (node.online, node.activity) = (true, busy),
            Seen::BusyWith(job) => {
                (node.online, node.activity, node.job) = (true, busy, Some((*job).to_owned()));
            }
            Seen::Unknown => (node.online, node.activity) = (true, Activity::Unknown),
            Seen::Used => (node.online, node.used) = (true, true),
            Seen::Drained => (node.online, node.drained) = (true, Drained::ByUs),
            Seen::DrainedBusy => (node.online, node.drained, node.activity) = (true, Drained::ByUs, busy),
            Seen::DrainedByOthers => (node.online, node.drained) = (true, Drained::ByOthers),
            Seen::EndedBusy | Seen::NodeOnlyBusy => node.activity = busy,
        }
        Some(node)
    }
}

/// A world and what the test does to it.
#[derive(Clone)]
pub struct Stage {
    pub world: World,
    /// What was written on units: later looks show it.
    written: BTreeMap<AgentName, Vec<MarkPatch>>,
}

impl Stage {
    /// A leader that has waited for the sends of the one before. The agents of [`who`] are of the term before
    /// its own: a leader never meets a name that it would give itself.
    pub fn new(settings: Settings) -> Self {
        Self { world: World::new("ci".into(), 2, settings, at(0)), written: BTreeMap::new() }
    }

    pub fn fact(&mut self, time: u64, fact: Fact) -> &mut Self {
        self.world.apply(at(time), fact);
        self
    }

    /// A look of every provider and master at these agents, which are all there are.
    pub fn see(&mut self, time: u64, agents: &[(&Who, Seen)]) -> &mut Self {
        self.see_units(time, agents).see_nodes(time, agents)
    }

    pub fn see_units(&mut self, time: u64, agents: &[(&Who, Seen)]) -> &mut Self {
        let names: Vec<_> = self.world.settings.providers.keys().cloned().collect();
        for provider in names {
            let units = agents
                .iter()
                .filter(|(who, _)| who.marks.provider == provider)
                .filter_map(|(who, seen)| who.unit_seen(seen))
                .map(|unit| self.as_written(unit))
                .collect();
            self.fact(time, Fact::Units(provider, at(time), units));
        }
        self
    }

    fn as_written(&self, mut unit: Unit) -> Unit {
        for patch in self.written.get(&unit.name).into_iter().flatten() {
            patch.apply(&mut unit.marks);
        }
        unit
    }

    pub fn see_nodes(&mut self, time: u64, agents: &[(&Who, Seen)]) -> &mut Self {
        let names: Vec<_> = self.world.settings.masters.keys().cloned().collect();
        for master in names {
            let nodes = agents
                .iter()
                .filter(|(who, _)| who.marks.master.as_ref() == Some(&master))
                .filter_map(|(who, seen)| who.node_seen(seen))
                .collect();
            self.fact(time, Fact::Agents(master, AgentsSnapshot::new(at(time), nodes)));
        }
        self
    }

    /// A complete look of one source.
    pub fn demand(&mut self, time: u64, source: &str, demands: Vec<Demand>) -> &mut Self {
        self.fact(time, Fact::Demand(source.into(), DemandSnapshot::new(at(time), demands)))
    }

    pub fn hint(&mut self, time: u64, who: &Who, event: CompletionEvent) -> &mut Self {
        self.fact(time, Fact::Hint(Completion::new(who.name().as_str(), event, at(time))))
    }

    pub fn configure(&mut self, time: u64, change: impl FnOnce(&mut Settings)) -> &mut Self {
        let mut settings = self.world.settings.clone();
        change(&mut settings);
        self.fact(time, Fact::Configured(Box::new(settings)))
    }

    pub fn intend(&mut self, time: u64, change: impl FnOnce(&mut Intent)) -> &mut Self {
        let mut intent = self.world.intent.clone();
        change(&mut intent);
        self.fact(time, Fact::Intended(intent))
    }

    /// The plan at that time. It holds no fault and is the same each time.
    pub fn plan(&mut self, time: u64) -> Plan {
        self.fact(time, Fact::Now);
        sound(&self.world)
    }

    /// Plans, and remembers what the plan wants to have remembered, as often as it has something new to say.
    pub fn settle(&mut self, time: u64) -> Plan {
        let mut plan = self.plan(time);
        // A failure makes it no supply, which makes it no surplus either: that takes a second round.
        for _ in 0..3 {
            if plan.notes.is_empty() {
                return plan;
            }
            self.fact(time, Fact::Noted(plan.notes));
            plan = self.plan(time);
        }
        assert!(plan.notes.is_empty(), "notes do not settle: {:?}", plan.notes);
        plan
    }

    /// What is planned then, in words.
    pub fn told(&mut self, time: u64) -> Vec<String> {
        told(&self.settle(time))
    }

    /// Sends what is planned then.
    pub fn send(&mut self, time: u64) -> Vec<String> {
        told(&self.send_plan(time))
    }

    /// What is planned then is sent, and what the plan wants to have remembered is remembered: in this order.
    pub fn send_plan(&mut self, time: u64) -> Plan {
        let mut plan = self.plan(time);
        if plan.steps.is_empty() {
            plan = self.settle(time);
        }
        for planned in &plan.steps {
            self.fact(time, Fact::Sent(planned.step.clone()));
        }
        self.fact(time, Fact::Noted(plan.notes.clone()));
        plan
    }

    pub fn ended(&mut self, time: u64, agent: &AgentName, outcome: Outcome) -> &mut Self {
        self.fact(time, Fact::Ended(agent.clone(), outcome))
    }

    /// Sends what is planned, and every step has its effect at once. Launched units are pending.
    pub fn perform(&mut self, time: u64) -> Vec<String> {
        told(&self.carry_out(time))
    }

    /// The same; returns the plan.
    pub fn carry_out(&mut self, time: u64) -> Plan {
        let plan = self.send_plan(time);
        for planned in &plan.steps {
            if let Step::Mark { agent, patch, .. } = &planned.step {
                self.written.entry(agent.clone()).or_default().push(patch.clone());
            }
            let outcome = match &planned.step {
                Step::Launch(launch) => Outcome::Unit(self.unit_of(launch, time)),
                Step::Mark { .. } => Outcome::Unit(self.marked(&planned.step)),
                _ => Outcome::Done,
            };
            self.ended(time, planned.step.agent(), outcome);
        }
        plan
    }

    pub fn unit_of(&self, launch: &Launch, time: u64) -> Unit {
        let marks = launch.marks(&self.world.instance, self.world.term);
        let uid = format!("uid-{}", launch.agent);
        Unit::new(uid.into(), marks, UnitPhase::Pending { cause: None, text: String::new() }, at(time))
    }

    /// The unit that this step marks, as it is then.
    pub fn marked(&self, step: &Step) -> Unit {
        let Step::Mark { agent, provider, uid, patch } = step else { panic!("no mark: {step:?}") };
        let units = self.world.providers.get(provider).and_then(|state| state.units.get(agent));
        let mut unit = units.and_then(|units| units.get(uid)).expect("what is marked is there").unit.clone();
        patch.apply(&mut unit.marks);
        unit
    }

    /// Nothing but time passes until the plan's next wake; returns what is planned then.
    pub fn wake(&mut self) -> Vec<String> {
        let before = self.settle(0);
        let wake = before.next_wake.expect("time alone should change something, but no wake is set");
        let just_before = Moment::from_micros(wake.as_micros() - 1);
        if just_before > self.world.now {
            let mut early = self.world.clone();
            early.apply(just_before, Fact::Now);
            assert_eq!(told(&sound(&early)), told(&before), "something changes before the wake");
        }
        self.world.apply(wake, Fact::Now);
        told(&sound(&self.world))
    }

    /// Lets time pass from wake to wake, without any other fact, until something is planned.
    pub fn wake_until_planned(&mut self, most: usize) -> Vec<String> {
        for _ in 0..most {
            let told = self.wake();
            if !told.is_empty() {
                return told;
            }
        }
        panic!("nothing is planned after {most} wakes");
    }
}

/// A plan of this world: without a fault, and the same each time.
pub fn sound(world: &World) -> Plan {
    let first = plan(world);
    assert_eq!(first, plan(&world.clone()), "the same world gives two plans");
    assert_eq!(check(world, &first), Vec::new(), "the plan breaks a promise: {:#?}", told(&first));
    assert!(first.next_wake.is_none_or(|wake| wake > world.now), "a wake in the past");
    first
}

/// Steps in words: `launch a on p for m: demand`, `drain ci-a-1-1: done`.
pub fn told(plan: &Plan) -> Vec<String> {
    let mut told: Vec<String> = plan
        .steps
        .iter()
        .map(|planned| {
            let reason = planned.reason.as_str();
            match &planned.step {
                Step::Launch(launch) => {
                    let master = launch.master.as_ref().map_or("nobody", |master| master.as_str());
                    let bound = launch.demand.as_ref().map(|DemandRef { id, .. }| format!(" ({id})"));
                    let bound = bound.unwrap_or_default();
                    format!("launch {} on {} for {master}{bound}: {reason}", launch.label, launch.provider)
                }
                step => format!("{} {}: {reason}", step.kind(), step.agent()),
            }
        })
        .collect();
    told.sort();
    told
}

/// How a launch fails that made nothing.
pub fn failed(kind: ErrorKind, cause: Option<FailureCause>) -> Outcome {
    Outcome::Failed {
        kind,
        text: "it did not work".to_owned(),
        cause,
        enrolled: false,
        at_master: false,
        pause: seconds(1),
    }
}

/// The launches among the steps.
pub fn launches(plan: &Plan) -> Vec<&Launch> {
    plan.steps
        .iter()
        .filter_map(|planned| match &planned.step {
            Step::Launch(launch) => Some(launch),
            _ => None,
        })
        .collect()
}

/// Compares with what is expected, whatever the order.
pub fn same(told: &[String], expected: &[&str]) {
    let mut expected = expected.to_vec();
    expected.sort_unstable();
    assert_eq!(told, expected);
}
