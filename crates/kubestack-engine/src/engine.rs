//! The loop: one owner of the world, one bounded inbox, no locks.

use crate::audit::Audit;
use crate::breach::{Breach, Breaches};
use crate::command::{self, Handle, Request};
use crate::execute::{Executor, Report};
use crate::explain::Explainer;
use crate::failures::Failures;
use crate::observe::{self, Observer};
use crate::redact::Redactor;
use crate::retry::pause;
use crate::status::status;
use crate::systems::Systems;
use crate::tasks::{TaskSet, TaskSpawner};
use kubestack_core::context::{Clock, SourceContext, Spawner};
use kubestack_core::coordination::{Coordination, Leadership};
use kubestack_core::error::{Error, Result};
use kubestack_core::label::LabelSpec;
use kubestack_core::name::{AgentName, InstanceName, LabelName, MasterName, SourceName};
use kubestack_core::provider::Failure;
use kubestack_core::time::Moment;
use kubestack_planner::facts::{backoff_target, cause_of_refusal};
use kubestack_planner::settings::{Settings, SourceSettings};
use kubestack_planner::{Fact, Intent, Outcome, Plan, Reason, Step, World, check, plan};
use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, mpsc, watch};

/// Facts that may wait to be taken in; whoever has more waits with them.
const INBOX: usize = 1024;
/// Changes come in bursts; a plan is worth making once the burst is over.
const DEBOUNCE: Duration = Duration::from_millis(3);
/// Advisory memory is saved no more often than this.
const SAVE_EVERY: Duration = Duration::from_secs(5);
/// Free capacity changes slowly, and asking costs the platform something.
const CAPACITY_EVERY: Duration = Duration::from_secs(60);

/// What is to be run: labels, limits and policy. The systems come with the builder.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Setup {
    /// This installation.
    pub instance: InstanceName,
    /// Limits and policy, for the planner. What the plugins can do is filled in from the plugins.
    pub settings: Settings,
    /// The templates.
    pub labels: BTreeMap<LabelName, LabelSpec>,
    /// How often a master is read when nothing hints that a look is worth it.
    pub master_poll: Duration,
    /// How long a stop waits for steps under way.
    pub stop_grace: Duration,
}

impl Setup {
    /// Nothing but a name.
    pub fn new(instance: impl Into<InstanceName>) -> Self {
        Self {
            instance: instance.into(),
            settings: Settings::default(),
            labels: BTreeMap::new(),
            master_poll: Duration::from_secs(2),
            stop_grace: Duration::from_secs(10),
        }
    }
}

impl Setup {
    /// What the settings say of a template follows from the template.
    pub(crate) fn derive_templates(&mut self) {
        for (name, spec) in &self.labels {
            if let Some(label) = self.settings.labels.get_mut(name) {
                label.template = spec.template_hash();
                label.resources = spec.resources.clone();
            }
        }
    }

    /// The labels that a source serves.
    pub(crate) fn context(&self, source: &SourceName) -> SourceContext {
        let settings = &self.settings;
        let nothing = SourceSettings::default();
        let masters = &settings.sources.get(source).unwrap_or(&nothing).masters;
        let serves = |name: &LabelName| {
            settings.labels.get(name).is_some_and(|label| {
                if masters.is_empty() {
                    label.masters.is_empty()
                } else {
                    !masters.is_disjoint(&label.masters)
                }
            })
        };
        let labels = self.labels.iter().filter(|(name, _)| serves(name));
        SourceContext::new(labels.map(|(name, spec)| (name.clone(), spec.clone())).collect())
    }
}

/// A whole engine, ready to run.
pub struct Engine {
    pub(crate) setup: Setup,
    pub(crate) systems: Systems,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) coordination: Arc<dyn Coordination>,
    pub(crate) tasks: TaskSet,
    pub(crate) spawner: TaskSpawner,
    pub(crate) requests: mpsc::Receiver<Request>,
    pub(crate) handle: Handle,
    pub(crate) audit: Audit,
}

/// A step that ended.
struct Ended {
    step: Step,
    report: Report,
    /// The last lines of the log of a failed agent that it ended.
    words: String,
}

/// Why an engine's run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum End {
    /// It was told to stop.
    Stopped,
    /// It does not lead any more, and sends nothing. Another one does, or will; a new engine may wait for its turn.
    LostLead,
}

impl Engine {
    /// Talks to the engine while it runs.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Runs until `stop` is ready, then waits for steps under way, for a bounded time. Agents and their jobs
    /// go on. Everything runs inside this one future: to drop it is to crash. Where another one leads it waits for its
    /// turn, if its coordination does; requests are answered with that meanwhile.
    ///
    /// # Errors
    /// If another holder leads this instance and coordination refuses to wait.
    pub async fn run(self, stop: impl Future<Output = ()>) -> Result<End> {
        let Self { setup, systems, clock, coordination, mut tasks, spawner, mut requests, audit, .. } = self;
        let mut stop = std::pin::pin!(stop);
        let mut acquiring = coordination.acquire();
        let leadership = loop {
            tokio::select! {
                biased;
                () = &mut stop => return Ok(End::Stopped),
                leadership = &mut acquiring => break leadership?,
                Some(request) = requests.recv() => request.refuse(&not_leading(&*coordination)),
                task = tasks.run() => panicked(&task),
            }
        };
        drop(acquiring);
        let mut leader =
            Leader::start(setup, systems, clock, coordination.clone(), spawner, audit, leadership).await;
        let end = leader.lead(&mut stop, &mut tasks, &mut requests).await;
        if end == End::Stopped {
            leader.finish(&mut tasks).await;
            coordination.release(leader.world.flights.is_empty()).await?;
        }
        Ok(end)
    }
}

fn not_leading(coordination: &dyn Coordination) -> Error {
    let why = coordination.waits_for().unwrap_or_else(|| "it does not lead yet".to_owned());
    Error::conflict(format!("this daemon stands by: {why}"))
}

fn panicked(task: &str) {
    tracing::error!(%task, "a plugin's task panicked; the rest goes on");
}

/// Waits for that while the tasks go on: one of them may be what keeps the lead.
async fn beside<T>(tasks: &mut TaskSet, work: impl Future<Output = T>) -> T {
    let mut work = std::pin::pin!(work);
    loop {
        tokio::select! {
            biased;
            done = &mut work => return done,
            task = tasks.run() => panicked(&task),
        }
    }
}

/// The engine while it leads.
struct Leader {
    world: World,
    last: Plan,
    setup: Setup,
    executor: Executor,
    clock: Arc<dyn Clock>,
    coordination: Arc<dyn Coordination>,
    spawner: TaskSpawner,
    inbox: mpsc::Receiver<(Moment, Fact)>,
    ended: mpsc::Receiver<Ended>,
    end_of: mpsc::Sender<Ended>,
    labels: BTreeMap<SourceName, watch::Sender<Arc<SourceContext>>>,
    pokes: BTreeMap<MasterName, Arc<Notify>>,
    explainers: BTreeMap<MasterName, Explainer>,
    failures: Failures,
    breaches: Breaches,
    redactor: Redactor,
    audit: Audit,
    counters: BTreeMap<String, u64>,
    saved_intent: Intent,
    saved_at: Moment,
    plan_at: Option<Moment>,
}

impl Leader {
    async fn start(
        setup: Setup,
        systems: Systems,
        clock: Arc<dyn Clock>,
        coordination: Arc<dyn Coordination>,
        spawner: TaskSpawner,
        mut audit: Audit,
        leadership: Leadership,
    ) -> Self {
        let now = clock.now();
        let Leadership { term, clean_predecessor, memory, intent, .. } = leadership;
        audit.term = term;
        let mut world = World::new(setup.instance.clone(), term, setup.settings.clone(), now);
        world.intent = serde_json::from_value(intent).unwrap_or_default();
        let known = memory.and_then(|memory| serde_json::from_value(memory).ok());
        if !clean_predecessor {
            world.launch_from = now + setup.settings.policy.step_deadline;
        }
        match known {
            Some(memory) => world.memory = memory,
            None if term > 1 => {
                for (label, settings) in &setup.settings.labels {
                    for provider in &settings.providers {
                        world.memory.half_open(label, provider, now, &setup.settings.policy);
                    }
                }
            }
            None => {}
        }
        tracing::info!(instance = %setup.instance, term, clean_predecessor, "leading");
        let (facts, inbox) = mpsc::channel(INBOX);
        let (end_of, ended) = mpsc::channel(INBOX);
        let redactor = Redactor::default();
        redactor.labels(&setup.labels);
        let executor = Executor {
            clock: clock.clone(),
            coordination: coordination.clone(),
            instance: setup.instance.clone(),
            term,
            deadline: setup.settings.policy.step_deadline,
            destroy_grace: setup.settings.policy.destroy_grace,
            providers: Arc::new(systems.providers.clone()),
            masters: Arc::new(systems.masters.clone()),
            labels: Arc::new(setup.labels.clone()),
            redactor: redactor.clone(),
        };
        let saved_intent = world.intent.clone();
        let failures = Failures::known(&world);
        let breaches = Breaches::known(&world);
        let mut leader = Self {
            world,
            last: Plan::default(),
            setup,
            executor,
            clock,
            coordination,
            spawner,
            inbox,
            ended,
            end_of,
            labels: BTreeMap::new(),
            pokes: BTreeMap::new(),
            explainers: BTreeMap::new(),
            failures,
            breaches,
            redactor,
            audit,
            counters: BTreeMap::new(),
            saved_intent,
            saved_at: now,
            plan_at: Some(now),
        };
        leader.observe(systems, facts);
        leader
    }

    /// Starts one observer per system.
    fn observe(&mut self, systems: Systems, inbox: mpsc::Sender<(Moment, Fact)>) {
        let observer = Observer {
            clock: self.clock.clone(),
            inbox,
            redactor: self.redactor.clone(),
            patience: self.setup.settings.policy.stale_after,
        };
        for (name, provider) in systems.providers {
            let task =
                observe::provider(observer.clone(), name.clone(), provider.clone(), self.world.launch_from);
            self.spawner.spawn(&format!("provider {name}"), Box::pin(task));
            let task = observe::capacity(observer.clone(), name.clone(), provider.clone(), CAPACITY_EVERY);
            self.spawner.spawn(&format!("capacity {name}"), Box::pin(task));
            let deadline = self.setup.settings.policy.step_deadline;
            let task = self.failures.report_to(self.clock.clone(), name.clone(), provider, deadline);
            self.spawner.spawn(&format!("report {name}"), Box::pin(task));
        }
        for (name, master) in systems.masters {
            let poke = Arc::new(Notify::new());
            self.pokes.insert(name.clone(), poke.clone());
            let every = self.setup.master_poll;
            let task = observe::master(observer.clone(), name.clone(), master.clone(), every, poke);
            self.spawner.spawn(&format!("master {name}"), Box::pin(task));
            let deadline = self.setup.settings.policy.step_deadline;
            let (explainer, task) = Explainer::new(self.clock.clone(), name.clone(), master, deadline);
            self.explainers.insert(name.clone(), explainer);
            self.spawner.spawn(&format!("explain {name}"), Box::pin(task));
        }
        let pokes: Vec<_> = self.pokes.values().cloned().collect();
        for (name, source) in systems.demand {
            let (labels, receive) = watch::channel(Arc::new(self.setup.context(&name)));
            self.labels.insert(name.clone(), labels);
            let task = observe::demand(observer.clone(), name.clone(), source, receive);
            self.spawner.spawn(&format!("demand {name}"), Box::pin(task));
        }
        for (name, source) in systems.completion {
            let task = observe::completion(observer.clone(), name.clone(), source, pokes.clone());
            self.spawner.spawn(&format!("completion {name}"), Box::pin(task));
        }
    }

    async fn lead(
        &mut self,
        stop: &mut (impl Future<Output = ()> + Unpin),
        tasks: &mut TaskSet,
        requests: &mut mpsc::Receiver<Request>,
    ) -> End {
        let coordination = self.coordination.clone();
        let mut lost = coordination.lost();
        loop {
            let clock = self.clock.clone();
            let wake = self.plan_at.into_iter().chain(self.last.next_wake).min();
            let rest = wake.map_or(Duration::from_secs(3600), |wake| wake.since(clock.now()));
            tokio::select! {
                biased;
                () = &mut *stop => return End::Stopped,
                () = &mut lost => return End::LostLead,
                Some(request) = requests.recv() => beside(tasks, self.answer(request)).await,
                Some(ended) = self.ended.recv() => {
                    self.step_ended(ended);
                    while let Ok(ended) = self.ended.try_recv() {
                        self.step_ended(ended);
                    }
                    self.soon();
                }
                Some((at, fact)) = self.inbox.recv() => {
                    self.world.apply(at, fact);
                    while let Ok((at, fact)) = self.inbox.try_recv() {
                        self.world.apply(at, fact);
                    }
                    self.soon();
                }
                () = clock.sleep(rest) => {
                    self.turn();
                    beside(tasks, self.save(false)).await;
                }
                task = tasks.run() => {
                    panicked(&task);
                    self.count("task panicked");
                }
            }
            if !self.coordination.holds() {
                return End::LostLead;
            }
        }
    }

    /// Plans again once this burst of changes is over.
    fn soon(&mut self) {
        let at = self.clock.now() + DEBOUNCE;
        self.plan_at = Some(self.plan_at.map_or(at, |known| known.min(at)));
    }

    /// One turn: plan, check, execute.
    fn turn(&mut self) {
        let now = self.clock.now();
        self.plan_at = None;
        self.world.apply(now, Fact::Now);
        let plan = plan(&self.world);
        let violations = check(&self.world, &plan);
        for violation in &violations {
            tracing::error!(%violation, "a planned step was not sent; please report this defect");
            self.count("violation");
        }
        for planned in &plan.steps {
            let step = &planned.step;
            if violations.iter().any(|violation| violation.agent == *step.agent()) {
                continue;
            }
            self.audit.sent(now, step, &planned.reason);
            self.world.apply(now, Fact::Sent(step.clone()));
            self.send(step.clone(), &planned.reason);
        }
        if !plan.notes.is_empty() {
            self.world.apply(now, Fact::Noted(plan.notes.clone()));
            // What is remembered may set a deadline or open a breaker: that is for the next plan to see.
            self.soon();
        }
        for failure in self.failures.notice(&self.world) {
            let (agent, cause) = (&failure.agent, failure.cause);
            let text = format!("{cause}: {}", failure.text);
            self.audit.failed(now, agent, cause.as_str(), text.trim_end_matches(": ").to_owned());
        }
        for Breach { agent, jobs, run } in self.breaches.notice(&self.world) {
            (0..jobs).for_each(|_| self.count("job beyond the one"));
            self.audit.failed(
                now,
                &agent,
                "second_job",
                format!("its master gave it {run} beyond its one job"),
            );
        }
        for poke in plan.looks.iter().filter_map(|master| self.pokes.get(master)) {
            poke.notify_one();
        }
        for (master, explainer) in &mut self.explainers {
            explainer.tell(master, &self.world, &plan);
        }
        self.last = plan;
    }

    fn send(&mut self, step: Step, reason: &Reason) {
        let (executor, end_of) = (self.executor.clone(), self.end_of.clone());
        let name = format!("{} {}", step.kind(), step.agent());
        let remembered =
            self.world.memory.agents.get(step.agent()).is_some_and(|known| known.failure.is_some());
        // The plan that finds a failure may be the one that ends its unit.
        let found = matches!(reason, Reason::Failed { .. } | Reason::KeptForInspection { .. });
        let failed = remembered || found;
        let task = async move {
            // What a failed agent said goes with its unit.
            let words = if failed { executor.last_words(&step).await } else { String::new() };
            let report = executor.execute(&step).await;
            let _ = end_of.send(Ended { step, report, words }).await;
        };
        self.spawner.spawn(&name, Box::pin(task));
    }

    fn step_ended(&mut self, ended: Ended) {
        let now = self.clock.now();
        let Ended { step, report, words } = ended;
        let step = &step;
        if !words.is_empty() && self.failures.last_words(step.agent(), words.clone()) {
            self.audit.failed(now, step.agent(), "last_words", words);
        }
        let (outcome, word, text) = match report {
            Report::Done => (Outcome::Done, "done", String::new()),
            Report::Unit(unit) => (Outcome::Unit(*unit), "done", String::new()),
            Report::Unknown(text) => (Outcome::Unknown, "unknown", text),
            Report::Failed { error, enrolled, at_master } => {
                let target = backoff_target(step, error.kind, at_master);
                let attempts = self.world.backoff.get(&target).map_or(0, |backoff| backoff.attempts);
                let pause = pause(error.kind, attempts, step.agent().as_str());
                let (kind, cause, text) = (error.kind, error.cause, error.message);
                if let Step::Launch(launch) = step
                    && let Some(cause) = cause_of_refusal(kind, cause, at_master)
                {
                    let (agent, label) = (launch.agent.clone(), launch.label.clone());
                    let failure = Failure::new(agent, label, None, cause, text.clone());
                    self.failures.refused(now, failure, &launch.provider);
                }
                let failed = Outcome::Failed { kind, text: text.clone(), cause, enrolled, at_master, pause };
                (failed, "failed", text)
            }
        };
        self.count(&format!("{} {word}", step.kind()));
        self.audit.ended(now, step.agent(), step.kind(), word, text);
        self.world.apply(now, Fact::Ended(step.agent().clone(), outcome));
    }

    fn count(&mut self, what: &str) {
        *self.counters.entry(what.to_owned()).or_insert(0) += 1;
    }

    async fn answer(&mut self, request: Request) {
        match request {
            Request::Status(answer) => {
                self.world.apply(self.clock.now(), Fact::Now);
                let _ =
                    answer.send(Ok(status(&self.world, &self.last, &self.counters, self.failures.list())));
            }
            Request::Command(command, answer) => {
                let mut intent = self.world.intent.clone();
                let labels: Vec<&str> = self.setup.labels.keys().map(LabelName::as_str).collect();
                let done = match command::apply(command, &mut intent, |id| self.find(id), &labels) {
                    // The operator's word is kept before it is answered: a crash must not lose it.
                    Ok(text) => self.keep(&intent).await.map(|()| text),
                    Err(error) => Err(error),
                };
                if done.is_ok() {
                    self.world.apply(self.clock.now(), Fact::Intended(intent));
                    self.soon();
                }
                let _ = answer.send(done);
            }
            Request::Reconfigure(setup, answer) => {
                let _ = answer.send(self.reconfigure(*setup));
            }
        }
    }

    /// The agent with that name or uid.
    fn find(&self, id: &str) -> Result<AgentName> {
        let agents = kubestack_planner::agent::agents(&self.world);
        let found = agents.iter().find(|agent| {
            agent.name.as_str() == id || agent.unit.is_some_and(|unit| unit.unit.uid.as_str() == id)
        });
        if let Some(agent) = found {
            return Ok(agent.name.clone());
        }
        let unseen = self.world.providers.iter().find(|(_, state)| state.complete.is_none());
        Err(match unseen {
            Some((provider, _)) => Error::transient(format!(
                "provider {provider} has not answered yet, so `{id}` may be there; try again"
            )),
            None => Error::not_found(format!(
                "there is no agent with the name or uid `{id}`; `kubestack list` shows them"
            )),
        })
    }

    fn reconfigure(&mut self, mut setup: Setup) -> Result<()> {
        let old = &self.setup.settings;
        setup.settings.adopt_plugins(old);
        setup.derive_templates();
        let new = &setup.settings;
        let same = new.masters.keys().eq(old.masters.keys())
            && new.providers.keys().eq(old.providers.keys())
            && new.sources.keys().eq(old.sources.keys())
            && setup.instance == self.setup.instance
            // The observers run with these.
            && setup.master_poll == self.setup.master_poll
            && new.policy.stale_after == old.policy.stale_after;
        if !same {
            return Err(Error::conflict(
                "other masters, providers, listeners, instance or pace of looks: that takes a new engine",
            ));
        }
        self.setup = setup;
        self.executor.labels = Arc::new(self.setup.labels.clone());
        self.redactor.labels(&self.setup.labels);
        self.executor.deadline = self.setup.settings.policy.step_deadline;
        self.executor.destroy_grace = self.setup.settings.policy.destroy_grace;
        let settings = Box::new(self.setup.settings.clone());
        self.world.apply(self.clock.now(), Fact::Configured(settings));
        for (source, labels) in &self.labels {
            labels.send_replace(Arc::new(self.setup.context(source)));
        }
        self.soon();
        tracing::info!("new configuration in use");
        Ok(())
    }

    async fn keep(&mut self, intent: &Intent) -> Result<()> {
        let value = serde_json::to_value(intent).map_err(|error| Error::bug(error.to_string()))?;
        self.coordination.save_intent(value).await?;
        self.saved_intent = intent.clone();
        Ok(())
    }

    /// Saves intent that changed, and from time to time the advisory memory.
    async fn save(&mut self, at_once: bool) {
        if self.world.intent != self.saved_intent {
            let intent = self.world.intent.clone();
            if let Err(error) = self.keep(&intent).await {
                tracing::warn!(%error, "cannot save what the operator asked for; it is tried again");
            }
        }
        let now = self.clock.now();
        if at_once || now.since(self.saved_at) >= SAVE_EVERY {
            self.saved_at = now;
            self.failures.retain(&self.world);
            self.breaches.retain(&self.world);
            self.redactor.retain(|agent| self.world.memory.agents.contains_key(agent));
            let memory = serde_json::to_value(&self.world.memory).unwrap_or_default();
            if let Err(error) = self.coordination.save_memory(memory).await {
                tracing::warn!(%error, "cannot save advisory memory; a restart would be slower");
            }
        }
    }

    /// Sends nothing more and waits for what is under way, for a bounded time.
    async fn finish(&mut self, tasks: &mut TaskSet) {
        let clock = self.clock.clone();
        let mut grace = std::pin::pin!(clock.sleep(self.setup.stop_grace));
        let under_way = |world: &World| world.flights.values().any(|flight| flight.doubt.is_none());
        while under_way(&self.world) {
            tokio::select! {
                biased;
                Some(ended) = self.ended.recv() => self.step_ended(ended),
                Some((at, fact)) = self.inbox.recv() => self.world.apply(at, fact),
                () = &mut grace => break,
                _ = tasks.run() => {}
            }
        }
        beside(tasks, self.save(true)).await;
        tracing::info!(under_way = self.world.flights.len(), "stopped; agents and their jobs go on");
    }
}
