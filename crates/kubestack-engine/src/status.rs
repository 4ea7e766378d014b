//! What the engine shows: agents, demand, systems, with their reasons in words.

use crate::failures::FailureStatus;
use kubestack_core::name::{AgentName, InstanceName, LabelName, MasterName, ProviderName};
use kubestack_core::time::Moment;
use kubestack_planner::agent::{Agent, AgentState, agents};
use kubestack_planner::world::Health;
use kubestack_planner::{Plan, World, words};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// One look at everything.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    /// This installation.
    pub instance: InstanceName,
    /// The leader's term.
    pub term: u64,
    /// When this was true.
    pub now: Moment,
    /// The operator's reason, while launching is paused.
    pub paused: Option<String>,
    /// The operator's reason, while everything is drained.
    pub draining: Option<String>,
    /// All agents of ours, by name.
    pub agents: Vec<AgentStatus>,
    /// Demand by class.
    pub demand: Vec<DemandStatus>,
    /// Jobs that no label of ours can serve.
    pub foreign: u32,
    /// Sources, masters and providers.
    pub systems: Vec<SystemStatus>,
    /// What has failed of late, also where nothing of it is left; the oldest first, so many of each label.
    #[serde(default)]
    pub failures: Vec<FailureStatus>,
    /// Steps by `kind outcome`, and other counts, since the start.
    pub counters: BTreeMap<String, u64>,
}

/// One agent.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AgentStatus {
    /// Its name.
    pub name: AgentName,
    /// Its unit's uid.
    pub uid: Option<String>,
    /// Its label.
    pub label: LabelName,
    /// Its provider.
    pub provider: ProviderName,
    /// Its master.
    pub master: Option<MasterName>,
    /// How far it is, in one word.
    pub state: String,
    /// The same with what is known besides, in one sentence, which the last lines of a failed one's log may follow.
    pub text: String,
    /// The id of its job, where known.
    pub job: Option<String>,
    /// When it was made.
    pub created: Moment,
}

/// One class of demand.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DemandStatus {
    /// Labels that can serve it.
    pub labels: BTreeSet<LabelName>,
    /// Masters that queue it.
    pub masters: BTreeSet<MasterName>,
    /// Jobs that wait.
    pub waiting: u32,
    /// Those that agents at hand will serve.
    pub served: u32,
    /// Since when the oldest waits.
    pub since: Option<Moment>,
    /// What becomes of it and why, in one sentence.
    pub text: String,
}

/// One source, master or provider.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SystemStatus {
    /// `source`, `master` or `provider`.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// When it last answered well.
    pub heard: Option<Moment>,
    /// What is wrong since then.
    pub error: Option<String>,
    /// It did not answer for so long that nothing is concluded from what it showed.
    pub stale: bool,
}

/// Looks at the world and at what was last planned in it.
pub(crate) fn status(
    world: &World,
    plan: &Plan,
    counters: &BTreeMap<String, u64>,
    failures: Vec<FailureStatus>,
) -> Status {
    let system = |kind: &str, name: &str, health: &Health| SystemStatus {
        kind: kind.to_owned(),
        name: name.to_owned(),
        heard: health.heard,
        error: health.error.clone(),
        stale: world.is_stale(health.heard),
    };
    let sources = world.demand.iter().map(|(name, state)| system("source", name.as_str(), &state.health));
    let masters = world.masters.iter().map(|(name, state)| system("master", name.as_str(), &state.health));
    let providers =
        world.providers.iter().map(|(name, state)| system("provider", name.as_str(), &state.health));
    Status {
        instance: world.instance.clone(),
        term: world.term,
        now: world.now,
        paused: world.intent.paused.clone(),
        draining: world.intent.drain_all.clone(),
        agents: agents(world).iter().map(|agent| agent_status(agent, world)).collect(),
        demand: plan
            .classes
            .iter()
            .filter(|class| class.waiting + class.stale > 0)
            .map(|class| DemandStatus {
                labels: class.class.needs.clone(),
                masters: class.class.masters.clone(),
                waiting: class.waiting.max(class.stale),
                served: class.served,
                since: class.since,
                text: words::class(class, world.now),
            })
            .collect(),
        foreign: plan.foreign,
        systems: sources.chain(masters).chain(providers).collect(),
        failures,
        counters: counters.clone(),
    }
}

fn agent_status(agent: &Agent<'_>, world: &World) -> AgentStatus {
    let job = agent.memory.and_then(|memory| memory.used.as_ref()).and_then(|(_, job)| job.clone());
    AgentStatus {
        name: agent.name.clone(),
        uid: agent.unit.map(|unit| unit.unit.uid.to_string()),
        label: agent.label.clone(),
        provider: agent.provider.clone(),
        master: agent.master.cloned(),
        state: match &agent.state {
            AgentState::Ended if agent.failure().is_some() => "failed".to_owned(),
            state => state.to_string(),
        },
        text: words::agent(agent, world),
        job,
        created: agent.born(world),
    }
}

impl Status {
    /// Why things are as they are, for a label, an agent's name or a uid: one sentence a line, the lines of a log
    /// indented below theirs. Empty if nothing here is called so.
    pub fn explain(&self, what: &str) -> Vec<String> {
        let mut lines = Vec::new();
        for demand in self.demand.iter().filter(|demand| demand.labels.contains(what)) {
            lines.push(demand.text.clone());
        }
        for agent in &self.agents {
            let uid = agent.uid.as_deref() == Some(what);
            if uid || agent.name.as_str() == what || agent.label.as_str() == what {
                let mut text = agent.text.lines();
                lines.push(format!("{}: {}", agent.name, text.next().unwrap_or_default()));
                lines.extend(text.map(|line| format!("  {line}")));
            }
        }
        for failure in &self.failures {
            let called = failure.agent.as_str() == what || failure.label.as_str() == what;
            // Of one that is still here everything but its log was said.
            let is_here = self.agents.iter().any(|agent| agent.name == failure.agent);
            if called && !(is_here && failure.log.is_empty()) {
                lines.extend(failure.lines(self.now));
            }
        }
        lines
    }
}
