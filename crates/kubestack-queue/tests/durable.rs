//! What the queue acknowledged is there after a kill -9 of its process, at whatever moment that came.
#![expect(clippy::unwrap_used, reason = "a test stops where its own set-up fails")]

use kubestack_core::async_trait;
use kubestack_core::context::Clock;
use kubestack_core::time::Moment;
use kubestack_queue::model::{Enrol, JobState, Outcome, Submission};
use kubestack_queue::server::{Queue, QueueOptions};
use kubestack_queue::store::Store;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

/// Where the process that is killed keeps its store.
const STORE: &str = "KUBESTACK_TEST_STORE";
const KILLS: usize = 12;

struct Still;

#[async_trait]
impl Clock for Still {
    fn now(&self) -> Moment {
        Moment::from_millis(1)
    }
    async fn sleep(&self, _: Duration) {
        std::future::pending().await
    }
}

fn open(path: &Path) -> Arc<Queue> {
    let store = Store::open(path).unwrap();
    Queue::new(store, Arc::new(Still), "operator".into(), QueueOptions::default()).unwrap()
}

fn chunk(job: u64, part: u64) -> String {
    format!("job {job} part {part};")
}

/// Not a test of its own: the process that is killed. Says each thing once it is acknowledged.
#[test]
#[ignore = "a part of the test below"]
fn the_process_that_is_killed() {
    let Some(path) = std::env::var_os(STORE) else { return };
    let queue = open(Path::new(&path));
    let say = |line: String| {
        let mut out = std::io::stdout();
        writeln!(out, "\nACK {line}").and_then(|()| out.flush()).unwrap();
    };
    loop {
        let submission = Submission {
            label: "a".into(),
            command: vec!["x".into()],
            env: BTreeMap::new(),
            timeout_ms: None,
        };
        let id = queue.submit(submission).unwrap().id;
        say(format!("job {id}"));
        let agent = format!("agent-{id}");
        let enrol = Enrol { provides: BTreeSet::from(["a".to_owned()]), marks: None };
        queue.enrol(&agent, enrol).unwrap();
        let job = queue.lease(&agent).unwrap().unwrap().id;
        let mut offset = 0;
        for part in 0..3 {
            let text = chunk(job, part);
            queue.append(&agent, offset, text.as_bytes()).unwrap();
            offset += text.len() as u64;
            say(format!("log {job} {offset}"));
        }
        queue.result(&agent, &Outcome { exit_code: Some(0), cause: None, cancelled: false }).unwrap();
        say(format!("result {job}"));
    }
}

#[test]
fn what_was_acknowledged_survives_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("q");
    let mut acknowledged = BTreeSet::new();
    for round in 0..KILLS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "the_process_that_is_killed", "--ignored", "--nocapture"])
            .env(STORE, &path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        let mut lines = lines.filter_map(|line| line.strip_prefix("ACK ").map(str::to_owned));
        // Another number each time, so that the kill comes at every kind of step.
        acknowledged.extend(lines.by_ref().take(7 + 3 * round));
        child.kill().unwrap();
        acknowledged.extend(lines);
        child.wait().unwrap();

        let queue = open(&path);
        for line in &acknowledged {
            let words: Vec<&str> = line.split(' ').collect();
            let id = words[1].parse().unwrap();
            let job = queue.job(id).unwrap();
            match words[0] {
                "result" => assert_eq!(job.state, JobState::Succeeded, "{line}"),
                "log" => {
                    let whole: String = (0..3).map(|part| chunk(id, part)).collect();
                    let kept = String::from_utf8(queue.log(id, 0, 1000).unwrap()).unwrap();
                    let known: usize = words[2].parse().unwrap();
                    assert!(kept.starts_with(&whole[..known]), "{line}: {kept}");
                }
                _ => {}
            }
        }
    }
    assert!(acknowledged.len() > 7 * KILLS, "{} things were acknowledged", acknowledged.len());
}
