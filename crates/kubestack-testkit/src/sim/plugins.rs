//! The simulated systems behind the four traits, with calls that go wrong in every way.

use super::clock::SimClock;
use super::rng::Rng;
use super::scenario::Archetype;
use super::truth::{Done, Effect, Event, Truth};
use kubestack_core::agent::AgentsSnapshot;
use kubestack_core::async_trait;
use kubestack_core::completion::{Completion, CompletionSource};
use kubestack_core::context::{Clock, SourceContext};
use kubestack_core::demand::{DemandSnapshot, DemandSource};
use kubestack_core::error::{Error, ErrorKind, Result};
use kubestack_core::master::{
    CiMaster, EnrolOutcome, EnrolRequest, Enrolment, Explanation, MasterCapabilities, OneJob,
};
use kubestack_core::name::{AgentName, ProviderName};
use kubestack_core::provider::{
    DestroyRequest, LaunchRequest, MarkPatch, ProviderCapabilities, SlaveProvider, Unit, UnitRef, UnitWatch,
    WatchEvent,
};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;

/// How long the engine waits for a call: see the policy of the scenarios.
const DEADLINE: Duration = Duration::from_secs(5);

/// What one call suffers.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    /// An error, without effect.
    Before,
    /// The effect, and an answer that says nothing.
    After,
    /// No answer and no effect.
    Hang,
    /// The effect, and no answer.
    HangAfter,
    /// No answer; the effect comes after the caller gave up.
    Late,
}

/// All simulated systems. Clones share them.
#[derive(Clone)]
pub(super) struct Sim {
    truth: Arc<Mutex<Truth>>,
    faults: Arc<Mutex<Rng>>,
    pub clock: SimClock,
    pub changed: Arc<Notify>,
}

impl Sim {
    pub fn new(truth: Truth, clock: SimClock) -> Self {
        let faults = Rng::new(truth.scenario.seed, "faults");
        Self {
            truth: Arc::new(Mutex::new(truth)),
            faults: Arc::new(Mutex::new(faults)),
            clock,
            changed: Arc::default(),
        }
    }

    /// Looks at the truth as it is now.
    pub fn look<T>(&self, look: impl FnOnce(&mut Truth) -> T) -> T {
        let mut truth = self.truth.lock().unwrap_or_else(PoisonError::into_inner);
        truth.advance(self.clock.now());
        let before = truth.trace.len() + truth.watches.len() + truth.hints.len();
        let result = look(&mut truth);
        let after = truth.trace.len() + truth.watches.len() + truth.hints.len();
        drop(truth);
        if after != before {
            self.changed.notify_waiters();
        }
        result
    }

    /// Lets the simulated systems live.
    pub async fn drive(&self) {
        loop {
            let next = self.look(|truth| truth.next_event());
            let changed = self.changed.notified();
            let rest = next.map_or(Duration::from_secs(3600), |next| next.since(self.clock.now()));
            tokio::select! {
                biased;
                () = changed => {}
                () = self.clock.sleep(rest.max(Duration::from_millis(1))) => {
                    self.look(|truth| truth.now);
                    self.changed.notify_waiters();
                }
            }
        }
    }

    fn draw(&self) -> (Fault, Duration, Duration) {
        let (quiet, permille) = self.look(|truth| (truth.is_quiet(), truth.scenario.faults));
        let mut rng = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
        let kinds = [Fault::Before, Fault::After, Fault::Hang, Fault::HangAfter, Fault::Late];
        let fault = if !quiet && rng.chance(permille) { rng.pick(&kinds).copied() } else { None };
        (fault.unwrap_or(Fault::None), rng.millis(0, 150), rng.millis(0, 150))
    }

    /// A call with an effect.
    async fn call(&self, effect: Effect) -> Result<Done> {
        let (fault, there, back) = self.draw();
        if fault == Fault::Late {
            self.look(|truth| {
                let extra = truth.rng.millis(1, 4_900);
                truth.after(DEADLINE + extra, Event::Late(effect));
            });
            std::future::pending::<()>().await;
            return Ok(Done::Nothing);
        }
        self.clock.sleep(there).await;
        match fault {
            Fault::Before => return Err(Error::transient("simulated: refused")),
            Fault::Hang => std::future::pending().await,
            _ => {}
        }
        let done = self.look(|truth| truth.effect(effect));
        match fault {
            Fault::After => return Err(Error::unknown_outcome("simulated: the answer was lost")),
            Fault::HangAfter => std::future::pending().await,
            _ => {}
        }
        self.clock.sleep(back).await;
        done
    }

    /// A read: what is true as it begins, told a little later.
    async fn read<T>(&self, read: impl FnOnce(&mut Truth) -> T) -> Result<T> {
        let (fault, there, back) = self.draw();
        let answer = self.look(read);
        self.clock.sleep(there + back).await;
        match fault {
            Fault::Before | Fault::After => Err(Error::transient("simulated: unreadable")),
            Fault::Hang | Fault::HangAfter | Fault::Late => std::future::pending().await,
            Fault::None => Ok(answer),
        }
    }
}

/// A simulated platform.
pub(super) struct SimProvider {
    pub sim: Sim,
    pub name: ProviderName,
}

struct SimWatch {
    sim: Sim,
    name: ProviderName,
    /// The next event to tell; `None` before the first complete read.
    next: Option<usize>,
}

#[async_trait]
impl UnitWatch for SimWatch {
    async fn next(&mut self) -> Result<WatchEvent> {
        let Some(mut next) = self.next else {
            let name = self.name.clone();
            let (event, next) = self
                .sim
                .read(|truth| {
                    let ours = truth.units.values().filter(|unit| unit.provider == name);
                    let ours = ours.filter(|unit| unit.unit.marks.instance.as_str() == "sim");
                    let units = ours.map(|unit| unit.unit.clone()).collect();
                    (WatchEvent::Complete { began: truth.now, units }, truth.watches.len())
                })
                .await?;
            self.next = Some(next);
            return Ok(event);
        };
        let mut quiet = self.sim.clock.sleep(Duration::from_secs(4));
        loop {
            let changed = self.sim.changed.notified();
            let found = self.sim.look(|truth| {
                let found =
                    truth.watches.iter().enumerate().skip(next).find(|(_, (name, _))| *name == self.name);
                found.map(|(index, (_, event))| (index, event.clone()))
            });
            if let Some((index, event)) = found {
                next = index + 1;
                self.next = Some(next);
                let (fault, there, _) = self.sim.draw();
                self.sim.clock.sleep(there / 4).await;
                return match fault {
                    Fault::None => Ok(event),
                    Fault::Hang => std::future::pending().await,
                    _ => Err(Error::transient("simulated: the watch was cut")),
                };
            }
            let as_of = self.sim.clock.now();
            tokio::select! {
                biased;
                () = &mut quiet => return Ok(WatchEvent::Current { as_of }),
                () = changed => {}
            }
        }
    }
}

#[async_trait]
impl SlaveProvider for SimProvider {
    fn capabilities(&self) -> ProviderCapabilities {
        let mut capabilities = ProviderCapabilities::default();
        capabilities.marks = true;
        capabilities.conditional_destroy = true;
        capabilities
    }

    async fn watch(&self) -> Result<Box<dyn UnitWatch>> {
        Ok(Box::new(SimWatch { sim: self.sim.clone(), name: self.name.clone(), next: None }))
    }

    async fn launch(&self, request: &LaunchRequest) -> Result<Unit> {
        let effect = Effect::Launch { provider: self.name.clone(), marks: request.marks.clone() };
        self.sim.call(effect).await.and_then(unit)
    }

    async fn destroy(&self, request: &DestroyRequest) -> Result<()> {
        let only_if_not_started = request.only_if_not_started;
        let effect = Effect::Destroy { unit: request.unit.clone(), only_if_not_started };
        self.sim.call(effect).await.map(drop)
    }

    async fn mark(&self, reference: &UnitRef, patch: &MarkPatch) -> Result<Unit> {
        let effect = Effect::Mark { unit: reference.clone(), patch: patch.clone() };
        self.sim.call(effect).await.and_then(unit)
    }
}

fn unit(done: Done) -> Result<Unit> {
    match done {
        Done::Unit(unit) => Ok(*unit),
        _ => Err(Error::new(ErrorKind::Bug, "simulated: no unit")),
    }
}

/// A simulated CI system.
#[derive(Clone)]
pub(super) struct SimMaster {
    pub sim: Sim,
    pub name: String,
    pub archetype: Archetype,
}

#[async_trait]
impl CiMaster for SimMaster {
    fn capabilities(&self) -> MasterCapabilities {
        let mut capabilities = MasterCapabilities::default();
        let enforced = self.archetype != Archetype::JenkinsLike;
        capabilities.one_job = if enforced { OneJob::Enforced } else { OneJob::Observed };
        capabilities.agents_end_by_themselves = enforced;
        capabilities.lists_agents = true;
        capabilities.drains = true;
        capabilities.re_enrols = true;
        capabilities
    }

    async fn enrol(&self, request: &EnrolRequest) -> Result<EnrolOutcome> {
        let effect = Effect::Enrol { queue: self.name.clone(), marks: request.marks.clone() };
        Ok(match self.sim.call(effect).await? {
            Done::Exists => EnrolOutcome::AlreadyExists,
            Done::Refused => EnrolOutcome::Refused("simulated: that job has left".to_owned()),
            _ => EnrolOutcome::Enrolled(Enrolment::default()),
        })
    }

    async fn agents(&self) -> Result<AgentsSnapshot> {
        let name = &self.name;
        self.sim
            .read(|truth| {
                let nodes = truth.nodes.get(name).into_iter().flat_map(|nodes| nodes.values());
                let mut snapshot =
                    AgentsSnapshot::new(truth.now, nodes.map(|node| node.view.clone()).collect());
                snapshot.session = Some(truth.sessions.get(name).copied().unwrap_or(0).to_string());
                // What Jenkins cannot tell: that an agent has had its job.
                if self.archetype == Archetype::JenkinsLike {
                    snapshot.agents.iter_mut().for_each(|agent| agent.used = false);
                }
                snapshot
            })
            .await
    }

    async fn drain(&self, agent: &AgentName) -> Result<()> {
        self.sim.call(Effect::Drain { queue: self.name.clone(), agent: agent.clone() }).await.map(drop)
    }

    async fn remove(&self, agent: &AgentName, despite_busy: bool) -> Result<()> {
        let effect = Effect::Remove { queue: self.name.clone(), agent: agent.clone(), despite_busy };
        self.sim.call(effect).await.map(drop)
    }

    async fn explain(&self, reasons: &[Explanation]) -> Result<()> {
        self.sim.read(|truth| truth.told.insert(self.name.clone(), reasons.to_vec())).await.map(drop)
    }

    fn demand(&self) -> Option<Box<dyn DemandSource>> {
        Some(Box::new(SimDemand { sim: self.sim.clone(), name: self.name.clone(), first: true }))
    }

    fn completion(&self) -> Option<Box<dyn CompletionSource>> {
        let told = self.sim.look(|truth| truth.hints.len());
        Some(Box::new(SimNews { sim: self.sim.clone(), name: self.name.clone(), told }))
    }
}

/// Waiting work of one queue.
pub(super) struct SimDemand {
    pub sim: Sim,
    pub name: String,
    pub first: bool,
}

#[async_trait]
impl DemandSource for SimDemand {
    async fn next(&mut self, _: &SourceContext) -> Result<DemandSnapshot> {
        if !self.first {
            self.sim.clock.sleep(Duration::from_secs(2)).await;
        }
        let name = &self.name;
        let snapshot = self.sim.read(|truth| DemandSnapshot::new(truth.now, truth.demand(name))).await?;
        self.first = false;
        Ok(snapshot)
    }
}

struct SimNews {
    sim: Sim,
    name: String,
    told: usize,
}

#[async_trait]
impl CompletionSource for SimNews {
    async fn next(&mut self) -> Result<Vec<Completion>> {
        loop {
            let changed = self.sim.changed.notified();
            let mut news: Vec<Completion> = self.sim.look(|truth| {
                let all = truth.hints.iter().skip(self.told).filter(|(queue, _)| *queue == self.name);
                let news = all.map(|(_, hint)| hint.clone()).collect();
                self.told = truth.hints.len();
                news
            });
            if !news.is_empty() {
                // Out of order.
                news.reverse();
                return Ok(news);
            }
            changed.await;
        }
    }
}
