//! The `kubestack` program as a library: the command line, the list of plugins, and the wiring.
//!
//! A third party builds its own binary with its own plugins in a few lines:
//! ```no_run
//! // use my_listener as _;
//! fn main() -> std::process::ExitCode {
//!     kubestack::main()
//! }
//! ```
//!
//! What this crate deliberately does not know: anything that an embedding program would miss; that is in
//! `kubestack-engine`.

mod assemble;
mod check;
mod cli;
mod control;
mod demo;
mod jobs;
mod operate;
mod plan;
mod reload;
mod run;
mod show;
mod signals;
mod templates;

// The binary must name each plugin crate, or the linker drops it together with its registration.
use kubestack_jenkins as _;
use kubestack_k8s as _;
use kubestack_listeners as _;
use kubestack_local as _;
use kubestack_queue as _;

use anyhow::Result;
use clap::{CommandFactory, Parser};
use cli::{Action, Cli, Plugins};
use std::process::ExitCode;

/// Wrong usage or config; clap uses the same.
const USAGE: u8 = 2;
/// What was named does not exist.
const NO_SUCH_THING: u8 = 3;
/// Another daemon leads.
const LOST_LEAD: u8 = 4;
/// A signal stopped it before it was done; shells use the same for Ctrl-C.
const STOPPED: u8 = 130;

/// Runs the program.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            show::aside(&format!("error: cannot start: {error}"));
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(act(cli)) {
        Ok(code) => code,
        Err(error) => {
            show::aside(&format!("error: {error:#}"));
            let code = error.downcast_ref::<Exit>().map_or(1, |exit| exit.code);
            ExitCode::from(code)
        }
    }
}

/// An error with an exit code of its own.
#[derive(Debug)]
struct Exit {
    code: u8,
    text: String,
}

impl std::fmt::Display for Exit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Exit {}

async fn act(cli: Cli) -> Result<ExitCode> {
    match &cli.action {
        Action::Run { .. } => run::daemon(&cli.config).await,
        Action::Demo(demo) => demo::run(demo, cli.output).await,
        Action::Check { online: false, .. } => check::config(&cli.config),
        Action::Check { timeout, record, .. } => {
            check::online(&cli.config, *timeout, record.as_deref(), cli.output).await
        }
        Action::Plan { timeout } => plan::plan(&cli.config, *timeout, cli.output).await,
        Action::Submit(submit) => jobs::submit(&cli.config, submit, cli.output).await,
        Action::Jobs { action } => jobs::jobs(&cli.config, action, cli.output).await,
        Action::Logs { job, follow } => jobs::logs(&cli.config, job, *follow).await,
        Action::Agent => jobs::agent().await,
        Action::Plugins { action: Plugins::List } => {
            show::plugins(cli.output, &kubestack_core::registry::plugins());
            Ok(ExitCode::SUCCESS)
        }
        Action::Completions { shell } => {
            let mut text = Vec::new();
            clap_complete::generate(*shell, &mut Cli::command(), "kubestack", &mut text);
            show::raw(&text);
            Ok(ExitCode::SUCCESS)
        }
        action @ (Action::ListTemplates | Action::CreateTemplate { .. } | Action::DeleteTemplate { .. }) => {
            templates::act(&cli.config, action, cli.output).await
        }
        action => operate::act(&cli, action).await,
    }
}
