//! `kubestack run`: the daemon in the foreground.

use crate::control::{self, Server};
use crate::reload::{self, Loaded};
use crate::signals::Signals;
use crate::{Exit, LOST_LEAD, STOPPED, USAGE, assemble};
use anyhow::{Context, Result};
use kubestack_engine::audit::AuditFile;
use kubestack_engine::config::Problems;
use kubestack_engine::coordination::DirectoryLock;
use kubestack_engine::{End, Handle};
use std::io::IsTerminal;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use tokio::sync::Notify;

/// Bytes of audit record before it is put aside; twice that is kept.
const AUDIT: u64 = 32 << 20;

impl From<Problems> for Exit {
    fn from(problems: Problems) -> Self {
        Self { code: USAGE, text: format!("the config is not valid\n{problems}") }
    }
}

/// Runs until told to stop. A first signal ends it in good order, a second one at once.
pub(crate) async fn daemon(path: &Path) -> Result<ExitCode> {
    log_to_stderr()?;
    let stop = Arc::new(Notify::new());
    let mut signals = Signals::new()?;
    let told = stop.clone();
    let signals = async move {
        signals.next().await;
        tracing::info!("stopping once the steps under way have ended; another signal stops at once");
        told.notify_one();
        signals.next().await;
        tracing::warn!("stopped at once; what was under way is found again after the next start");
    };
    tokio::select! {
        ended = run(path, &stop) => Ok(match ended? {
            End::LostLead => {
                tracing::error!(
                    "another daemon leads this instance now, or will; nothing more is sent from here. Started again, this \
                     one waits for its turn"
                );
                ExitCode::from(LOST_LEAD)
            }
            _ => ExitCode::SUCCESS,
        }),
        () = signals => Ok(ExitCode::from(STOPPED)),
    }
}

async fn run(path: &Path, stop: &Notify) -> Result<End> {
    let loaded = Loaded::read(path)?;
    let dir = loaded.config.state_dir.clone();
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir).with_context(|| {
        format!("cannot make {}; name another directory under `state_dir`", dir.display())
    })?;
    // What keeps the lead on this host keeps the directory with it.
    let elsewhere = loaded.config.coordination.is_some();
    let _lock = elsewhere.then(|| DirectoryLock::take(&dir)).transpose()?;
    let audit = dir.join("audit.jsonl");
    let audit = AuditFile::open(&audit, AUDIT)
        .with_context(|| format!("cannot write {}; check its permissions", audit.display()))?;
    let (builder, _) = assemble::builder(&loaded.config)?;
    let spawner = builder.spawner();
    let engine = builder.audit(audit).build()?;
    let handle = engine.handle();
    let serve = control(handle.clone(), control::socket(&dir), spawner.clone(), elsewhere);
    spawner.spawn("control", Box::pin(serve));
    let end = async {
        tokio::select! {
            () = stop.notified() => {}
            () = reload::follow(path, loaded, &handle) => {}
        }
    };
    Ok(engine.run(end).await?)
}

/// Answers the command line, once the directory is ours: before that the socket may be another daemon's. Where the
/// directory keeps the lead, that is once this daemon leads.
async fn control(
    handle: Handle,
    socket: std::path::PathBuf,
    spawner: Arc<dyn kubestack_core::context::Spawner>,
    ours: bool,
) {
    if !ours && handle.status().await.is_err() {
        return;
    }
    match Server::open(&socket) {
        Ok(server) => server.serve(handle, spawner).await,
        Err(error) => tracing::error!("{error:#}"),
    }
}

/// How much is logged.
const LOG: &str = "KUBESTACK_LOG";

fn log_to_stderr() -> Result<(), Exit> {
    use tracing_subscriber::EnvFilter;
    let filter = match std::env::var(LOG) {
        Ok(filter) if !filter.is_empty() => EnvFilter::try_new(filter).map_err(|error| Exit {
            code: USAGE,
            text: format!("{LOG} is not understood: {error}; write `debug`, or `warn,kubestack_queue=trace`"),
        })?,
        _ => EnvFilter::new("info"),
    };
    let logger = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .with_target(false);
    // A second logger is refused; that happens only where an embedding program has one already.
    let _ = logger.try_init();
    Ok(())
}
