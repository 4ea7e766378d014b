//! Who gets the scarce capacity: progressive filling, reclaim, `min_ready`, and what is surplus.

use crate::agent::{Agent, AgentState};
use crate::demand::{Class, ClassKey, DemandView, Matching, rank};
use crate::lifecycle::{Draft, retire};
use crate::memory::Note;
use crate::room::{Blocker, Place, Room, Scope};
use crate::settings::LabelSettings;
use crate::step::{Launch, Reason, Step};
use crate::world::World;
use kubestack_core::demand::DemandRef;
use kubestack_core::name::{AgentName, LabelName, MasterName};
use kubestack_core::time::Moment;
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

/// What filling decided about one class.
#[derive(Clone, Debug, Default)]
pub(crate) struct Verdict {
    pub granted: u32,
    pub blocked: Option<Blocker>,
    pub waits_for: BTreeSet<AgentName>,
}

/// One class in the race: the lowest share first, the oldest on ties, the name last so that it is the same
/// every time.
struct Contender {
    index: usize,
    holds: u64,
    weight: u64,
    since: Moment,
}

impl Ord for Contender {
    fn cmp(&self, other: &Self) -> Ordering {
        let share = |a: &Self, b: &Self| {
            (u128::from(a.holds) * u128::from(b.weight)).cmp(&(u128::from(b.holds) * u128::from(a.weight)))
        };
        // A binary heap gives the greatest first.
        share(other, self).then_with(|| (other.since, other.index).cmp(&(self.since, self.index)))
    }
}

impl PartialOrd for Contender {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Contender {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Contender {}

/// Why a class gets nothing now.
struct Obstacle<'w> {
    /// What stands in the way at the place nearest to a launch.
    blocker: Blocker,
    /// That place; `None`: there is no place at all.
    place: Option<Place<'w>>,
    /// When time alone may open one of its places.
    lifted: Option<Moment>,
}

/// Fills what room there is, and lets go of what nobody wants.
pub(crate) struct Filling<'a, 'w> {
    pub world: &'w World,
    pub agents: &'a [Agent<'w>],
    pub room: Room<'w>,
    pub serial: u64,
    /// Agents that fungible demand does not want, best first: those to reclaim, and to let go.
    pub surplus: Vec<usize>,
    /// Surplus that stays ready before demand comes.
    pub warm: BTreeSet<usize>,
    retired: BTreeSet<usize>,
    /// Caps that a class with a better claim waits for: nobody else takes what becomes free there in pieces
    /// too small for it.
    reserved: BTreeSet<Scope>,
}

impl<'a, 'w> Filling<'a, 'w> {
    pub fn new(world: &'w World, agents: &'a [Agent<'w>], room: Room<'w>, matching: &Matching) -> Self {
        let mut surplus: Vec<usize> = agents
            .iter()
            .enumerate()
            .zip(&matching.wanted)
            .filter(|((_, agent), wanted)| !**wanted && agent.bound.is_none() && agent.is_supply(world))
            .map(|((index, _), _)| index)
            .collect();
        surplus.sort_by_key(|index| {
            agents
                .get(*index)
                .map(|agent| (agent.label, agent.master, rank(&agent.state), agent.born(world), agent.name))
        });
        let mut ready: BTreeMap<(&LabelName, Option<&MasterName>), u32> = BTreeMap::new();
        let mut warm = BTreeSet::new();
        for index in &surplus {
            let Some(agent) = agents.get(*index) else { continue };
            let wants = agent.settings.map_or(0, |label| label.min_ready);
            let count = ready.entry((agent.label, agent.master)).or_insert(0);
            if *count < wants {
                *count += 1;
                warm.insert(*index);
            }
        }
        Self {
            world,
            agents,
            room,
            serial: world.next_serial,
            surplus,
            warm,
            retired: BTreeSet::new(),
            reserved: BTreeSet::new(),
        }
    }

    /// Grants room to classes, one agent at a time, until nobody with a claim has room.
    pub fn grant(&mut self, view: &'w DemandView, draft: &mut Draft) -> Vec<Verdict> {
        let mut verdicts = vec![Verdict::default(); view.classes.len()];
        let held = holdings(self.agents, &view.classes);
        let mut unmet: Vec<u32> = view.classes.iter().map(Class::unmet).collect();
        let mut bound: Vec<_> = view.classes.iter().map(|class| class.bound.iter()).collect();
        let mut heap: BinaryHeap<Contender> = BinaryHeap::new();
        for (index, class) in view.classes.iter().enumerate() {
            if class.unmet() > 0 {
                let labels = class.key.needs.iter().filter_map(|label| self.world.settings.labels.get(label));
                heap.push(Contender {
                    index,
                    holds: held.get(index).copied().unwrap_or(0),
                    weight: u64::from(labels.map(|label| label.weight).max().unwrap_or(1).max(1)),
                    since: class.since.unwrap_or(self.world.now),
                });
            }
        }
        let mut leaving = self.leaving();
        while let Some(mut contender) = heap.pop() {
            let (Some(class), Some(verdict), Some(left)) = (
                view.classes.get(contender.index),
                verdicts.get_mut(contender.index),
                unmet.get_mut(contender.index),
            ) else {
                continue;
            };
            match self.open(self.places(&class.key)) {
                Ok(place) => {
                    let demand = bound.get_mut(contender.index).and_then(Iterator::next);
                    self.launch(
                        place,
                        demand.map(|(_, demand)| demand),
                        &class.key.needs,
                        None,
                        Reason::Demand,
                        draft,
                    );
                    verdict.granted += 1;
                    *left -= 1;
                    contender.holds += 1;
                    if *left > 0 {
                        heap.push(contender);
                    }
                }
                Err(Obstacle { blocker, place, lifted }) => {
                    let full = place.map(|place| self.waits_for_room(&blocker, place)).unwrap_or_default();
                    self.reserve(&full);
                    if !full.is_empty() {
                        // One agent per missing grant; the class stays out of the race, the room that it
                        // waits for is not there yet.
                        for _ in 0..(*left).min(self.world.settings.policy.concurrency) {
                            let Some(agent) = self.reclaim(&full, &class.key, &mut leaving, draft) else {
                                break;
                            };
                            verdict.waits_for.insert(agent);
                        }
                    }
                    lifted.into_iter().for_each(|at| draft.wake(at));
                    verdict.blocked = Some(blocker);
                }
            }
        }
        verdicts
    }

    /// Agents on their way out, whose room is about to be free.
    fn leaving(&self) -> Vec<usize> {
        let way_out = |agent: &Agent<'_>| {
            let step = agent.flight.map(|flight| &flight.step);
            agent.holds_capacity()
                && (matches!(
                    agent.state,
                    AgentState::Draining | AgentState::Detached | AgentState::Terminating
                ) || matches!(
                    step,
                    Some(Step::Drain { .. } | Step::RemoveNode { .. } | Step::Destroy { .. })
                ))
        };
        (0..self.agents.len()).filter(|index| self.agents.get(*index).is_some_and(way_out)).collect()
    }

    /// The first of these places with room; otherwise what stands in the way at the one nearest to it.
    fn open(&self, places: impl Iterator<Item = Place<'w>>) -> Result<Place<'w>, Obstacle<'w>> {
        let mut nearest = Obstacle { blocker: Blocker::Nowhere, place: None, lifted: None };
        for place in places {
            let Some(blocker) = self.blocker(place) else { return Ok(place) };
            nearest.lifted = nearest.lifted.into_iter().chain(blocker.until()).min();
            if nearest.place.is_none() || blocker.distance() < nearest.blocker.distance() {
                (nearest.blocker, nearest.place) = (blocker, Some(place));
            }
        }
        Err(nearest)
    }

    /// What stands in the way of one more launch there, the claims of others included.
    fn blocker(&self, place: Place<'w>) -> Option<Blocker> {
        self.room.blocker(place).or_else(|| {
            let full: Vec<Scope> = place.scopes().filter(|scope| self.reserved.contains(scope)).collect();
            (!full.is_empty()).then_some(Blocker::Caps { full })
        })
    }

    /// The scopes in which others must give way before there is room at that place; none if that would not help.
    fn waits_for_room(&self, blocker: &Blocker, place: Place<'w>) -> Vec<Scope> {
        match blocker {
            Blocker::Caps { full } => full.clone(),
            Blocker::PlatformFull { provider } if self.room.platform_could_hold(place) => {
                vec![Scope::Provider(provider.clone())]
            }
            _ => Vec::new(),
        }
    }

    /// Keeps shared caps for a class that waits for them and nothing else.
    fn reserve(&mut self, full: &[Scope]) {
        if !full.iter().any(|scope| matches!(scope, Scope::Label(_))) {
            self.reserved.extend(full.iter().cloned());
        }
    }

    /// Where agents for the class could run, in order of preference.
    fn places(&self, key: &'w ClassKey) -> impl Iterator<Item = Place<'w>> + use<'a, 'w> {
        let labels = &self.world.settings.labels;
        key.needs.iter().filter_map(|name| labels.get_key_value(name)).flat_map(move |(label, settings)| {
            let masters: Vec<Option<&'w MasterName>> = if key.masters.is_empty() {
                if settings.masters.is_empty() { vec![None] } else { Vec::new() }
            } else {
                key.masters.iter().filter(|master| settings.masters.contains(*master)).map(Some).collect()
            };
            settings.providers.iter().flat_map(move |provider| {
                masters.clone().into_iter().map(move |master| Place { label, provider, master })
            })
        })
    }

    fn launch(
        &mut self,
        place: Place<'w>,
        demand: Option<&DemandRef>,
        class: &BTreeSet<LabelName>,
        request: Option<u64>,
        reason: Reason,
        draft: &mut Draft,
    ) {
        let Some(settings) = self.world.settings.labels.get(place.label) else { return };
        let serial = self.serial;
        self.serial += 1;
        self.room.take(place);
        let launch = Launch {
            agent: AgentName::compose(&self.world.instance, place.label, self.world.term, serial),
            serial,
            label: place.label.clone(),
            provider: place.provider.clone(),
            master: place.master.cloned(),
            demand: demand.cloned(),
            template: settings.template.clone(),
            class: class.clone(),
            request,
        };
        draft.step(Step::Launch(launch), reason);
    }

    /// Lets go of one surplus agent whose room the class could use, or names one that leaves already.
    fn reclaim(
        &mut self,
        full: &[Scope],
        key: &ClassKey,
        leaving: &mut Vec<usize>,
        draft: &mut Draft,
    ) -> Option<AgentName> {
        let agents = self.agents;
        let helps = |index: &usize| {
            agents.get(*index).is_some_and(|agent| full.iter().all(|scope| within(agent, scope)))
        };
        if let Some(at) = leaving.iter().position(&helps) {
            let index = leaving.swap_remove(at);
            return agents.get(index).map(|agent| agent.name.clone());
        }
        // Idle above min_ready, then launching whose demand left, then idle that was kept warm.
        let order = |index: &usize| {
            let state = agents.get(*index).map(|agent| &agent.state);
            match (state, self.warm.contains(index)) {
                (Some(AgentState::Idle), false) => Some(0),
                (Some(AgentState::Launching), _) => Some(1),
                (Some(AgentState::Idle), true) => Some(2),
                _ => None,
            }
        };
        let victim = self
            .surplus
            .iter()
            .copied()
            .filter(|index| !self.retired.contains(index) && helps(index))
            .filter_map(|index| Some((order(&index)?, index)))
            .min()
            .map(|(_, index)| index)?;
        let agent = agents.get(victim)?;
        let before = draft.steps.len();
        retire(self.world, agent, Reason::Reclaimed { labels: key.needs.clone() }, draft);
        self.retired.insert(victim);
        (draft.steps.len() > before).then(|| agent.name.clone())
    }

    /// What the operator asked to create.
    pub fn requests(&mut self, draft: &mut Draft) {
        let world = self.world;
        for (request, label) in &world.intent.creates {
            let Some((label, settings)) = world.settings.labels.get_key_value(label) else { continue };
            let places =
                masters_of(settings).into_iter().flat_map(|master| places_of(label, settings, master));
            match self.open(places) {
                Ok(place) => {
                    let class = BTreeSet::from([label.clone()]);
                    self.launch(place, None, &class, Some(*request), Reason::Operator, draft);
                }
                Err(obstacle) => obstacle.lifted.into_iter().for_each(|at| draft.wake(at)),
            }
        }
    }

    /// Agents ready before demand comes, from what room is left.
    pub fn min_ready(&mut self, view: &DemandView, draft: &mut Draft) {
        let world = self.world;
        let mut ready: BTreeMap<(&LabelName, Option<&MasterName>), u32> = BTreeMap::new();
        for index in self.warm.difference(&self.retired) {
            if let Some(agent) = self.agents.get(*index) {
                *ready.entry((agent.label, agent.master)).or_insert(0) += 1;
            }
        }
        for (label, settings) in world.settings.labels.iter().filter(|(_, settings)| settings.min_ready > 0) {
            for master in masters_of(settings) {
                // Agents that stale demand keeps are not ready for it, nor are others launched in their place.
                if view.classes.iter().any(|class| class.stale > 0 && class.key.serves(label, master)) {
                    continue;
                }
                let have = ready.get(&(label, master)).copied().unwrap_or(0);
                for _ in have..settings.min_ready {
                    match self.open(places_of(label, settings, master)) {
                        Ok(place) => {
                            let class = BTreeSet::from([label.clone()]);
                            self.launch(place, None, &class, None, Reason::MinReady, draft);
                        }
                        Err(obstacle) => {
                            obstacle.lifted.into_iter().for_each(|at| draft.wake(at));
                            break;
                        }
                    }
                }
            }
        }
    }

    /// Lets go of surplus whose grace is over, and notes what became surplus or is offered now.
    pub fn let_go(&mut self, view: &DemandView, matching: &Matching, draft: &mut Draft) {
        let world = self.world;
        let surplus: BTreeSet<usize> = self.surplus.iter().copied().collect();
        for (index, agent) in self.agents.iter().enumerate() {
            let Some(memory) = agent.memory else { continue };
            let unknown = view.unknown.contains(&agent.master.cloned());
            let spare = surplus.contains(&index) && !self.warm.contains(&index) && !unknown;
            if spare != memory.surplus_since.is_some() {
                draft.notes.push(Note::Surplus { agent: agent.name.clone(), surplus: spare });
            }
            let wanted = matching.wanted.get(index).copied().unwrap_or(false);
            let offered = wanted && agent.state == AgentState::Idle && !unknown;
            if offered != memory.offered_since.is_some() {
                draft.notes.push(Note::Offered { agent: agent.name.clone(), offered });
            }
            if offered {
                let since = memory.offered_since.unwrap_or(world.now);
                draft.due(world.now, since + world.settings.policy.offer_timeout);
            }
            if self.retired.contains(&index) {
                continue;
            }
            if let Some(bound) = agent.bound {
                self.cancel(agent, bound, view, unknown, draft);
            } else if spare {
                let Some(label) = agent.settings else { continue };
                let since = memory.surplus_since.unwrap_or(world.now);
                let (grace, reason) = match agent.state {
                    AgentState::Idle => (label.idle_timeout, Reason::IdleTimeout),
                    AgentState::Launching if memory.request.is_none() => {
                        (world.settings.policy.surplus_grace, Reason::DemandLeft)
                    }
                    _ => continue,
                };
                let since =
                    if agent.state == AgentState::Idle { since.max(agent.since(world)) } else { since };
                if draft.due(world.now, since + grace) {
                    retire(world, agent, reason, draft);
                }
            }
        }
    }

    /// A bound agent goes when its demand is gone: no other may use it.
    fn cancel(&self, agent: &Agent<'_>, bound: &str, view: &DemandView, unknown: bool, draft: &mut Draft) {
        let world = self.world;
        let waits = matches!(agent.state, AgentState::Launching | AgentState::Idle);
        if unknown || !waits || agent.is_used() || view.bound_ids.contains(bound) {
            return;
        }
        // Only a look that began after its launch can tell that its demand has left.
        let born = agent.memory.map_or(world.now, |memory| memory.first_seen);
        let sources = world.settings.sources.iter().filter(|(_, settings)| match agent.master {
            Some(master) => settings.masters.contains(master),
            None => settings.masters.is_empty(),
        });
        let later = |name| {
            let snapshot = world.demand.get(name).and_then(|state| state.snapshot.as_ref());
            snapshot.is_some_and(|snapshot| snapshot.began > born)
        };
        if sources.into_iter().all(|(name, _)| later(name)) {
            retire(world, agent, Reason::DemandLeft, draft);
        }
    }
}

/// The masters that agents of the label attach to; `None`: they have no master.
fn masters_of(label: &LabelSettings) -> Vec<Option<&MasterName>> {
    if label.masters.is_empty() { vec![None] } else { label.masters.iter().map(Some).collect() }
}

/// Where agents of the label for that master could run, in order of preference.
fn places_of<'w>(
    label: &'w LabelName,
    settings: &'w LabelSettings,
    master: Option<&'w MasterName>,
) -> impl Iterator<Item = Place<'w>> {
    settings.providers.iter().map(move |provider| Place { label, provider, master })
}

fn within(agent: &Agent<'_>, scope: &Scope) -> bool {
    match scope {
        Scope::Global => true,
        Scope::Label(label) => agent.label == label,
        Scope::Master(master) => agent.master == Some(master),
        Scope::Provider(provider) => agent.provider == provider,
    }
}

/// How many agents not yet gone each class holds. An agent counts for the class that it was launched for;
/// where that is forgotten, for the narrowest class that it can serve.
fn holdings(agents: &[Agent<'_>], classes: &[Class]) -> Vec<u64> {
    let by_needs: BTreeMap<&BTreeSet<LabelName>, Vec<usize>> =
        classes.iter().enumerate().fold(BTreeMap::new(), |mut map, (index, class)| {
            map.entry(&class.key.needs).or_insert_with(Vec::new).push(index);
            map
        });
    let mut held = vec![0_u64; classes.len()];
    let mut last: Option<(&Agent<'_>, Option<usize>)> = None;
    for agent in agents {
        // Neighbours in the order of names are mostly alike.
        let index = match last {
            Some((other, index)) if other.kind == agent.kind && class_of(other) == class_of(agent) => index,
            _ => holder(agent, classes, &by_needs),
        };
        last = Some((agent, index));
        if let Some(count) = index.and_then(|index| held.get_mut(index)) {
            *count += 1;
        }
    }
    held
}

/// The labels of the demand that it was launched for, if that is remembered.
fn class_of<'a>(agent: &Agent<'a>) -> Option<&'a BTreeSet<LabelName>> {
    agent.memory.map(|memory| &memory.class).filter(|class| !class.is_empty())
}

fn holder(
    agent: &Agent<'_>,
    classes: &[Class],
    by_needs: &BTreeMap<&BTreeSet<LabelName>, Vec<usize>>,
) -> Option<usize> {
    let serves =
        |index: &usize| classes.get(*index).is_some_and(|class| class.key.serves(agent.label, agent.master));
    let of = |needs: &BTreeSet<LabelName>| by_needs.get(needs).into_iter().flatten().copied().find(serves);
    class_of(agent).and_then(of).or_else(|| of(&BTreeSet::from([agent.label.clone()]))).or_else(|| {
        let needs = |index: &usize| classes.get(*index).map(|class| class.key.needs.len());
        (0..classes.len()).filter(serves).min_by_key(needs)
    })
}
