//! Putting an engine together.

use crate::audit::Audit;
use crate::clock::SystemClock;
use crate::command::Handle;
use crate::coordination::MemoryCoordination;
use crate::engine::{Engine, Setup};
use crate::systems::Systems;
use crate::tasks::{TaskSet, TaskSpawner};
use kubestack_core::completion::CompletionSource;
use kubestack_core::context::{Clock, Spawner};
use kubestack_core::coordination::Coordination;
use kubestack_core::demand::DemandSource;
use kubestack_core::error::{Error, Result};
use kubestack_core::master::CiMaster;
use kubestack_core::name::{MasterName, ProviderName, SourceName};
use kubestack_core::provider::SlaveProvider;
use kubestack_planner::settings::SourceSettings;
use std::collections::BTreeSet;
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// Collects the parts of an engine.
pub struct Builder {
    setup: Setup,
    systems: Systems,
    clock: Arc<dyn Clock>,
    coordination: Arc<dyn Coordination>,
    audit: Option<Box<dyn Write + Send>>,
    tasks: TaskSet,
    spawner: TaskSpawner,
}

impl Engine {
    /// Starts to put an engine together: by default with this host's clock and with nothing kept beyond the
    /// life of this process.
    pub fn builder(setup: Setup) -> Builder {
        let (tasks, spawner) = TaskSet::new();
        Builder {
            setup,
            systems: Systems::default(),
            clock: Arc::new(SystemClock::start()),
            coordination: Arc::new(MemoryCoordination::default()),
            audit: None,
            tasks,
            spawner,
        }
    }
}

impl Builder {
    /// Time comes from there.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Leadership, intent and advisory memory are kept there.
    #[must_use]
    pub fn coordination(mut self, coordination: Arc<dyn Coordination>) -> Self {
        self.coordination = coordination;
        self
    }

    /// The same, kept by a provider that was added before; whoever is not heard of for `lease` loses the lead.
    ///
    /// # Errors
    /// If there is no such provider, or if it cannot.
    pub fn coordination_by(self, provider: &ProviderName, lease: Duration) -> Result<Self> {
        let known = self.systems.providers.get(provider);
        let known = known.ok_or_else(|| Error::invalid(format!("there is no provider `{provider}`")))?;
        let coordination = known.coordination(lease).ok_or_else(|| {
            Error::invalid(format!("provider `{provider}` cannot keep who leads; name one that can, or none"))
        })?;
        Ok(self.coordination(coordination))
    }

    /// Each step is written there as a JSON line.
    #[must_use]
    pub fn audit(mut self, sink: impl Write + Send + 'static) -> Self {
        self.audit = Some(Box::new(sink));
        self
    }

    /// What plugins get to run tasks inside this engine.
    pub fn spawner(&self) -> Arc<dyn Spawner> {
        Arc::new(self.spawner.clone())
    }

    /// Adds a provider.
    #[must_use]
    pub fn provider(mut self, name: impl Into<ProviderName>, provider: Arc<dyn SlaveProvider>) -> Self {
        let name = name.into();
        let settings = self.setup.settings.providers.entry(name.clone()).or_default();
        settings.capabilities = provider.capabilities();
        self.systems.providers.insert(name, provider);
        self
    }

    /// Adds a master, with its own demand and completion where it has them.
    #[must_use]
    pub fn master(mut self, name: impl Into<MasterName>, master: Arc<dyn CiMaster>) -> Self {
        let name = name.into();
        let settings = self.setup.settings.masters.entry(name.clone()).or_default();
        settings.capabilities = master.capabilities();
        let source = SourceName::new(name.as_str());
        if let Some(demand) = master.demand() {
            let known = self.setup.settings.sources.entry(source.clone()).or_default();
            known.masters = BTreeSet::from([name.clone()]);
            self.systems.demand.insert(source.clone(), demand);
        }
        if let Some(completion) = master.completion() {
            self.systems.completion.insert(source, completion);
        }
        self.systems.masters.insert(name, master);
        self
    }

    /// Adds a demand source.
    #[must_use]
    pub fn demand(
        mut self,
        name: impl Into<SourceName>,
        settings: SourceSettings,
        source: Box<dyn DemandSource>,
    ) -> Self {
        let name = name.into();
        self.setup.settings.sources.insert(name.clone(), settings);
        self.systems.demand.insert(name, source);
        self
    }

    /// Adds a completion source.
    #[must_use]
    pub fn completion(mut self, name: impl Into<SourceName>, source: Box<dyn CompletionSource>) -> Self {
        self.systems.completion.insert(name.into(), source);
        self
    }

    /// The engine.
    ///
    /// # Errors
    /// If a label names a provider or master that was not added, or has no template.
    pub fn build(mut self) -> Result<Engine> {
        let settings = &self.setup.settings;
        for (label, its) in &settings.labels {
            let provider = its.providers.iter().find(|name| !self.systems.providers.contains_key(*name));
            let master = its.masters.iter().find(|name| !self.systems.masters.contains_key(*name));
            let missing = provider.map(|name| format!("provider `{name}`"));
            let missing = missing.or(master.map(|name| format!("master `{name}`")));
            let missing =
                missing.or((!self.setup.labels.contains_key(label)).then(|| "a template, which".to_owned()));
            if let Some(missing) = missing {
                return Err(Error::invalid(format!(
                    "label `{label}` needs {missing} is not there; add it first"
                )));
            }
        }
        self.setup.derive_templates();
        let (sender, requests) = mpsc::channel(64);
        Ok(Engine {
            setup: self.setup,
            systems: self.systems,
            clock: self.clock,
            coordination: self.coordination,
            tasks: self.tasks,
            spawner: self.spawner,
            requests,
            handle: Handle(sender),
            audit: Audit::new(self.audit),
        })
    }
}
