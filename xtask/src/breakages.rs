//! Deliberate breakages: each is put into a copy of the sources, and the tests must catch it.

use anyhow::{Context, Result, bail};
use std::path::Path;
use std::process::{Command, Stdio};

/// One way to break the planner or the engine.
struct Breakage {
    name: &'static str,
    file: &'static str,
    from: &'static str,
    to: &'static str,
}

const BREAKAGES: [Breakage; 8] = [
    Breakage {
        name: "drop a precondition: destroy a busy agent's unit",
        file: "crates/kubestack-planner/src/lifecycle.rs",
        from: "AgentState::Busy => way.remember_use(draft),",
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
        file: "crates/kubestack-planner/src/facts.rs",
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
        name: "retry a step in doubt",
        file: "crates/kubestack-planner/src/facts.rs",
        from: "self.flights.insert(agent.clone(), Flight { doubt: Some(now), ..flight });",
        to: "let _ = Flight { doubt: Some(now), ..flight };",
    },
    Breakage {
        name: "forget that an agent was used",
        file: "crates/kubestack-planner/src/facts.rs",
        from: "None => memory.used = Some((now, job)),",
        to: "None => drop((now, job)),",
    },
    Breakage {
        name: "an older read contradicts an acknowledged effect",
        file: "crates/kubestack-planner/src/facts.rs",
        from: "let keep = listed.contains(uid) || known.began >= began;",
        to: "let keep = listed.contains(uid);",
    },
];

/// Breaks a copy of the sources in each way and runs the tests on it.
pub(crate) fn check() -> Result<()> {
    let copy = std::env::temp_dir().join(format!("kubestack-breakages-{}", std::process::id()));
    let result = all(&copy);
    let _ = std::fs::remove_dir_all(&copy);
    result
}

fn all(copy: &Path) -> Result<()> {
    let mut missed = Vec::new();
    for breakage in &BREAKAGES {
        let _ = std::fs::remove_dir_all(copy.join("crates"));
        run(Command::new("git")
            .args(["checkout-index", "--all", "--force", "--prefix"])
            .arg(format!("{}/", copy.display())))?;
        let file = copy.join(breakage.file);
        let text = std::fs::read_to_string(&file)?;
        if text.matches(breakage.from).count() != 1 {
            bail!("{}: the place to break is not in {} any more", breakage.name, breakage.file);
        }
        std::fs::write(&file, text.replace(breakage.from, breakage.to))?;
        let mut tests = Command::new("cargo");
        tests.args(["test", "-p", "kubestack-planner", "-p", "kubestack-engine", "-p", "kubestack-testkit"]);
        tests.current_dir(copy).env("KUBESTACK_SEEDS", "0..400").env("CARGO_TARGET_DIR", copy.join("target"));
        // A copy that does not even build would prove nothing.
        run(Command::new("cargo")
            .args(["check", "-q", "-p", "kubestack-testkit"])
            .current_dir(copy)
            .env("CARGO_TARGET_DIR", copy.join("target")))
        .with_context(|| format!("{}: the broken copy does not build", breakage.name))?;
        let caught = !tests.stdout(Stdio::null()).stderr(Stdio::null()).status()?.success();
        println!("{:<55} {}", breakage.name, if caught { "caught" } else { "NOT CAUGHT" });
        if !caught {
            missed.push(breakage.name);
        }
    }
    if missed.is_empty() { Ok(()) } else { bail!("not caught: {}", missed.join("; ")) }
}

fn run(command: &mut Command) -> Result<()> {
    let status = command.status()?;
    if status.success() { Ok(()) } else { bail!("{command:?} failed") }
}
