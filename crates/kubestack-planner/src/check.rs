//! A second opinion on a plan: the preconditions of each step, looked up by other means than planning did.
//! A step that violates one is not sent; it is a defect of the planner, counted and reported.

use crate::plan::Plan;
use crate::settings::Limit;
use crate::step::{Launch, Reason, Step};
use crate::world::{NodeState, UnitState, World};
use kubestack_core::agent::Drained;
use kubestack_core::cause::FailureCause;
use kubestack_core::name::{AgentName, MasterName, ProviderName, Uid};
use kubestack_core::provider::UnitPhase;
use kubestack_core::resources::Resources;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;

/// A step that must not be sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Violation {
    /// The agent of the step.
    pub agent: AgentName,
    /// Which promise it would break (design §7).
    pub promise: u8,
    /// What is wrong with it.
    pub text: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "promise {}: {}: {}", self.promise, self.agent, self.text)
    }
}

/// Looks for steps whose preconditions do not hold in the world that they were planned from.
pub fn check(world: &World, plan: &Plan) -> Vec<Violation> {
    let mut violations = Vec::new();
    let mut seen = BTreeSet::new();
    let mut launches: Vec<&Launch> = Vec::new();
    for planned in &plan.steps {
        let agent = planned.step.agent();
        let mut wrong = |promise: u8, text: &str| {
            violations.push(Violation { agent: agent.clone(), promise, text: text.to_owned() });
        };
        if !seen.insert(agent) {
            wrong(7, "two steps about one agent in one plan");
        }
        if world.flights.contains_key(agent) {
            wrong(7, "a step about it is under way or in doubt");
        }
        match &planned.step {
            Step::Launch(launch) => {
                launches.push(launch);
                for (promise, text) in launch_faults(world, launch, &launches) {
                    wrong(promise, text);
                }
            }
            Step::Drain { master, .. } | Step::Connect { master, .. } => {
                if !is_ours(world, agent, master) {
                    wrong(5, "the node carries no mark of ours and no unit of ours has its name");
                }
                if node(world, master, agent).is_none_or(|node| node.view.drained == Drained::ByOthers) {
                    wrong(5, "somebody else took the node out of service, or it is not there");
                }
            }
            Step::RemoveNode { master, despite_busy, .. } => {
                if !is_ours(world, agent, master) {
                    wrong(5, "the node carries no mark of ours and no unit of ours has its name");
                }
                if let Some(text) = remove_fault(world, agent, master, *despite_busy, &planned.reason) {
                    wrong(1, text);
                }
            }
            Step::Destroy { provider, uid, only_if_not_started, .. } => {
                let Some(known) = unit(world, provider, agent, uid) else {
                    wrong(5, "no unit of ours has this name and uid");
                    continue;
                };
                if let Some(text) = destroy_fault(world, agent, known, *only_if_not_started, &planned.reason)
                {
                    wrong(1, text);
                }
            }
            Step::Mark { provider, uid, .. } => {
                if unit(world, provider, agent, uid).is_none() {
                    wrong(5, "no unit of ours has this name and uid");
                }
            }
            Step::ReEnrol { .. } => {}
        }
    }
    violations
}

fn unit<'a>(
    world: &'a World,
    provider: &ProviderName,
    agent: &AgentName,
    uid: &Uid,
) -> Option<&'a UnitState> {
    let known = world.providers.get(provider)?.units.get(agent)?.get(uid)?;
    (known.unit.marks.instance == world.instance).then_some(known)
}

fn node<'a>(world: &'a World, master: &MasterName, agent: &AgentName) -> Option<&'a NodeState> {
    world.masters.get(master)?.nodes.get(agent)
}

fn is_ours(world: &World, agent: &AgentName, master: &MasterName) -> bool {
    let marked = node(world, master, agent).and_then(|node| node.view.marks.as_ref());
    marked.is_some_and(|marks| marks.instance == world.instance)
        || world.memory.agents.contains_key(agent)
        || world.providers.values().any(|state| state.units.contains_key(agent))
}

/// Reasons that allow to end an agent whatever it does.
fn is_word_of_power(reason: &Reason) -> bool {
    matches!(reason, Reason::Operator | Reason::Failed { cause: FailureCause::LifetimeExceeded })
}

fn remove_fault(
    world: &World,
    agent: &AgentName,
    master: &MasterName,
    despite_busy: bool,
    reason: &Reason,
) -> Option<&'static str> {
    if is_word_of_power(reason) {
        return None;
    }
    let alive =
        world.providers.values().filter_map(|state| state.units.get(agent)).flat_map(|units| units.values());
    let alive = alive.into_iter().any(|known| {
        matches!(
            known.unit.phase,
            UnitPhase::Pending { .. } | UnitPhase::Running | UnitPhase::Terminating { .. }
        )
    });
    if despite_busy {
        return alive.then_some("its unit lives and its job would be lost");
    }
    let node = node(world, master, agent)?;
    if !node.view.activity.is_idle() {
        return Some("its master does not show it as idle");
    }
    let drains = world.settings.masters.get(master).is_some_and(|settings| settings.capabilities.drains);
    let proven = node.drained.is_some_and(|drained| node.began > drained);
    (alive && drains && !proven).then_some("it was not seen idle in a read begun after its drain")
}

fn destroy_fault(
    world: &World,
    agent: &AgentName,
    known: &UnitState,
    only_if_not_started: bool,
    reason: &Reason,
) -> Option<&'static str> {
    let ended = matches!(known.unit.phase, UnitPhase::Ended { .. } | UnitPhase::Remnant);
    if ended || is_word_of_power(reason) || *reason == Reason::Duplicate {
        return None;
    }
    if known.unit.marks.held.is_some() {
        return Some("it is held");
    }
    if only_if_not_started {
        return None;
    }
    let Some(master) = &known.unit.marks.master else {
        return Some("it has no master that could tell that it has no job");
    };
    node(world, master, agent).map(|_| "its master still has its node, and could give it a job")
}

fn launch_faults(world: &World, launch: &Launch, so_far: &[&Launch]) -> Vec<(u8, &'static str)> {
    let mut faults = Vec::new();
    if world.intent.paused.is_some() || world.intent.drain_all.is_some() {
        faults.push((4, "launching is paused"));
    }
    if world.now < world.launch_from {
        faults.push((2, "the sends of the leader before may still land"));
    }
    if launch.serial < world.next_serial || launch.agent != launch.marks(&world.instance, world.term).agent()
    {
        faults.push((5, "its name was used before or is not its own"));
    }
    let Some(label) = world.settings.labels.get(&launch.label) else {
        faults.push((4, "its label is not configured"));
        return faults;
    };
    let breakers = world.memory.breakers.get(&launch.label).and_then(|by| by.get(&launch.provider));
    let open = |breaker: &crate::memory::Breaker| breaker.until.is_some_and(|until| until > world.now);
    if breakers.is_some_and(|by_cause| by_cause.values().any(open)) {
        faults.push((11, "its breaker is open"));
    }
    let scopes: [(Option<&Limit>, Within<'_>); 4] = [
        (Some(&world.settings.limit), &|_| true),
        (Some(&label.limit), &|at| at.label == launch.label.as_str()),
        (world.settings.providers.get(&launch.provider).map(|provider| &provider.limit), &|at| {
            at.provider == launch.provider.as_str()
        }),
        (
            launch.master.as_ref().and_then(|master| world.settings.masters.get(master)).map(|m| &m.limit),
            &|at| at.master.is_some() && at.master == launch.master.as_ref().map(MasterName::as_str),
        ),
    ];
    for (limit, within) in scopes {
        let Some(limit) = limit.filter(|limit| limit.agents.is_some() || !limit.resources.is_empty()) else {
            continue;
        };
        let mut agents = 0_u32;
        let mut resources = Resources::default();
        for at in holders(world, so_far).iter().filter(|at| within(at)) {
            agents += 1;
            if let Some(label) = world.settings.labels.get(at.label) {
                resources.add(&label.resources);
            }
        }
        let beyond = limit.agents.is_some_and(|max| agents > max)
            || resources.0.iter().any(|(name, sum)| limit.resources.0.get(name).is_some_and(|max| sum > max));
        // A cap that was lowered may be exceeded already; what matters is that nothing is added.
        if beyond {
            faults.push((2, "a cap would be exceeded"));
        }
    }
    faults
}

/// Whether something counts against a cap.
type Within<'a> = &'a dyn Fn(&Where<'_>) -> bool;

/// Where something holds capacity.
struct Where<'a> {
    label: &'a str,
    provider: &'a str,
    master: Option<&'a str>,
}

/// Everything that holds capacity, with the launches of this plan so far.
fn holders<'a>(world: &'a World, so_far: &[&'a Launch]) -> Vec<Where<'a>> {
    let units = world.providers.iter().flat_map(|(provider, state)| {
        state.units.values().filter_map(move |units| {
            let holding = units.values().find(|known| known.unit.phase.holds_capacity())?;
            let marks = &holding.unit.marks;
            let master = marks.master.as_ref().map(MasterName::as_str);
            Some(Where { label: marks.label.as_str(), provider: provider.as_str(), master })
        })
    });
    let sent = world.flights.iter().filter_map(|(agent, flight)| match &flight.step {
        Step::Launch(launch) if !world.providers.values().any(|state| state.has_unit(agent)) => Some(launch),
        _ => None,
    });
    let launches = sent.chain(so_far.iter().copied()).map(|launch| Where {
        label: launch.label.as_str(),
        provider: launch.provider.as_str(),
        master: launch.master.as_ref().map(MasterName::as_str),
    });
    units.chain(launches).collect()
}
