//! A daemon with its queue and agents on this host.
#![allow(dead_code, reason = "each test uses what it needs")]

use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

/// Far more than anything here takes; what is not there by then never comes.
pub const PATIENCE: Duration = Duration::from_secs(180);

/// A daemon with a directory of its own, which both go with this value.
pub struct Daemon {
    pub dir: tempfile::TempDir,
    pub port: u16,
    pub child: Option<Child>,
}

impl Daemon {
    pub fn new() -> Self {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let daemon = Self { dir: tempfile::tempdir().unwrap(), port, child: None };
        fs::write(daemon.path("token"), "one").unwrap();
        daemon.configure(|text| text);
        daemon
    }

    pub fn running() -> Self {
        let mut daemon = Self::new();
        daemon.start();
        daemon
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes the config, with some of it changed.
    pub fn configure(&self, change: impl FnOnce(String) -> String) {
        let (dir, port) = (self.dir.path().display(), self.port);
        let text = format!(
            "instance: test
state_dir: {dir}/state
masters:
  - {{name: queue, type: queue, url: 'http://127.0.0.1:{port}', token: {{file: {dir}/token}}, embedded: {{listen: '127.0.0.1:{port}'}}}}
providers:
  - {{name: local, type: local}}
policy: {{step_deadline: 1s}}
labels:
  - {{name: a, idle_timeout: 1s}}
"
        );
        fs::write(self.path("config.yaml"), change(text)).unwrap();
    }

    pub fn command(&self, action: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kubestack"));
        command.arg("-c").arg(self.path("config.yaml")).arg(action).stdin(Stdio::null());
        command
    }

    pub fn start(&mut self) {
        let command = self.command("run");
        self.start_as(command);
    }

    /// Starts it by another command, which must become the daemon itself.
    pub fn start_as(&mut self, mut command: Command) {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.path("log")).unwrap();
        self.child = Some(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap());
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(self.child.as_ref().unwrap()), signal).unwrap();
    }

    /// Waits for its end.
    pub fn ended(&mut self) -> ExitStatus {
        let mut child = self.child.take().unwrap();
        self.until("its end", || child.try_wait().unwrap())
    }

    /// What a command that succeeds prints.
    pub fn tell(&self, arguments: &[&str]) -> String {
        let output = self.call(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    pub fn call(&self, arguments: &[&str]) -> Output {
        let (action, rest) = arguments.split_first().unwrap();
        self.command(action).args(rest).output().unwrap()
    }

    /// Submits a shell script for label `a` as soon as the queue is up, and returns the job's id.
    pub fn submit(&self, script: &str) -> String {
        self.until("the queue", || {
            let output = self.call(&["submit", "--label", "a", "--", "sh", "-c", script]);
            output.status.success().then(|| String::from_utf8(output.stdout).unwrap().trim().to_owned())
        })
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    pub fn until<T>(&self, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
        let began = Instant::now();
        loop {
            if let Some(found) = look() {
                return found;
            }
            assert!(began.elapsed() < PATIENCE, "no sign of {what}; the daemon said:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn said(&self, what: &str) {
        self.until(what, || self.log().contains(what).then_some(()));
    }

    pub fn status(&self) -> serde_json::Value {
        self.until("an answer", || {
            let output = self.command("list").args(["-o", "json"]).output().unwrap();
            output.status.success().then(|| serde_json::from_slice(&output.stdout).unwrap())
        })
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
        // Agents outlive their daemon.
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let below =
                fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd.starts_with(self.dir.path()));
            if let (true, Ok(pid)) = (below, entry.file_name().to_string_lossy().parse()) {
                let _ = Pid::from_raw(pid).map(|pid| kill_process(pid, Signal::KILL));
            }
        }
    }
}
