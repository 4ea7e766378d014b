//! `cargo xtask testbed`: the testbed for developers.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a tool for the terminal")]

use anyhow::{Context, Result, bail};
use clap::{Args, Parser, Subcommand};
use kubestack_testbed::{Cluster, DEVELOPER, Options, Slot, Stages};
use std::fs::{self, File};
use std::io::{IsTerminal, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

/// A real Kubernetes for tests and developers
#[derive(Parser)]
#[command(name = "cargo xtask testbed")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Build what is not built yet, in the cache outside the checkout
    Build {
        /// Programs; all if none is named
        targets: Vec<String>,
    },
    /// Install the Debian packages that are missing, as root; elsewhere say which
    Packages,
    /// Start a cluster that outlives this command
    Up(Shape),
    /// End the cluster that `up` started, and clean up after crashes
    Down,
    /// Show what runs
    Status,
    /// Make the image of the queue's agent, and load it into the running cluster's real node if there is one
    Image,
    /// Hold a cluster until killed (what `up` starts; prints the kubeconfig when it is ready)
    #[command(hide = true)]
    Hold {
        #[command(flatten)]
        shape: Shape,
        /// Any free slot instead of the developer's
        #[arg(long)]
        any_slot: bool,
    },
}

#[derive(Args)]
struct Shape {
    /// So many fake nodes, played by KWOK
    #[arg(long, value_name = "N")]
    nodes: Option<u32>,
    /// How fake pods change: `fast`, `slow-and-failing`, or a file with KWOK's Stage documents
    #[arg(long, default_value = "fast", requires = "nodes")]
    stages: String,
    /// A real node with kubelet and containerd (needs root)
    #[arg(long)]
    real_node: bool,
    /// etcd and kube-apiserver only
    #[arg(long)]
    api_only: bool,
}

impl Shape {
    fn options(&self) -> Options {
        let mut options = if self.api_only { Options::api_only() } else { Options::control_plane() };
        if let Some(nodes) = self.nodes {
            options = options.fake_nodes(nodes).stages(match self.stages.as_str() {
                "fast" => Stages::Fast,
                "slow-and-failing" => Stages::SlowAndFailing,
                file => Stages::File(file.into()),
            });
        }
        if self.real_node { options.real_node() } else { options }
    }

    fn flags(&self) -> Vec<String> {
        let mut flags = Vec::new();
        if let Some(nodes) = self.nodes {
            flags.extend([format!("--nodes={nodes}"), format!("--stages={}", self.stages)]);
        }
        flags.extend(self.real_node.then(|| "--real-node".to_owned()));
        flags.extend(self.api_only.then(|| "--api-only".to_owned()));
        flags
    }
}

fn main() -> ExitCode {
    let Err(error) = run(&Cli::parse().task) else { return ExitCode::SUCCESS };
    eprintln!("error: {error:#}");
    ExitCode::FAILURE
}

fn run(task: &Task) -> Result<()> {
    match task {
        Task::Build { targets } => build(targets),
        Task::Packages => kubestack_testbed::install_packages(|line| eprintln!("{line}")),
        Task::Up(shape) => up(shape),
        Task::Down => down(),
        Task::Status => status(),
        Task::Image => image(),
        Task::Hold { shape, any_slot } => hold(shape, *any_slot),
    }
}

fn build(targets: &[String]) -> Result<()> {
    let mut names: Vec<&str> = targets.iter().map(String::as_str).collect();
    if names.is_empty() {
        names = kubestack_testbed::targets().collect();
    }
    let directory = kubestack_testbed::build(&names, |line| eprintln!("{line}"))?;
    println!("{}", directory.display());
    Ok(())
}

fn developers() -> Result<Option<Slot>> {
    Ok(kubestack_testbed::slots()?.into_iter().find(|slot| slot.number() == DEVELOPER))
}

fn up(shape: &Shape) -> Result<()> {
    if let Some(slot) = developers()?
        && slot.owner()?.is_some()
    {
        bail!("it is up already: {}; `cargo xtask testbed down` ends it", slot.kubeconfig().display());
    }
    if let Some(reason) = kubestack_testbed::missing(&shape.options())? {
        bail!("the testbed needs {reason}");
    }
    let log = kubestack_testbed::directory()?.join("up.log");
    let mut holder = Command::new(std::env::current_exe()?)
        .arg("hold")
        .args(shape.flags())
        // Out of the terminal's reach, which ends what runs in it.
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(File::create(&log)?)
        .spawn()?;
    if std::io::stderr().is_terminal() {
        eprintln!("starting (a few seconds)…");
    }
    let mut kubeconfig = String::new();
    holder.stdout.take().context("no pipe")?.read_to_string(&mut kubeconfig)?;
    if kubeconfig.is_empty() {
        bail!("the cluster did not start:\n{}", fs::read_to_string(&log).unwrap_or_default());
    }
    let kubectl = kubestack_testbed::binaries()?.join("kubectl");
    println!("it is up until `cargo xtask testbed down`; use it with");
    println!("  export KUBECONFIG={}", kubeconfig.trim());
    println!("  {} get nodes", kubectl.display());
    Ok(())
}

fn hold(shape: &Shape, any_slot: bool) -> Result<()> {
    let options = shape.options();
    let cluster = Cluster::start(&if any_slot { options } else { options.slot(DEVELOPER) })?;
    let mut stdout = std::io::stdout();
    writeln!(stdout, "{}", cluster.kubeconfig().display())?;
    stdout.flush()?;
    // The end of our output tells that this is all.
    rustix::stdio::dup2_stdout(File::open("/dev/null")?)?;
    loop {
        std::thread::park();
    }
}

fn down() -> Result<()> {
    if let Some(slot) = developers()?
        && let Some(owner) = slot.owner()?
    {
        let owner = rustix::process::Pid::from_raw(owner).context("a strange owner")?;
        // Its end is what the supervisor waits for.
        rustix::process::kill_process(owner, rustix::process::Signal::KILL)?;
        kubestack_testbed::wait("end of the cluster", Duration::from_secs(60), || {
            Ok((slot.owner()?.is_none()).then_some(()))
        })?;
    }
    kubestack_testbed::clean()
}

fn status() -> Result<()> {
    let directory = kubestack_testbed::binaries()?;
    let targets: Vec<&str> = kubestack_testbed::targets().collect();
    let missing = kubestack_testbed::missing_binaries(&targets)?;
    println!(
        "{} of {} programs are built in {}",
        targets.len() - missing.len(),
        targets.len(),
        directory.display()
    );
    for slot in kubestack_testbed::slots()? {
        let whose = if slot.number() == DEVELOPER { "yours" } else { "of a test" };
        match slot.owner()? {
            Some(owner) => {
                println!(
                    "cluster {}, {whose}, held by process {owner}: {}",
                    slot.number(),
                    slot.kubeconfig().display()
                );
            }
            None => println!("cluster {}, {whose}: left behind; `down` cleans up", slot.number()),
        }
    }
    let Some(slot) = developers()? else {
        println!("no cluster of yours is up");
        return Ok(());
    };
    let kubectl = directory.join("kubectl");
    let show =
        Command::new(kubectl).arg("--kubeconfig").arg(slot.kubeconfig()).args(["get", "nodes"]).status();
    show.map(drop).context("cannot run kubectl")
}

fn image() -> Result<()> {
    let archive: PathBuf = kubestack_testbed::image::agent()?;
    println!("{} as {}", archive.display(), kubestack_testbed::image::AGENT);
    if let Some(slot) = developers()?.filter(Slot::has_real_node) {
        kubestack_testbed::load_image(&slot, &archive)?;
        println!("loaded into the running cluster");
    }
    Ok(())
}
