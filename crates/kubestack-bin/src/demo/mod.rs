//! `kubestack demo`: the queue, the engine and local agents in a temporary directory, and real jobs on them.

mod jobs;
mod left;
mod report;

use crate::cli::{self, Output};
use crate::signals::Signals;
use crate::{Exit, STOPPED, assemble, show};
use anyhow::{Context, Result, bail};
use jobs::LABELS;
use kubestack_core::config::Fragment;
use kubestack_core::context::{BuildContext, Clock};
use kubestack_core::label::LabelSpec;
use kubestack_core::registry::{PluginKind, find};
use kubestack_core::time::Moment;
use kubestack_engine::clock::SystemClock;
use kubestack_engine::secrets::HostSecrets;
use kubestack_engine::{Command, Engine, Handle, Setup, Status};
use kubestack_planner::settings::{LabelSettings, Limit};
use kubestack_queue::client::QueueClient;
use kubestack_queue::model::Job;
use report::Sighting;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{IsTerminal, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Agents at once, over all labels: more would only make a small host slow.
const AGENTS: u32 = 8;
/// How often things are looked at.
const LOOK: Duration = Duration::from_millis(50);
/// The longest that a demo may take beyond its jobs.
const PATIENCE: Duration = Duration::from_secs(120);
/// The longest that a demo that was stopped waits for its agents to go.
const STOP: Duration = Duration::from_secs(15);

/// Runs the demo; the exit code says whether every job ended as expected and nothing is left.
pub(crate) async fn run(args: &cli::Demo, output: Output) -> Result<ExitCode> {
    let dir = tempfile::Builder::new()
        .prefix("kubestack-demo-")
        .tempdir()
        .context("cannot make a temporary directory")?;
    // Resolved, so that it compares with what /proc shows.
    let root = dir.path().canonicalize()?;
    let address = free_address()?;
    let token = format!("demo-{}", kubestack_core::name::slug(&root.to_string_lossy()));
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::start());
    let launches = Launches::default();
    let engine = engine(&root, address, &token, clock.clone(), launches.clone())?;
    let handle = engine.handle();
    let client = QueueClient::new(&format!("http://{address}"), token.into())?;
    let mix = jobs::mix(args.jobs, args.seed);
    let mut signals = Signals::new()?;
    let began = clock.now();
    let mut watched = None;
    let story = async {
        let seen = tokio::select! {
            seen = watch(&mix, &client, &handle, &*clock, output) => seen,
            () = signals.next() => Err(stopped()),
        };
        if seen.is_err() {
            tokio::select! {
                () = take_all_away(&handle, &*clock, output) => {}
                () = signals.next() => {}
            }
        }
        watched = Some(seen);
    };
    let ended = engine.run(story).await;
    let took = clock.now().since(began);
    let mut left = left::behind(&root, address);
    if watched.as_ref().is_none_or(Result::is_err) {
        // Without their queue they would wait for it for a long time.
        left::end_processes(&root);
    }
    dir.close().context("cannot remove the temporary directory")?;
    ended?;
    let Seen { jobs, agents, at_queue } =
        watched.context("the engine stopped before the jobs had ended")??;
    left.extend(at_queue.iter().map(|name| format!("the queue's agents/{name}")));
    if root.exists() {
        left.push(format!("directory {}", root.display()));
    }
    let report = report::report(&mix, &jobs, &agents, &launches.names(), left, took);
    show::answer(output, &report, || report.print());
    Ok(if report.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// An address on this host that nobody uses at present.
fn free_address() -> Result<SocketAddr> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").context("cannot open a port on 127.0.0.1")?;
    Ok(listener.local_addr()?)
}

fn engine(
    root: &Path,
    address: SocketAddr,
    token: &str,
    clock: Arc<dyn Clock>,
    launches: Launches,
) -> Result<Engine> {
    let mut setup = Setup::new("demo");
    setup.settings.limit = Limit { agents: Some(AGENTS), ..Limit::default() };
    setup.settings.policy.lost_grace = Duration::from_secs(2);
    for (name, max) in LABELS {
        setup.labels.insert(name.into(), LabelSpec::new(name));
        let settings = LabelSettings {
            limit: Limit { agents: max, ..Limit::default() },
            providers: vec!["local".into()],
            masters: ["queue".into()].into(),
            idle_timeout: Duration::from_secs(1),
            ..LabelSettings::default()
        };
        setup.settings.labels.insert(name.into(), settings);
    }
    let mut builder = Engine::builder(setup).clock(clock.clone()).audit(launches);
    let context = BuildContext::new(
        "",
        "demo".into(),
        clock,
        builder.spawner(),
        Arc::new(HostSecrets),
        root.to_owned(),
    );
    let queue = json!({
        "url": format!("http://{address}"),
        "token": token,
        "embedded": {"listen": address.to_string()},
    });
    let parts = [(PluginKind::Master, "queue", queue), (PluginKind::Provider, "local", json!({}))];
    for (kind, name, fragment) in parts {
        let plugin = find(kind, name)?;
        builder =
            assemble::plug(builder, &context.named(name), plugin.build, &Fragment::from_value(fragment))?;
    }
    Ok(builder.build()?)
}

/// Reads the audit record for what was launched: some agents live too short a time to be seen by looking.
#[derive(Clone, Default)]
struct Launches(Arc<Mutex<Vec<u8>>>);

impl Write for Launches {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Launches {
    /// Names of all agents whose launch was acknowledged.
    fn names(&self) -> BTreeSet<String> {
        let record = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let lines = record.split(|byte| *byte == b'\n');
        let lines = lines.filter_map(|line| serde_json::from_slice::<serde_json::Value>(line).ok());
        let is = |line: &serde_json::Value, key: &str, word: &str| {
            line.get(key).is_some_and(|value| value == word)
        };
        let launched = lines.filter(|line| is(line, "step", "launch") && is(line, "outcome", "done"));
        launched.filter_map(|line| Some(line.get("agent")?.as_str()?.to_owned())).collect()
    }
}

/// What was seen until the end.
struct Seen {
    jobs: Vec<Job>,
    agents: BTreeMap<String, Sighting>,
    /// Agents that the queue still knows of.
    at_queue: Vec<String>,
}

/// Submits all jobs and looks on until they have ended and their agents are gone.
async fn watch(
    mix: &[jobs::DemoJob],
    client: &QueueClient,
    handle: &Handle,
    clock: &dyn Clock,
    output: Output,
) -> Result<Seen> {
    let quiet = !output.is_for_people();
    let mut progress = Progress::new(quiet);
    wait_until_up(client, clock).await?;
    for job in mix {
        client.submit(&job.submission).await?;
    }
    let mut agents: BTreeMap<String, Sighting> = BTreeMap::new();
    let mut changed = clock.now();
    let mut before = String::new();
    loop {
        let status = handle.status().await?;
        let jobs = client.jobs().await?;
        sight(&status, &mut agents, clock.now());
        let ended = jobs.iter().filter(|job| job.state.has_ended()).count();
        let now = summary(&jobs, &status);
        if now != before {
            changed = clock.now();
            progress.show(&now);
            before = now;
        }
        if ended == mix.len() && status.agents.is_empty() {
            progress.end();
            // The other side: what the queue itself still knows of.
            let at_queue = client.agents().await?.into_iter().map(|agent| agent.name).collect();
            return Ok(Seen { jobs, agents, at_queue });
        }
        if clock.now().since(changed) > PATIENCE {
            let agents: Vec<&str> = status.agents.iter().map(|agent| agent.text.as_str()).collect();
            bail!("nothing has changed for {} s: {before}; agents: {agents:?}", PATIENCE.as_secs());
        }
        clock.sleep(LOOK).await;
    }
}

/// How a demo ends that somebody stopped.
fn stopped() -> anyhow::Error {
    Exit { code: STOPPED, text: "stopped; its jobs were ended".to_owned() }.into()
}

/// Ends all jobs and agents: a demo that goes wrong or is stopped leaves nothing either.
async fn take_all_away(handle: &Handle, clock: &dyn Clock, output: Output) {
    if output.is_for_people() {
        show::aside("\nending jobs and agents; another Ctrl-C kills them");
    }
    let since = clock.now();
    let reason = "the demo ends".to_owned();
    let mut told = handle.command(Command::DrainAll { reason }).await.is_ok();
    while told && clock.now().since(since) < STOP {
        let Ok(status) = handle.status().await else { return };
        // What was under way when launching stopped appears later. Gone meanwhile is fine.
        for agent in &status.agents {
            let _ = handle.command(Command::Delete { id: agent.name.to_string(), force: true }).await;
        }
        told = !status.agents.is_empty();
        clock.sleep(LOOK).await;
    }
}

async fn wait_until_up(client: &QueueClient, clock: &dyn Clock) -> Result<()> {
    let since = clock.now();
    while let Err(error) = client.waiting().await {
        if clock.now().since(since) > Duration::from_secs(20) {
            return Err(error).context("the queue does not come up");
        }
        clock.sleep(LOOK).await;
    }
    Ok(())
}

fn sight(status: &Status, agents: &mut BTreeMap<String, Sighting>, now: Moment) {
    for agent in &status.agents {
        let known = agents.entry(agent.name.to_string()).or_insert_with(|| Sighting {
            label: agent.label.to_string(),
            job: None,
            gone: None,
        });
        known.gone = None;
        known.job = agent.job.clone().or(known.job.take());
    }
    for (name, known) in agents {
        if known.gone.is_none() && !status.agents.iter().any(|agent| agent.name.as_str() == name) {
            known.gone = Some(now);
        }
    }
}

fn summary(jobs: &[Job], status: &Status) -> String {
    let mut states: BTreeMap<_, u32> = BTreeMap::new();
    for job in jobs {
        *states.entry(job.state).or_insert(0) += 1;
    }
    let mut agents: BTreeMap<&str, u32> = BTreeMap::new();
    for agent in &status.agents {
        *agents.entry(&agent.state).or_insert(0) += 1;
    }
    let jobs: Vec<String> = states
        .iter()
        .map(|(state, count)| format!("{count} {}", format!("{state:?}").to_lowercase()))
        .collect();
    let agents: Vec<String> = agents.iter().map(|(state, count)| format!("{count} {state}")).collect();
    let agents = if agents.is_empty() { "none".to_owned() } else { agents.join(", ") };
    format!("jobs: {} | agents: {agents}", jobs.join(", "))
}

/// One line that is replaced on a terminal; elsewhere plain lines, and not too many of them.
struct Progress {
    quiet: bool,
    terminal: bool,
    skipped: u32,
    last: String,
}

impl Progress {
    fn new(quiet: bool) -> Self {
        Self { quiet, terminal: std::io::stderr().is_terminal(), skipped: u32::MAX, last: String::new() }
    }

    fn show(&mut self, text: &str) {
        text.clone_into(&mut self.last);
        if self.quiet {
        } else if self.terminal {
            show::progress(text);
        } else if self.skipped >= 20 {
            self.skipped = 0;
            show::aside(text);
        } else {
            self.skipped += 1;
        }
    }

    fn end(&self) {
        if self.quiet {
        } else if self.terminal {
            show::progress("");
        } else {
            show::aside(&self.last);
        }
    }
}
