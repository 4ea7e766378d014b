//! KubeStack's side: the real engine and the real provider, demand and master in memory.

use crate::desk::{Conduct, Desk, Told, enrolment};
use crate::site::{NAMESPACE, Site};
use crate::wire::Wire;
use anyhow::{Context, Result};
use kubestack_core::prelude::*;
use kubestack_engine::clock::SystemClock;
use kubestack_engine::secrets::HostSecrets;
use kubestack_engine::{Engine, Setup};
use kubestack_k8s::KubeProvider;
use kubestack_planner::settings::LabelSettings;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// The one label: an image, and some resources.
pub fn label() -> LabelSpec {
    let mut label = LabelSpec::new("a");
    label.image = Some("registry.example.org/agent:1".to_owned());
    let amounts = [("cpu", "100m"), ("memory", "64Mi")];
    let amounts = amounts.into_iter().filter_map(|(name, text)| Some((name.to_owned(), text.parse().ok()?)));
    label.resources = Resources(amounts.collect());
    label
}

/// What a provider of that instance is built with.
pub fn context(instance: &str) -> BuildContext {
    let spawner = Engine::builder(Setup::new(instance)).spawner();
    let clock = Arc::new(SystemClock::start());
    BuildContext::new("kubernetes", instance.into(), clock, spawner, Arc::new(HostSecrets), "state".into())
}

/// A provider with a client of its own, as the daemon has it.
pub fn provider(instance: &str, config: serde_json::Value) -> Result<KubeProvider> {
    Ok(KubeProvider::new(&context(instance), Fragment::from_value(config).parse()?))
}

/// Marks of the agent of that number.
pub fn marks(instance: &str, serial: u32) -> Marks {
    let place = (1, u64::from(serial));
    Marks::new(
        instance.into(),
        "a".into(),
        "kubernetes".into(),
        Some("desk".into()),
        place,
        label().template_hash(),
    )
}

/// The engine of that instance, with that provider.
pub fn engine(instance: &str, provider: KubeProvider, desk: &Desk) -> Result<Engine> {
    let mut setup = Setup::new(instance);
    setup.labels.insert("a".into(), label());
    let hour = Duration::from_secs(3600);
    let settings = LabelSettings {
        providers: vec!["kubernetes".into()],
        masters: ["desk".into()].into(),
        launch_timeout: hour,
        ..LabelSettings::default()
    };
    setup.settings.labels.insert("a".into(), settings);
    setup.master_poll = Duration::from_millis(500);
    let provider = Told { provider, desk: desk.clone() };
    let engine = Engine::builder(setup)
        .provider("kubernetes", Arc::new(provider))
        .master("desk", Arc::new(desk.clone()));
    Ok(engine.build()?)
}

fn desk(conduct: Conduct) -> Desk {
    Desk::new(conduct, Arc::new(SystemClock::start()))
}

/// Runs the engine until that is over.
async fn until<T>(engine: Engine, over: impl Future<Output = Result<T>>) -> Result<T> {
    let mut answer = None;
    engine.run(async { answer = Some(over.await) }).await?;
    answer.context("the engine ended first")?
}

/// How long so many launches take, from the demand on.
pub async fn launch(site: &Site, launches: u32, round: u32) -> Result<Duration> {
    let (desk, instance) = (desk(Conduct::Silent), format!("rate-{round}"));
    let engine = engine(&instance, provider(&instance, site.access.config())?, &desk)?;
    until(engine, async {
        // The first one shows that everything is connected.
        desk.submit(0..1);
        desk.until_launched(1).await?;
        let began = Instant::now();
        desk.submit(1..launches);
        desk.until_launched(launches).await?;
        Ok(began.elapsed().mul_f64(f64::from(launches) / f64::from(launches - 1)))
    })
    .await
}

/// What passed between what, for each of the agents.
#[derive(Default)]
pub struct Latencies {
    pub seen_to_enrol: Vec<Duration>,
    pub enrolled_to_first: Vec<Duration>,
    pub enrolled_to_pod: Vec<Duration>,
}

/// A step from nothing to so many jobs.
pub async fn step(site: &Site, jobs: u32) -> Result<Latencies> {
    let (desk, wire) = (desk(Conduct::Silent), Wire::default());
    let provider = KubeProvider::with_client(&context("step"), wire.client(&site.access)?, NAMESPACE);
    let engine = engine("step", provider, &desk)?;
    let before = until(engine, async {
        desk.submit(0..1);
        desk.until_launched(1).await?;
        let before = desk.enrolled();
        desk.submit(1..jobs + 1);
        desk.until_launched(jobs + 1).await?;
        Ok(before)
    })
    .await?;
    let seen = desk.seen().context("no demand was told")?;
    let sent = wire.sent();
    let mut latencies = Latencies::default();
    for (agent, enrolled) in desk.enrolled().into_iter().filter(|(agent, _)| !before.contains_key(agent)) {
        let at = |kind: &str| {
            sent.get(&(agent.clone(), kind.to_owned())).copied().context("a request was not seen")
        };
        latencies.seen_to_enrol.push(enrolled.saturating_duration_since(seen));
        latencies.enrolled_to_first.push(at("secrets")?.saturating_duration_since(enrolled));
        latencies.enrolled_to_pod.push(at("pods")?.saturating_duration_since(enrolled));
    }
    Ok(latencies)
}

/// So many agents from demand to their end.
pub async fn lives(site: &Site, lives: u32) -> Result<()> {
    let desk = desk(Conduct::OneJob);
    let engine = engine("lives", provider("lives", site.access.config())?, &desk)?;
    until(engine, async {
        desk.submit(0..lives);
        desk.until_ended(lives).await
    })
    .await
}

/// Launches so many agents of the instance `many`, without an engine, and waits until they run.
pub async fn fill(site: &Site, agents: u32) -> Result<()> {
    let provider = Arc::new(provider("many", site.access.config())?);
    let mut tasks = JoinSet::new();
    for lane in 0..32 {
        let provider = provider.clone();
        tasks.spawn(async move {
            for serial in (1..=agents).filter(|serial| serial % 32 == lane) {
                let marks = marks("many", serial);
                let enrolment = enrolment(&marks.agent());
                let unit = provider.launch(&LaunchRequest::new(label(), marks, Some(enrolment))).await?;
                // As an agent is marked that has begun its job.
                provider.mark(&unit.reference(), &MarkPatch::Used("0".to_owned())).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    site.until_running(agents)
}
