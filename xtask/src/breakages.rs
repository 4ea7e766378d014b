//! Deliberate breakages: each is put into a copy of the sources, and the tests must catch it.

use anyhow::{Context, Result, bail};
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// One way to break the planner or the engine.
struct Breakage {
    name: &'static str,
    file: &'static str,
    from: &'static str,
    to: &'static str,
}

impl Breakage {
    /// That there is one such place in the file.
    fn find(&self, whole: &str) -> Result<()> {
        if whole.matches(self.from).count() != 1 {
            bail!("{}: the place to break is not in {} any more", self.name, self.file);
        }
        Ok(())
    }
}

const BREAKAGES: [Breakage; 9] = [
    Breakage {
        name: "drop a precondition: destroy a busy agent's unit",
        file: "crates/kubestack-planner/src/lifecycle.rs",
        from: "AgentState::Busy => way.busy(draft),",
        to: "AgentState::Busy => way.destroy(Reason::Done, draft),",
    },
    Breakage {
        name: "treat an error as empty",
        file: "crates/kubestack-engine/src/observe.rs",
        from: "observer.tell(Fact::ProviderFailed(name.clone(), error.message.clone())).await;",
        to: "observer.tell(Fact::Units(name.clone(), observer.clock.now(), Vec::new())).await;",
    },
    Breakage {
        name: "forget steps in flight",
        file: "crates/kubestack-planner/src/facts/steps.rs",
        from: "self.flights.insert(step.agent().clone(), Flight { step, sent: now, doubt: None });",
        to: "let _ = Flight { step, sent: now, doubt: None };",
    },
    Breakage {
        name: "count a failed agent as supply",
        file: "crates/kubestack-planner/src/agent.rs",
        from: "let coming = matches!(self.state, AgentState::Requested | AgentState::Launching | AgentState::Idle);",
        to: "let coming = !matches!(self.state, AgentState::Busy | AgentState::Orphan);",
    },
    Breakage {
        name: "no drain before remove",
        file: "crates/kubestack-planner/src/lifecycle.rs",
        from: "node.view.activity.is_idle() && node.drained.is_some_and(|drained| node.began > drained)",
        to: "node.began > Moment::default()",
    },
    Breakage {
        name: "leave an agent with its job open for another",
        file: "crates/kubestack-planner/src/lifecycle.rs",
        from: "let drains = can.one_job == OneJob::Observed && can.drains",
        to: "let drains = can.one_job == OneJob::Enforced && can.drains",
    },
    Breakage {
        name: "retry a step in doubt",
        file: "crates/kubestack-planner/src/facts/steps.rs",
        from: "self.flights.insert(agent.clone(), Flight { doubt: Some(now), ..flight });",
        to: "let _ = Flight { doubt: Some(now), ..flight };",
    },
    Breakage {
        name: "forget that an agent was used",
        file: "crates/kubestack-planner/src/facts/looks.rs",
        from: "None => memory.used = Some((now, job)),",
        to: "None => drop((now, job)),",
    },
    Breakage {
        name: "an older read contradicts an acknowledged effect",
        file: "crates/kubestack-planner/src/facts/looks.rs",
        from: "let keep = listed.contains(uid) || known.began >= began;",
        to: "let keep = listed.contains(uid);",
    },
];

/// Breaks a copy of the sources (of what git has in its index) in each way and runs the tests on it.
pub(crate) fn check() -> Result<()> {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| PathBuf::from("target"), PathBuf::from);
    // One copy, one target directory: after the first build only what a breakage touches is built again.
    let home = std::path::absolute(target)?.join("breakages");
    let copy = home.join("sources");
    let _ = std::fs::remove_dir_all(&copy);
    run(Command::new("git")
        .args(["checkout-index", "--all", "--force", "--prefix"])
        .arg(format!("{}/", copy.display())))?;
    let cargo = |arguments: &[&str]| {
        // What is broken may never come to an end.
        let mut command = Command::new("timeout");
        command.args(["240", "cargo"]).args(arguments).args([
            "-p",
            "kubestack-planner",
            "-p",
            "kubestack-engine",
            "-p",
            "kubestack-testkit",
        ]);
        command
            .current_dir(&copy)
            .env("KUBESTACK_SEEDS", "0..400")
            .env("CARGO_TARGET_DIR", home.join("target"));
        command
    };
    // Tests that fail without any breakage would catch everything.
    run(&mut cargo(&["test", "-q"])).context("the tests fail on the sources as they are")?;
    let mut missed = Vec::new();
    for breakage in &BREAKAGES {
        let file = copy.join(breakage.file);
        let whole = std::fs::read_to_string(&file)?;
        breakage.find(&whole)?;
        std::fs::write(&file, whole.replace(breakage.from, breakage.to))?;
        // A copy that does not even build would prove nothing.
        run(&mut cargo(&["test", "-q", "--no-run"]))
            .with_context(|| format!("{}: the broken copy does not build", breakage.name))?;
        let output = cargo(&["test", "--no-fail-fast"]).output()?;
        std::fs::write(&file, whole)?;
        let caught = !output.status.success();
        let endless = output.status.code() == Some(124);
        let report = String::from_utf8_lossy(&output.stdout);
        println!("{:<55} {}", breakage.name, if caught { "caught" } else { "NOT CAUGHT" });
        for test in failed(&report) {
            println!("    by {test}");
        }
        if endless {
            println!("    by a test that does not end");
        }
        if !caught {
            missed.push(breakage.name);
        }
    }
    if missed.is_empty() { Ok(()) } else { bail!("not caught: {}", missed.join("; ")) }
}

/// The names of the tests that failed.
fn failed(output: &str) -> Vec<&str> {
    let names = output.lines().filter_map(|line| line.strip_prefix("test ")?.strip_suffix(" ... FAILED"));
    names.collect()
}

fn run(command: &mut Command) -> Result<()> {
    let status = command.stdout(Stdio::null()).stderr(Stdio::inherit()).status()?;
    if status.success() { Ok(()) } else { bail!("{command:?} failed") }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The breakages themselves take a quarter of an hour, and are run by hand: that they can be is asserted here.
    #[test]
    fn each_place_to_break_is_there() {
        for breakage in &BREAKAGES {
            let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(breakage.file);
            breakage.find(&std::fs::read_to_string(file).unwrap()).unwrap();
        }
    }
}
