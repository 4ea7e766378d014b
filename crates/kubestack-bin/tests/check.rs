//! `kubestack check --online`, with the built-in queue and agents on this host.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test stops where its own set-up fails")]
#![expect(clippy::disallowed_methods, reason = "a real daemon in real time")]

mod common;

use common::Daemon;
use serde_json::Value;

#[test]
fn each_system_is_tried_and_what_is_missing_is_said() {
    let mut daemon = Daemon::new();
    // Before there is a daemon its own queue does not answer; all else is tried all the same.
    let output = daemon.call(&["check", "--online"]);
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(1), "{told}");
    let lines: Vec<&str> = told.lines().collect();
    let [valid, provider, master, source] = lines.as_slice() else { panic!("{told}") };
    assert!(valid.contains("config.yaml: valid (instance test, 1 labels"), "{told}");
    assert_eq!(*provider, "provider local: read all units: ok");
    assert!(master.starts_with("master queue: read all agents: ") && !master.ends_with("ok"), "{told}");
    assert!(source.starts_with("source queue: read the demand: ") && !source.ends_with("ok"), "{told}");
    assert!(!daemon.path("state").exists(), "something was made");

    daemon.start();
    daemon.status();
    let foreign = daemon.tell(&["submit", "--label", "nope", "--", "true"]);
    let told = daemon.tell(&["check", "--online", "-o", "json"]);
    let told: Value = serde_json::from_str(&told).unwrap();
    let found: Vec<_> = told.as_array().unwrap().iter().map(|one| (&one["kind"], &one["missing"])).collect();
    let ok = |kind: &str| (Value::from(kind), Value::Null);
    let (provider, master, source) = (ok("provider"), ok("master"), ok("source"));
    let expected = [&provider, &master, &source].map(|(kind, missing)| (kind, missing));
    assert_eq!(found, expected, "{told:#}");
    daemon.tell(&["jobs", "cancel", foreign.trim()]);

    // A wrong token is named, and by the queue's own words.
    daemon.configure(|text| text.replace("/token}", "/other}"));
    std::fs::write(daemon.path("other"), "two").unwrap();
    let output = daemon.call(&["check", "--online"]);
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains("token") && !told.contains("two"), "{told}");
}

#[test]
fn a_system_that_says_nothing_is_given_up() {
    let daemon = Daemon::new();
    let _listener = std::net::TcpListener::bind(("127.0.0.1", daemon.port)).unwrap();
    let output = daemon.call(&["check", "--online", "--timeout", "100ms"]);
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains("master queue: an answer: no answer within 100ms"), "{told}");
    // A timeout is for systems that are asked.
    assert_eq!(daemon.call(&["check", "--timeout", "1s"]).status.code(), Some(2));
    assert_eq!(daemon.call(&["check"]).status.code(), Some(0));
}
