//! One agent's whole life through the real engine, with the smallest plugins there can be, in virtual time.

#![expect(clippy::unwrap_used, reason = "a test stops where its own set-up fails")]

use kubestack_core::agent::{Activity, AgentView, AgentsSnapshot, Drained};
use kubestack_core::context::{Clock, SourceContext};
use kubestack_core::demand::{Demand, DemandSnapshot, DemandSource};
use kubestack_core::error::{Error, Result};
use kubestack_core::label::LabelSpec;
use kubestack_core::master::{CiMaster, EnrolOutcome, EnrolRequest, Enrolment, MasterCapabilities};
use kubestack_core::name::AgentName;
use kubestack_core::provider::{
    DestroyRequest, LaunchRequest, MarkPatch, ProviderCapabilities, SlaveProvider, Unit, UnitPhase, UnitRef,
    UnitWatch, WatchEvent,
};
use kubestack_core::time::Moment;
use kubestack_core::{async_trait, name::Uid};
use kubestack_engine::{Engine, Setup};
use kubestack_planner::settings::LabelSettings;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Tokio's paused time as the engine's clock.
#[derive(Clone)]
struct Paused(tokio::time::Instant);

#[async_trait]
impl Clock for Paused {
    fn now(&self) -> Moment {
        Moment::from_millis(1_000_000) + self.0.elapsed()
    }
    #[expect(clippy::disallowed_methods, reason = "virtual time of the test")]
    async fn sleep(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }
}

#[derive(Default)]
struct State {
    units: BTreeMap<AgentName, Unit>,
    nodes: BTreeMap<AgentName, AgentView>,
    waiting: u32,
    log: Vec<String>,
}

#[derive(Clone)]
struct Fake {
    state: Arc<Mutex<State>>,
    clock: Paused,
}

impl Fake {
    fn log(&self, line: String) {
        self.state.lock().unwrap().log.push(line);
    }
}

struct Watch(Fake);

#[async_trait]
impl UnitWatch for Watch {
    async fn next(&mut self) -> Result<WatchEvent> {
        self.0.clock.sleep(Duration::from_millis(100)).await;
        let units = self.0.state.lock().unwrap().units.values().cloned().collect();
        Ok(WatchEvent::Complete { began: self.0.clock.now(), units })
    }
}

#[async_trait]
impl SlaveProvider for Fake {
    fn capabilities(&self) -> ProviderCapabilities {
        let mut capabilities = ProviderCapabilities::default();
        capabilities.marks = true;
        capabilities
    }
    async fn watch(&self) -> Result<Box<dyn UnitWatch>> {
        Ok(Box::new(Watch(self.clone())))
    }
    async fn launch(&self, request: &LaunchRequest) -> Result<Unit> {
        self.log("launch".into());
        let uid = Uid::new(format!("uid-{}", request.name));
        let unit = Unit::new(uid, request.marks.clone(), UnitPhase::Running, self.clock.now());
        self.state.lock().unwrap().units.insert(request.name.clone(), unit.clone());
        Ok(unit)
    }
    async fn destroy(&self, request: &DestroyRequest) -> Result<()> {
        self.log("destroy".into());
        self.state.lock().unwrap().units.remove(&request.unit.name);
        Ok(())
    }
    async fn mark(&self, unit: &UnitRef, patch: &MarkPatch) -> Result<Unit> {
        self.log("mark".into());
        let mut state = self.state.lock().unwrap();
        let unit = state.units.get_mut(&unit.name).ok_or_else(|| Error::not_found("gone"))?;
        patch.apply(&mut unit.marks);
        Ok(unit.clone())
    }
}

#[async_trait]
impl CiMaster for Fake {
    fn capabilities(&self) -> MasterCapabilities {
        let mut capabilities = MasterCapabilities::default();
        capabilities.lists_agents = true;
        capabilities.drains = true;
        capabilities
    }
    async fn enrol(&self, request: &EnrolRequest) -> Result<EnrolOutcome> {
        self.log("enrol".into());
        let mut view = AgentView::new(request.agent.as_str());
        view.marks = Some(request.marks.clone());
        self.state.lock().unwrap().nodes.insert(request.agent.clone(), view);
        Ok(EnrolOutcome::Enrolled(Enrolment::default()))
    }
    async fn agents(&self) -> Result<AgentsSnapshot> {
        let began = self.clock.now();
        Ok(AgentsSnapshot::new(began, self.state.lock().unwrap().nodes.values().cloned().collect()))
    }
    async fn drain(&self, agent: &AgentName) -> Result<()> {
        self.log("drain".into());
        let mut state = self.state.lock().unwrap();
        state.nodes.get_mut(agent).ok_or_else(|| Error::not_found("gone"))?.drained = Drained::ByUs;
        Ok(())
    }
    async fn remove(&self, agent: &AgentName, _: bool) -> Result<()> {
        self.log("remove".into());
        self.state.lock().unwrap().nodes.remove(agent);
        Ok(())
    }
    fn demand(&self) -> Option<Box<dyn DemandSource>> {
        Some(Box::new(Queue(self.clone())))
    }
}

struct Queue(Fake);

#[async_trait]
impl DemandSource for Queue {
    async fn next(&mut self, context: &SourceContext) -> Result<DemandSnapshot> {
        self.0.clock.sleep(Duration::from_millis(500)).await;
        let waiting = self.0.state.lock().unwrap().waiting;
        let demand = Demand::count(waiting, context.labels.keys().cloned());
        Ok(DemandSnapshot::new(self.0.clock.now(), vec![demand]))
    }
}

#[tokio::test(start_paused = true)]
async fn a_job_gets_an_agent_that_is_gone_after_it() {
    let clock = Paused(tokio::time::Instant::now());
    let fake = Fake { state: Arc::default(), clock: clock.clone() };
    fake.state.lock().unwrap().waiting = 1;
    let mut setup = Setup::new("test");
    setup.labels.insert("small".into(), LabelSpec::new("small"));
    let label = LabelSettings {
        providers: vec!["p".into()],
        masters: ["m".into()].into(),
        ..LabelSettings::default()
    };
    setup.settings.labels.insert("small".into(), label);
    let engine = Engine::builder(setup)
        .clock(Arc::new(clock.clone()))
        .provider("p", Arc::new(fake.clone()))
        .master("m", Arc::new(fake.clone()))
        .build()
        .unwrap();
    let handle = engine.handle();
    let ci = async {
        // The agent attaches, takes the job, ends it.
        let until = async |wanted: &str| {
            while !fake.state.lock().unwrap().log.iter().any(|line| line == wanted) {
                clock.sleep(Duration::from_millis(50)).await;
            }
        };
        until("launch").await;
        let change = |busy: u32, waiting: u32| {
            let mut state = fake.state.lock().unwrap();
            state.waiting = waiting;
            for node in state.nodes.values_mut() {
                node.online = true;
                node.activity = Activity::Slots { used: busy, total: 1 };
            }
        };
        change(1, 0);
        until("mark").await;
        assert_eq!(handle.status().await.unwrap().agents.len(), 1);
        change(0, 0);
        until("destroy").await;
        while !handle.status().await.unwrap().agents.is_empty() {
            clock.sleep(Duration::from_millis(50)).await;
        }
    };
    engine.run(ci).await.unwrap();
    let log = fake.state.lock().unwrap().log.join(" ");
    assert_eq!(log, "enrol launch mark drain remove destroy");
}
