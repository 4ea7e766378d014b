//! `kubestack run`: the daemon in the foreground; and `kubestack check`.

use crate::control::{self, Server};
use crate::{Exit, USAGE, assemble, show};
use anyhow::{Context, Result};
use kubestack_core::error::ErrorKind;
use kubestack_engine::config::{Config, Problems};
use kubestack_engine::{Builder, Handle};
use std::fs::OpenOptions;
use std::io::IsTerminal;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;

/// How often the config file is looked at. A poll sees a file that is swapped by a link as well.
const CONFIG_POLL: Duration = Duration::from_secs(2);

impl From<Problems> for Exit {
    fn from(problems: Problems) -> Self {
        Self { code: USAGE, text: format!("the config is not valid\n{problems}") }
    }
}

/// Checks the file, and that each plugin takes its part of it. Starts nothing.
pub(crate) fn check(path: &Path) -> Result<ExitCode> {
    let config = load(path)?;
    let instance = &config.setup.instance;
    let (labels, masters, providers) =
        (config.setup.labels.len(), config.masters.len(), config.providers.len());
    show::line(&format!(
        "{}: valid (instance {instance}, {labels} labels, {masters} masters, {providers} providers)",
        path.display()
    ));
    Ok(ExitCode::SUCCESS)
}

fn load(path: &Path) -> Result<Config> {
    let config = Config::load(path).map_err(Exit::from)?;
    let wrong =
        |error: anyhow::Error| Exit { code: USAGE, text: format!("the config is not valid\n{error}") };
    let builder = assemble::builder(&config).map_err(wrong)?;
    builder.build().map_err(|error| wrong(error.into()))?;
    Ok(config)
}

/// Runs until told to stop. A first signal ends it in good order, a second one at once.
pub(crate) async fn daemon(path: &Path) -> Result<ExitCode> {
    log_to_stderr();
    let stop = Arc::new(Notify::new());
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let told = stop.clone();
    let signals = async move {
        let mut next = async || tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} };
        next().await;
        tracing::info!("stopping once the steps under way have ended; another signal stops at once");
        told.notify_one();
        next().await;
        tracing::warn!("stopped at once; what was under way is found again after the next start");
    };
    tokio::select! {
        ended = turns(path, &stop) => ended.map(|()| ExitCode::SUCCESS),
        () = signals => Ok(ExitCode::from(130)),
    }
}

/// One engine after the other: another one takes over when the config names other systems.
async fn turns(path: &Path, stop: &Notify) -> Result<()> {
    let mut config = load(path)?;
    loop {
        let dir = &config.state_dir;
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).with_context(|| {
            format!("cannot make {}; name another directory under `state_dir`", dir.display())
        })?;
        let audit = dir.join("audit.jsonl");
        let audit = OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(&audit)
            .with_context(|| format!("cannot write {}; check its permissions", audit.display()))?;
        let builder = assemble::builder(&config)?.audit(audit);
        let next = turn(builder, path, &config, stop).await?;
        match next {
            Some(next) => config = next,
            None => return Ok(()),
        }
    }
}

/// Runs one engine. Returns the configuration of the next one, if there is to be one.
async fn turn(builder: Builder, path: &Path, config: &Config, stop: &Notify) -> Result<Option<Config>> {
    let spawner = builder.spawner();
    let engine = builder.build()?;
    let handle = engine.handle();
    let serve = control(handle.clone(), control::socket(&config.state_dir), spawner.clone());
    spawner.spawn("control", Box::pin(serve));
    let mut next = None;
    let end = async {
        tokio::select! {
            () = stop.notified() => {}
            config = follow(path, &handle) => next = Some(config),
        }
    };
    engine.run(end).await?;
    Ok(next)
}

/// Answers the command line, once this daemon leads: before that the socket may be another one's.
async fn control(
    handle: Handle,
    socket: std::path::PathBuf,
    spawner: Arc<dyn kubestack_core::context::Spawner>,
) {
    if handle.status().await.is_err() {
        return;
    }
    match Server::open(&socket) {
        Ok(server) => server.serve(handle, spawner).await,
        Err(error) => tracing::error!("{error:#}"),
    }
}

/// Takes changes of the file into use; returns once one of them takes a new engine.
#[expect(clippy::disallowed_methods, reason = "the daemon's own process, in real time")]
async fn follow(path: &Path, handle: &Handle) -> Config {
    let mut known = std::fs::read(path).ok();
    loop {
        tokio::time::sleep(CONFIG_POLL).await;
        let now = std::fs::read(path).ok();
        if now.is_none() || now == known {
            continue;
        }
        known = now;
        match load(path) {
            Ok(config) => match handle.reconfigure(config.setup.clone()).await {
                Ok(()) => {}
                Err(error) if error.kind == ErrorKind::Conflict => return config,
                Err(error) => tracing::error!(%error, "the new config is not taken into use"),
            },
            Err(error) => tracing::error!(
                "the config has changed and is not valid; the old one stays in use: {error:#}"
            ),
        }
    }
}

fn log_to_stderr() {
    use tracing_subscriber::EnvFilter;
    let filter = EnvFilter::try_from_env("KUBESTACK_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let logger = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .with_target(false);
    // A second logger is refused; that happens only where an embedding program has one already.
    let _ = logger.try_init();
}
