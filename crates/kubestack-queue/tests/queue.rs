//! The queue's promises, on the real store and the real server over loopback.
#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test stops where its own set-up fails; a real server runs in real time"
)]

use kubestack_core::async_trait;
use kubestack_core::context::Clock;
use kubestack_core::error::ErrorKind;
use kubestack_core::time::Moment;
use kubestack_queue::client::QueueClient;
use kubestack_queue::model::{Enrol, JobState, Outcome, Submission};
use kubestack_queue::server::{Queue, QueueOptions, serve};
use kubestack_queue::store::Store;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Time that passes when the test says so.
#[derive(Default)]
struct Hand(AtomicU64);

impl Hand {
    fn pass(&self, duration: Duration) {
        self.0.fetch_add(u64::try_from(duration.as_micros()).unwrap(), Ordering::SeqCst);
    }
}

#[async_trait]
impl Clock for Hand {
    fn now(&self) -> Moment {
        Moment::from_micros(self.0.load(Ordering::SeqCst))
    }
    async fn sleep(&self, _: Duration) {
        std::future::pending().await
    }
}

fn queue(path: &Path, clock: Arc<Hand>, options: QueueOptions) -> Arc<Queue> {
    Queue::new(Store::open(path).unwrap(), clock, "operator".into(), options).unwrap()
}

fn job(label: &str) -> Submission {
    Submission { label: label.into(), command: vec!["true".into()], env: BTreeMap::new(), timeout_ms: None }
}

fn enrol(label: &str) -> Enrol {
    Enrol { provides: BTreeSet::from([label.to_owned()]), marks: None }
}

fn success() -> Outcome {
    Outcome { exit_code: Some(0), cause: None, cancelled: false }
}

#[test]
fn what_was_acknowledged_is_there_after_a_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("q.redb");
    let clock = Arc::new(Hand::default());
    let first = queue(&path, clock.clone(), QueueOptions::default());
    first.submit(job("a")).unwrap();
    first.enrol("x", enrol("a")).unwrap();
    first.lease("x").unwrap().unwrap();
    first.append("x", 0, b"hello ").unwrap();
    first.append("x", 6, b"world").unwrap();
    first.submit(job("a")).unwrap();
    drop(first);
    let second = queue(&path, clock, QueueOptions::default());
    assert_eq!(second.job(1).unwrap().state, JobState::Running);
    assert_eq!(second.log(1, 3, 100).unwrap(), b"lo world");
    second.result("x", &success()).unwrap();
    second.result("x", &success()).unwrap();
    assert_eq!(second.job(1).unwrap().state, JobState::Succeeded);
    assert_eq!(second.submit(job("a")).unwrap().id, 3, "a number is never used twice");
}

#[test]
fn an_agent_gets_one_job_ever_and_none_once_drained() {
    let dir = tempfile::tempdir().unwrap();
    let queue = queue(&dir.path().join("q"), Arc::default(), QueueOptions::default());
    for _ in 0..3 {
        queue.submit(job("a")).unwrap();
    }
    for (agent, label) in [("x", "a"), ("y", "a"), ("z", "b")] {
        queue.enrol(agent, enrol(label)).unwrap();
    }
    assert_eq!(queue.lease("x").unwrap().unwrap().id, 1);
    assert_eq!(queue.lease("x").unwrap().unwrap().id, 1, "asked again, it is the same job");
    queue.result("x", &success()).unwrap();
    assert_eq!(queue.lease("x").unwrap_err().kind, ErrorKind::Conflict);
    queue.drain("y").unwrap();
    assert_eq!(queue.lease("y").unwrap_err().kind, ErrorKind::Conflict);
    assert_eq!(queue.lease("z").unwrap(), None, "it takes other jobs only");
    assert_eq!(queue.enrol("x", enrol("a")).err().unwrap().kind, ErrorKind::Conflict);
}

#[test]
fn a_dead_agent_s_job_is_queued_again_and_in_the_end_fails_with_its_cause() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(Hand::default());
    let options = QueueOptions { attempts: 2, ..QueueOptions::default() };
    let queue = queue(&dir.path().join("q"), clock.clone(), options);
    queue.submit(job("a")).unwrap();
    for (agent, state) in [("x", JobState::Queued), ("y", JobState::Failed)] {
        queue.enrol(agent, enrol("a")).unwrap();
        queue.lease(agent).unwrap().unwrap();
        clock.pass(options.lease / 2);
        queue.beat(agent).unwrap();
        clock.pass(options.lease / 2);
        queue.expire();
        assert_eq!(queue.job(1).unwrap().state, JobState::Running, "it was heard of");
        clock.pass(options.lease);
        queue.expire();
        assert_eq!(queue.job(1).unwrap().state, state);
        assert_eq!(queue.beat(agent).unwrap_err().kind, ErrorKind::Conflict);
    }
    assert!(queue.job(1).unwrap().cause.unwrap().contains("silent"));
}

#[test]
fn a_busy_agent_is_not_removed_unless_its_job_is_given_up() {
    let dir = tempfile::tempdir().unwrap();
    let queue = queue(&dir.path().join("q"), Arc::default(), QueueOptions::default());
    queue.submit(job("a")).unwrap();
    queue.enrol("x", enrol("a")).unwrap();
    queue.lease("x").unwrap().unwrap();
    assert_eq!(queue.remove("x", false).unwrap_err().kind, ErrorKind::Conflict);
    queue.remove("x", true).unwrap();
    queue.remove("x", false).unwrap();
    assert_eq!(queue.job(1).unwrap().state, JobState::Queued);
}

#[test]
fn what_is_heard_of_an_agent_that_was_removed_is_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let queue = queue(&dir.path().join("q"), Arc::default(), QueueOptions::default());
    for _ in 0..2 {
        queue.enrol("x", enrol("a")).unwrap();
        assert!(!queue.agents()[0].online, "it has not attached");
        queue.remove("x", false).unwrap();
        // Its calls that were under way.
        assert_eq!(queue.lease("x").unwrap_err().kind, ErrorKind::NotFound);
        assert_eq!(queue.append("x", 0, b"late").unwrap_err().kind, ErrorKind::NotFound);
    }
}

#[test]
fn logs_are_bounded_and_a_repeated_chunk_counts_once() {
    let dir = tempfile::tempdir().unwrap();
    let options = QueueOptions { log_bytes: 10, ..QueueOptions::default() };
    let queue = queue(&dir.path().join("q"), Arc::default(), options);
    queue.submit(job("a")).unwrap();
    queue.enrol("x", enrol("a")).unwrap();
    queue.lease("x").unwrap().unwrap();
    queue.append("x", 0, b"abcd").unwrap();
    queue.append("x", 0, b"abcdef").unwrap();
    assert_eq!(queue.log(1, 0, 100).unwrap(), b"abcdef");
    assert_eq!(queue.append("x", 9, b"z").unwrap_err().kind, ErrorKind::Conflict, "a gap");
    queue.append("x", 6, b"ghijklmnop").unwrap();
    let log = String::from_utf8(queue.log(1, 0, 1000).unwrap()).unwrap();
    assert!(log.starts_with("abcdefghij\n[log truncated"), "{log}");
    queue.append("x", 16, b"more").unwrap();
    assert_eq!(queue.log(1, 0, 1000).unwrap().len(), log.len());
}

#[test]
fn so_many_ended_jobs_are_kept_and_no_number_comes_twice() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("q");
    let options = QueueOptions { ended: 2, ended_log_bytes: 10, ..QueueOptions::default() };
    let first = queue(&path, Arc::default(), options);
    for number in 1..=5 {
        let agent = format!("agent-{number}");
        first.submit(job("a")).unwrap();
        first.enrol(&agent, enrol("a")).unwrap();
        first.lease(&agent).unwrap().unwrap();
        first.append(&agent, 0, b"123456").unwrap();
        first.result(&agent, &success()).unwrap();
    }
    first.submit(job("a")).unwrap();
    let ids = |queue: &Queue| queue.jobs(0, 100).iter().map(|job| job.id).collect::<Vec<_>>();
    assert_eq!(ids(&first), [1, 2, 3, 4, 5, 6]);
    first.expire();
    assert_eq!(ids(&first), [5, 6], "two may stay, but their logs take too much");
    drop(first);
    let second = queue(&path, Arc::default(), options);
    assert_eq!(ids(&second), [5, 6], "they are gone from the disk as well");
    assert_eq!(second.log(5, 0, 100).unwrap(), b"123456");
    assert_eq!(second.log(4, 0, 100).unwrap_err().kind, ErrorKind::NotFound);
    second.cancel(6).unwrap();
    let none = QueueOptions { ended: 0, ..options };
    drop(second);
    let third = queue(&path, Arc::default(), none);
    third.expire();
    assert_eq!(third.submit(job("a")).unwrap().id, 7);
}

#[test]
fn waiting_jobs_and_answers_are_bounded_in_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let options = QueueOptions { waiting_bytes: 10 << 20, ..QueueOptions::default() };
    let queue = queue(&dir.path().join("q"), Arc::default(), options);
    let large = || Submission { command: vec!["x".repeat(1 << 20)], ..job("a") };
    for _ in 0..10 {
        queue.submit(large()).unwrap();
    }
    assert_eq!(queue.submit(large()).unwrap_err().kind, ErrorKind::Transient, "the queue is full");
    assert!(queue.jobs(0, 100).len() < 10, "one answer holds them all");
    queue.cancel(1).unwrap();
    queue.submit(large()).unwrap();
    let mut seen = 0;
    while let Some(last) = queue.jobs(seen, 100).last() {
        seen = last.id;
    }
    assert_eq!(seen, 11, "all come, page by page");
}

#[test]
fn the_log_of_a_second_try_comes_after_that_of_the_first() {
    let dir = tempfile::tempdir().unwrap();
    let queue = queue(&dir.path().join("q"), Arc::default(), QueueOptions::default());
    queue.submit(job("a")).unwrap();
    for agent in ["x", "y"] {
        queue.enrol(agent, enrol("a")).unwrap();
        queue.lease(agent).unwrap().unwrap();
        queue.append(agent, 0, format!("{agent} one,").as_bytes()).unwrap();
        queue.append(agent, 6, b" two;").unwrap();
        queue.remove(agent, true).unwrap();
    }
    assert_eq!(queue.log(1, 0, 100).unwrap(), b"x one, two;y one, two;");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_wire_tells_who_may_what_and_what_is_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let queue = queue(&dir.path().join("q"), Arc::default(), QueueOptions::default());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let server = tokio::spawn(serve(queue, listener));
    let operator = QueueClient::new(&url, "operator".into()).unwrap();
    let submitted = operator.submit(&job("a")).await.unwrap();
    assert_eq!(operator.job(submitted.id).await.unwrap().state, JobState::Queued);
    assert_eq!(operator.job(99).await.unwrap_err().kind, ErrorKind::NotFound);
    assert_eq!(operator.jobs().await.unwrap().len(), 1);
    let empty = Submission { command: vec![], ..job("a") };
    assert_eq!(operator.submit(&empty).await.unwrap_err().kind, ErrorKind::Invalid);

    let agent = operator.enrol("x", &enrol("a")).await.unwrap();
    let as_agent = QueueClient::new(&url, agent.token.into()).unwrap();
    assert_eq!(
        as_agent.waiting().await.unwrap_err().kind,
        ErrorKind::Unauthorized,
        "an agent is no operator"
    );
    let stranger = QueueClient::new(&url, "wrong".into()).unwrap();
    assert_eq!(stranger.waiting().await.unwrap_err().kind, ErrorKind::Unauthorized);

    let http = reqwest::Client::new();
    for (path, body, status) in [
        ("/v1/jobs", b"{".to_vec(), 400),
        ("/v1/jobs", b"{\"label\":\"a\",\"command\":[\"x\"],\"nonsense\":1}".to_vec(), 400),
        ("/v1/jobs/x/cancel", vec![], 400),
        ("/v1/nowhere", vec![], 404),
    ] {
        let request = http.post(format!("{url}{path}")).bearer_auth("operator").body(body);
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status().as_u16(), status, "{path}");
        assert_eq!(answer.headers()["content-type"], "application/problem+json", "{path}");
        let problem: serde_json::Value = answer.json().await.unwrap();
        assert!(!problem["detail"].as_str().unwrap().is_empty());
    }
    let bare = http.get(format!("{url}/v1/jobs")).send().await.unwrap();
    assert_eq!(bare.status().as_u16(), 401);
    server.abort();
}
