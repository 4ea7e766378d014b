//! Jobs that agents were given beyond their one. Where the CI system does not see to it that an agent gets one job only,
//! that can happen; then it is counted and told, once each.

use kubestack_core::name::AgentName;
use kubestack_planner::World;
use std::collections::BTreeMap;

/// What was told.
#[derive(Default)]
pub(crate) struct Breaches(BTreeMap<AgentName, u32>);

/// What is new of one agent.
pub(crate) struct Breach {
    pub agent: AgentName,
    /// So many jobs.
    pub jobs: u32,
    /// The last of them.
    pub run: String,
}

impl Breaches {
    /// Those that a leader before us saw are no news.
    pub fn known(world: &World) -> Self {
        let mut known = Self::default();
        known.notice(world);
        known
    }

    /// What came about since the last call.
    pub fn notice(&mut self, world: &World) -> Vec<Breach> {
        let mut new = Vec::new();
        for (agent, memory) in world.memory.agents.iter().filter(|(_, memory)| memory.more_jobs > 0) {
            let told = self.0.entry(agent.clone()).or_default();
            if memory.more_jobs > *told {
                let (jobs, run) = (memory.more_jobs - *told, memory.run.clone().unwrap_or_default());
                new.push(Breach { agent: agent.clone(), jobs, run });
                *told = memory.more_jobs;
            }
        }
        new
    }

    /// Forgets whom the planner has forgotten.
    pub fn retain(&mut self, world: &World) {
        self.0.retain(|agent, _| world.memory.agents.contains_key(agent));
    }
}
