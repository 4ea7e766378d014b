//! Requests that are too large, broken, slow or absurd: each is refused with words, and the server goes on.
#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test stops where its own set-up fails; a real server runs in real time"
)]

use kubestack_core::async_trait;
use kubestack_core::context::Clock;
use kubestack_core::time::Moment;
use kubestack_queue::client::QueueClient;
use kubestack_queue::model::{Enrol, Submission};
use kubestack_queue::server::{Queue, QueueOptions, serve};
use kubestack_queue::store::Store;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

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

/// A served queue.
struct Stage {
    _dir: tempfile::TempDir,
    queue: Arc<Queue>,
    address: std::net::SocketAddr,
}

impl Stage {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("q")).unwrap();
        let queue = Queue::new(store, Arc::new(Still), "operator".into(), QueueOptions::default()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(serve(queue.clone(), listener));
        Self { _dir: dir, queue, address }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Sends these bytes and returns all that comes until the server hangs up, or until an answer is whole.
    async fn raw(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect().await;
        // The server may answer and hang up before it has read everything.
        let _ = stream.write_all(bytes).await;
        answer(&mut stream).await
    }

    /// One request with that token and body: its status and its problem.
    async fn ask(&self, method: &str, path: &str, token: &str, body: &[u8]) -> (u16, Value) {
        let length = body.len();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: q\r\nauthorization: Bearer {token}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n"
        );
        parsed(&self.raw(&[head.as_bytes(), body].concat()).await)
    }

    /// It still does its work.
    async fn assert_well(&self) {
        let client = QueueClient::new(&format!("http://{}", self.address), "operator".into()).unwrap();
        let job = Submission {
            label: "a".into(),
            command: vec!["true".into()],
            env: BTreeMap::new(),
            timeout_ms: None,
        };
        let id = client.submit(&job).await.unwrap().id;
        assert_eq!(client.job(id).await.unwrap().submission, job);
    }
}

async fn answer(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    // A reset after the answer is what a server does that has not read all.
    let _ = stream.read_to_end(&mut bytes).await;
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Status and problem; that it is one is checked.
fn parsed(answer: &str) -> (u16, Value) {
    let status = answer.split(' ').nth(1).unwrap_or_default().parse().unwrap_or(0);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
    let body = serde_json::from_str(body).unwrap_or_default();
    if status >= 400 {
        assert!(head.contains("content-type: application/problem+json"), "{answer}");
        let problem: &Value = &body;
        assert_eq!(problem["status"], status, "{answer}");
        let detail = problem["detail"].as_str().unwrap();
        assert!(!detail.is_empty() && detail.len() < 1_000, "{} bytes", detail.len());
    }
    (status, body)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_makes_no_sense_is_refused_with_words() {
    let stage = Stage::new().await;
    let job = |command: &str, env: Value, timeout: Value| {
        json!({"label": "a", "command": [command], "env": env, "timeout_ms": timeout})
            .to_string()
            .into_bytes()
    };
    let none = || job("x", json!({}), Value::Null);
    let long = "x".repeat(300);
    let cases: Vec<(&str, &str, Vec<u8>, u16)> = vec![
        ("POST", "/v1/jobs", job(&"x".repeat(10 << 20), json!({}), Value::Null), 413),
        ("POST", "/v1/jobs", [vec![b'['; 100_000], vec![b']'; 100_000]].concat(), 400),
        ("POST", "/v1/jobs", b"{\"label\":\"\xff\",\"command\":[\"x\"]}".to_vec(), 400),
        (
            "POST",
            "/v1/jobs",
            json!({"label": "a", "command": ["x"], ("k".repeat(100_000)): 1}).to_string().into(),
            400,
        ),
        ("POST", "/v1/jobs", json!({"label": long, "command": ["x"]}).to_string().into(), 422),
        ("POST", "/v1/jobs", job("a\0b", json!({}), Value::Null), 422),
        ("POST", "/v1/jobs", job("x", json!({"A": "b\0"}), Value::Null), 422),
        ("POST", "/v1/jobs", job("x", json!({"": "b"}), Value::Null), 422),
        ("POST", "/v1/jobs", job("x", json!({"A=B": "b"}), Value::Null), 422),
        ("POST", "/v1/jobs", job("x", json!({}), json!(0)), 422),
        ("POST", "/v1/jobs", job("x", json!({}), json!(-1)), 400),
        ("POST", "/v1/jobs", job("x", json!({}), json!(1e30)), 400),
        ("POST", "/v1/jobs", job("x", json!({}), json!(u64::MAX)), 201),
        ("PUT", "/v1/jobs", none(), 405),
        ("GET", "/v1/jobs/%ff", vec![], 400),
        ("GET", "/v1/jobs/99999999999999999999", vec![], 400),
        ("GET", "/v1/jobs?after=x", vec![], 400),
        ("GET", "/v1/jobs?before=1", vec![], 400),
        ("GET", "/v1/jobs?after=18446744073709551615", vec![], 200),
        ("GET", "/v1/jobs/1/log?offset=18446744073709551615", vec![], 200),
        ("PUT", "/v1/agents/%ff", b"{}".to_vec(), 400),
        ("PUT", "/v1/reasons", b"[1]".to_vec(), 400),
        ("GET", "/", vec![], 404),
    ];
    for (method, path, body, status) in cases {
        let shown = String::from_utf8_lossy(body.get(..60).unwrap_or(&body)).into_owned();
        assert_eq!(stage.ask(method, path, "operator", &body).await.0, status, "{method} {path} {shown}");
    }
    for token in ["", "wrong", "Operator"] {
        let (status, _) = stage.ask("POST", "/v1/jobs", token, &none()).await;
        assert!(matches!(status, 401 | 403), "{token:?}: {status}");
    }
    stage.assert_well().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_too_large_is_refused_before_it_is_read() {
    let stage = Stage::new().await;
    let enrol = Enrol { provides: BTreeSet::from(["a".to_owned()]), marks: None };
    let token = stage.queue.enrol("x", enrol).unwrap().token;
    // Only the head is ever sent: the answer cannot have waited for the rest.
    let head = |path: &str, token: &str, more: &str| {
        format!("POST {path} HTTP/1.1\r\nhost: q\r\nauthorization: Bearer {token}\r\n{more}\r\n\r\n")
    };
    let log = head("/v1/agent/log?offset=0", &token, "content-length: 104857600\r\nconnection: close");
    assert_eq!(parsed(&stage.raw(log.as_bytes()).await).0, 413);
    let stranger = head("/v1/jobs", "wrong", "content-length: 104857600\r\nconnection: close");
    assert_eq!(parsed(&stage.raw(stranger.as_bytes()).await).0, 403, "a stranger's body is not read at all");
    let mut endless = head("/v1/jobs", "operator", "transfer-encoding: chunked").into_bytes();
    for _ in 0..40 {
        endless.extend(b"10000\r\n");
        endless.extend(vec![b' '; 0x10000]);
        endless.extend(b"\r\n");
    }
    assert!(stage.raw(&endless).await.starts_with("HTTP/1.1 413"));
    let name = head("/v1/jobs", "operator", &format!("x-long: {}", "x".repeat(1 << 20)));
    assert!(stage.raw(name.as_bytes()).await.starts_with("HTTP/1.1 431"));
    for nonsense in [&b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..], b"hello\r\n\r\n", &[0; 4096]] {
        let said = stage.raw(nonsense).await;
        assert!(said.is_empty() || said.starts_with("HTTP/1.1 400"), "{said}");
    }
    stage.assert_well().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_silent_clients_do_not_keep_others_waiting() {
    let stage = Stage::new().await;
    let mut silent = Vec::new();
    for index in 0..200 {
        let mut stream = stage.connect().await;
        if index % 2 == 0 {
            stream.write_all(b"POST /v1/jobs HTTP/1.1\r\nhost").await.unwrap();
        }
        silent.push(stream);
    }
    stage.assert_well().await;
    drop(silent);
}

/// In virtual time, which passes whenever nobody has anything to do.
#[tokio::test(start_paused = true)]
async fn a_slow_client_is_let_go() {
    let stage = Stage::new().await;
    for begun in ["", "POST /v1/jobs HTTP/1.1\r\nhost"] {
        let mut stream = stage.connect().await;
        stream.write_all(begun.as_bytes()).await.unwrap();
        let said = answer(&mut stream).await;
        assert!(said.is_empty() || said.starts_with("HTTP/1.1 408"), "{said}");
    }
    let mut stream = stage.connect().await;
    let head = "POST /v1/jobs HTTP/1.1\r\nhost: q\r\nauthorization: Bearer operator\r\ncontent-length: 100\r\nconnection: close\r\n\r\n{";
    stream.write_all(head.as_bytes()).await.unwrap();
    assert_eq!(parsed(&answer(&mut stream).await).0, 408);
}
