//! Demand as the planner sees it: classes of work, and which of them the agents at hand can serve.

use crate::agent::{Agent, AgentState};
use crate::settings::SourceSettings;
use crate::world::World;
use kubestack_core::demand::{Binding, Demand, DemandRef, DemandSnapshot};
use kubestack_core::name::{LabelName, MasterName};
use kubestack_core::time::Moment;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Work that the same agents can serve: the masters that may queue it × the labels that it needs.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ClassKey {
    /// Masters whose agents can serve it; empty: agents without a master.
    pub masters: BTreeSet<MasterName>,
    /// Labels that can serve it.
    pub needs: BTreeSet<LabelName>,
}

impl ClassKey {
    /// Whether an agent of that label and master can serve it.
    pub fn serves(&self, label: &LabelName, master: Option<&MasterName>) -> bool {
        self.needs.contains(label)
            && match master {
                Some(master) => self.masters.contains(master),
                None => self.masters.is_empty(),
            }
    }
}

/// What one class wants.
#[derive(Clone, Debug, Default)]
pub(crate) struct Class {
    /// Which.
    pub key: ClassKey,
    /// Jobs that any agent of the class may take, from fresh looks.
    pub waiting: u32,
    /// The same from stale looks: they keep agents, and launch none.
    pub stale: u32,
    /// Bound jobs without an agent of their own, oldest first.
    pub bound: Vec<(Moment, DemandRef)>,
    /// Bound jobs that have an agent.
    pub bound_served: u32,
    /// The age of the oldest waiting job.
    pub since: Option<Moment>,
    /// Fungible jobs that agents at hand will serve.
    pub matched: u32,
}

impl Class {
    /// Jobs, fungible and bound, that no agent at hand will serve and that fresh looks showed.
    pub fn unmet(&self) -> u32 {
        let bound = u32::try_from(self.bound.len()).unwrap_or(u32::MAX);
        self.unmet_fungible().saturating_add(bound)
    }

    /// The fungible ones among them.
    pub fn unmet_fungible(&self) -> u32 {
        self.waiting.saturating_sub(self.matched)
    }
}

/// All demand, read in one pass.
#[derive(Debug, Default)]
pub(crate) struct DemandView {
    /// By key, in order.
    pub classes: Vec<Class>,
    /// Demand that no label of ours can serve.
    pub foreign: u32,
    /// Ids of all bound demand that some look, stale or fresh, shows.
    pub bound_ids: BTreeSet<String>,
    /// Masters of which some demand is unknown: nothing of theirs counts as surplus. `None` stands for
    /// agents without a master.
    pub unknown: BTreeSet<Option<MasterName>>,
}

/// What one source says of one class.
#[derive(Default)]
struct Tally {
    waiting: u32,
    stale: u32,
    bound: BTreeMap<String, Moment>,
    since: Option<Moment>,
}

/// Reads all demand, less what agents have begun to serve since each look began.
pub(crate) fn read(world: &World, agents: &[Agent<'_>]) -> DemandView {
    let mut view = DemandView::default();
    // A node that is left of an agent serves nobody.
    let served = agents.iter().filter(|agent| agent.state != AgentState::Orphan);
    let served: BTreeSet<&str> = served.filter_map(|agent| agent.bound).collect();
    // Sources of one group are views of one queue; a source without a group is a group of its own.
    let mut groups: BTreeMap<(bool, &str), BTreeMap<ClassKey, Tally>> = BTreeMap::new();
    for (name, settings) in &world.settings.sources {
        let Some(state) = world.demand.get(name) else { continue };
        let stale = world.is_stale(state.health.heard);
        if stale || state.snapshot.is_none() {
            if settings.masters.is_empty() {
                view.unknown.insert(None);
            }
            view.unknown.extend(settings.masters.iter().cloned().map(Some));
        }
        let Some(snapshot) = &state.snapshot else { continue };
        let mut consumed = Consumed::new(world, settings, snapshot);
        // By what the jobs need, and whether they have ids.
        let mut tallies: Vec<Tally> = Vec::new();
        tallies.resize_with(state.kinds.len(), Tally::default);
        let dated = snapshot.demands.iter().zip(&state.since);
        for ((demand, since), kind) in dated.zip(&state.kind_of) {
            if demand.needs.is_empty() {
                view.foreign = view.foreign.saturating_add(demand.waiting);
                continue;
            }
            if demand.binding == Binding::Bound
                && let Some(id) = &demand.id
            {
                view.bound_ids.insert(id.clone());
            }
            let waiting = if consumed.takes(demand) { 0 } else { demand.waiting };
            let Some(tally) = tallies.get_mut(*kind).filter(|_| waiting > 0) else { continue };
            tally.since = older(tally.since, Some(*since));
            match (&demand.id, demand.binding) {
                (Some(id), Binding::Bound) if !stale => {
                    tally.bound.insert(id.clone(), *since);
                }
                (_, Binding::Bound) => {}
                (_, Binding::Fungible) if stale => tally.stale = tally.stale.saturating_add(waiting),
                (_, Binding::Fungible) => tally.waiting = tally.waiting.saturating_add(waiting),
            }
        }
        let mut begun = consumed.rest();
        let mut own: BTreeMap<ClassKey, Tally> = BTreeMap::new();
        let kinds = state.kinds.iter().zip(tallies);
        for ((needs, ids), mut tally) in kinds.filter(|(_, tally)| tally.since.is_some()) {
            let key = ClassKey { masters: settings.masters.clone(), needs: needs.clone() };
            let began = take_begun(&mut begun, &key, *ids, tally.waiting.max(tally.stale));
            tally.waiting = tally.waiting.saturating_sub(began);
            tally.stale = tally.stale.saturating_sub(began);
            let into = own.entry(key).or_default();
            into.waiting = into.waiting.saturating_add(tally.waiting);
            into.stale = into.stale.saturating_add(tally.stale);
            into.bound.extend(tally.bound);
            into.since = older(into.since, tally.since);
        }
        let group = settings.merge_group.as_deref().map_or((false, name.as_str()), |group| (true, group));
        let group = groups.entry(group).or_default();
        for (key, tally) in own {
            let into = group.entry(key).or_default();
            into.waiting = into.waiting.max(tally.waiting);
            into.stale = into.stale.max(tally.stale);
            into.bound.extend(tally.bound);
            into.since = older(into.since, tally.since);
        }
    }
    let mut classes: BTreeMap<ClassKey, Class> = BTreeMap::new();
    for (key, tally) in groups.into_values().flatten() {
        let class = classes.entry(key.clone()).or_insert_with(|| Class { key, ..Class::default() });
        class.waiting = class.waiting.saturating_add(tally.waiting);
        class.stale = class.stale.saturating_add(tally.stale);
        class.since = older(class.since, tally.since);
        for (id, since) in tally.bound {
            if served.contains(id.as_str()) {
                class.bound_served = class.bound_served.saturating_add(1);
            } else {
                class.bound.push((since, DemandRef::new(id)));
            }
        }
        class.bound.sort();
    }
    view.classes = classes.into_values().collect();
    view
}

fn older(a: Option<Moment>, b: Option<Moment>) -> Option<Moment> {
    a.into_iter().chain(b).min()
}

/// Jobs that agents began after a look began: the look still shows them as waiting.
struct Consumed<'a> {
    /// Those whose id is known, until the look is found to show that id.
    ids: BTreeMap<&'a str, Option<Begun<'a>>>,
    /// Those of which only the agent is known.
    begun: Vec<Begun<'a>>,
}

/// One of them: the label and master of its agent, and its id where known.
type Begun<'a> = (&'a LabelName, Option<&'a MasterName>, Option<&'a str>);

impl<'a> Consumed<'a> {
    fn new(world: &'a World, settings: &SourceSettings, snapshot: &DemandSnapshot) -> Self {
        let mut consumed = Self { ids: BTreeMap::new(), begun: Vec::new() };
        for memory in world.memory.agents.values() {
            let Some((_, job)) = memory.used.as_ref().filter(|(at, _)| *at > snapshot.began) else {
                continue;
            };
            let covered = match &memory.master {
                Some(master) => settings.masters.contains(master),
                None => settings.masters.is_empty(),
            };
            let begun = (&memory.label, memory.master.as_ref(), job.as_deref());
            match job.as_deref().filter(|_| covered) {
                Some(id) => drop(consumed.ids.insert(id, Some(begun))),
                None if covered => consumed.begun.push(begun),
                None => {}
            }
        }
        consumed
    }

    /// Whether this very job has begun.
    fn takes(&mut self, demand: &Demand) -> bool {
        let known = demand.id.as_deref().and_then(|id| self.ids.get_mut(id));
        known.map(Option::take).is_some()
    }

    /// After all demands were asked for: what is left may be any job of its class.
    fn rest(mut self) -> Vec<Begun<'a>> {
        self.begun.extend(std::mem::take(&mut self.ids).into_values().flatten());
        self.begun.sort();
        self.begun
    }
}

/// Takes up to `most` of those that began a job of that class; of demand with ids only those whose job is not
/// known, for a known job is found by its id.
fn take_begun(begun: &mut Vec<Begun<'_>>, key: &ClassKey, ids: bool, most: u32) -> u32 {
    let mut taken = 0;
    begun.retain(|(label, master, job)| {
        let take = taken < most && key.serves(label, *master) && !(ids && job.is_some());
        taken += u32::from(take);
        !take
    });
    taken
}

/// Which agents at hand will serve which class: as many jobs as can be served are.
pub(crate) struct Matching {
    /// For each agent (by its index in the list of agents): some demand wants it.
    pub wanted: Vec<bool>,
}

/// Assigns agents to fungible demand such that as much of it as possible is served, and notes in each class
/// how much that is. Agents that are further on are preferred.
pub(crate) fn assign(world: &World, agents: &[Agent<'_>], view: &mut DemandView) -> Matching {
    type Kind<'a> = (&'a LabelName, Option<&'a MasterName>);
    let mut by_kind: Vec<Vec<usize>> = Vec::new();
    for (index, agent) in agents.iter().enumerate() {
        if by_kind.len() <= agent.kind {
            by_kind.resize_with(agent.kind + 1, Vec::new);
        }
        if agent.bound.is_none() && agent.is_supply(world) {
            by_kind.get_mut(agent.kind).into_iter().for_each(|supply| supply.push(index));
        }
    }
    // On which provider it runs does not matter for what it can serve.
    let mut supply: BTreeMap<Kind<'_>, Vec<usize>> = BTreeMap::new();
    for indices in by_kind {
        if let Some(agent) = indices.first().and_then(|index| agents.get(*index)) {
            supply.entry((agent.label, agent.master)).or_default().extend(indices);
        }
    }
    let kinds: Vec<Kind<'_>> = supply.keys().copied().collect();
    let mut free: Vec<u32> =
        supply.values().map(|agents| u32::try_from(agents.len()).unwrap_or(u32::MAX)).collect();
    let position: BTreeMap<Kind<'_>, usize> =
        kinds.iter().enumerate().map(|(at, kind)| (*kind, at)).collect();
    let options: Vec<Vec<usize>> = view
        .classes
        .iter()
        .map(|class| {
            let masters: Vec<Option<&MasterName>> = if class.key.masters.is_empty() {
                vec![None]
            } else {
                class.key.masters.iter().map(Some).collect()
            };
            let pairs = class.key.needs.iter().flat_map(|label| masters.iter().map(move |m| (label, *m)));
            pairs.filter_map(|kind| position.get(&kind).copied()).collect()
        })
        .collect();
    // taken[class][kind] = how many; the classes with the fewest options choose first.
    let mut taken: Vec<BTreeMap<usize, u32>> = vec![BTreeMap::new(); view.classes.len()];
    let mut order: Vec<usize> = (0..view.classes.len()).collect();
    order.sort_by_key(|class| options.get(*class).map_or(0, Vec::len));
    let wants: Vec<u32> =
        view.classes.iter().map(|class| class.waiting.saturating_add(class.stale)).collect();
    for class in order {
        let want = wants.get(class).copied().unwrap_or(0);
        let mut got = 0;
        while got < want {
            let more = augment(class, want - got, &options, &mut free, &mut taken);
            if more == 0 {
                break;
            }
            got += more;
        }
    }
    let mut matched: Vec<u32> = vec![0; kinds.len()];
    for (class, taken) in view.classes.iter_mut().zip(&taken) {
        class.matched = taken.values().sum();
        for (kind, count) in taken {
            if let Some(sum) = matched.get_mut(*kind) {
                *sum += count;
            }
        }
    }
    let mut wanted = vec![false; agents.len()];
    for (mut indices, count) in supply.into_values().zip(matched) {
        indices.sort_by_key(|index| agents.get(*index).map(|agent| (rank(&agent.state), agent.born(world))));
        for index in indices.into_iter().take(usize::try_from(count).unwrap_or(usize::MAX)) {
            if let Some(flag) = wanted.get_mut(index) {
                *flag = true;
            }
        }
    }
    Matching { wanted }
}

/// Agents that are further on come first.
pub(crate) fn rank(state: &AgentState) -> u8 {
    match state {
        AgentState::Idle => 0,
        AgentState::Launching => 1,
        _ => 2,
    }
}

/// One augmenting path from `class` to free supply: breadth first over classes that could give way.
/// Returns how much it moved, at most `most`.
fn augment(
    class: usize,
    most: u32,
    options: &[Vec<usize>],
    free: &mut [u32],
    taken: &mut [BTreeMap<usize, u32>],
) -> u32 {
    let mut from: BTreeMap<usize, usize> = BTreeMap::new(); // kind → the class that wants it
    let mut queue = std::collections::VecDeque::from([class]);
    let mut origin: BTreeMap<usize, usize> = BTreeMap::new(); // class → kind that it would give up
    let mut end = None;
    'search: while let Some(at) = queue.pop_front() {
        for kind in options.get(at).into_iter().flatten().copied() {
            if from.contains_key(&kind) {
                continue;
            }
            from.insert(kind, at);
            if free.get(kind).is_some_and(|free| *free > 0) {
                end = Some(kind);
                break 'search;
            }
            for (other, takes) in taken.iter().enumerate() {
                if other != class
                    && takes.get(&kind).is_some_and(|count| *count > 0)
                    && !origin.contains_key(&other)
                {
                    origin.insert(other, kind);
                    queue.push_back(other);
                }
            }
        }
    }
    let Some(end) = end else { return 0 };
    // The path: end ← class, which gives up origin[class] ← another class … ← `class`.
    let mut path = Vec::new();
    let mut kind = end;
    let mut amount = most.min(free.get(end).copied().unwrap_or(0));
    while let Some(taker) = from.get(&kind).copied() {
        path.push((taker, kind));
        if taker == class {
            break;
        }
        let Some(gives) = origin.get(&taker).copied() else { break };
        let given = taken.get(taker).and_then(|takes| takes.get(&gives)).copied().unwrap_or(0);
        amount = amount.min(given);
        kind = gives;
    }
    if let Some(left) = free.get_mut(end) {
        *left -= amount;
    }
    for (taker, kind) in path {
        if let Some(takes) = taken.get_mut(taker) {
            *takes.entry(kind).or_insert(0) += amount;
            if taker != class
                && let Some(count) = origin.get(&taker).and_then(|gives| takes.get_mut(gives))
            {
                *count -= amount;
            }
        }
    }
    amount
}
