//! What the operator configured, as far as deciding needs it.

use kubestack_core::name::{LabelName, MasterName, ProviderName, SourceName};
use kubestack_core::resources::Resources;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// The configured labels, masters, providers and sources with their limits, and the policy.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// Limit over everything.
    pub limit: Limit,
    /// By name.
    pub labels: BTreeMap<LabelName, LabelSettings>,
    /// By name.
    pub masters: BTreeMap<MasterName, MasterSettings>,
    /// By name.
    pub providers: BTreeMap<ProviderName, ProviderSettings>,
    /// Demand sources, those of masters included.
    pub sources: BTreeMap<SourceName, SourceSettings>,
    /// Deadlines, graces and limits of staleness.
    pub policy: Policy,
}

impl Settings {
    /// Takes over what does not come from the operator but from the running plugins: what they can do, and
    /// the sources that masters brought along.
    pub fn adopt_plugins(&mut self, running: &Self) {
        for (name, master) in &running.masters {
            if let Some(own) = self.masters.get_mut(name) {
                own.capabilities = master.capabilities;
            }
        }
        for (name, provider) in &running.providers {
            if let Some(own) = self.providers.get_mut(name) {
                own.capabilities = provider.capabilities;
            }
        }
        for (name, source) in &running.sources {
            if self.masters.contains_key(name.as_str()) {
                self.sources.entry(name.clone()).or_insert_with(|| source.clone());
            }
        }
    }
}

/// A cap. What is absent is not limited.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limit {
    /// At most that many agents.
    pub agents: Option<u32>,
    /// At most these resources in sum.
    pub resources: Resources,
}

/// One label.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LabelSettings {
    /// Hash of its template ([`LabelSpec::template_hash`](kubestack_core::label::LabelSpec::template_hash)).
    pub template: String,
    /// What one agent takes from the caps.
    pub resources: Resources,
    /// Its cap.
    pub limit: Limit,
    /// That many agents more than there is demand, ready before it comes; for each of its masters.
    pub min_ready: u32,
    /// Its share when capacity is scarce, relative to others; at least 1.
    pub weight: u32,
    /// Providers in order of preference.
    pub providers: Vec<ProviderName>,
    /// Masters that its agents may attach to; empty: agents have no master.
    pub masters: BTreeSet<MasterName>,
    /// How long an agent may be idle without demand.
    pub idle_timeout: Duration,
    /// How long an agent may take from its launch to being attached.
    pub launch_timeout: Duration,
    /// How long an agent may live, whatever it does; `None`: without limit.
    pub max_lifetime: Option<Duration>,
    /// Keep up to that many failed agents for inspection.
    pub hold_on_failure: u32,
}

impl Default for LabelSettings {
    fn default() -> Self {
        Self {
            template: String::new(),
            resources: Resources::default(),
            limit: Limit::default(),
            min_ready: 0,
            weight: 1,
            providers: Vec::new(),
            masters: BTreeSet::new(),
            idle_timeout: Duration::from_secs(60),
            launch_timeout: Duration::from_secs(300),
            max_lifetime: None,
            hold_on_failure: 0,
        }
    }
}

/// One master, with the capabilities that deciding needs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MasterSettings {
    /// Its cap.
    pub limit: Limit,
    /// What it can do.
    pub capabilities: kubestack_core::master::MasterCapabilities,
}

/// One provider, with the capabilities that deciding needs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProviderSettings {
    /// Its cap.
    pub limit: Limit,
    /// What it can do.
    pub capabilities: kubestack_core::provider::ProviderCapabilities,
}

/// One demand source.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceSettings {
    /// Masters whose jobs it shows. Empty: jobs of agents without a master.
    pub masters: BTreeSet<MasterName>,
    /// Sources of one group are views of one queue: the larger count holds. Others add up.
    pub merge_group: Option<String>,
}

/// Deadlines, graces and limits of staleness. Every edge of an agent's life has one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// How long one step may take before its outcome counts as unknown.
    pub step_deadline: Duration,
    /// Steps under way at once towards one system; the rest is planned again when one of them ends, so that
    /// nothing waits in a queue whose reason has gone meanwhile.
    pub concurrency: u32,
    /// An observation older than this, or a failed one this long without success, is stale.
    pub stale_after: Duration,
    /// How long surplus that still launches may go on before it is taken back.
    pub surplus_grace: Duration,
    /// How long a unit may live whose node its master forgot, before it is given up.
    pub forgotten_grace: Duration,
    /// How long a master may show a job on an agent whose unit ended, before the job counts as lost.
    pub lost_grace: Duration,
    /// How long an idle agent and a waiting job that it can serve may stand side by side.
    pub offer_timeout: Duration,
    /// How long a unit may be asked to end by itself.
    pub destroy_grace: Duration,
    /// First pause of an opened breaker; doubles up to `breaker_max`.
    pub breaker_pause: Duration,
    /// Longest pause of a breaker.
    pub breaker_max: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            step_deadline: Duration::from_secs(30),
            concurrency: 64,
            stale_after: Duration::from_secs(90),
            surplus_grace: Duration::from_secs(30),
            forgotten_grace: Duration::from_secs(60),
            lost_grace: Duration::from_secs(10),
            offer_timeout: Duration::from_secs(120),
            destroy_grace: Duration::from_secs(20),
            breaker_pause: Duration::from_secs(30),
            breaker_max: Duration::from_secs(900),
        }
    }
}
