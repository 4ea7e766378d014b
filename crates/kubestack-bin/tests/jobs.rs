//! Jobs of the built-in queue, from the command line of a user.
#![expect(clippy::unwrap_used, reason = "a test stops where its own set-up fails")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

struct Daemon {
    child: Child,
    config: PathBuf,
}

impl Daemon {
    /// A daemon with its queue and its agents on this host, all below `root`.
    fn start(root: &Path) -> Self {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let config = root.join("config.yaml");
        let text = format!(
            "instance: jobs
state_dir: {}/state
masters:
  - {{name: queue, type: queue, url: 'http://127.0.0.1:{port}', token: t0ken, embedded: {{listen: '127.0.0.1:{port}'}}}}
providers:
  - {{name: local, type: local}}
labels:
  - {{name: a}}
  - {{name: full, max: 0}}
",
            root.display()
        );
        fs::write(&config, text).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_kubestack"));
        command.arg("-c").arg(&config).arg("run");
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let daemon = Self { child, config };
        while !daemon.call(&["jobs", "list"]).status.success() {
            std::thread::yield_now();
        }
        daemon
    }

    fn call(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kubestack"));
        command.arg("-c").arg(&self.config).args(arguments).output().unwrap()
    }

    fn said(&self, arguments: &[&str]) -> String {
        let output = self.call(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = rustix::process::kill_process(
            rustix::process::Pid::from_child(&self.child),
            rustix::process::Signal::TERM,
        );
        let _ = self.child.wait();
    }
}

#[test]
fn a_user_follows_a_job_from_submission_to_its_result() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(&dir.path().canonicalize().unwrap());
    let good =
        daemon.said(&["submit", "--label", "a", "--env", "WHO=you", "--", "sh", "-c", "echo hello $WHO"]);
    let bad = daemon.said(&["submit", "--label", "a", "--", "sh", "-c", "echo oh >&2; exit 7"]);
    let (good, bad) = (good.trim(), bad.trim());

    let result = daemon.call(&["jobs", "result", good, "-o", "json"]);
    assert!(result.status.success());
    let job: serde_json::Value = serde_json::from_slice(&result.stdout).unwrap();
    assert_eq!((job["state"].as_str(), job["exit_code"].as_i64()), (Some("succeeded"), Some(0)));
    assert_eq!(daemon.said(&["logs", good]), "hello you\n");

    let result = daemon.call(&["jobs", "result", bad]);
    assert_eq!(result.status.code(), Some(1), "a script sees that the job failed");
    let shown = String::from_utf8(result.stdout).unwrap();
    assert!(shown.contains("exit code  7"), "{shown}");
    assert_eq!(daemon.said(&["logs", "--follow", bad]), "oh\n");

    let failed = daemon.said(&["jobs", "list", "--state", "failed"]);
    let ids: Vec<&str> = failed.lines().skip(1).filter_map(|line| line.split_whitespace().next()).collect();
    assert_eq!(ids, [bad], "{failed}");
}

#[test]
fn a_job_that_waits_says_why_and_can_be_cancelled() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(&dir.path().canonicalize().unwrap());
    let job = daemon.said(&["submit", "--label", "full", "--", "true"]);
    let job = job.trim();
    while !daemon.said(&["jobs", "show", job]).contains("waits ") {
        std::thread::yield_now();
    }
    assert!(
        daemon.said(&["explain", "full"]).contains("label full"),
        "{}",
        daemon.said(&["explain", "full"])
    );
    assert!(daemon.said(&["jobs", "cancel", job]).contains("cancelled"));
    assert!(daemon.said(&["jobs", "list", "-o", "yaml"]).contains("state: cancelled"));
    assert_eq!(daemon.call(&["jobs", "result", job]).status.code(), Some(1));
    for action in ["show", "cancel", "result"] {
        let unknown = daemon.call(&["jobs", action, "4711"]);
        assert_eq!(unknown.status.code(), Some(3), "{action}");
        assert!(String::from_utf8(unknown.stderr).unwrap().contains("no job `4711`"));
    }
}

/// Whether a process runs; one that nobody has waited for yet does not.
fn runs(pid: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| !rest.is_empty() && !rest.trim_start().starts_with('Z'))
}

#[test]
fn a_job_over_its_timeout_ends_with_all_its_processes_even_if_they_will_not() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(&dir.path().canonicalize().unwrap());
    let stubborn = "trap '' TERM; sh -c \"trap '' TERM; sleep 600\" & echo $!; wait";
    let job = daemon.said(&["submit", "--label", "a", "--timeout", "500ms", "--", "sh", "-c", stubborn]);
    let job = job.trim();
    let result = daemon.call(&["jobs", "result", job]);
    assert_eq!(result.status.code(), Some(1));
    let shown = String::from_utf8(result.stdout).unwrap();
    assert!(shown.contains("ended after its timeout of 0.5 s"), "{shown}");
    let grandchild = daemon.said(&["logs", job]);
    assert!(!grandchild.trim().is_empty() && !runs(grandchild.trim()), "{grandchild} still runs");
}

#[test]
fn a_running_job_that_is_cancelled_ends_with_all_its_processes() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(&dir.path().canonicalize().unwrap());
    let job = daemon.said(&["submit", "--label", "a", "--", "sh", "-c", "sleep 600 & echo $!; wait"]);
    let job = job.trim();
    let mut grandchild = String::new();
    while grandchild.is_empty() {
        grandchild = daemon.said(&["logs", job]);
    }
    assert!(runs(grandchild.trim()), "its output is there while it runs");
    daemon.said(&["jobs", "cancel", job]);
    assert!(String::from_utf8(daemon.call(&["jobs", "result", job]).stdout).unwrap().contains("cancelled"));
    assert!(!runs(grandchild.trim()), "{grandchild} still runs");
}

#[test]
fn what_a_job_leaves_behind_neither_holds_it_up_nor_stays() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(&dir.path().canonicalize().unwrap());
    let job = daemon.said(&["submit", "--label", "a", "--", "sh", "-c", "sleep 600 & echo $!"]);
    let job = job.trim();
    daemon.said(&["jobs", "result", job]);
    let left = daemon.said(&["logs", job]);
    assert!(!left.trim().is_empty() && !runs(left.trim()), "{left} still runs");
}

#[test]
fn a_job_sees_its_own_environment_and_no_token() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(&dir.path().canonicalize().unwrap());
    let job = daemon.said(&["submit", "--label", "a", "--env", "MINE=1", "--", "env"]);
    daemon.said(&["jobs", "result", job.trim()]);
    let env = daemon.said(&["logs", job.trim()]);
    assert!(env.contains("MINE=1\n"), "{env}");
    let enrolment = ["TOKEN", "t0ken", "QUEUE_URL", "AGENT_NAME"];
    assert!(!enrolment.iter().any(|part| env.contains(part)), "{env}");
}

#[test]
fn output_arrives_whole_whatever_bytes_it_has() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(&dir.path().canonicalize().unwrap());
    let script = "printf '\\377\\000\\n'; head -c 3000000 /dev/zero | tr '\\0' x";
    let job = daemon.said(&["submit", "--label", "a", "--", "sh", "-c", script]);
    daemon.said(&["jobs", "result", job.trim()]);
    let log = daemon.call(&["logs", job.trim()]).stdout;
    assert_eq!((log.len(), log.starts_with(b"\xff\0\nxxx")), (3_000_003, true));
}
