//! Facts: the one way in which the world changes. Recorded in order, they replay a run.
//!
//! * `looks`: what systems show, in the order in which the reads began (design §4).
//! * `steps`: what was sent, and what came of it.
//! * `forget`: what is remembered of agents that are gone, and for how long.

mod forget;
mod looks;
mod steps;

pub use steps::{backoff_target, cause_of_refusal};

use crate::memory::Note;
use crate::settings::Settings;
use crate::step::Step;
use crate::world::{Intent, World};
use kubestack_core::agent::AgentsSnapshot;
use kubestack_core::cause::FailureCause;
use kubestack_core::completion::Completion;
use kubestack_core::demand::DemandSnapshot;
use kubestack_core::error::ErrorKind;
use kubestack_core::name::{AgentName, MasterName, ProviderName, SourceName};
use kubestack_core::provider::{Unit, UnitRef};
use kubestack_core::resources::Resources;
use kubestack_core::time::Moment;
use std::time::Duration;

/// Something that became known. The moment is that of its arrival.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Fact {
    /// Time passed.
    Now,
    /// The configuration is this from now on.
    Configured(Box<Settings>),
    /// The operator wants this from now on.
    Intended(Intent),
    /// A source showed its complete demand.
    Demand(SourceName, DemandSnapshot),
    /// A source failed.
    DemandFailed(SourceName, String),
    /// A provider showed all its units; the read began then.
    Units(ProviderName, Moment, Vec<Unit>),
    /// A provider showed one unit.
    UnitApplied(ProviderName, Unit),
    /// A provider reported that one unit is gone.
    UnitGone(ProviderName, UnitRef),
    /// A provider's view is complete up to that moment.
    UnitsCurrent(ProviderName, Moment),
    /// A provider failed.
    ProviderFailed(ProviderName, String),
    /// What a provider could still take; the read began then.
    Capacity(ProviderName, Moment, Option<Resources>),
    /// A master showed all its agents.
    Agents(MasterName, AgentsSnapshot),
    /// A master failed.
    MasterFailed(MasterName, String),
    /// News about an agent. A hint, never the truth.
    Hint(Completion),
    /// A step was sent.
    Sent(Step),
    /// A step came to an end.
    Ended(AgentName, Outcome),
    /// What planning wants to have remembered.
    Noted(Vec<Note>),
}

/// How a step ended.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Outcome {
    /// It had its effect.
    Done,
    /// It had its effect, and this is the unit as it is then.
    Unit(Unit),
    /// It had no effect (of a launch: made no unit).
    Failed {
        /// What kind of error.
        kind: ErrorKind,
        /// What happened, in words.
        text: String,
        /// Why an agent cannot be launched, where known.
        cause: Option<FailureCause>,
        /// Of a launch: the master was told to expect the agent before it failed.
        enrolled: bool,
        /// Of a launch: the master failed, not the provider.
        at_master: bool,
        /// How long to wait before anything like it is tried again.
        pause: Duration,
    },
    /// Whether it had its effect is unknown.
    Unknown,
}

impl World {
    /// Takes in one fact that arrived at `at`.
    pub fn apply(&mut self, at: Moment, fact: Fact) {
        self.now = self.now.max(at);
        match fact {
            Fact::Now => {}
            Fact::Configured(settings) => self.configure(*settings),
            Fact::Intended(intent) => self.intent = intent,
            Fact::Demand(source, snapshot) => self.demand_read(source, snapshot),
            Fact::DemandFailed(source, error) => {
                if let Some(state) = self.demand.get_mut(&source) {
                    state.health.error = Some(error);
                }
            }
            Fact::Units(provider, began, units) => self.units_read(&provider, began, units),
            Fact::UnitApplied(provider, unit) => self.unit_seen(&provider, unit, at),
            Fact::UnitGone(provider, reference) => self.unit_gone(&provider, &reference),
            Fact::UnitsCurrent(provider, as_of) => self.units_current(&provider, as_of),
            Fact::ProviderFailed(provider, error) => {
                if let Some(state) = self.providers.get_mut(&provider) {
                    state.health.error = Some(error);
                }
            }
            Fact::Capacity(provider, began, free) => {
                if let Some(state) = self.providers.get_mut(&provider) {
                    state.free = free.map(|free| (began, free));
                }
            }
            Fact::Agents(master, snapshot) => self.agents_read(&master, snapshot),
            Fact::MasterFailed(master, error) => {
                if let Some(state) = self.masters.get_mut(&master) {
                    state.health.error = Some(error);
                }
            }
            Fact::Hint(hint) => self.hinted(&hint),
            Fact::Sent(step) => self.sent(step),
            Fact::Ended(agent, outcome) => self.ended(&agent, outcome),
            Fact::Noted(notes) => self.noted(notes),
        }
    }

    /// Systems that left the configuration are forgotten; those that came are not seen yet.
    pub(crate) fn configure(&mut self, settings: Settings) {
        self.demand.retain(|name, _| settings.sources.contains_key(name));
        self.providers.retain(|name, _| settings.providers.contains_key(name));
        self.masters.retain(|name, _| settings.masters.contains_key(name));
        for name in settings.sources.keys() {
            self.demand.entry(name.clone()).or_default();
        }
        for name in settings.providers.keys() {
            self.providers.entry(name.clone()).or_default();
        }
        for name in settings.masters.keys() {
            self.masters.entry(name.clone()).or_default();
        }
        // Another template or cause may have been mended by the operator's change: try again at once.
        for (label, by_provider) in &mut self.memory.breakers {
            let changed = settings.labels.get(label).map(|new| &new.template)
                != self.settings.labels.get(label).map(|old| &old.template);
            if changed {
                by_provider.clear();
            }
        }
        self.memory.breakers.retain(|_, by_provider| !by_provider.is_empty());
        self.settings = settings;
    }
}
