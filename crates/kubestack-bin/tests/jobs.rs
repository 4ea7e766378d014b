//! Jobs of the built-in queue, from the command line of a user.
#![expect(clippy::unwrap_used, reason = "a test stops where its own set-up fails")]
#![expect(clippy::disallowed_methods, reason = "a real daemon in real time")]

mod common;

use common::Daemon;
use std::fs;

/// A daemon that answers, with a label that has no room besides.
fn daemon() -> Daemon {
    let mut daemon = Daemon::new();
    daemon.configure(|text| text + "  - {name: full, max: 0}\n");
    daemon.start();
    daemon.until("the queue", || daemon.call(&["jobs", "list"]).status.success().then_some(()));
    daemon
}

#[test]
fn a_user_follows_a_job_from_submission_to_its_result() {
    let daemon = daemon();
    let good =
        daemon.tell(&["submit", "--label", "a", "--env", "WHO=you", "--", "sh", "-c", "echo hello $WHO"]);
    let bad = daemon.tell(&["submit", "--label", "a", "--", "sh", "-c", "echo oh >&2; exit 7"]);
    let (good, bad) = (good.trim(), bad.trim());

    let result = daemon.call(&["jobs", "result", good, "-o", "json"]);
    assert!(result.status.success());
    let job: serde_json::Value = serde_json::from_slice(&result.stdout).unwrap();
    assert_eq!((job["state"].as_str(), job["exit_code"].as_i64()), (Some("succeeded"), Some(0)));
    assert_eq!(daemon.tell(&["logs", good]), "hello you\n");

    let result = daemon.call(&["jobs", "result", bad]);
    assert_eq!(result.status.code(), Some(1), "a script sees that the job failed");
    let shown = String::from_utf8(result.stdout).unwrap();
    assert!(shown.contains("exit code  7"), "{shown}");
    assert_eq!(daemon.tell(&["logs", "--follow", bad]), "oh\n");

    let failed = daemon.tell(&["jobs", "list", "--state", "failed"]);
    let ids: Vec<&str> = failed.lines().skip(1).filter_map(|line| line.split_whitespace().next()).collect();
    assert_eq!(ids, [bad], "{failed}");
}

#[test]
fn a_job_that_waits_says_why_and_can_be_cancelled() {
    let daemon = daemon();
    let job = daemon.tell(&["submit", "--label", "full", "--", "true"]);
    let job = job.trim();
    while !daemon.tell(&["jobs", "show", job]).contains("waits ") {
        std::thread::yield_now();
    }
    assert!(
        daemon.tell(&["explain", "full"]).contains("label full"),
        "{}",
        daemon.tell(&["explain", "full"])
    );
    assert!(daemon.tell(&["jobs", "cancel", job]).contains("cancelled"));
    assert!(daemon.tell(&["jobs", "list", "-o", "yaml"]).contains("state: cancelled"));
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
    let daemon = daemon();
    let stubborn = "trap '' TERM; sh -c \"trap '' TERM; sleep 600\" & echo $!; wait";
    let job = daemon.tell(&["submit", "--label", "a", "--timeout", "500ms", "--", "sh", "-c", stubborn]);
    let job = job.trim();
    let result = daemon.call(&["jobs", "result", job]);
    assert_eq!(result.status.code(), Some(1));
    let shown = String::from_utf8(result.stdout).unwrap();
    assert!(shown.contains("ended after its timeout of 0.5 s"), "{shown}");
    let grandchild = daemon.tell(&["logs", job]);
    assert!(!grandchild.trim().is_empty() && !runs(grandchild.trim()), "{grandchild} still runs");
}

#[test]
fn a_running_job_that_is_cancelled_ends_with_all_its_processes() {
    let daemon = daemon();
    let job = daemon.tell(&["submit", "--label", "a", "--", "sh", "-c", "sleep 600 & echo $!; wait"]);
    let job = job.trim();
    let mut grandchild = String::new();
    while grandchild.is_empty() {
        grandchild = daemon.tell(&["logs", job]);
    }
    assert!(runs(grandchild.trim()), "its output is there while it runs");
    daemon.tell(&["jobs", "cancel", job]);
    assert!(String::from_utf8(daemon.call(&["jobs", "result", job]).stdout).unwrap().contains("cancelled"));
    assert!(!runs(grandchild.trim()), "{grandchild} still runs");
}

#[test]
fn what_a_job_leaves_behind_neither_holds_it_up_nor_stays() {
    let daemon = daemon();
    let job = daemon.tell(&["submit", "--label", "a", "--", "sh", "-c", "sleep 600 & echo $!"]);
    let job = job.trim();
    daemon.tell(&["jobs", "result", job]);
    let left = daemon.tell(&["logs", job]);
    assert!(!left.trim().is_empty() && !runs(left.trim()), "{left} still runs");
}

#[test]
fn a_job_sees_its_own_environment_and_no_token() {
    let daemon = daemon();
    let job = daemon.tell(&["submit", "--label", "a", "--env", "MINE=1", "--", "env"]);
    daemon.tell(&["jobs", "result", job.trim()]);
    let env = daemon.tell(&["logs", job.trim()]);
    assert!(env.contains("MINE=1\n"), "{env}");
    let enrolment = ["TOKEN", "QUEUE_URL", "AGENT_NAME"];
    assert!(!enrolment.iter().any(|part| env.contains(part)), "{env}");
}

#[test]
fn output_arrives_whole_whatever_bytes_it_has() {
    let daemon = daemon();
    let script = "printf '\\377\\000\\n'; head -c 3000000 /dev/zero | tr '\\0' x";
    let job = daemon.tell(&["submit", "--label", "a", "--", "sh", "-c", script]);
    daemon.tell(&["jobs", "result", job.trim()]);
    let log = daemon.call(&["logs", job.trim()]).stdout;
    assert_eq!((log.len(), log.starts_with(b"\xff\0\nxxx")), (3_000_003, true));
}

#[test]
fn a_follower_whose_reader_has_gone_ends() {
    let daemon = daemon();
    let job = daemon.submit("while :; do echo on and on; sleep 0.05; done");
    let mut follower =
        daemon.command("logs").args(["--follow", &job]).stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut reader = follower.stdout.take().unwrap();
    std::io::Read::read_exact(&mut reader, &mut [0; 5]).unwrap();
    drop(reader);
    assert!(daemon.until("its end", || follower.try_wait().unwrap()).success());
    daemon.tell(&["jobs", "cancel", &job]);
}
