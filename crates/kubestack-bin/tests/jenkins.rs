//! A real server of Jenkins' line, the daemon, and real agents as its processes: from the queue to the last trace.
#![expect(clippy::unwrap_used, reason = "a test stops where its own set-up fails")]
#![expect(clippy::disallowed_methods, reason = "a real daemon and a real server in real time")]

mod common;

use common::Daemon;
use kubestack_testbed::hudson::{Hudson, hudson};
use std::collections::BTreeSet;
use std::fs;

/// A running daemon whose agents are real ones of that server.
fn daemon(server: &Hudson, max: u32) -> Daemon {
    let mut daemon = Daemon::new();
    let (dir, url) = (daemon.dir.path().display(), server.url());
    let command = serde_json::to_string(&server.agent().unwrap()).unwrap();
    let text = format!(
        "instance: test
state_dir: {dir}/state
demand-listeners:
  - {{name: jenkins-queue, type: jenkins_queue}}
masters:
  - {{name: jenkins, type: jenkins, external_url: '{url}', work_dir: '{dir}/work', poll: 300ms}}
providers:
  - {{name: local, type: local, command: {command}}}
policy: {{master_poll: 300ms}}
labels:
  - {{name: a, provides: [linux], max: {max}, idle_timeout: 2s}}
"
    );
    daemon.configure(|_| text);
    daemon.start();
    daemon
}

fn nodes(server: &Hudson) -> usize {
    server.request("GET", "computer/api/json", None).unwrap().matches("\"displayName\":").count() - 2
}

#[test]
fn jobs_run_on_real_agents_one_each_and_nothing_is_left() {
    let Some(server) = hudson().unwrap() else { return };
    let daemon = daemon(&server, 2);
    let ran = daemon.path("ran");
    let jobs = ["one", "two", "three", "four"];
    for job in jobs {
        let script = format!("sleep 2; echo $NODE_NAME >> {}", ran.display());
        server.job(job, "a && linux", &script).unwrap();
        server.build(job).unwrap();
    }
    // What no label can serve is left alone.
    server.job("foreign", "windows", "true").unwrap();
    server.build("foreign").unwrap();

    let ran = || fs::read_to_string(&ran).unwrap_or_default();
    daemon.until("the end of all jobs", || (ran().lines().count() == jobs.len()).then_some(()));
    daemon.until("the end of the last agent", || {
        daemon.status()["agents"].as_array().unwrap().is_empty().then_some(())
    });
    assert_eq!(
        nodes(&server),
        0,
        "nodes are left: {}",
        server.request("GET", "computer/api/json", None).unwrap()
    );
    let agents: BTreeSet<String> = ran().lines().map(str::to_owned).collect();
    assert_eq!(agents.len(), jobs.len(), "an agent had two jobs: {}", ran());
    let left: Vec<_> = fs::read_dir(daemon.path("state/local/local")).unwrap().flatten().collect();
    assert!(left.is_empty(), "{left:?}");
}
