//! What real servers do rarely, played by a service of ours in virtual time: cuts at any place, forgotten versions,
//! silence, and requests to wait.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

use bytes::Bytes;
use common::{View, context, enrolment, label, marks};
use futures_util::StreamExt;
use futures_util::stream;
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, StreamBody};
use kube::client::{Body, Client};
use kubestack_core::prelude::*;
use kubestack_k8s::KubeProvider;
use serde_json::{Value, json};
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

type Reply = Response<UnsyncBoxBody<Bytes, Infallible>>;
type Log = Arc<Mutex<Vec<String>>>;

/// A provider whose server answers so, and what it was asked ("METHOD rest-of-path body"). `answer` gets the line without
/// the body, and how often that kind of request came before.
fn served(answer: impl Fn(&str, usize) -> Reply + Send + Sync + 'static) -> (KubeProvider, Log) {
    let log = Log::default();
    let (asked, answer) = (log.clone(), Arc::new(answer));
    let service = tower::service_fn(move |request: Request<Body>| {
        let (asked, answer) = (asked.clone(), answer.clone());
        async move {
            let path = request.uri().path_and_query().unwrap().as_str();
            let path = path.strip_prefix("/api/v1/namespaces/agents/").unwrap();
            let line = format!("{} {path}", request.method());
            let body = request.into_body().collect_bytes().await.unwrap();
            let kind = |line: &str| {
                let resource = line.split(['?', '=', '{']).next().unwrap().trim_end().to_owned();
                (resource, line.contains("watch=1"), line.contains("fieldSelector"))
            };
            let mut log = asked.lock().unwrap();
            let before = log.iter().filter(|one| kind(one) == kind(&line)).count();
            log.push(format!("{line} {}", String::from_utf8_lossy(&body)).trim_end().to_owned());
            Ok::<_, Infallible>(answer(&line, before))
        }
    });
    (KubeProvider::with_client(&context("ci"), Client::new(service, "agents"), "agents"), log)
}

fn reply(code: u16, body: &Value) -> Reply {
    Response::builder()
        .status(code)
        .body(Body::from(body.to_string().into_bytes()).map_err(|_| panic!()).boxed_unsync())
        .unwrap()
}

fn refusal(code: u16, reason: &str) -> Reply {
    reply(code, &json!({"kind": "Status", "code": code, "reason": reason, "message": reason}))
}

/// A stream of that text: then it ends, or goes on in silence.
fn lines(text: String, ends: bool) -> Reply {
    let frame = http_body::Frame::data(Bytes::from(text));
    let said = stream::iter([Ok(frame)]);
    let body = if ends { said.boxed() } else { said.chain(stream::pending()).boxed() };
    Response::new(StreamBody::new(body).boxed_unsync())
}

fn pod(serial: u64, version: u64) -> Value {
    let marks = marks("ci", serial);
    json!({
        "metadata": {
            "name": marks.agent().as_str(), "uid": format!("u{serial}"), "resourceVersion": version.to_string(),
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "labels": {"kubestack.io/instance": "ci"},
            "annotations": {"kubestack.io/marks": serde_json::to_string(&marks).unwrap()},
        },
        "status": {"phase": "Pending"},
    })
}

fn list(items: &[Value], version: u64, token: &str) -> Reply {
    let items = if items.is_empty() { Value::Null } else { items.into() };
    reply(
        200,
        &json!({"metadata": {"resourceVersion": version.to_string(), "continue": token}, "items": items}),
    )
}

fn line(kind: &str, object: &Value) -> String {
    format!("{}\n", json!({"type": kind, "object": object}))
}

fn asked(log: &Log, of: &[&str]) -> Vec<String> {
    log.lock().unwrap().iter().filter(|one| of.iter().all(|part| one.contains(part))).cloned().collect()
}

#[tokio::test(start_paused = true)]
async fn lists_come_in_pages_and_a_cut_line_comes_again() {
    let (provider, log) = served(|request, before| match (request, before) {
        (request, _) if request.contains("fieldSelector") => list(&[], 9, ""),
        (request, _) if request.starts_with("GET secrets") && request.contains("watch=1") => {
            lines(String::new(), false)
        }
        (request, _) if request.starts_with("GET secrets") => list(&[], 5, ""),
        (request, 0) if request.contains("watch=1") => {
            let whole = line("ADDED", &pod(3, 6));
            let cut = line("ADDED", &pod(4, 7));
            lines(whole + &cut[..cut.len() / 2], true)
        }
        (request, 1) if request.contains("watch=1") => {
            lines(line("ADDED", &pod(4, 7)) + &line("DELETED", &pod(1, 8)), true)
        }
        (request, _) if request.contains("watch=1") => {
            lines(line("BOOKMARK", &json!({"metadata": {"resourceVersion": "9"}})), false)
        }
        (request, _) if request.contains("continue=t%2B1") => list(&[pod(2, 4)], 5, ""),
        (_, _) => list(&[pod(1, 3)], 5, "t+1"),
    });
    let mut view = View::new(&provider);
    view.until("three", |view| view.units.len() == 3).await;
    view.until("the first gone", |view| view.phase(&marks("ci", 1).agent()).is_none()).await;
    assert_eq!((view.looks, view.errors.len(), view.units.len()), (1, 0, 3));
    let versions: Vec<String> = asked(&log, &["pods", "watch=1"])
        .iter()
        .map(|one| one.rsplit_once("resourceVersion=").unwrap().1.to_owned())
        .collect();
    assert_eq!(versions[..2], ["5", "6"], "from the list on, then from the last whole line on");
}

#[tokio::test(start_paused = true)]
async fn a_forgotten_version_means_to_list_again_however_it_is_told() {
    let (provider, log) = served(|request, before| match (request, before) {
        (request, 0) if request.starts_with("GET pods") && request.contains("watch=1") => {
            refusal(410, "Expired")
        }
        (request, 1) if request.starts_with("GET pods") && request.contains("watch=1") => {
            lines(line("ERROR", &json!({"kind": "Status", "code": 410, "reason": "Expired"})), true)
        }
        (request, _) if request.contains("watch=1") => lines(String::new(), false),
        (_, _) => list(&[], 5, ""),
    });
    let mut view = View::new(&provider);
    view.until("listed thrice", |view| view.looks == 3).await;
    assert_eq!(view.errors.len(), 0);
    assert_eq!(asked(&log, &["pods", "limit=500"]).len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_is_always_cut_at_once_is_an_error_and_no_storm() {
    let (provider, _) =
        served(
            |request, _| {
                if request.contains("watch=1") { lines(String::new(), true) } else { list(&[], 5, "") }
            },
        );
    let mut watch = provider.watch().await.unwrap();
    assert!(matches!(watch.next().await.unwrap(), WatchEvent::Complete { .. }));
    assert_eq!(watch.next().await.unwrap_err().kind, ErrorKind::Transient);
}

#[tokio::test(start_paused = true)]
async fn silence_is_current_only_as_long_as_the_server_has_nothing_new() {
    // The server stays where the list was: each look proves the view.
    let quiet = |request: &str, _| {
        if request.contains("watch=1") { lines(String::new(), false) } else { list(&[], 5, "") }
    };
    let (provider, _) = served(quiet);
    let mut view = View::new(&provider);
    view.until("looked", |view| view.looks == 1).await;
    let first = view.as_of;
    view.until("current", |view| view.as_of.since(first) > Duration::from_secs(120)).await;
    assert_eq!((view.looks, view.errors.len()), (1, 0));

    // The server went on, and this watch does not say so: it is not believed.
    let (provider, log) =
        served(
            move |request, before| {
                if request.contains("fieldSelector") { list(&[], 6, "") } else { quiet(request, before) }
            },
        );
    let mut watch = provider.watch().await.unwrap();
    let WatchEvent::Complete { began: first, .. } = watch.next().await.unwrap() else { panic!() };
    let WatchEvent::Complete { began, .. } = watch.next().await.unwrap() else { panic!("believed") };
    assert!(began.since(first) <= Duration::from_secs(61), "before the view counts as stale (90 s)");
    assert_eq!(asked(&log, &["pods", "limit=500"]).len(), 2);
}

#[tokio::test(start_paused = true)]
#[expect(clippy::disallowed_methods, reason = "virtual time is moved on")]
async fn all_calls_wait_when_the_server_asks_to() {
    let (provider, log) = served(|_, before| {
        if before > 0 {
            return reply(201, &pod(1, 7));
        }
        let mut reply = refusal(429, "TooManyRequests");
        reply.headers_mut().insert("retry-after", "7".parse().unwrap());
        reply
    });
    let request = LaunchRequest::new(label(), marks("ci", 1), None);
    let limited = |error: Error| match error.kind {
        ErrorKind::RateLimited { after } => after,
        _ => panic!("{error}"),
    };
    assert_eq!(limited(provider.launch(&request).await.unwrap_err()), Duration::from_secs(7));
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(limited(provider.launch(&request).await.unwrap_err()), Duration::from_secs(4));
    assert_eq!(limited(provider.capacity().await.unwrap_err()), Duration::from_secs(4));
    assert_eq!(log.lock().unwrap().len(), 1, "nothing was sent meanwhile");
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(provider.launch(&request).await.unwrap().uid.as_str(), "u1");
}

#[tokio::test(start_paused = true)]
async fn a_secret_is_taken_back_unless_its_pod_may_come_to_be() {
    for (code, kind, deletes) in [(500, ErrorKind::UnknownOutcome, 0), (422, ErrorKind::Invalid, 1)] {
        let (provider, log) = served(move |request, _| match request {
            "POST pods" => refusal(code, "no"),
            "POST secrets" => reply(201, &json!({"metadata": {"uid": "s1"}})),
            _ => reply(200, &json!({})),
        });
        let request = LaunchRequest::new(label(), marks("ci", 1), Some(enrolment()));
        assert_eq!(provider.launch(&request).await.unwrap_err().kind, kind);
        assert_eq!(asked(&log, &["DELETE secrets/ci-small-1-1"]).len(), deletes);
    }
}

#[tokio::test(start_paused = true)]
async fn what_changed_between_look_and_deed_is_not_touched() {
    for (only, code, kind) in [(false, 409, None), (true, 409, Some(ErrorKind::Conflict)), (false, 404, None)]
    {
        let (provider, log) = served(move |request, _| match request {
            request if request.starts_with("GET") => {
                let mut pod = pod(1, 7);
                pod["metadata"]["annotations"]["kubestack.io/secret"] = "s1".into();
                reply(200, &pod)
            }
            "PATCH pods/ci-small-1-1" => reply(200, &pod(1, 8)),
            // In the meantime another pod, and another Secret, has the name.
            _ => refusal(code, "Conflict"),
        });
        let unit = UnitRef::new(marks("ci", 1).agent(), "u1".into());
        let mut request = DestroyRequest::new(unit.clone(), Duration::from_secs(5));
        request.only_if_not_started = only;
        assert_eq!(provider.destroy(&request).await.err().map(|error| error.kind), kind);
        provider.mark(&unit, &MarkPatch::Used("j".into())).await.unwrap();
        let deletes = asked(&log, &["DELETE pods"]);
        assert!(
            deletes[0].contains("\"uid\":\"u1\"") && deletes[0].contains("\"gracePeriodSeconds\":5"),
            "{deletes:?}"
        );
        assert_eq!(deletes[0].contains("\"resourceVersion\":\"7\""), only);
        assert!(asked(&log, &["DELETE secrets"]).iter().all(|one| one.contains("\"uid\":\"s1\"")));
        assert!(asked(&log, &["PATCH"])[0].contains("\"uid\":\"u1\""));
    }
}

/// Over a socket: the client itself must not send twice what may have had its effect.
#[tokio::test]
async fn a_create_is_sent_once_whatever_becomes_of_its_answer() {
    for answer in [
        "HTTP/1.1 504 Gateway Timeout\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{",
        "",
    ] {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let config = Fragment::from_value(json!({"url": url, "namespace": "agents"})).parse().unwrap();
        let provider = KubeProvider::new(&context("ci"), config);
        let request = LaunchRequest::new(label(), marks("ci", 1), None);
        let serving = async {
            for sent in 1.. {
                let (mut socket, _) = listener.accept().await.unwrap();
                let mut request = Vec::new();
                while !request.ends_with(b"}") {
                    assert_ne!(socket.read_buf(&mut request).await.unwrap(), 0);
                }
                assert!(request.starts_with(b"POST /api/v1/namespaces/agents/pods "));
                assert_eq!(sent, 1, "sent twice");
                socket.write_all(answer.as_bytes()).await.unwrap();
            }
        };
        tokio::select! {
            () = serving => panic!(),
            launched = provider.launch(&request) => {
                assert_eq!(launched.unwrap_err().kind, ErrorKind::UnknownOutcome, "{answer:?}");
            }
        }
    }
}
