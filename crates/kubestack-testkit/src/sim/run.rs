//! One run: the real engine against the simulated systems, with crashes and meddling, until all is at rest.

use super::clock::SimClock;
use super::plugins::{Sim, SimDemand, SimMaster, SimProvider};
use super::rng::Rng;
use super::scenario::{Archetype, Meddling, Scenario};
use super::truth::{Event, Truth, Violation};
use kubestack_core::agent::Drained;
use kubestack_core::cause::FailureCause;
use kubestack_core::context::Clock;
use kubestack_core::error::ErrorKind;
use kubestack_core::name::Uid;
use kubestack_core::provider::UnitPhase;
use kubestack_engine::coordination::MemoryCoordination;
use kubestack_engine::{Command, Engine, Handle, Setup};
use kubestack_planner::settings::SourceSettings;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;
use tokio::sync::Notify;

/// How long things may take to come to rest once nothing goes wrong any more.
const PATIENCE: Duration = Duration::from_secs(1200);
/// Twice the deadline of the scenarios' policy: when the last send of a crashed engine has landed.
const HANDOVER: Duration = Duration::from_secs(11);

/// What came of one seed.
#[derive(Clone, Debug)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// Everything that happened on the simulated systems, in order.
    pub trace: Vec<String>,
    /// Promises that were broken.
    pub violations: Vec<Violation>,
    /// How long it took in virtual time.
    pub took: Duration,
    /// Second jobs on one agent, where the master does not prevent them.
    pub exposed: u32,
    /// Engines that ran one after the other.
    pub engines: u32,
}

/// Runs one seed. The same seed gives the same report, to the letter.
///
/// # Panics
/// If no runtime can be made, or the scenario makes no sense to the engine: both are defects of this kit.
#[expect(clippy::expect_used, reason = "a defect of the kit must not look like one of the engine")]
pub fn run(seed: u64) -> Report {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime").block_on(async {
        let clock = SimClock::start();
        let scenario = Scenario::draw(seed);
        let sim = Sim::new(Truth::new(scenario.clone(), clock.now()), clock);
        let mut stage = Stage::new(scenario, sim.clone());
        let story = stage.play();
        tokio::select! {
            biased;
            () = story => {}
            () = sim.drive() => {}
        }
        let engines = stage.engines;
        sim.look(|truth| Report {
            seed,
            trace: std::mem::take(&mut truth.trace),
            violations: std::mem::take(&mut truth.violations),
            took: truth.now.since(truth.start),
            exposed: truth.exposed,
            engines,
        })
    })
}

type Running = Pin<Box<dyn Future<Output = ()>>>;

struct Stage {
    scenario: Scenario,
    setup: Setup,
    sim: Sim,
    rng: Rng,
    coordination: MemoryCoordination,
    meddling: VecDeque<(Duration, Meddling)>,
    /// Wishes of the operator that come later.
    later: Vec<(Duration, Command)>,
    engines: u32,
}

/// Why an engine ended.
#[derive(PartialEq, Eq)]
enum End {
    Crashed,
    Stopped,
    Over,
}

impl Stage {
    fn new(scenario: Scenario, sim: Sim) -> Self {
        Self {
            setup: scenario.setup.clone(),
            rng: Rng::new(scenario.seed, "stage"),
            meddling: scenario.meddling.iter().copied().collect(),
            scenario,
            sim,
            coordination: MemoryCoordination::default(),
            later: Vec::new(),
            engines: 0,
        }
    }

    fn elapsed(&self) -> Duration {
        self.sim.look(|truth| truth.now.since(truth.start))
    }

    async fn play(&mut self) {
        loop {
            self.engines += 1;
            let stop = Arc::new(Notify::new());
            let (handle, mut engine) = self.engine(&stop);
            let end = self.turn(&handle, &mut engine, &stop).await;
            drop(engine);
            if end == End::Over {
                return;
            }
            self.sim.look(|truth| {
                truth.handover = truth.now + HANDOVER;
                truth.say("-- engine ended".to_owned());
            });
            if end == End::Crashed {
                self.coordination.depose();
            }
            let rest = self.rng.millis(0, 8_000);
            self.sim.clock.sleep(rest).await;
        }
    }

    #[expect(clippy::expect_used, reason = "a scenario that makes no sense is a defect of the kit")]
    fn engine(&self, stop: &Arc<Notify>) -> (Handle, Running) {
        let mut builder = Engine::builder(self.setup.clone())
            .clock(Arc::new(self.sim.clock))
            .coordination(Arc::new(self.coordination.contender()));
        for name in &self.scenario.providers {
            let provider = SimProvider { sim: self.sim.clone(), name: name.clone() };
            builder = builder.provider(name.clone(), Arc::new(provider));
        }
        for queue in &self.scenario.queues {
            let (sim, name) = (self.sim.clone(), queue.name.clone());
            if queue.archetype == Archetype::Masterless {
                let demand = SimDemand { sim, name: name.clone(), first: true };
                builder = builder.demand(name, SourceSettings::default(), Box::new(demand));
            } else {
                let master = SimMaster { sim, name: name.clone(), archetype: queue.archetype };
                builder = builder.master(name, Arc::new(master));
            }
        }
        let engine = builder.build().expect("a scenario that the engine takes");
        let (handle, stop) = (engine.handle(), stop.clone());
        let running = async move {
            let _ = engine.run(async move { stop.notified().await }).await;
        };
        (handle, Box::pin(running))
    }

    /// Lets one engine run until it ends one way or another.
    async fn turn(&mut self, handle: &Handle, engine: &mut Running, stop: &Notify) -> End {
        let mut polls_left: Option<u32> = None;
        let mut stopping = false;
        let mut wishes: Vec<Running> = Vec::new();
        // The operator repeats a wish that nobody acknowledged.
        let unheard: Rc<RefCell<Vec<Command>>> = Rc::default();
        loop {
            let rest = self.rest();
            let clock = self.sim.clock;
            let mut timer = clock.sleep(rest);
            let event = std::future::poll_fn(|context| {
                wishes.retain_mut(|wish| wish.as_mut().poll(context).is_pending());
                if let Some(left) = &mut polls_left {
                    if *left == 0 {
                        return Poll::Ready(Some(End::Crashed));
                    }
                    *left -= 1;
                }
                if engine.as_mut().poll(context).is_ready() {
                    return Poll::Ready(Some(if stopping { End::Stopped } else { End::Crashed }));
                }
                timer.as_mut().poll(context).map(|()| None)
            })
            .await;
            if let Some(end) = event {
                let again = self.elapsed() + Duration::from_secs(1);
                drop(wishes);
                self.later.extend(unheard.borrow_mut().drain(..).map(|command| (again, command)));
                return end;
            }
            if self.is_over() {
                return End::Over;
            }
            let now = self.elapsed();
            while let Some((at, what)) = self.meddling.front().copied().filter(|(at, _)| *at <= now) {
                self.meddling.pop_front();
                self.sim.look(|truth| truth.say(format!("-- {what:?} (planned for {at:?})")));
                match what {
                    Meddling::Crash(polls) => polls_left = Some(polls),
                    Meddling::Restart => {
                        stopping = true;
                        stop.notify_one();
                    }
                    Meddling::NewTemplates => {
                        self.new_templates();
                        wishes.push(self.reconfigure(handle));
                    }
                    Meddling::NewLimits => {
                        self.new_limits();
                        wishes.push(self.reconfigure(handle));
                    }
                    Meddling::ForgetMemory => self.coordination.forget(),
                    what => wishes.extend(
                        self.meddle(what, now).into_iter().map(|command| wish(handle, command, &unheard)),
                    ),
                }
            }
            let due = |(at, _): &(Duration, Command)| *at <= now;
            let ready: Vec<Command> =
                self.later.iter().filter(|wish| due(wish)).map(|(_, wish)| wish.clone()).collect();
            self.later.retain(|wish| !due(wish));
            for command in ready {
                self.sim.look(|truth| truth.say(format!("-- {command:?}")));
                wishes.push(wish(handle, command, &unheard));
            }
        }
    }

    fn rest(&self) -> Duration {
        let now = self.elapsed();
        let next =
            self.meddling.front().map(|(at, _)| *at).into_iter().chain(self.later.iter().map(|(at, _)| *at));
        let next = next.min().unwrap_or(now + Duration::from_secs(5)).min(now + Duration::from_secs(5));
        next.saturating_sub(now).max(Duration::from_millis(1))
    }

    /// Whether all is at rest, or has had its time to come to rest.
    fn is_over(&mut self) -> bool {
        let settled = self.meddling.is_empty() && self.later.is_empty();
        self.sim.look(|truth| {
            let since = truth.now.since(truth.start).saturating_sub(truth.scenario.quiet);
            if since.is_zero() || (!settled && since < PATIENCE) {
                return false;
            }
            if since < PATIENCE {
                return since > HANDOVER && truth.is_at_rest();
            }
            for (promise, text) in truth.leftovers() {
                let at = truth.now;
                truth.violations.push(Violation { promise, at, text: format!("at rest: {text}") });
            }
            true
        })
    }

    fn new_templates(&mut self) {
        for spec in self.setup.labels.values_mut() {
            spec.image = spec.image.take().map(|image| format!("{image}'"));
        }
    }

    fn new_limits(&mut self) {
        let settings = &mut self.setup.settings;
        let limits = settings.labels.values_mut().map(|label| &mut label.limit);
        let limits = limits.chain(settings.providers.values_mut().map(|provider| &mut provider.limit));
        let limits = limits.chain(settings.masters.values_mut().map(|master| &mut master.limit));
        for limit in limits.chain([&mut settings.limit]) {
            limit.agents = self.rng.chance(500).then(|| self.rng.count(1, 6));
        }
        let settings = settings.clone();
        self.sim.look(|truth| {
            truth.scenario.setup.settings = settings;
            // What was sent under the old limits lands beside what is judged by the new ones.
            truth.handover = truth.handover.max(truth.now + HANDOVER);
        });
    }

    fn reconfigure(&self, handle: &Handle) -> Running {
        let (handle, setup) = (handle.clone(), self.setup.clone());
        Box::pin(async move {
            let _ = handle.reconfigure(setup).await;
        })
    }

    /// Does something by hand; returns what the operator asks for at once.
    fn meddle(&mut self, what: Meddling, now: Duration) -> Option<Command> {
        let mut rng = self.rng.clone();
        let later = now + rng.millis(5_000, 40_000);
        let command = self.sim.look(|truth| {
            let ours: Vec<Uid> = truth
                .units
                .values()
                .filter(|unit| unit.unit.marks.instance.as_str() == "sim")
                .map(|unit| unit.unit.uid.clone())
                .collect();
            let uid = rng.pick(&ours).cloned();
            let name =
                uid.as_ref().and_then(|uid| truth.units.get(uid)).map(|unit| unit.unit.name.to_string());
            let queue = uid.as_ref().and_then(|uid| truth.units.get(uid)?.unit.marks.master.clone());
            match (what, uid, name) {
                (Meddling::DeleteUnit, Some(uid), _) => {
                    truth.after(Duration::ZERO, Event::UnitGone(uid));
                    None
                }
                (Meddling::UnitDies, Some(uid), _) => {
                    let alive =
                        truth.units.get(&uid).is_some_and(|unit| unit.unit.phase == UnitPhase::Running);
                    if alive {
                        truth.end_unit(&uid, Some(FailureCause::OutOfMemory));
                    }
                    None
                }
                (Meddling::DeleteNode, _, Some(name)) => {
                    truth.forget_node(queue?.as_str(), &name);
                    None
                }
                (Meddling::OfflineByHand, _, Some(name)) => {
                    let queue = queue?.to_string();
                    let node = truth.nodes.get_mut(&queue).and_then(|nodes| nodes.get_mut(&name))?;
                    node.view.drained = Drained::ByOthers;
                    let delay = rng.millis(5_000, 40_000);
                    truth.after(delay, Event::BackInService(queue, name));
                    None
                }
                (Meddling::ForgetNodes, ..) => {
                    for queue in truth.scenario.queues.clone() {
                        if queue.archetype != Archetype::JenkinsLike {
                            continue;
                        }
                        *truth.sessions.entry(queue.name.clone()).or_insert(0) += 1;
                        let nodes = truth.nodes.get(&queue.name).into_iter().flatten();
                        let ours: Vec<String> = nodes
                            .filter(|(_, node)| node.view.marks.is_some())
                            .map(|(name, _)| name.clone())
                            .collect();
                        for name in ours {
                            truth.forget_node(&queue.name, &name);
                        }
                    }
                    None
                }
                (Meddling::Pause, ..) => {
                    Some((Command::Pause { reason: "simulated".into() }, Some(Command::Resume)))
                }
                (Meddling::Delete, _, Some(id)) => Some((Command::Delete { id, force: false }, None)),
                (Meddling::Hold, _, Some(id)) => {
                    let release = Command::Release { id: id.clone() };
                    Some((Command::Hold { id, reason: "simulated".into() }, Some(release)))
                }
                _ => None,
            }
        });
        self.rng = rng;
        let (now, after) = command?;
        self.later.extend(after.map(|command| (later, command)));
        Some(now)
    }
}

/// Sends a wish. Until it is acknowledged it counts as unheard.
fn wish(handle: &Handle, command: Command, unheard: &Rc<RefCell<Vec<Command>>>) -> Running {
    let (handle, unheard) = (handle.clone(), unheard.clone());
    unheard.borrow_mut().push(command.clone());
    Box::pin(async move {
        let mut answer = handle.command(command.clone()).await;
        while answer.as_ref().is_err_and(|error| error.kind == ErrorKind::Transient) {
            SimClock::start().sleep(Duration::from_secs(1)).await;
            answer = handle.command(command.clone()).await;
        }
        if !answer.is_err_and(|error| error.kind == ErrorKind::Conflict) {
            unheard.borrow_mut().retain(|known| *known != command);
        }
    })
}
