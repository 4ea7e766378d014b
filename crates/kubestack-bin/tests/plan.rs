//! `kubestack plan`, beside a daemon and without one.
#![expect(clippy::unwrap_used, reason = "a test stops where its own set-up fails")]
#![expect(clippy::disallowed_methods, reason = "a real daemon in real time")]

mod common;

use common::Daemon;
use rustix::process::Signal;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

/// All files below a directory, with what is in them.
fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(dir).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files(&path));
            found.insert(path.display().to_string(), Vec::new());
        } else if !path.to_string_lossy().contains("sock") {
            found.insert(path.display().to_string(), std::fs::read(&path).unwrap());
        }
    }
    found
}

#[test]
fn beside_a_daemon_it_says_what_would_be_done_and_does_nothing() {
    let mut daemon = Daemon::new();
    daemon.configure(|text| text.replace("idle_timeout: 1s", "idle_timeout: 1h"));
    daemon.start();
    daemon.status();
    let nothing = daemon.tell(&["plan"]);
    assert_eq!(nothing, "nothing to do\n");
    // What the daemon does not do because of its operator, the plan does not either, and says why.
    daemon.tell(&["pause", "--reason", "the disks are changed"]);
    for _ in 0..3 {
        daemon.submit("true");
    }
    let foreign = daemon.tell(&["submit", "--label", "nope", "--", "true"]);
    let told = |daemon: &Daemon| daemon.tell(&["jobs", "show", foreign.trim()]);
    daemon.until("the reason", || told(&daemon).contains("no label here can serve").then_some(()));
    daemon.until("the other reason", || daemon.tell(&["jobs", "list"]).contains("disks").then_some(()));
    let before = files(&daemon.path("state/local"));
    let paused = daemon.tell(&["plan"]);
    assert!(paused.starts_with("paused: the disks are changed\nnothing to do\n"), "{paused}");
    assert!(paused.contains("3 jobs waiting for a: the operator paused"), "{paused}");
    assert!(paused.contains("1 job waits that no label here can serve"), "{paused}");
    // Nobody is told anything: not even the queue, of which the daemon alone knows what it was told.
    assert!(daemon.tell(&["jobs", "list"]).contains("disks") && told(&daemon).contains("no label"));
    assert_eq!(files(&daemon.path("state/local")), before);
}

#[test]
fn agents_of_a_running_daemon_are_seen_and_what_would_become_of_them_is_said() {
    let mut daemon = Daemon::new();
    daemon.configure(|text| text.replace("idle_timeout: 1s", "idle_timeout: 1h"));
    daemon.start();
    daemon.status();
    daemon.tell(&["create", "a"]);
    let name = daemon.until("an idle agent", || {
        let status = daemon.status();
        let agent = status["agents"].as_array()?.first()?.clone();
        (agent["state"] == "idle").then(|| agent["name"].as_str().unwrap().to_owned())
    });
    let before = files(&daemon.path("state/local"));
    assert_eq!(daemon.tell(&["plan"]), "nothing to do\n");
    // A config that is not yet in use: what would it do?
    let other = daemon.path("other.yaml");
    let text = std::fs::read_to_string(daemon.path("config.yaml")).unwrap();
    std::fs::write(&other, text.replace("name: a,", "name: b, min_ready: 2,")).unwrap();
    let plan = |output: &str| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_kubestack"));
        let output = command.arg("-c").arg(&other).args(["plan", "-o", output]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let told = plan("table");
    assert!(told.contains("launch x2") && told.contains("min ready"), "{told}");
    let drain = told.lines().find(|line| line.contains(&name)).unwrap();
    assert!(drain.contains("drain") && drain.contains("label gone"), "{told}");
    let told: Value = serde_json::from_str(&plan("json")).unwrap();
    let launches = told["steps"].as_array().unwrap().iter().filter(|step| step["step"] == "launch");
    let launches: Vec<_> = launches.map(|step| (&step["agent"], &step["label"], &step["provider"])).collect();
    assert_eq!(launches, [(&Value::Null, &"b".into(), &"local".into()); 2], "{told:#}");
    assert!(plan("yaml").contains("step: drain"));
    assert_eq!(files(&daemon.path("state/local")), before);
    assert_eq!(daemon.status()["agents"].as_array().unwrap().len(), 1);
}

#[test]
fn without_a_daemon_what_does_not_answer_is_named_and_nothing_is_started_or_written() {
    let mut daemon = Daemon::new();
    let output = daemon.call(&["plan"]);
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains("master queue: ") && told.contains("source queue: "), "{told}");
    assert!(!daemon.path("state").exists());
    // Busy agents of a daemon that was killed are seen as they are.
    daemon.start();
    let go = daemon.path("go");
    daemon.submit(&format!("while ! [ -e {} ]; do sleep 0.05; done", go.display()));
    daemon.until("a busy agent", || (daemon.status()["agents"][0]["state"] == "busy").then_some(()));
    daemon.signal(Signal::KILL);
    daemon.ended();
    let before = files(&daemon.path("state"));
    let told = daemon.call(&["plan", "-o", "json"]).stdout;
    let told: Value = serde_json::from_slice(&told).unwrap();
    assert_eq!(told["status"]["agents"].as_array().unwrap().len(), 1, "{told:#}");
    assert!(told["steps"].as_array().unwrap().is_empty(), "{told:#}");
    assert_eq!(files(&daemon.path("state")), before);
    // A system that takes connections and says nothing is given up.
    let _listener = std::net::TcpListener::bind(("127.0.0.1", daemon.port)).unwrap();
    let output = daemon.call(&["plan", "--timeout", "100ms"]);
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains("master queue: no answer within 100ms"), "{told}");
    std::fs::write(&go, "").unwrap();
}
