//! Room: what the caps still allow, counted anew from the world each time. No counter to drift.

use crate::agent::Agent;
use crate::settings::Limit;
use crate::step::{Step, Target};
use crate::world::World;
use kubestack_core::name::{LabelName, MasterName, ProviderName};
use kubestack_core::resources::Resources;
use kubestack_core::time::Moment;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What a cap is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "scope", content = "name")]
pub enum Scope {
    /// Everything.
    Global,
    /// One label.
    Label(LabelName),
    /// One master.
    Master(MasterName),
    /// One provider.
    Provider(ProviderName),
}

/// Why nothing can be launched for a label on a provider now.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "blocked")]
pub enum Blocker {
    /// These caps are full.
    Caps {
        /// Which.
        full: Vec<Scope>,
    },
    /// These caps could not hold a single such agent, however empty.
    TooLarge {
        /// Which.
        scopes: Vec<Scope>,
    },
    /// The platform itself has no room for it.
    PlatformFull {
        /// Which.
        provider: ProviderName,
    },
    /// The provider was not heard of recently.
    ProviderStale {
        /// Which.
        provider: ProviderName,
    },
    /// The master was not heard of recently.
    MasterStale {
        /// Which.
        master: MasterName,
    },
    /// The master takes no new work at present.
    MasterQuiet {
        /// Which.
        master: MasterName,
    },
    /// Launches failed; they are tried again at that moment.
    Breaker {
        /// Why they failed.
        cause: kubestack_core::cause::FailureCause,
        /// When they are tried again; `None`: a probe is under way.
        until: Option<Moment>,
    },
    /// The system asked to wait, or failed a moment ago.
    Backoff {
        /// Until when.
        until: Moment,
        /// What it said.
        error: String,
    },
    /// As many steps towards that system as may be are under way.
    InFlight,
    /// The operator paused launching.
    Paused {
        /// The operator's reason.
        text: String,
    },
    /// A new leader waits until what its predecessor sent has landed.
    Settling {
        /// Until when.
        until: Moment,
    },
    /// The label is configured for no provider or master that fits.
    Nowhere,
}

impl Blocker {
    /// How far from a launch it leaves a place: where others can give way before where only waiting helps, and
    /// that before where nothing does.
    pub(crate) fn distance(&self) -> u8 {
        match self {
            Self::Caps { .. } => 0,
            Self::PlatformFull { .. } => 1,
            Self::TooLarge { .. } | Self::Nowhere => 3,
            _ => 2,
        }
    }

    /// When this is worth another look, where time alone may lift it.
    pub fn until(&self) -> Option<Moment> {
        match self {
            Self::Breaker { until, .. } => *until,
            Self::Backoff { until, .. } | Self::Settling { until } => Some(*until),
            _ => None,
        }
    }
}

/// What is taken of a cap.
#[derive(Clone, Debug, Default)]
struct Usage {
    agents: u32,
    resources: Resources,
}

impl Usage {
    fn add(&mut self, agents: u32, resources: &Resources) {
        self.agents = self.agents.saturating_add(agents);
        self.resources.add(resources);
    }

    fn allows(&self, limit: &Limit, resources: &Resources) -> bool {
        limit.agents.is_none_or(|max| self.agents < max) && limit.resources.allows(&self.resources, resources)
    }
}

/// Where one agent could be launched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place<'a> {
    pub label: &'a LabelName,
    pub provider: &'a ProviderName,
    pub master: Option<&'a MasterName>,
}

impl Place<'_> {
    /// Every cap on its way.
    pub fn scopes(&self) -> impl Iterator<Item = Scope> + use<> {
        let master = self.master.cloned().map(Scope::Master);
        let own = [Scope::Global, Scope::Label(self.label.clone()), Scope::Provider(self.provider.clone())];
        own.into_iter().chain(master)
    }
}

/// What the agents of one place take.
struct Tally<'a> {
    place: Place<'a>,
    /// When the free capacity of the provider was read.
    read: Option<Moment>,
    /// Agents that hold capacity.
    holds: u32,
    /// Those of them that were born since `read`.
    since_read: u32,
    /// Those of them that never attached.
    unproven: u32,
    /// Nodes without a unit.
    nodes: u32,
}

impl<'a> Tally<'a> {
    fn of(place: Place<'a>) -> Self {
        Self { place, read: None, holds: 0, since_read: 0, unproven: 0, nodes: 0 }
    }
}

/// Everything that stands between a wish and a launch.
pub(crate) struct Room<'a> {
    world: &'a World,
    global: Usage,
    labels: BTreeMap<&'a LabelName, Usage>,
    masters: BTreeMap<&'a MasterName, Usage>,
    providers: BTreeMap<&'a ProviderName, Usage>,
    /// Launched on a provider since its free capacity was read, their number included.
    since_read: BTreeMap<&'a ProviderName, Resources>,
    /// Agents not attached yet, by label and provider: a half-open breaker lets one through.
    unproven: BTreeMap<(&'a LabelName, &'a ProviderName), u32>,
    /// Steps under way by system.
    to_providers: BTreeMap<&'a ProviderName, u32>,
    to_masters: BTreeMap<&'a MasterName, u32>,
}

impl<'a> Room<'a> {
    /// Counts what is taken.
    pub fn new(world: &'a World, agents: &[Agent<'a>]) -> Self {
        let mut room = Self {
            world,
            global: Usage::default(),
            labels: BTreeMap::new(),
            masters: BTreeMap::new(),
            providers: BTreeMap::new(),
            since_read: BTreeMap::new(),
            unproven: BTreeMap::new(),
            to_providers: BTreeMap::new(),
            to_masters: BTreeMap::new(),
        };
        for flight in world.flights.values() {
            room.send(flight.step.systems());
        }
        // Agents that are alike take the same room: counted first, looked up once.
        let mut tallies: Vec<Tally<'a>> = Vec::new();
        for agent in agents {
            if tallies.len() <= agent.kind {
                let place = Place { label: agent.label, provider: agent.provider, master: agent.master };
                let free = world.providers.get(agent.provider).and_then(|state| state.free.as_ref());
                tallies.push(Tally { read: free.map(|(read, _)| *read), ..Tally::of(place) });
            }
            let Some(tally) = tallies.get_mut(agent.kind) else { continue };
            if agent.holds_capacity() {
                tally.holds += 1;
                tally.since_read += u32::from(tally.read.is_some_and(|read| agent.born(world) >= read));
                let attached = agent.memory.is_some_and(|memory| memory.attached);
                tally.unproven += u32::from(!attached && agent.failure().is_none());
            } else if agent.node.is_some() {
                tally.nodes += 1;
            }
        }
        for tally in tallies {
            room.count(&tally);
        }
        room
    }

    fn count(&mut self, tally: &Tally<'a>) {
        let Place { label, provider, master } = tally.place;
        if tally.holds > 0 {
            let resources = self.resources(label).times(tally.holds);
            self.global.add(tally.holds, &resources);
            self.labels.entry(label).or_default().add(tally.holds, &resources);
            self.providers.entry(provider).or_default().add(tally.holds, &resources);
            if let Some(master) = master {
                self.masters.entry(master).or_default().add(tally.holds, &resources);
            }
        }
        if let (Some(master), 1..) = (master, tally.nodes) {
            // A node without a unit takes nothing but its place on the master.
            self.masters.entry(master).or_default().add(tally.nodes, &Resources::default());
        }
        if tally.since_read > 0 {
            let launched = self.resources(label).times(tally.since_read).with_agents(tally.since_read);
            self.since_read.entry(provider).or_default().add(&launched);
        }
        if tally.unproven > 0 {
            *self.unproven.entry((label, provider)).or_insert(0) += tally.unproven;
        }
    }

    fn resources(&self, label: &LabelName) -> &'a Resources {
        static NONE: Resources = Resources(BTreeMap::new());
        self.world.settings.labels.get(label).map_or(&NONE, |label| &label.resources)
    }

    /// Takes the room of one more launch.
    pub fn take(&mut self, place: Place<'a>) {
        self.count(&Tally { holds: 1, since_read: 1, unproven: 1, ..Tally::of(place) });
        self.send((Some(place.provider), place.master));
    }

    /// One more step is under way towards these.
    fn send(&mut self, (provider, master): (Option<&ProviderName>, Option<&MasterName>)) {
        let world = self.world;
        if let Some((provider, _)) = provider.and_then(|name| world.providers.get_key_value(name)) {
            *self.to_providers.entry(provider).or_insert(0) += 1;
        }
        if let Some((master, _)) = master.and_then(|name| world.masters.get_key_value(name)) {
            *self.to_masters.entry(master).or_insert(0) += 1;
        }
    }

    /// Whether one more step towards these may be under way.
    fn may_send(&self, (provider, master): (Option<&ProviderName>, Option<&MasterName>)) -> bool {
        let most = self.world.settings.policy.concurrency;
        let below = |count: Option<&u32>| count.is_none_or(|count| *count < most);
        below(provider.and_then(|name| self.to_providers.get(name)))
            && below(master.and_then(|name| self.to_masters.get(name)))
    }

    /// Whether one more step towards the systems of `step` may be under way; takes the place if so.
    pub fn fly(&mut self, step: &Step) -> bool {
        let free = self.may_send(step.systems());
        if free {
            self.send(step.systems());
        }
        free
    }

    /// What stands in the way of one more launch there; `None`: nothing.
    pub fn blocker(&self, place: Place<'_>) -> Option<Blocker> {
        self.not_now(place).or_else(|| self.full(place))
    }

    /// Which caps are full.
    pub fn full(&self, place: Place<'_>) -> Option<Blocker> {
        let settings = &self.world.settings;
        let resources = self.resources(place.label);
        let nothing = Usage::default();
        let (mut full, mut scopes) = (Vec::new(), Vec::new());
        let mut see = |limit: Option<&Limit>, usage: Option<&Usage>, scope: Scope| {
            if limit.is_some_and(|limit| !nothing.allows(limit, resources)) {
                scopes.push(scope);
            } else if limit.is_some_and(|limit| !usage.unwrap_or(&nothing).allows(limit, resources)) {
                full.push(scope);
            }
        };
        see(Some(&settings.limit), Some(&self.global), Scope::Global);
        see(
            settings.labels.get(place.label).map(|label| &label.limit),
            self.labels.get(place.label),
            Scope::Label(place.label.clone()),
        );
        if let Some(master) = place.master {
            see(
                settings.masters.get(master).map(|master| &master.limit),
                self.masters.get(master),
                Scope::Master(master.clone()),
            );
        }
        see(
            settings.providers.get(place.provider).map(|provider| &provider.limit),
            self.providers.get(place.provider),
            Scope::Provider(place.provider.clone()),
        );
        if !scopes.is_empty() {
            return Some(Blocker::TooLarge { scopes });
        }
        if !full.is_empty() {
            return Some(Blocker::Caps { full });
        }
        let (_, free) = self.world.providers.get(place.provider)?.free.as_ref()?;
        let none = Resources::default();
        let used = self.since_read.get(place.provider).unwrap_or(&none);
        let provider = place.provider.clone();
        let one = resources.clone().with_agents(1);
        (!free.allows(used, &one)).then_some(Blocker::PlatformFull { provider })
    }

    /// Whether the platform could hold such an agent if ours were gone: then it is worth waiting for.
    pub fn platform_could_hold(&self, place: Place<'_>) -> bool {
        let free = self.world.providers.get(place.provider).and_then(|state| state.free.as_ref());
        let ours = self.providers.get(place.provider).cloned().unwrap_or_default();
        free.is_none_or(|(_, free)| {
            let mut most = ours.resources.with_agents(ours.agents);
            most.add(free);
            // What the platform does not tell, it does not limit.
            most.0.retain(|name, _| free.0.contains_key(name));
            most.allows(&Resources::default(), &self.resources(place.label).clone().with_agents(1))
        })
    }

    /// What else stands in the way than caps.
    fn not_now(&self, place: Place<'_>) -> Option<Blocker> {
        let world = self.world;
        if let Some(blocker) = self.closed().or_else(|| self.unseen(place)) {
            return Some(blocker);
        }
        let provider = world.providers.get(place.provider)?;
        // Until a complete read the caps cannot be counted; one that began before the wait of a new leader was
        // over may lack what landed since.
        let listed = provider.complete.is_some_and(|complete| complete >= world.launch_from);
        if !listed || world.is_stale(provider.health.heard) {
            return Some(Blocker::ProviderStale { provider: place.provider.clone() });
        }
        if let Some(name) = place.master {
            let master = world.masters.get(name)?;
            if master.began.is_none() || world.is_stale(master.health.heard) {
                return Some(Blocker::MasterStale { master: name.clone() });
            }
            if master.quiet {
                return Some(Blocker::MasterQuiet { master: name.clone() });
            }
        }
        let blocker = self.backed_off(place).or_else(|| self.breaker(place.label, place.provider));
        blocker
            .or_else(|| (!self.may_send((Some(place.provider), place.master))).then_some(Blocker::InFlight))
    }

    /// What failed a moment ago, or asked to wait.
    fn backed_off(&self, place: Place<'_>) -> Option<Blocker> {
        let world = self.world;
        if world.backoff.is_empty() {
            return None;
        }
        let (label, provider) = (place.label.clone(), place.provider.clone());
        let own = [Target::Provider(provider.clone()), Target::Launches(label, provider)];
        let targets = own.into_iter().chain(place.master.cloned().map(Target::Master));
        let mut found = targets.filter_map(|target| world.backoff.get(&target));
        let backoff = found.find(|backoff| backoff.until > world.now)?;
        Some(Blocker::Backoff { until: backoff.until, error: backoff.error.clone() })
    }

    /// What stops every launch.
    pub fn closed(&self) -> Option<Blocker> {
        let world = self.world;
        if let Some(text) = world.intent.paused.as_ref().or(world.intent.drain_all.as_ref()) {
            return Some(Blocker::Paused { text: text.clone() });
        }
        if world.now < world.launch_from {
            return Some(Blocker::Settling { until: world.launch_from });
        }
        None
    }

    /// A provider never seen since the start may hold agents that count: against caps that it shares with
    /// this place, always; as supply for the label, until it counts as down.
    fn unseen(&self, place: Place<'_>) -> Option<Blocker> {
        let world = self.world;
        let settings = &world.settings;
        let capped = |limit: &Limit| limit.agents.is_some() || !limit.resources.is_empty();
        let label = settings.labels.get(place.label)?;
        let master = place.master.and_then(|master| settings.masters.get(master));
        let shared = capped(&settings.limit) || master.is_some_and(|master| capped(&master.limit));
        let down = world.now.since(world.launch_from) > settings.policy.stale_after;
        let blocks = |provider: &ProviderName| {
            let serves = label.providers.contains(provider);
            shared || (serves && (capped(&label.limit) || !down))
        };
        let mut unseen = world.providers.iter().filter(|(_, state)| state.complete.is_none());
        let (provider, _) = unseen.find(|(provider, _)| blocks(provider))?;
        Some(Blocker::ProviderStale { provider: provider.clone() })
    }

    fn breaker(&self, label: &LabelName, provider: &ProviderName) -> Option<Blocker> {
        let breakers = self.world.memory.breakers.get(label)?.get(provider)?;
        let (cause, until) = breakers
            .iter()
            .filter_map(|(cause, breaker)| Some((*cause, breaker.until?)))
            .max_by_key(|(_, until)| *until)?;
        if until > self.world.now {
            return Some(Blocker::Breaker { cause, until: Some(until) });
        }
        let probing = self.unproven.get(&(label, provider)).is_some_and(|count| *count > 0);
        probing.then_some(Blocker::Breaker { cause, until: None })
    }
}
