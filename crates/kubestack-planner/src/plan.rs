//! From the world to a plan.

use crate::agent::agents;
use crate::demand::{self, ClassKey};
use crate::fill::Filling;
use crate::lifecycle::{self, Draft};
use crate::memory::Note;
use crate::room::{Blocker, Room};
use crate::step::{PlannedStep, Step};
use crate::world::World;
use kubestack_core::name::{AgentName, MasterName};
use kubestack_core::time::Moment;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// What to do now, why, what to remember, and when to look again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Steps in the order in which they are to be sent; each stands alone.
    pub steps: Vec<PlannedStep>,
    /// What to remember.
    pub notes: Vec<Note>,
    /// What becomes of each class of demand.
    pub classes: Vec<ClassReport>,
    /// Jobs that no label of ours can serve.
    pub foreign: u32,
    /// Masters that a decision waits for a later look at.
    pub looks: BTreeSet<MasterName>,
    /// When time alone makes another look worth it.
    pub next_wake: Option<Moment>,
}

/// What becomes of one class of demand, and why.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClassReport {
    /// Which.
    pub class: ClassKey,
    /// Jobs that wait.
    pub waiting: u32,
    /// Those that agents at hand will serve.
    pub served: u32,
    /// Agents that this plan launches for it.
    pub granted: u32,
    /// Since when the oldest job waits.
    pub since: Option<Moment>,
    /// The looks behind it are stale: nothing is launched for that part.
    pub stale: u32,
    /// What stands in the way of the rest.
    pub blocked: Option<Blocker>,
    /// Agents that are on their way out and whose room it waits for.
    pub waits_for: BTreeSet<AgentName>,
}

/// Decides what to do now. Pure: the same world gives the same plan.
pub fn plan(world: &World) -> Plan {
    let agents = agents(world);
    let mut draft = Draft::default();
    for agent in agents.iter().filter(|agent| agent.is_held()) {
        *draft.held.entry(agent.label.clone()).or_insert(0) += 1;
    }
    for agent in &agents {
        lifecycle::advance(world, agent, &mut draft);
    }
    let mut view = demand::read(world, &agents);
    let matching = demand::assign(world, &agents, &mut view);
    let mut room = Room::new(world, &agents);
    // What ends things goes first: it makes room, and it must not wait behind launches.
    wait_for_systems(world, &mut draft);
    draft.steps.retain(|(step, _)| room.fly(step));
    let urgent = draft.steps.len();
    let mut filling = Filling::new(world, &agents, room, &matching);
    filling.requests(&mut draft);
    let verdicts = filling.grant(&view, &mut draft);
    filling.min_ready(&view, &mut draft);
    filling.let_go(&view, &matching, &mut draft);
    wait_for_systems(world, &mut draft);
    let mut index = 0;
    draft.steps.retain(|(step, _)| {
        index += 1;
        index <= urgent || matches!(step, Step::Launch(_)) || filling.room.fly(step)
    });
    let classes = view.classes.iter().zip(verdicts);
    let classes = classes
        .map(|(class, verdict)| ClassReport {
            class: class.key.clone(),
            waiting: class.waiting
                + u32::try_from(class.bound.len()).unwrap_or(u32::MAX)
                + class.bound_served,
            served: class.matched.min(class.waiting) + class.bound_served,
            granted: verdict.granted,
            since: class.since,
            stale: class.stale,
            blocked: verdict.blocked,
            waits_for: verdict.waits_for,
        })
        .collect();
    staleness_wake(world, &mut draft);
    if world.now < world.launch_from {
        draft.wake(world.launch_from);
    }
    Plan {
        steps: one_per_agent(draft.steps),
        notes: draft.notes,
        classes,
        foreign: view.foreign,
        looks: draft.looks,
        next_wake: draft.wake.filter(|wake| *wake > world.now),
    }
}

/// The smallest step of time.
const INSTANT: std::time::Duration = std::time::Duration::from_micros(1);

/// A system that asked everybody to wait gets no step before its time.
fn wait_for_systems(world: &World, draft: &mut Draft) {
    let mut steps = std::mem::take(&mut draft.steps);
    steps.retain(|(step, _)| {
        let until = step.targets().filter_map(|target| world.backed_off(&target)).max();
        until.into_iter().for_each(|until| draft.wake(until));
        until.is_none()
    });
    draft.steps = steps;
}

/// When an observation is about to become stale, the report changes by time alone.
fn staleness_wake(world: &World, draft: &mut Draft) {
    let heard = world
        .demand
        .values()
        .map(|state| &state.health)
        .chain(world.providers.values().map(|state| &state.health))
        .chain(world.masters.values().map(|state| &state.health));
    for heard in heard.filter_map(|health| health.heard) {
        draft.due(world.now, heard + world.settings.policy.stale_after + INSTANT);
    }
    // A provider never seen counts as down from then on.
    if world.providers.values().any(|provider| provider.complete.is_none()) {
        draft.due(world.now, world.launch_from + world.settings.policy.stale_after + INSTANT);
    }
}

/// The first step decided about an agent is the one to take; the next plan sees what came of it.
fn one_per_agent(steps: Vec<(Step, crate::step::Reason)>) -> Vec<PlannedStep> {
    let mut seen = BTreeSet::new();
    steps
        .into_iter()
        .filter(|(step, _)| seen.insert(step.agent().clone()))
        .map(|(step, reason)| PlannedStep { step, reason })
        .collect()
}
