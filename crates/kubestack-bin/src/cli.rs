//! The command line.

use clap::{Parser, Subcommand, ValueEnum};
use kubestack_queue::model::JobState;
use std::path::PathBuf;

/// Turns the demand of a CI system into one-job agents, and takes them away when their job is done.
#[derive(Parser)]
#[command(name = "kubestack", version, max_term_width = 100, after_help = EXIT_CODES)]
pub(crate) struct Cli {
    /// The config file
    #[arg(
        short,
        long,
        global = true,
        value_name = "FILE",
        default_value = "/etc/kubestack/config.yaml",
        env = "KUBESTACK_CONFIG"
    )]
    pub config: PathBuf,

    /// How answers are printed
    #[arg(short, long, global = true, value_enum, default_value_t = Output::Table)]
    pub output: Output,

    #[command(subcommand)]
    pub action: Action,
}

const EXIT_CODES: &str = "Exit codes: 0 done, 1 it failed, 2 wrong usage or config, \
                          3 the thing named does not exist, 4 another daemon leads, 130 stopped by a signal";

/// For people or for programs.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// A table
    Table,
    /// A table with all that is known of agents, and with all systems (list)
    Wide,
    /// JSON
    Json,
    /// YAML
    Yaml,
}

impl Output {
    pub(crate) fn is_for_people(self) -> bool {
        matches!(self, Self::Table | Self::Wide)
    }
}

#[derive(Subcommand)]
pub(crate) enum Action {
    /// Run the daemon in the foreground
    Run {
        /// Accepted as in 2015; the daemon always stays in the foreground
        #[arg(short = 'd', hide = true)]
        debug: bool,
    },
    /// Run real jobs on real agents in a temporary directory, and show what happens
    Demo(Demo),
    /// Check the config file; nothing is started
    Check {
        /// Also try each system: that it answers, each permission, and that it would take each label's agents
        ///
        /// Nothing is made or changed; this works beside a running daemon and before there is one (the built-in
        /// queue answers only while its daemon runs). Fails if something is missing.
        #[arg(long)]
        online: bool,
        /// How long to wait for each system
        #[arg(long, value_name = "DURATION", default_value = "10s", requires = "online")]
        timeout: kubestack_core::time::Span,
        /// Take down what the systems were asked and answered, without secrets, as a test that others can run
        ///
        /// For people who have a server that nobody here has. The file must not be there yet. At present Jenkins is taken down.
        #[arg(long, value_name = "FILE", requires = "online")]
        record: Option<PathBuf>,
    },
    /// Show what a daemon would do now, and why; nothing is sent
    ///
    /// Every system that the config names is looked at once. This works beside a running daemon and without one (the
    /// built-in queue answers only while its daemon runs). The names of new agents are given by the daemon, so they
    /// are left out. Fails if a system did not answer: then more might be done than is shown.
    Plan {
        /// How long to wait for each system
        #[arg(long, value_name = "DURATION", default_value = "10s")]
        timeout: kubestack_core::time::Span,
    },
    /// List agents and what waits
    List,
    /// Launch one agent, demand or not
    Create {
        /// Of this label
        label: String,
    },
    /// Take one agent away once it has no job
    Delete {
        /// Its name or uid
        id: String,
        /// Even while it has a job
        #[arg(long)]
        force: bool,
    },
    /// List templates of labels on their platforms
    #[command(alias = "list_templates")]
    ListTemplates,
    /// Make a template of a label on its platform, for people to look at; agents are launched from the config
    #[command(alias = "create_template")]
    CreateTemplate {
        /// Of this label
        label: String,
    },
    /// Take a template away
    #[command(alias = "delete_template")]
    DeleteTemplate {
        /// Its name or uid
        id: String,
    },
    /// Keep one agent as it is
    Hold {
        /// Its name or uid
        id: String,
        /// Why
        #[arg(long, default_value = "held by the operator")]
        reason: String,
    },
    /// Let a held agent go on
    Release {
        /// Its name or uid
        id: String,
    },
    /// Launch nothing until resumed
    Pause {
        /// Why
        #[arg(long, default_value = "paused by the operator")]
        reason: String,
    },
    /// Launch again, and stop draining
    Resume,
    /// Launch nothing and let all idle agents go
    #[command(alias = "drain_all")]
    DrainAll {
        /// Why
        #[arg(long, default_value = "drained by the operator")]
        reason: String,
    },
    /// Say why work waits, or why an agent is as it is
    Explain {
        /// A label, or an agent's name or uid
        what: String,
    },
    /// Put a job into the built-in queue
    Submit(Submit),
    /// Look at and cancel jobs of the built-in queue
    Jobs {
        #[command(subcommand)]
        action: Jobs,
    },
    /// Print the log of a job of the built-in queue
    Logs {
        /// The job's id
        job: String,
        /// Go on until the job ends
        #[arg(short, long)]
        follow: bool,
    },
    /// Run one job of the built-in queue, then exit (used by launched agents)
    Agent,
    /// What this binary can talk to
    Plugins {
        #[command(subcommand)]
        action: Plugins,
    },
    /// Print shell completions
    Completions {
        /// For this shell
        shell: clap_complete::Shell,
    },
}

#[derive(Subcommand)]
pub(crate) enum Jobs {
    /// List jobs, oldest first
    List {
        /// Only those in this state: queued, running, succeeded, failed or cancelled
        #[arg(long)]
        state: Option<JobState>,
        /// Only those for this label
        #[arg(long)]
        label: Option<String>,
    },
    /// Show all that is known of a job
    Show {
        /// The job's id
        job: String,
    },
    /// Cancel a job; one that runs is ended
    Cancel {
        /// The job's id
        job: String,
    },
    /// Wait until a job ends and show how; exit status 0 only if it succeeded
    Result {
        /// The job's id
        job: String,
    },
}

#[derive(Subcommand)]
pub(crate) enum Plugins {
    /// List all plugins by kind
    List,
}

/// Run real jobs on real agents in a temporary directory.
#[derive(clap::Args)]
pub(crate) struct Demo {
    /// How many jobs
    #[arg(long, default_value_t = 24, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub jobs: u32,
    /// Another seed gives another mix
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

/// Put a job into the built-in queue.
#[derive(clap::Args)]
pub(crate) struct Submit {
    /// The label that is to run it
    #[arg(short, long)]
    pub label: String,
    /// Environment of the job, NAME=VALUE
    #[arg(short, long = "env", value_name = "NAME=VALUE")]
    pub env: Vec<String>,
    /// It fails if it takes longer
    #[arg(short, long, value_name = "DURATION")]
    pub timeout: Option<kubestack_core::time::Span>,
    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    pub command: Vec<String>,
}
