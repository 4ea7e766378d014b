//! One agent's whole life through the real engine, with the smallest plugins there can be, in virtual time.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test stops where its own set-up fails")]

use kubestack_core::agent::{Activity, AgentView, AgentsSnapshot, Drained};
use kubestack_core::cause::FailureCause;
use kubestack_core::completion::{Completion, CompletionSource};
use kubestack_core::context::{Clock, SourceContext};
use kubestack_core::demand::{Demand, DemandSnapshot, DemandSource};
use kubestack_core::error::{Error, Result};
use kubestack_core::label::LabelSpec;
use kubestack_core::master::{
    CiMaster, EnrolOutcome, EnrolRequest, Enrolment, Explanation, MasterCapabilities,
};
use kubestack_core::name::{AgentName, LabelName};
use kubestack_core::provider::{
    DestroyRequest, Failure, LaunchRequest, MarkPatch, ProviderCapabilities, SlaveProvider, Unit, UnitPhase,
    UnitRef, UnitWatch, WatchEvent,
};
use kubestack_core::time::Moment;
use kubestack_core::{async_trait, name::Uid};
use kubestack_engine::{Command, Engine, Handle, Setup};
use kubestack_planner::settings::{LabelSettings, SourceSettings};
use std::collections::{BTreeMap, BTreeSet};
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

/// What an agent is given by its master, and by its label.
const TOKEN: &str = "t0ken-of-the-agent";
const VARIABLE: &str = "s3cret-of-the-label";

/// An audit record to be looked at.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[derive(Default)]
struct State {
    units: BTreeMap<AgentName, Unit>,
    nodes: BTreeMap<AgentName, AgentView>,
    waiting: u32,
    log: Vec<String>,
    /// So many explanations are not taken.
    deaf: u32,
    explained: Vec<String>,
    /// What the platform was told.
    reported: Vec<Failure>,
    /// What a launch is refused with.
    refusal: Option<Error>,
    /// The calls that panic once.
    panics: BTreeSet<&'static str>,
}

#[derive(Clone)]
struct Fake {
    state: Arc<Mutex<State>>,
    clock: Paused,
}

impl Fake {
    fn log(&self, line: String) {
        self.called(&line);
        self.state.lock().unwrap().log.push(line);
    }

    fn called(&self, call: &str) {
        let panics = self.state.lock().unwrap().panics.remove(call);
        assert!(!panics, "{call}: a defect with {TOKEN}");
    }
}

struct Watch(Fake);

#[async_trait]
impl UnitWatch for Watch {
    async fn next(&mut self) -> Result<WatchEvent> {
        self.0.called("next");
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
        self.called("watch");
        Ok(Box::new(Watch(self.clone())))
    }
    async fn launch(&self, request: &LaunchRequest) -> Result<Unit> {
        self.log("launch".into());
        if let Some(error) = &self.state.lock().unwrap().refusal {
            return Err(error.clone());
        }
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
    async fn log_tail(&self, unit: &UnitRef, lines: usize) -> Result<String> {
        self.log("log".into());
        assert!(self.state.lock().unwrap().units.contains_key(&unit.name), "its log goes with its unit");
        let many = (0..lines * 2).map(|line| format!("line {line}\n"));
        Ok(many.collect::<String>() + "my token is " + TOKEN + "\nand the label's " + VARIABLE + "\n")
    }
    async fn report(&self, failure: &Failure) -> Result<()> {
        self.called("report");
        self.state.lock().unwrap().reported.push(failure.clone());
        Err(Error::transient("that hurts nobody"))
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
        let mut enrolment = Enrolment::default();
        enrolment.secrets.insert("TOKEN".into(), TOKEN.into());
        Ok(EnrolOutcome::Enrolled(enrolment))
    }
    async fn agents(&self) -> Result<AgentsSnapshot> {
        self.called("agents");
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
    async fn explain(&self, reasons: &[Explanation]) -> Result<()> {
        self.called("explain");
        let mut state = self.state.lock().unwrap();
        if state.deaf > 0 {
            state.deaf -= 1;
            return Err(Error::transient("not now"));
        }
        state.explained = reasons.iter().map(|reason| reason.text.clone()).collect();
        Ok(())
    }
    fn demand(&self) -> Option<Box<dyn DemandSource>> {
        Some(Box::new(Queue(self.clone())))
    }
    fn completion(&self) -> Option<Box<dyn CompletionSource>> {
        Some(Box::new(News(self.clone())))
    }
}

struct Queue(Fake);

#[async_trait]
impl DemandSource for Queue {
    async fn next(&mut self, context: &SourceContext) -> Result<DemandSnapshot> {
        self.0.called("demand");
        self.0.clock.sleep(Duration::from_millis(500)).await;
        let waiting = self.0.state.lock().unwrap().waiting;
        let demand = Demand::count(waiting, context.labels.keys().cloned());
        Ok(DemandSnapshot::new(self.0.clock.now(), vec![demand]))
    }
}

struct News(Fake);

#[async_trait]
impl CompletionSource for News {
    async fn next(&mut self) -> Result<Vec<Completion>> {
        self.0.called("completion");
        std::future::pending().await
    }
}

/// A job that waits, and an engine for it to which more may be added.
fn scene() -> (Fake, kubestack_engine::Builder) {
    let clock = Paused(tokio::time::Instant::now());
    let fake = Fake { state: Arc::default(), clock: clock.clone() };
    fake.state.lock().unwrap().waiting = 1;
    let mut setup = Setup::new("test");
    let mut small = LabelSpec::new("small");
    small.env.insert("KEY".into(), serde_json::from_value(VARIABLE.into()).unwrap());
    setup.labels.insert("small".into(), small);
    let label = LabelSettings {
        providers: vec!["p".into()],
        masters: ["m".into()].into(),
        ..LabelSettings::default()
    };
    setup.settings.labels.insert("small".into(), label);
    let builder = Engine::builder(setup)
        .clock(Arc::new(clock))
        .provider("p", Arc::new(fake.clone()))
        .master("m", Arc::new(fake.clone()));
    (fake, builder)
}

/// The agent attaches, takes the job, ends it, and is gone.
async fn ci(fake: &Fake, handle: &Handle) {
    let clock = &fake.clock;
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
}

#[tokio::test(start_paused = true)]
async fn a_job_gets_an_agent_that_is_gone_after_it() {
    let (fake, builder) = scene();
    let audit = Lines::default();
    let engine = builder.audit(audit.clone()).build().unwrap();
    let handle = engine.handle();
    let mut counters = BTreeMap::new();
    let story = async {
        ci(&fake, &handle).await;
        counters = handle.status().await.unwrap().counters;
    };
    engine.run(story).await.unwrap();
    let log = fake.state.lock().unwrap().log.join(" ");
    assert_eq!(log, "enrol launch drain mark remove destroy");

    // Each step has its count, and its lines in the record: why it was sent, and how it ended.
    let steps = ["launch", "mark", "drain", "remove_node", "destroy"];
    let record = String::from_utf8(audit.0.lock().unwrap().clone()).unwrap();
    let lines: Vec<serde_json::Value> =
        record.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for step in steps {
        assert_eq!(counters.get(&format!("{step} done")), Some(&1), "{step}: {counters:?}");
        let of = |outcome: &str| lines.iter().find(|line| line["step"] == step && line["outcome"] == outcome);
        let sent = of("sent").unwrap_or_else(|| panic!("{step} is not in {record}"));
        assert!(!sent["reason"].as_str().unwrap().is_empty() && !sent["text"].as_str().unwrap().is_empty());
        let done = of("done").unwrap_or_else(|| panic!("the end of {step} is not in {record}"));
        assert!(done["at"].as_u64() >= sent["at"].as_u64());
        assert_eq!((&done["agent"], &done["term"]), (&sent["agent"], &sent["term"]));
    }
    assert_eq!(lines.len(), 2 * steps.len(), "{record}");
}

#[tokio::test(start_paused = true)]
async fn each_job_beyond_the_one_is_counted_and_told() {
    let (fake, builder) = scene();
    let audit = Lines::default();
    let engine = builder.audit(audit.clone()).build().unwrap();
    let handle = engine.handle();
    let mut counters = BTreeMap::new();
    let show = |run: &str| {
        let mut state = fake.state.lock().unwrap();
        state.waiting = u32::from(state.nodes.is_empty());
        for node in state.nodes.values_mut() {
            (node.online, node.run) = (true, Some(run.to_owned()));
            node.activity = Activity::Slots { used: 1, total: 1 };
        }
    };
    let story = async {
        for (run, told) in
            [("job/a/1", "busy"), ("job/b/1", "busy, 1 more than its one job"), ("job/c/7", "busy, 2 more")]
        {
            loop {
                show(run);
                let status = handle.status().await.unwrap();
                if status.agents.iter().any(|agent| agent.text.starts_with(told)) {
                    break;
                }
                fake.clock.sleep(Duration::from_millis(50)).await;
            }
        }
        counters = handle.status().await.unwrap().counters;
    };
    engine.run(story).await.unwrap();
    assert_eq!(counters.get("job beyond the one"), Some(&2), "{counters:?}");
    let record = String::from_utf8(audit.0.lock().unwrap().clone()).unwrap();
    let told: Vec<&str> = record.lines().filter(|line| line.contains("second_job")).collect();
    assert_eq!(told.len(), 2, "{record}");
    assert!(told[1].contains("job/c/7"), "{record}");
}

#[tokio::test(start_paused = true)]
async fn why_a_job_waits_is_told_until_the_master_has_heard() {
    let (fake, builder) = scene();
    fake.state.lock().unwrap().deaf = 3;
    let engine = builder.build().unwrap();
    let handle = engine.handle();
    let story = async {
        handle.command(Command::Pause { reason: "the disks are changed".into() }).await.unwrap();
        // Nothing changes meanwhile that would be a reason to tell it anew.
        fake.clock.sleep(Duration::from_secs(120)).await;
    };
    engine.run(story).await.unwrap();
    let state = fake.state.lock().unwrap();
    assert!(state.explained.concat().contains("the disks are changed"), "{:?}", state.explained);
}

#[tokio::test(start_paused = true)]
async fn the_last_words_of_a_failed_agent_outlive_it_with_its_secrets_masked() {
    let (fake, builder) = scene();
    let audit = Lines::default();
    let engine = builder.audit(audit.clone()).build().unwrap();
    let handle = engine.handle();
    let mut told = Vec::new();
    let story = async {
        // It runs and never attaches.
        while !fake.state.lock().unwrap().log.iter().any(|line| line == "destroy") {
            fake.clock.sleep(Duration::from_secs(1)).await;
        }
        fake.state.lock().unwrap().waiting = 0;
        fake.clock.sleep(Duration::from_secs(60)).await;
        let agent = fake.state.lock().unwrap().reported[0].agent.clone();
        assert!(!fake.state.lock().unwrap().units.contains_key(&agent));
        told = handle.status().await.unwrap().explain(agent.as_str());
        assert_eq!(handle.status().await.unwrap().explain("small"), told);
    };
    engine.run(story).await.unwrap();
    let record = String::from_utf8(audit.0.lock().unwrap().clone()).unwrap();
    let text = told.join("\n");
    assert!(text.contains("failed 1m") && text.contains(": it never attached to its master"), "{text}");
    assert!(text.ends_with("  line 39\n  my token is ***\n  and the label's ***"), "{text}");
    assert_eq!(told.len(), 2 + 20, "{text}");
    for shown in [&record, &text] {
        assert!(shown.contains("my token is ***") && !shown.contains(TOKEN) && !shown.contains(VARIABLE));
    }
    assert!(record.contains(r#""outcome":"failed","reason":"never_attached""#), "{record}");
    let state = fake.state.lock().unwrap();
    let reported: Vec<_> =
        state.reported.iter().map(|failure| (failure.unit.is_some(), failure.cause)).collect();
    assert_eq!(reported, [(true, FailureCause::NeverAttached)], "once");
}

#[tokio::test(start_paused = true)]
async fn a_refused_launch_is_explained_and_told_the_platform() {
    let (fake, builder) = scene();
    let refusal = Error::invalid(format!("no node takes {VARIABLE}")).with_cause(FailureCause::BadTemplate);
    fake.state.lock().unwrap().refusal = Some(refusal);
    let engine = builder.build().unwrap();
    let handle = engine.handle();
    let mut status = None;
    let story = async {
        while fake.state.lock().unwrap().reported.len() < 2 {
            fake.clock.sleep(Duration::from_secs(1)).await;
        }
        status = Some(handle.status().await.unwrap());
    };
    engine.run(story).await.unwrap();
    let status = status.unwrap();
    let [failure] = &*status.failures else { panic!("{:?}", status.failures) };
    assert_eq!((failure.cause, failure.times), (FailureCause::BadTemplate, 2));
    let told = status.explain("small").join("\n");
    assert!(
        told.contains("2 times in a row: the platform refuses its template: no node takes ***"),
        "{told}"
    );
    assert_eq!(fake.state.lock().unwrap().reported[0].unit, None);
}

/// A system that errs, does not answer, or takes its own task down.
#[derive(Clone, Copy)]
enum Bad {
    Errs,
    Hangs,
    Panics,
}

impl Bad {
    const ALL: [(Self, &str); 3] = [
        (Self::Errs, "the answer is no JSON"),
        (Self::Hangs, "no answer for "),
        (Self::Panics, "a plugin's defect"),
    ];

    #[expect(clippy::panic, reason = "what a plugin with a defect does")]
    async fn answer<T>(self) -> Result<T> {
        match self {
            Self::Errs => Err(Error::transient("the answer is no JSON")),
            Self::Hangs => std::future::pending().await,
            Self::Panics => panic!("a plugin's defect"),
        }
    }
}

#[async_trait]
impl DemandSource for Bad {
    async fn next(&mut self, _: &SourceContext) -> Result<DemandSnapshot> {
        self.answer().await
    }
}

#[async_trait]
impl CiMaster for Bad {
    fn capabilities(&self) -> MasterCapabilities {
        let mut capabilities = MasterCapabilities::default();
        capabilities.lists_agents = true;
        capabilities
    }
    async fn enrol(&self, _: &EnrolRequest) -> Result<EnrolOutcome> {
        self.answer().await
    }
    async fn agents(&self) -> Result<AgentsSnapshot> {
        self.answer().await
    }
    async fn drain(&self, _: &AgentName) -> Result<()> {
        self.answer().await
    }
    async fn remove(&self, _: &AgentName, _: bool) -> Result<()> {
        self.answer().await
    }
}

#[async_trait]
impl SlaveProvider for Bad {
    fn capabilities(&self) -> ProviderCapabilities {
        ProviderCapabilities::default()
    }
    async fn watch(&self) -> Result<Box<dyn UnitWatch>> {
        self.answer().await
    }
    async fn launch(&self, _: &LaunchRequest) -> Result<Unit> {
        self.answer().await
    }
    async fn destroy(&self, _: &DestroyRequest) -> Result<()> {
        self.answer().await
    }
    async fn mark(&self, _: &UnitRef, _: &MarkPatch) -> Result<Unit> {
        self.answer().await
    }
}

/// Demand that makes no sense, but has the right form.
struct Garbage(Paused);

#[async_trait]
impl DemandSource for Garbage {
    async fn next(&mut self, _: &SourceContext) -> Result<DemandSnapshot> {
        self.0.sleep(Duration::from_millis(100)).await;
        let nowhere = Demand::count(u32::MAX, Vec::<LabelName>::new());
        let unknown = Demand::count(u32::MAX, [LabelName::from("\u{7}no such label")]);
        let twice =
            || Demand::job("", [LabelName::from("no such label")]).since(Moment::from_micros(u64::MAX));
        Ok(DemandSnapshot::new(self.0.now(), vec![nowhere, unknown, twice(), twice()]))
    }
}

#[tokio::test(start_paused = true)]
async fn demand_that_makes_no_sense_launches_nothing_and_the_rest_goes_on() {
    let (fake, builder) = scene();
    let garbage = Box::new(Garbage(fake.clock.clone()));
    let engine = builder.demand("garbage", SourceSettings::default(), garbage).build().unwrap();
    let handle = engine.handle();
    engine.run(ci(&fake, &handle)).await.unwrap();
    let log = fake.state.lock().unwrap().log.join(" ");
    assert_eq!(log, "enrol launch drain mark remove destroy");
}

#[tokio::test(start_paused = true)]
async fn a_system_that_fails_is_stale_with_its_error_and_the_rest_goes_on() {
    let (fake, mut builder) = scene();
    for (index, (bad, _)) in Bad::ALL.into_iter().enumerate() {
        builder = builder
            .demand(format!("demand-{index}"), SourceSettings::default(), Box::new(bad))
            .master(format!("master-{index}"), Arc::new(bad))
            .provider(format!("provider-{index}"), Arc::new(bad));
    }
    let engine = builder.build().unwrap();
    let handle = engine.handle();
    let mut status = None;
    let story = async {
        ci(&fake, &handle).await;
        fake.clock.sleep(Duration::from_secs(600)).await;
        status = Some(handle.status().await.unwrap());
    };
    engine.run(story).await.unwrap();
    let log = fake.state.lock().unwrap().log.join(" ");
    assert_eq!(log, "enrol launch drain mark remove destroy");
    let status = status.unwrap();
    for (index, (_, words)) in Bad::ALL.into_iter().enumerate() {
        for (kind, name) in [("source", "demand"), ("master", "master"), ("provider", "provider")] {
            let name = format!("{name}-{index}");
            let system = status.systems.iter().find(|system| system.kind == kind && system.name == name);
            let system = system.unwrap_or_else(|| panic!("{kind} {name} is not shown: {status:?}"));
            assert!(system.stale, "{system:?}");
            assert!(system.error.as_deref().unwrap_or_default().contains(words), "{system:?}");
        }
    }
    let well: Vec<&str> =
        status.systems.iter().filter(|system| !system.stale).map(|system| system.name.as_str()).collect();
    assert_eq!(well, ["m", "m", "p"], "{status:?}");
}

#[tokio::test(start_paused = true)]
async fn a_plugin_that_panics_in_any_call_is_called_again() {
    let (fake, builder) = scene();
    let calls = [
        "watch",
        "next",
        "launch",
        "mark",
        "destroy",
        "agents",
        "enrol",
        "drain",
        "remove",
        "explain",
        "demand",
        "completion",
    ];
    fake.state.lock().unwrap().panics = calls.into();
    let engine = builder.build().unwrap();
    let handle = engine.handle();
    let mut seen = BTreeSet::new();
    let story = async {
        let (mut began, mut status) = (false, handle.status().await.unwrap());
        while !began || !status.agents.is_empty() || fake.state.lock().unwrap().waiting > 0 {
            fake.clock.sleep(Duration::from_millis(50)).await;
            status = handle.status().await.unwrap();
            seen.extend(status.systems.iter().filter_map(|system| system.error.clone()));
            let mut state = fake.state.lock().unwrap();
            let State { units, nodes, waiting, .. } = &mut *state;
            for node in nodes.values_mut() {
                let unit = units.values().find(|unit| node.name == unit.name.as_str());
                let Some(unit) = unit else { continue };
                (node.online, began, *waiting) = (true, true, 0);
                let used = u32::from(unit.marks.used.is_none());
                node.activity = Activity::Slots { used, total: 1 };
            }
        }
        handle.command(Command::Pause { reason: "x".into() }).await.unwrap();
        fake.state.lock().unwrap().waiting = 1;
        while fake.state.lock().unwrap().explained.is_empty() {
            fake.clock.sleep(Duration::from_secs(1)).await;
        }
    };
    // Virtual time runs to the end of the bound where nothing goes on any more.
    let ended = tokio::time::timeout(Duration::from_secs(86_400), engine.run(story)).await;
    ended.expect("it hangs").unwrap();
    let state = fake.state.lock().unwrap();
    assert!(state.panics.is_empty(), "never called: {:?}", state.panics);
    assert!(state.units.is_empty() && state.nodes.is_empty());
    for call in ["watch", "agents", "demand"] {
        let told = seen.iter().any(|error| error.contains("the plugin panicked") && error.contains(call));
        assert!(told, "{call}: {seen:?}");
    }
}
