//! What an operator tells a running daemon, from the command line.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test stops where its own set-up fails")]
#![expect(clippy::disallowed_methods, reason = "a real daemon in real time")]

mod common;

use common::Daemon;
use rustix::process::Signal;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

fn daemon() -> Daemon {
    let mut daemon = Daemon::new();
    // Nobody goes by itself here.
    daemon.configure(|text| text.replace("idle_timeout: 1s", "idle_timeout: 1h"));
    daemon.start();
    daemon.status();
    daemon
}

/// The first agent once there is one in that state: its name and uid.
fn agent(daemon: &Daemon, state: &str) -> (String, String) {
    daemon.until(state, || {
        let status = daemon.status();
        let agent = status["agents"].as_array().unwrap().iter().find(|agent| agent["state"] == state)?;
        Some((agent["name"].as_str()?.to_owned(), agent["uid"].as_str()?.to_owned()))
    })
}

fn none_is_left(daemon: &Daemon) {
    daemon.until("the end of all agents", || {
        daemon.status()["agents"].as_array().unwrap().is_empty().then_some(())
    });
}

#[test]
fn an_agent_is_created_held_released_and_deleted() {
    let daemon = daemon();
    assert!(daemon.tell(&["create", "a"]).contains("an agent of label a"));
    let (name, uid) = agent(&daemon, "idle");
    assert!(daemon.tell(&["hold", &name, "--reason", "look at it"]).contains("is held"));
    agent(&daemon, "held");
    assert!(daemon.tell(&["explain", &uid]).contains("look at it"), "{}", daemon.tell(&["explain", &uid]));
    assert!(daemon.tell(&["list"]).contains("look at it"));
    // By its uid as well as by its name.
    daemon.tell(&["release", &uid]);
    agent(&daemon, "idle");
    daemon.tell(&["delete", &name]);
    none_is_left(&daemon);
}

/// Its words and the last lines of its log are what an operator needs first.
#[test]
fn a_failed_agent_is_explained_with_the_last_lines_of_its_log() {
    let mut daemon = Daemon::new();
    let failing = "type: local, command: [sh, -c, 'echo no disk; echo bye; exit 3']";
    daemon.configure(|text| {
        text.replace("type: local", failing).replace("name: a,", "name: a, hold_on_failure: 1,")
    });
    daemon.start();
    daemon.submit("true");
    let (name, uid) = agent(&daemon, "held");
    let explained = daemon.tell(&["explain", &name]);
    let mut lines = explained.lines();
    let first = lines.next().unwrap();
    assert!(first.starts_with(&name) && first.contains("exited with status 3"), "{explained}");
    assert_eq!(lines.collect::<Vec<_>>(), ["  no disk", "  bye"], "{explained}");
    let list = daemon.tell(&["list"]);
    assert!(list.contains("exited with status 3") && !list.contains("bye"), "{list}");
    assert!(!list.contains(&uid) && !list.contains("provider local"), "{list}");
    let wide = daemon.tell(&["list", "-o", "wide"]);
    assert!(wide.contains(&uid) && wide.contains("provider local: answered"), "{wide}");
}

#[test]
fn a_pause_outlives_the_daemon_and_says_why_jobs_wait() {
    let mut daemon = daemon();
    daemon.tell(&["pause", "--reason", "the disks are changed"]);
    let job = daemon.submit("echo ran");
    let waits = |daemon: &Daemon| {
        daemon.until("the reason", || {
            daemon.tell(&["explain", "a"]).contains("the disks are changed").then_some(())
        });
    };
    waits(&daemon);
    assert!(daemon.tell(&["list"]).starts_with("paused: the disks are changed\n"));
    daemon.signal(Signal::KILL);
    daemon.ended();
    daemon.start();
    daemon.status();
    waits(&daemon);
    daemon.tell(&["resume"]);
    daemon.tell(&["jobs", "result", &job]);
    assert_eq!(daemon.tell(&["logs", &job]), "ran\n");
}

#[test]
fn drain_all_lets_idle_agents_go_and_the_busy_finish() {
    let daemon = daemon();
    let go = daemon.path("go");
    let job = daemon.submit(&format!("while ! [ -e {} ]; do sleep 0.05; done", go.display()));
    agent(&daemon, "busy");
    daemon.tell(&["create", "a"]);
    agent(&daemon, "idle");
    let said = daemon.tell(&["drain_all", "-o", "json"]);
    assert!(serde_json::from_str::<serde_json::Value>(&said).unwrap()["done"].is_string(), "{said}");
    daemon.until("the end of the idle one", || {
        let status = daemon.status();
        (status["agents"].as_array().unwrap().len() == 1 && status["draining"].is_string()).then_some(())
    });
    agent(&daemon, "busy");
    std::fs::write(&go, "").unwrap();
    assert!(daemon.tell(&["jobs", "result", &job]).contains("succeeded"));
    none_is_left(&daemon);
}

#[test]
fn what_does_not_exist_ends_with_3_and_names_what_does() {
    let daemon = daemon();
    daemon.until("the provider", || {
        let output = daemon.call(&["delete", "nobody"]);
        String::from_utf8_lossy(&output.stderr).contains("there is no agent").then_some(())
    });
    for arguments in [
        &["create", "b"][..],
        &["delete", "nobody"],
        &["hold", "nobody"],
        &["release", "nobody"],
        &["explain", "nobody"],
    ] {
        let output = daemon.call(arguments);
        assert_eq!(output.status.code(), Some(3), "{arguments:?}");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.starts_with("error: ") && said.lines().count() == 1, "{arguments:?}: {said}");
    }
}

#[test]
fn a_job_that_nothing_here_can_serve_says_so() {
    let daemon = daemon();
    let job = daemon.tell(&["submit", "--label", "nope", "--", "true"]);
    daemon.until("the reason", || {
        daemon.tell(&["jobs", "show", job.trim()]).contains("no label here can serve `nope`").then_some(())
    });
    daemon.until("the same in the list", || {
        daemon.tell(&["list"]).contains("1 job waits that no label here can serve").then_some(())
    });
    assert!(daemon.tell(&["jobs", "list"]).contains("no label here can serve `nope`"));
}

#[test]
fn nonsense_on_the_control_socket_is_answered_and_harms_nobody() {
    let daemon = daemon();
    let socket = daemon.path("state/control.sock");
    let deep = [vec![b'['; 60_000], b"\n".to_vec()].concat();
    let long = vec![b'x'; 1 << 20];
    for nonsense in [&b"\n"[..], b"\xff\xfe\n", b"{}\n", b"\"status\" 1\n", &deep, &long] {
        let mut stream = UnixStream::connect(&socket).unwrap();
        // What is too long is not read to its end.
        let _ = stream.write_all(nonsense);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer).into_owned();
        assert!(answer.is_empty() || answer.contains("not understood"), "{answer}");
    }
    // Nor do those who say nothing.
    let silent: Vec<_> = (0..100).map(|_| UnixStream::connect(&socket).unwrap()).collect();
    daemon.tell(&["list"]);
    drop(silent);
}
