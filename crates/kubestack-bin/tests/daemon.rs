//! The daemon follows its config file and its secrets.
#![expect(clippy::unwrap_used, reason = "a test stops where its own set-up fails")]
#![expect(clippy::disallowed_methods, reason = "a real daemon in real time")]

use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Far more than anything here takes; what is not there by then never comes.
const PATIENCE: Duration = Duration::from_secs(60);

/// A daemon with a directory of its own, which both go with this value.
struct Daemon {
    dir: tempfile::TempDir,
    port: u16,
    child: Option<Child>,
}

impl Daemon {
    fn new() -> Self {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let daemon = Self { dir: tempfile::tempdir().unwrap(), port, child: None };
        fs::write(daemon.path("token"), "one").unwrap();
        daemon.configure(|text| text);
        daemon
    }

    fn running() -> Self {
        let mut daemon = Self::new();
        daemon.start();
        daemon
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes the config, with some of it changed.
    fn configure(&self, change: impl FnOnce(String) -> String) {
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

    fn command(&self, action: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kubestack"));
        command.arg("-c").arg(self.path("config.yaml")).arg(action).stdin(Stdio::null());
        command
    }

    fn start(&mut self) {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.path("log")).unwrap();
        self.child = Some(self.command("run").stdout(Stdio::null()).stderr(log).spawn().unwrap());
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    fn until<T>(&self, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
        let began = Instant::now();
        loop {
            if let Some(found) = look() {
                return found;
            }
            assert!(began.elapsed() < PATIENCE, "no sign of {what}; the daemon said:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn said(&self, what: &str) {
        self.until(what, || self.log().contains(what).then_some(()));
    }

    fn status(&self) -> serde_json::Value {
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

#[test]
fn a_rotated_token_and_another_address_are_said_to_take_a_restart() {
    let daemon = Daemon::running();
    daemon.status();
    fs::write(daemon.path("token"), "two").unwrap();
    daemon.said("restart the daemon to use the new config");
    daemon.configure(|text| text.replace("type: local", "type: local, term_grace: 9s"));
    daemon.until("a second word", || {
        (daemon.log().matches("restart the daemon to use").count() == 2).then_some(())
    });
    assert!(!daemon.log().contains("new configuration in use"), "{}", daemon.log());
}

#[test]
fn a_bad_file_keeps_the_old_config_and_a_good_one_is_taken() {
    let daemon = Daemon::running();
    daemon.status();
    daemon.configure(|text| text.replace("name: a", "nmae: a"));
    daemon.said("unknown field `nmae`");
    assert!(daemon.log().contains("the old one stays in use"), "{}", daemon.log());
    daemon.configure(|text| text + "  - {name: b}\n");
    daemon.until("label b", || {
        daemon.command("create").arg("b").output().unwrap().status.success().then_some(())
    });
}
