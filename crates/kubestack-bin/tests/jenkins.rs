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
    let mut daemon = configured(server, max);
    daemon.start();
    daemon
}

/// One that does not run yet.
fn configured(server: &Hudson, max: u32) -> Daemon {
    let daemon = Daemon::new();
    let (dir, url, publisher) = (daemon.dir.path().display(), server.url(), server.publisher());
    let command = serde_json::to_string(&server.agent().unwrap()).unwrap();
    let text = format!(
        "instance: test
state_dir: {dir}/state
demand-listeners:
  - {{name: jenkins-queue, type: jenkins_queue}}
destroy-listeners:
  - {{name: zmq, type: zmq, host: 127.0.0.1, port: {publisher}}}
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
    daemon
}

fn nodes(server: &Hudson) -> usize {
    server.request("GET", "computer/api/json", None).unwrap().matches("\"displayName\":").count() - 2
}

#[test]
fn what_a_real_server_answers_is_taken_down_for_others() {
    let Some(server) = hudson().unwrap() else { return };
    server.job("one", "a && linux", "echo secret-of-the-job").unwrap();
    server.build("one").unwrap();
    let daemon = configured(&server, 2);
    let call = |file: &str| daemon.call(&["check", "--online", "--record", file]);
    // This server answers 500 for a queue in which an item is just on its way from one list to another.
    let mut tries = 0;
    let (path, said) = daemon.until("an answer to all that is asked", || {
        tries += 1;
        let path = daemon.path(&format!("transcript-{tries}"));
        let output = call(path.to_str().unwrap());
        output.status.success().then(|| (path, String::from_utf8_lossy(&output.stderr).into_owned()))
    });
    assert!(said.contains("Read it before you hand it on"), "{said}");
    let transcript = fs::read_to_string(&path).unwrap();
    for line in transcript.lines() {
        let exchange: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(exchange["system"], "jenkins");
    }
    for part in [
        "GET computer/api/json",
        "GET queue/api/json",
        "Waiting for next available executor",
        "a &amp;&amp; linux",
    ] {
        assert!(transcript.contains(part), "{part}: {transcript}");
    }
    for hidden in ["secret-of-the-job", "127.0.0.1"] {
        assert!(!transcript.contains(hidden), "{transcript}");
    }
    // What is there is somebody's.
    let output = call(path.to_str().unwrap());
    assert!(!output.status.success() && String::from_utf8_lossy(&output.stderr).contains("cannot be made"));
    assert_eq!(fs::read_to_string(&path).unwrap(), transcript);
}

#[test]
fn jobs_run_on_real_agents_one_each_and_nothing_is_left() {
    let Some(server) = hudson().unwrap() else { return };
    let daemon = daemon(&server, 2);
    let dir = daemon.dir.path().display();
    let jobs = ["one", "two", "three", "four"];
    for job in jobs {
        // It ends once its agent takes no other one: a job that is shorter than a look has nothing that could promise so much.
        let script = format!(
            "cd {dir}; echo $NODE_NAME >> began; until [ -e drained-$NODE_NAME ]; do sleep 0.1; done; echo $NODE_NAME >> ran"
        );
        server.job(job, "a && linux", &script).unwrap();
        server.build(job).unwrap();
    }
    // What no label can serve is left alone.
    server.job("foreign", "windows", "true").unwrap();
    server.build("foreign").unwrap();

    let lines = |name: &str| fs::read_to_string(daemon.path(name)).unwrap_or_default();
    daemon.until("the end of all jobs", || {
        for agent in lines("began").lines() {
            let node = server.request("GET", &format!("computer/{agent}/api/json"), None);
            if node.is_ok_and(|node| node.contains("\"temporarilyOffline\":true")) {
                fs::write(daemon.path(&format!("drained-{agent}")), "").unwrap();
            }
        }
        (lines("ran").lines().count() == jobs.len()).then_some(())
    });
    let ran = || lines("ran");
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

#[test]
fn a_killed_server_and_a_killed_daemon_lose_nothing_but_the_build_that_ran() {
    let Some(mut server) = hudson().unwrap() else { return };
    let mut daemon = daemon(&server, 1);
    let (began, gate, ended) = (daemon.path("began"), daemon.path("gate"), daemon.path("ended"));
    let script = format!(
        "echo >> {}; until [ -e {} ]; do sleep 0.1; done; echo >> {}",
        began.display(),
        gate.display(),
        ended.display()
    );
    server.job("long", "a", &script).unwrap();
    server.build("long").unwrap();
    let lines = |path: &std::path::Path| fs::read_to_string(path).unwrap_or_default().lines().count();
    daemon.until("the begin of the job", || (lines(&began) == 1).then_some(()));

    // The daemon is killed and started anew: the job goes on.
    daemon.signal(rustix::process::Signal::KILL);
    daemon.ended();
    daemon.start();
    daemon.until("the agent at work", || {
        let status = daemon.status();
        (status["agents"][0]["state"] == "busy").then_some(())
    });
    fs::write(&gate, "").unwrap();
    daemon.until("the end of the job", || (lines(&ended) == 1).then_some(()));
    let gone = |daemon: &Daemon| {
        daemon.until("the end of the last agent", || {
            daemon.status()["agents"].as_array().unwrap().is_empty().then_some(())
        });
    };
    gone(&daemon);
    assert_eq!(nodes(&server), 0);

    // The server is killed with a build on it, which is lost with it, and comes back: the next job runs.
    fs::remove_file(&gate).unwrap();
    server.build("long").unwrap();
    daemon.until("the begin of the job", || (lines(&began) == 2).then_some(()));
    server.kill().unwrap();
    daemon.until("its absence", || {
        daemon.status()["systems"].to_string().contains("cannot be reached").then_some(())
    });
    server.up().unwrap();
    fs::write(&gate, "").unwrap();
    server.job("next", "a", &format!("echo >> {}", daemon.path("next").display())).unwrap();
    server.build("next").unwrap();
    daemon.until("the next job", || (lines(&daemon.path("next")) == 1).then_some(()));
    gone(&daemon);
    assert_eq!(nodes(&server), 0);
}

#[test]
fn a_node_that_somebody_deletes_is_replaced() {
    let Some(server) = hudson().unwrap() else { return };
    let daemon = daemon(&server, 1);
    daemon.status();
    daemon.tell(&["create", "a"]);
    let agent = |state: &str| {
        daemon.until(state, || {
            let status = daemon.status();
            let all = status["agents"].as_array().unwrap();
            all.iter().find(|one| one["state"] == state).map(|one| one["name"].as_str().unwrap().to_owned())
        })
    };
    let first = agent("idle");
    server.request("POST", &format!("computer/{first}/doDelete"), None).unwrap();
    let ran = daemon.path("ran");
    server.job("one", "a", &format!("echo $NODE_NAME >> {}", ran.display())).unwrap();
    server.build("one").unwrap();
    daemon.until("the job", || ran.exists().then_some(()));
    daemon.until("the end of the last agent", || {
        daemon.status()["agents"].as_array().unwrap().is_empty().then_some(())
    });
    assert_eq!(nodes(&server), 0);
}
