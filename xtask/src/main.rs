//! Development tasks: `cargo xtask test`, `cargo xtask ci`, `cargo xtask verify`, `cargo xtask jenkins-demo`,
//! `cargo xtask kubernetes-demo`, `cargo xtask testbed`.
#![expect(clippy::print_stdout, reason = "a tool for the terminal")]
#![expect(clippy::disallowed_methods, reason = "times its steps in real time")]

mod breakages;
mod counts;
mod rooms;

use anyhow::{Context, Result, bail};
use counts::Counts;
use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

const HELP: &str = "\
cargo xtask test     all tests; the last line counts them
cargo xtask ci       what must pass before anything lands
cargo xtask breakages  breaks copies of the sources; each breakage must be caught
cargo xtask verify   ci, and the long runs with their figures
cargo xtask jenkins-demo  jobs of a real server of Jenkins' line in pods of a real Kubernetes
cargo xtask kubernetes-demo  jobs in pods of a real Kubernetes, from their submission to the last trace
cargo xtask testbed  a real Kubernetes for tests and developers; see docs/testbed.md
";

/// The version that deny.toml is written for.
const CARGO_DENY: &str = "0.20.2";

fn main() -> ExitCode {
    let task = std::env::args().nth(1).unwrap_or_default();
    if task == "testbed" {
        let done = testbed(std::env::args().skip(2)).status();
        return if done.is_ok_and(|status| status.success()) { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    let mut steps = Steps::default();
    let done = match task.as_str() {
        "test" => test(&mut steps),
        "ci" => ci(&mut steps),
        "breakages" => steps.check("breakages", breakages::check),
        "verify" => verify(&mut steps),
        "jenkins-demo" => jenkins_demo(&mut steps),
        "kubernetes-demo" => kubernetes_demo(&mut steps),
        _ => {
            print!("{HELP}");
            return if task.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(2) };
        }
    };
    if steps.done.len() > 1 {
        steps.print();
    }
    if let Err(error) = &done {
        println!("error: {error:#}");
    }
    println!("{}", steps.counts);
    if done.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The testbed's own command line.
fn testbed(args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Command {
    let mut command = cargo(["run", "--quiet", "--package", "kubestack-testbed", "--"]);
    command.args(args);
    command
}

fn test(steps: &mut Steps) -> Result<()> {
    steps.run("test", cargo(["test", "--workspace", "--no-fail-fast"]))?;
    if steps.counts.passed == 0 {
        bail!("no test ran");
    }
    Ok(())
}

fn ci(steps: &mut Steps) -> Result<()> {
    steps.run("format", cargo(["fmt", "--all", "--check"]))?;
    steps.run("clippy", cargo(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))?;
    let mut docs = cargo(["doc", "--workspace", "--no-deps"]);
    docs.env("RUSTDOCFLAGS", "-D warnings");
    steps.run("docs", docs)?;
    steps.check("rooms", rooms::check)?;
    let mut deny = Command::new(cargo_deny(steps)?);
    // Advisories come from a git host that a closed CI does not reach; `verify` asks for them.
    deny.args(["--offline", "check", "--hide-inclusion-graph", "bans", "licenses", "sources"]);
    steps.run("dependencies", deny)?;
    steps.run("README: demo", cargo(["run", "--release", "--", "demo"]))?;
    real_servers(steps)?;
    test(steps)
}

/// What tests against real servers take. Without Go they skip, or fail where CI=true.
fn real_servers(steps: &mut Steps) -> Result<()> {
    let go = Command::new("go").arg("version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if !go.is_ok_and(|status| status.success()) {
        return Ok(());
    }
    programs(steps)?;
    steps.run("testbed: image", testbed(["image"]))
}

fn programs(steps: &mut Steps) -> Result<()> {
    steps.run("testbed: packages", testbed(["packages"]))?;
    steps.run("testbed: programs", testbed(["build"]))
}

/// The test of the mission, shown; what it takes is built first.
fn jenkins_demo(steps: &mut Steps) -> Result<()> {
    programs(steps)?;
    let mut jobs = jobs_in_pods();
    // Whoever asks to see it is not to see that it was skipped.
    jobs.arg("jenkins::").env("CI", "true");
    steps.run("jobs of Jenkins in pods", jobs)
}

/// The test of the main job, shown; what it takes is built first.
fn kubernetes_demo(steps: &mut Steps) -> Result<()> {
    real_servers(steps)?;
    steps.run("jobs in pods", jobs_in_pods())
}

fn jobs_in_pods() -> Command {
    let mut command = cargo(["test", "--quiet", "--package", "kubestack-bin", "--test", "kubernetes"]);
    // One after the other, or their words would mix.
    command.args(["--", "--nocapture", "--test-threads=1"]);
    command
}

fn verify(steps: &mut Steps) -> Result<()> {
    ci(steps)?;
    steps.run("demo, 200 jobs", cargo(["run", "--release", "--", "demo", "--jobs", "200"]))?;
    let mut pods = jobs_in_pods();
    pods.env("KUBESTACK_JOBS", "500").env("KUBESTACK_KILLS", "50").env("KUBESTACK_LONG", "1");
    steps.run("500 jobs in pods, faults, 50 leaders killed", pods)?;
    let mut leads = cargo(["test", "-p", "kubestack-k8s", "--test", "lead_worlds", "--", "--nocapture"]);
    leads.env("KUBESTACK_SEEDS", "12..212");
    steps.run("200 worlds of leaders", leads)?;
    let mut seeds = cargo(["test", "-p", "kubestack-testkit", "--test", "seeds", "--", "--nocapture"]);
    seeds.env("KUBESTACK_SEEDS", "2000..22000");
    steps.run("20,000 seeds", seeds)?;
    let mut worlds = cargo(["test", "-p", "kubestack-planner", "--test", "worlds"]);
    worlds.env("PROPTEST_CASES", "100000");
    steps.run("300,000 worlds", worlds)?;
    steps.run("planner, timed", cargo(["run", "--release", "-p", "kubestack-bench", "--bin", "planner"]))?;
    steps.run("cluster, timed", cargo(["run", "--release", "-p", "kubestack-bench", "--bin", "cluster"]))?;
    steps.check("breakages", breakages::check)
}

/// Where cargo-deny is; installed outside the checkout if it is not on this machine.
fn cargo_deny(steps: &mut Steps) -> Result<PathBuf> {
    let known =
        Command::new("cargo-deny").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if known.is_ok_and(|status| status.success()) {
        return Ok("cargo-deny".into());
    }
    let cache = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(Path::new(&std::env::var_os("HOME")?).join(".cache")));
    let root = cache.context("neither XDG_CACHE_HOME nor HOME is set")?.join("kubestack-tools");
    let path = root.join("bin/cargo-deny");
    if !path.exists() {
        let mut install = cargo(["install", "cargo-deny", "--locked", "--version", CARGO_DENY]);
        install.arg("--root").arg(&root).arg("--target-dir").arg(root.join("target"));
        steps.run("install cargo-deny", install)?;
    }
    Ok(path)
}

fn cargo<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(args);
    command
}

/// What was done, how long it took, and the tests counted on the way.
#[derive(Default)]
struct Steps {
    done: Vec<(String, Duration, bool)>,
    counts: Counts,
}

impl Steps {
    /// Runs a command; its output passes through and is read for test results.
    fn run(&mut self, name: &str, mut command: Command) -> Result<()> {
        println!("== {name}");
        let began = Instant::now();
        let mut child =
            command.stdout(Stdio::piped()).spawn().with_context(|| format!("cannot start {name}"))?;
        if let Some(output) = child.stdout.take() {
            for line in BufReader::new(output).lines() {
                let line = line.unwrap_or_default();
                self.counts.read(&line);
                println!("{line}");
            }
        }
        let good = child.wait()?.success();
        self.done.push((name.to_owned(), began.elapsed(), good));
        if good { Ok(()) } else { bail!("{name} failed") }
    }

    fn check(&mut self, name: &str, check: impl FnOnce() -> Result<()>) -> Result<()> {
        println!("== {name}");
        let began = Instant::now();
        let result = check();
        self.done.push((name.to_owned(), began.elapsed(), result.is_ok()));
        result
    }

    fn print(&self) {
        println!("== summary");
        for (name, took, good) in &self.done {
            println!("{:<20} {:>7.1} s  {}", name, took.as_secs_f64(), if *good { "ok" } else { "FAILED" });
        }
    }
}
