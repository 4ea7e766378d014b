//! A real Gearman server, and real clients of it, on loopback.

use crate::{excused, free_port, needs, wait};
use anyhow::{Context, Result, bail};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Commands, and the Debian package of each.
pub(crate) const COMMANDS: [(&str, &str); 3] =
    [("gearmand", "gearman-job-server"), ("gearman", "gearman-tools"), ("setpriv", "util-linux")];

const BOUND: Duration = Duration::from_secs(30);

/// A running gearmand, gone with this value, and with the thread that started it.
#[derive(Debug)]
pub struct Gearmand {
    port: u16,
    server: Child,
}

/// The one way in which a test asks for it: `None` when this machine lacks something, after one line on stderr; with
/// `CI=true` that is an error.
///
/// # Errors
/// When it does not start, or with `CI=true` when something is missing.
pub fn gearmand() -> Result<Option<Gearmand>> {
    if excused(needs::words(needs::absent(&COMMANDS)))? {
        return Ok(None);
    }
    let port = free_port()?;
    Ok(Some(Gearmand { port, server: start(port)? }))
}

fn start(port: u16) -> Result<Child> {
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin";
    let mut server = Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "gearmand", "--listen=127.0.0.1", "--log-file=stderr"])
        .arg(format!("--port={port}"))
        .env("PATH", path)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("cannot run gearmand")?;
    wait("answer of gearmand", BOUND, || {
        if let Some(status) = server.try_wait()? {
            bail!("gearmand ended: {status}");
        }
        Ok(TcpStream::connect(("127.0.0.1", port)).ok())
    })?;
    Ok(server)
}

impl Gearmand {
    /// Its port on loopback.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Queues one job, for nobody to wait for.
    ///
    /// # Errors
    /// When the client fails.
    pub fn submit(&self, function: &str) -> Result<()> {
        let status =
            self.client().args(["-b", "-f", function, "{}"]).status().context("cannot run gearman")?;
        if !status.success() {
            bail!("gearman cannot queue {function}: {status}");
        }
        Ok(())
    }

    /// A worker that takes one job of that function, and holds it until it is dropped.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn work(&self, function: &str) -> Result<Worker> {
        let command = ["-w", "-f", function, "--", "sleep", "600"];
        Ok(Worker(self.client().args(command).spawn().context("cannot run gearman")?))
    }

    fn client(&self) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "gearman", "-h", "127.0.0.1", "-p"]).arg(self.port.to_string());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    /// Ends it as `kill -9` does; what was queued is lost.
    ///
    /// # Errors
    /// When it cannot be ended.
    pub fn kill(&mut self) -> Result<()> {
        self.server.kill()?;
        self.server.wait()?;
        Ok(())
    }

    /// Lets it hang, or go on.
    ///
    /// # Errors
    /// When it is gone.
    pub fn signal(&self, signal: &str) -> Result<()> {
        let status = Command::new("kill").args(["-s", signal, &self.server.id().to_string()]).status()?;
        if !status.success() {
            bail!("cannot send {signal} to gearmand");
        }
        Ok(())
    }

    /// Starts it again after [`Gearmand::kill`], on the same port.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn up(&mut self) -> Result<()> {
        self.server = start(self.port)?;
        Ok(())
    }
}

impl Drop for Gearmand {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}

/// A worker of one function, gone with this value.
#[derive(Debug)]
pub struct Worker(Child);

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
