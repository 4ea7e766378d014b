//! A CI system in memory: jobs that are just there, and agents that do nothing but what is measured.

use kubestack_core::name::{AgentName, LabelName};
use kubestack_core::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// A look is taken at least this often, so that nothing counts as stale.
const LOOK: Duration = Duration::from_secs(20);

/// What an agent does once its pod is there.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Conduct {
    /// It never connects.
    Silent,
    /// It is seen with a job, and in the next look without.
    OneJob,
    /// It has a job for ever.
    Busy,
}

/// An agent as the desk knows it.
struct Agent {
    marks: Marks,
    enrolled: Instant,
    launched: bool,
    job: Option<u32>,
    used: bool,
    drained: bool,
}

struct State {
    waiting: BTreeSet<u32>,
    /// The most jobs that were told at once, and when for the first time.
    seen: (usize, Option<Instant>),
    agents: BTreeMap<AgentName, Agent>,
    launched: u32,
    ended: u32,
    failed: Option<Error>,
}

/// The CI system, and what it saw.
#[derive(Clone)]
pub struct Desk {
    state: Arc<Mutex<State>>,
    /// Counts changes of the demand.
    demand: watch::Sender<u64>,
    /// Counts launches and ends.
    progress: watch::Sender<u64>,
    conduct: Conduct,
    clock: Arc<dyn Clock>,
}

impl Desk {
    pub fn new(conduct: Conduct, clock: Arc<dyn Clock>) -> Self {
        let state = State {
            waiting: BTreeSet::new(),
            seen: (0, None),
            agents: BTreeMap::new(),
            launched: 0,
            ended: 0,
            failed: None,
        };
        Self {
            state: Arc::new(Mutex::new(state)),
            demand: watch::Sender::new(0),
            progress: watch::Sender::new(0),
            conduct,
            clock,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Jobs with these numbers wait from now on.
    pub fn submit(&self, jobs: std::ops::Range<u32>) {
        self.state().waiting.extend(jobs);
        self.demand.send_modify(|count| *count += 1);
    }

    /// An agent with these marks is known, has been launched, and has been taken out when it took its job.
    pub fn know(&self, marks: Marks) {
        let agent = Agent {
            marks,
            enrolled: Instant::now(),
            launched: true,
            job: Some(0),
            used: false,
            drained: true,
        };
        self.state().agents.insert(agent.marks.agent(), agent);
    }

    /// Its pod is there, or will never be.
    fn launched(&self, name: &AgentName, outcome: Result<(), Error>) {
        let mut state = self.state();
        state.launched += u32::from(outcome.is_ok());
        if let Some(agent) = state.agents.get_mut(name) {
            agent.launched = true;
        }
        if let Err(error) = outcome {
            state.failed = Some(error);
        }
        drop(state);
        self.progress.send_modify(|count| *count += 1);
    }

    /// Waits until so many launches have succeeded.
    pub async fn until_launched(&self, count: u32) -> anyhow::Result<()> {
        self.until(|state| state.launched >= count).await
    }

    /// Waits until so many agents have come to their end.
    pub async fn until_ended(&self, count: u32) -> anyhow::Result<()> {
        self.until(|state| state.ended >= count).await
    }

    async fn until(&self, holds: impl Fn(&State) -> bool) -> anyhow::Result<()> {
        let mut progress = self.progress.subscribe();
        loop {
            {
                let state = self.state();
                if let Some(error) = &state.failed {
                    anyhow::bail!("a launch failed: {error}");
                }
                if holds(&state) {
                    return Ok(());
                }
            }
            progress.changed().await?;
        }
    }

    /// When the largest demand was told first.
    pub fn seen(&self) -> Option<Instant> {
        self.state().seen.1
    }

    /// When each agent was enrolled.
    pub fn enrolled(&self) -> BTreeMap<AgentName, Instant> {
        self.state().agents.iter().map(|(name, agent)| (name.clone(), agent.enrolled)).collect()
    }
}

#[async_trait]
impl CiMaster for Desk {
    fn capabilities(&self) -> MasterCapabilities {
        let mut capabilities = MasterCapabilities::default();
        capabilities.lists_agents = true;
        capabilities.drains = true;
        capabilities
    }

    async fn enrol(&self, request: &EnrolRequest) -> Result<EnrolOutcome> {
        let agent = Agent {
            marks: request.marks.clone(),
            enrolled: Instant::now(),
            launched: false,
            job: None,
            used: false,
            drained: false,
        };
        self.state().agents.insert(request.agent.clone(), agent);
        Ok(EnrolOutcome::Enrolled(enrolment(&request.agent)))
    }

    async fn agents(&self) -> Result<AgentsSnapshot> {
        let began = self.clock.now();
        let mut state = self.state();
        let State { waiting, agents, .. } = &mut *state;
        let mut views = Vec::with_capacity(agents.len());
        let mut news = false;
        for (name, agent) in agents {
            if self.conduct == Conduct::OneJob && agent.launched && !agent.used {
                if agent.job.take().is_some() {
                    agent.used = true;
                } else {
                    agent.job = waiting.pop_first();
                }
                news = true;
            }
            let mut view = AgentView::new(name.as_str());
            view.online = agent.launched && self.conduct != Conduct::Silent;
            view.activity = Activity::Slots { used: u32::from(agent.job.is_some()), total: 1 };
            view.job = agent.job.map(|job| job.to_string());
            view.used = agent.used;
            view.drained = if agent.drained { Drained::ByUs } else { Drained::No };
            view.marks = Some(agent.marks.clone());
            views.push(view);
        }
        drop(state);
        if news {
            self.demand.send_modify(|count| *count += 1);
        }
        Ok(AgentsSnapshot::new(began, views))
    }

    async fn drain(&self, name: &AgentName) -> Result<()> {
        let mut state = self.state();
        let agent = state.agents.get_mut(name).ok_or_else(|| Error::not_found("no such agent"))?;
        agent.drained = true;
        Ok(())
    }

    async fn remove(&self, name: &AgentName, _despite_busy: bool) -> Result<()> {
        self.state().agents.remove(name);
        Ok(())
    }

    fn demand(&self) -> Option<Box<dyn DemandSource>> {
        Some(Box::new(Jobs { desk: self.clone(), changed: self.demand.subscribe(), told: false }))
    }
}

/// An enrolment as a queue would give it: a name, a place, a secret.
pub fn enrolment(agent: &AgentName) -> Enrolment {
    let mut enrolment = Enrolment::default();
    enrolment.env.insert("KUBESTACK_QUEUE_URL".into(), "http://queue.example.org:4740".into());
    enrolment.env.insert("KUBESTACK_AGENT_NAME".into(), agent.as_str().into());
    enrolment.secrets.insert("KUBESTACK_AGENT_TOKEN".into(), "0123456789abcdef0123456789abcdef".into());
    enrolment.args.push("agent".into());
    enrolment
}

/// The jobs that wait.
struct Jobs {
    desk: Desk,
    changed: watch::Receiver<u64>,
    told: bool,
}

#[async_trait]
impl DemandSource for Jobs {
    async fn next(&mut self, context: &SourceContext) -> Result<DemandSnapshot> {
        if self.told {
            tokio::select! {
                biased;
                _ = self.changed.changed() => {}
                () = self.desk.clock.sleep(LOOK) => {}
            }
        }
        self.told = true;
        let began = self.desk.clock.now();
        let labels: Vec<LabelName> = context.labels.keys().cloned().collect();
        let mut state = self.desk.state();
        let demands = state.waiting.iter().map(|job| Demand::job(job.to_string(), labels.clone())).collect();
        if state.waiting.len() > state.seen.0 {
            state.seen = (state.waiting.len(), Some(Instant::now()));
        }
        Ok(DemandSnapshot::new(began, demands))
    }
}

/// The provider, which tells the desk of each launch and of each end.
pub struct Told<P> {
    pub provider: P,
    pub desk: Desk,
}

#[async_trait]
impl<P: SlaveProvider> SlaveProvider for Told<P> {
    fn capabilities(&self) -> ProviderCapabilities {
        self.provider.capabilities()
    }

    async fn watch(&self) -> Result<Box<dyn UnitWatch>> {
        self.provider.watch().await
    }

    async fn launch(&self, request: &LaunchRequest) -> Result<Unit> {
        let launched = self.provider.launch(request).await;
        self.desk.launched(&request.name, launched.as_ref().map(drop).map_err(Clone::clone));
        launched
    }

    async fn destroy(&self, request: &DestroyRequest) -> Result<()> {
        self.provider.destroy(request).await?;
        self.desk.state().ended += 1;
        self.desk.progress.send_modify(|count| *count += 1);
        Ok(())
    }

    async fn mark(&self, unit: &UnitRef, patch: &MarkPatch) -> Result<Unit> {
        self.provider.mark(unit, patch).await
    }

    async fn capacity(&self) -> Result<Option<Resources>> {
        self.provider.capacity().await
    }
}
