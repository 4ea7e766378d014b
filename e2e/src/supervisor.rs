//! The one process that owns a cluster's processes; see `supervisor.sh`.

use anyhow::{Context, Result, bail};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// Dropping it ends the cluster; so does the end of this process.
#[derive(Debug)]
pub(crate) struct Supervisor {
    child: Child,
    commands: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Supervisor {
    /// Starts it; it holds the directory's lock when this returns.
    pub fn start(directory: &Path) -> Result<Self> {
        let mut child = command(directory)?
            // An interrupt from the terminal is for us; our end is what the supervisor acts on.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start bash")?;
        let commands = child.stdin.take();
        let answers = BufReader::new(child.stdout.take().context("no pipe")?);
        let mut supervisor = Self { child, commands, answers };
        match supervisor.answer()?.as_str() {
            "ready" => Ok(supervisor),
            other => bail!("the supervisor of {} says {other:?}", directory.display()),
        }
    }

    /// Starts a program with its output in `log/NAME.log`; its pid.
    pub fn run(&mut self, directory: &Path, name: &str, argv: &[String]) -> Result<u32> {
        if let Some(bad) = argv.iter().find(|arg| arg.contains('\n')) {
            bail!("an argument of {name} has a line break: {bad:?}");
        }
        std::fs::write(directory.join("run").join(format!("{name}.argv")), argv.join("\n") + "\n")?;
        let pid = self.ask(&format!("start {name}"))?;
        pid.parse().with_context(|| format!("cannot start {name}: {pid}"))
    }

    /// Sends a signal and waits for the end of the program; nothing if it does not run.
    pub fn stop(&mut self, name: &str, signal: &str) -> Result<()> {
        self.ask(&format!("stop {name} {signal}")).map(drop)
    }

    /// Sends a signal.
    pub fn send(&mut self, name: &str, signal: &str) -> Result<()> {
        self.ask(&format!("send {name} {signal}")).map(drop)
    }

    /// Whether a program runs.
    pub fn alive(&mut self, name: &str) -> Result<bool> {
        Ok(self.ask(&format!("alive {name}"))? == "yes")
    }

    fn ask(&mut self, line: &str) -> Result<String> {
        let commands = self.commands.as_mut().context("the supervisor is gone")?;
        commands.write_all(format!("{line}\n").as_bytes()).context("the supervisor is gone")?;
        let answer = self.answer()?;
        match answer.strip_prefix("error: ") {
            Some(error) => bail!("{error}"),
            None => Ok(answer),
        }
    }

    fn answer(&mut self) -> Result<String> {
        let mut line = String::new();
        if self.answers.read_line(&mut line)? == 0 {
            bail!("the supervisor is gone");
        }
        Ok(line.trim_end().to_owned())
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        drop(self.commands.take());
        // What does not end cannot be helped here; the next start of a cluster cleans up after it.
        let _ = self.child.wait();
    }
}

/// Removes what a killed supervisor left behind.
pub(crate) fn clean(directory: &Path) -> Result<()> {
    let status = command(directory)?.arg("clean").status().context("cannot start bash")?;
    if status.success() { Ok(()) } else { bail!("cannot clean up {}", directory.display()) }
}

fn command(directory: &Path) -> Result<Command> {
    // Not from the checkout: bash reads a script as it goes, and an edit would change one that runs.
    let script = directory.join("supervisor.sh");
    std::fs::write(&script, include_str!("supervisor.sh")).with_context(|| script.display().to_string())?;
    let mut command = Command::new("bash");
    command.args([&script, directory]);
    Ok(command)
}
