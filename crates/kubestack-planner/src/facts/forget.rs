//! What is remembered of agents that are gone, and for how long.

use crate::memory::AgentMemory;
use crate::step::Target;
use crate::world::{DemandState, MasterState, ProviderState, World};
use kubestack_core::name::AgentName;
use kubestack_core::time::Moment;

impl World {
    /// Drops what is remembered of agents that are gone, once no demand snapshot can still show their job
    /// as waiting.
    pub(super) fn forget_gone(&mut self) {
        let settled = self.settled();
        let mut agents = std::mem::take(&mut self.memory.agents);
        agents.retain(|name, memory| self.keeps(name, memory, settled));
        self.memory.agents = agents;
    }

    /// The same for one agent: with thousands of them, not each step that ends can be worth a look at all.
    pub(super) fn forget_if_gone(&mut self, name: &AgentName) {
        let settled = self.settled();
        if let Some(mut memory) = self.memory.agents.remove(name)
            && self.keeps(name, &mut memory, settled)
        {
            self.memory.agents.insert(name.clone(), memory);
        }
    }

    /// No snapshot shows anything older than that.
    pub(super) fn settled(&self) -> Moment {
        let began = |state: &DemandState| state.snapshot.as_ref().map_or(self.now, |snapshot| snapshot.began);
        self.demand.values().map(began).min().unwrap_or(self.now)
    }

    pub(super) fn keeps(&mut self, name: &AgentName, memory: &mut AgentMemory, settled: Moment) -> bool {
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
