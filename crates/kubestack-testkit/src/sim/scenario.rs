//! What a seed draws: systems, labels, jobs, faults, and hands that meddle.

use super::rng::Rng;
use kubestack_core::label::LabelSpec;
use kubestack_core::name::{LabelName, MasterName, ProviderName, SourceName};
use kubestack_core::resources::{Quantity, Resources};
use kubestack_engine::Setup;
use kubestack_planner::settings::{LabelSettings, Limit, Policy, SourceSettings};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// How a master, or what stands in its place, treats its agents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Archetype {
    /// Nodes stay until they are removed; an agent may be given another job before it is drained.
    JenkinsLike,
    /// One job per agent, enforced; agents end by themselves.
    SelfEnding,
    /// The same, and each agent is made for one job by its id.
    Bound,
    /// No master at all: only a count of waiting work, and agents that take it as they start.
    Masterless,
}

/// One simulated queue of work.
#[derive(Clone, Debug)]
pub struct QueueSpec {
    /// Its name; that of its master, if it has one.
    pub name: String,
    /// How it treats agents.
    pub archetype: Archetype,
    /// Labels whose agents serve it.
    pub labels: Vec<LabelName>,
}

/// One job.
#[derive(Clone, Debug)]
pub struct JobSpec {
    /// When it is queued, after the start.
    pub at: Duration,
    /// The queue that it is in.
    pub queue: usize,
    /// Labels that can serve it.
    pub needs: BTreeSet<LabelName>,
    /// How long it runs.
    pub takes: Duration,
    /// Its user gives up on it then, after the start, if it still waits.
    pub cancelled: Option<Duration>,
}

/// Something done by hand, or to the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meddling {
    /// The engine dies at its next poll but that many.
    Crash(u32),
    /// The engine stops in good order and starts again.
    Restart,
    /// Somebody deletes a unit on the platform.
    DeleteUnit,
    /// Somebody deletes a node in the CI system.
    DeleteNode,
    /// Somebody takes a node out of service in the CI system, and puts it back later.
    OfflineByHand,
    /// A CI system restarts and forgets its nodes.
    ForgetNodes,
    /// A unit dies by itself.
    UnitDies,
    /// The operator pauses launching, and resumes later.
    Pause,
    /// The operator deletes an agent once it has no job.
    Delete,
    /// The operator holds an agent, and releases it later.
    Hold,
    /// The templates of all labels change.
    NewTemplates,
    /// The limits change, up or down.
    NewLimits,
    /// Advisory memory is lost.
    ForgetMemory,
}

/// Everything that one seed draws.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// The seed.
    pub seed: u64,
    /// Labels, limits, policy.
    pub setup: Setup,
    /// Queues of work.
    pub queues: Vec<QueueSpec>,
    /// Platforms.
    pub providers: Vec<ProviderName>,
    /// Jobs in the order of their arrival.
    pub jobs: Vec<JobSpec>,
    /// Meddling in the order of time.
    pub meddling: Vec<(Duration, Meddling)>,
    /// Calls that go wrong, of 1000.
    pub faults: u32,
    /// From then on nothing goes wrong any more.
    pub quiet: Duration,
}

impl Scenario {
    /// Draws everything from the seed.
    pub fn draw(seed: u64) -> Self {
        let mut rng = Rng::new(seed, "scenario");
        let providers: Vec<ProviderName> =
            (0..rng.count(1, 2)).map(|index| ProviderName::new(format!("p{index}"))).collect();
        let mut setup = Setup::new("sim");
        setup.settings.policy = policy();
        setup.settings.limit.agents = rng.chance(600).then(|| rng.count(2, 8));
        for provider in &providers {
            let settings = setup.settings.providers.entry(provider.clone()).or_default();
            settings.limit.agents = rng.chance(400).then(|| rng.count(2, 6));
            if rng.chance(300) {
                settings.limit.resources = cpu(u128::from(rng.range(2, 6)) * 1000);
            }
        }
        let mut queues = Vec::new();
        for index in 0..rng.count(1, 3) {
            let kinds =
                [Archetype::JenkinsLike, Archetype::SelfEnding, Archetype::Bound, Archetype::Masterless];
            let archetype = rng.pick(&kinds).copied().unwrap_or(Archetype::JenkinsLike);
            let name = format!("q{index}");
            let labels: Vec<LabelName> =
                (0..rng.count(1, 3)).map(|label| LabelName::new(format!("{name}-l{label}"))).collect();
            let master = (archetype != Archetype::Masterless).then(|| MasterName::new(&name));
            for label in &labels {
                setup.labels.insert(label.clone(), spec(label, &mut rng));
                setup
                    .settings
                    .labels
                    .insert(label.clone(), label_settings(archetype, master.as_ref(), &providers, &mut rng));
            }
            if let Some(master) = &master {
                let limit = Limit { agents: rng.chance(300).then(|| rng.count(2, 6)), ..Limit::default() };
                setup.settings.masters.entry(master.clone()).or_default().limit = limit;
            } else {
                setup.settings.sources.insert(SourceName::new(&name), SourceSettings::default());
            }
            queues.push(QueueSpec { name, archetype, labels });
        }
        let quiet = Duration::from_secs(rng.range(60, 400));
        let jobs = jobs(&queues, quiet, &mut rng);
        let meddling = meddling(quiet, &mut rng);
        let faults = [0, 20, 80, 200];
        let faults = rng.pick(&faults).copied().unwrap_or(0);
        Self { seed, setup, queues, providers, jobs, meddling, faults, quiet }
    }

    /// The archetype behind a queue.
    pub fn archetype(&self, queue: &str) -> Option<Archetype> {
        self.queues.iter().find(|spec| spec.name == queue).map(|spec| spec.archetype)
    }
}

/// Short deadlines: virtual time is cheap, but not free.
fn policy() -> Policy {
    let seconds = Duration::from_secs;
    Policy {
        step_deadline: seconds(5),
        concurrency: 8,
        stale_after: seconds(40),
        surplus_grace: seconds(10),
        forgotten_grace: seconds(20),
        lost_grace: seconds(5),
        offer_timeout: seconds(60),
        destroy_grace: seconds(3),
        breaker_pause: seconds(5),
        breaker_max: seconds(40),
    }
}

fn cpu(millis: u128) -> Resources {
    Resources(BTreeMap::from([("cpu".to_owned(), Quantity::from_millis(millis))]))
}

fn spec(name: &LabelName, rng: &mut Rng) -> LabelSpec {
    let mut spec = LabelSpec::new(name.clone());
    spec.resources = cpu(u128::from(rng.range(1, 3)) * 500);
    spec.image = Some("v1".to_owned());
    spec
}

fn label_settings(
    archetype: Archetype,
    master: Option<&MasterName>,
    providers: &[ProviderName],
    rng: &mut Rng,
) -> LabelSettings {
    let mut providers = providers.to_vec();
    if rng.chance(500) {
        providers.reverse();
    }
    let ready = matches!(archetype, Archetype::JenkinsLike | Archetype::SelfEnding);
    LabelSettings {
        limit: Limit { agents: rng.chance(500).then(|| rng.count(1, 4)), ..Limit::default() },
        // Where each agent is made for one job, none can be ready before there is one.
        min_ready: u32::from(ready && rng.chance(200)),
        weight: rng.count(1, 3),
        providers,
        masters: master.into_iter().cloned().collect(),
        idle_timeout: rng.millis(2_000, 20_000),
        launch_timeout: Duration::from_secs(30),
        ..LabelSettings::default()
    }
}

fn jobs(queues: &[QueueSpec], quiet: Duration, rng: &mut Rng) -> Vec<JobSpec> {
    let span = u64::try_from(quiet.as_millis()).unwrap_or(0);
    let mut jobs: Vec<JobSpec> = (0..rng.count(1, 40))
        .filter_map(|_| {
            let queue = usize::try_from(rng.below(u64::try_from(queues.len()).ok()?)).ok()?;
            let spec = queues.get(queue)?;
            let mut needs = BTreeSet::from([rng.pick(&spec.labels)?.clone()]);
            if rng.chance(300) {
                needs.insert(rng.pick(&spec.labels)?.clone());
            }
            // Bursts as well as a trickle.
            let at = if rng.chance(500) { span / 4 } else { rng.below(span) };
            let at = Duration::from_millis(at);
            let cancelled = rng.chance(100).then(|| at + rng.millis(0, 20_000));
            Some(JobSpec { at, queue, needs, takes: rng.millis(0, 30_000), cancelled })
        })
        .collect();
    jobs.sort_by_key(|job| job.at);
    jobs
}

fn meddling(quiet: Duration, rng: &mut Rng) -> Vec<(Duration, Meddling)> {
    let span = u64::try_from(quiet.as_millis()).unwrap_or(0);
    let mut all: Vec<(Duration, Meddling)> = (0..rng.count(0, 8))
        .map(|_| {
            let crash = Meddling::Crash(rng.count(0, 60));
            let kinds = [
                crash,
                crash,
                crash,
                Meddling::Restart,
                Meddling::DeleteUnit,
                Meddling::DeleteNode,
                Meddling::OfflineByHand,
                Meddling::ForgetNodes,
                Meddling::UnitDies,
                Meddling::Pause,
                Meddling::Delete,
                Meddling::Hold,
                Meddling::NewTemplates,
                Meddling::NewLimits,
                Meddling::ForgetMemory,
            ];
            (Duration::from_millis(rng.below(span)), rng.pick(&kinds).copied().unwrap_or(crash))
        })
        .collect();
    all.sort_by_key(|(at, _)| *at);
    all
}
