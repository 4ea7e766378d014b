//! Events of builds, from the real plugin on a real server, from real publishers of each age; and from what only says that
//! it is one.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "tests, on real sockets"
)]

use kubestack_core::prelude::*;
use kubestack_core::registry::{Build, find};
use kubestack_listeners as _;
use kubestack_testbed::publisher::{Library, Publisher, publisher};
use serde_json::{Value, json};
use std::io::Write;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Far more than anything here takes.
const BOUND: Duration = Duration::from_secs(30);

fn build(config: Value) -> Result<Box<dyn CompletionSource>> {
    let Build::CompletionSource(build) = find(PluginKind::CompletionSource, "zmq")?.build else {
        panic!("not a completion source");
    };
    build(&kubestack_testkit::host::context("zmq", "ci"), &Fragment::from_value(config))
}

fn source(port: u16) -> Box<dyn CompletionSource> {
    build(json!({"host": "127.0.0.1", "port": port, "timeout": "2s"})).unwrap()
}

fn event(topic: &str, node: &str) -> String {
    format!("{topic} {{\"name\":\"j\",\"build\":{{\"number\":1,\"node_name\":\"{node}\"}}}}")
}

/// Tries again, as the engine does, until it is greeted, which is told as a hint to look.
async fn greeted(source: &mut Box<dyn CompletionSource>) {
    let limit = Instant::now() + BOUND;
    loop {
        match source.next().await {
            Ok(news) if news.is_empty() => return,
            Ok(_) => {}
            Err(error) => {
                assert_eq!(error.kind, ErrorKind::Transient, "{error}");
                assert!(Instant::now() < limit, "{error}");
                // As the engine does, which waits far longer.
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

/// What it tells next.
async fn next(source: &mut Box<dyn CompletionSource>) -> Result<Vec<Completion>> {
    tokio::time::timeout(BOUND, source.next()).await.expect("an answer in time")
}

/// Publishes until it is heard: a subscription takes its time to arrive, and what is published before is lost.
async fn hears(source: &mut Box<dyn CompletionSource>, publisher: &mut Publisher, agent: &str) {
    let limit = Instant::now() + BOUND;
    loop {
        for node in ["", "static-1", "xy-small-1-2", "ci-small-1-2-theirs", agent] {
            publisher.publish(&event("onFinalized", node)).unwrap();
        }
        match tokio::time::timeout(Duration::from_millis(200), source.next()).await {
            Ok(news) => {
                let news = news.unwrap();
                let told: Vec<_> = news.iter().map(|news| (news.agent.as_str(), news.event)).collect();
                assert_eq!(told, [(agent, CompletionEvent::Finalized)]);
                return;
            }
            Err(_) => assert!(Instant::now() < limit, "nothing is heard"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn publishers_of_each_age_are_heard_and_heard_again_after_their_restart() {
    let mut table = String::from("| publisher | heard | heartbeats | after kill -9 |\n|---|---|---|---|\n");
    for library in Library::ALL {
        let Some(mut publisher) = publisher(library).unwrap() else { continue };
        let mut source = source(publisher.port());
        greeted(&mut source).await;
        hears(&mut source, &mut publisher, "ci-small-1-2").await;
        let mut heartbeats = "-";
        if matches!(library, Library::Libzmq) {
            // Ten of them, each of which ends a connection that is not answered.
            let began = Instant::now();
            while began.elapsed() < Duration::from_secs(2) {
                hears(&mut source, &mut publisher, "ci-small-1-2").await;
            }
            assert_eq!((publisher.said("connected"), publisher.said("disconnected")), (1, 0));
            heartbeats = "one connection";
        }
        publisher.kill().unwrap();
        // What it said before its end may still be on its way.
        let error = loop {
            if let Err(error) = next(&mut source).await {
                break error;
            }
        };
        assert_eq!(error.kind, ErrorKind::Transient);
        let said = format!("the publisher at 127.0.0.1:{} cannot be heard: ", publisher.port());
        assert!(error.message.starts_with(&said), "{error}");
        publisher.up().unwrap();
        greeted(&mut source).await;
        hears(&mut source, &mut publisher, "ci-small-3-4").await;
        table += &format!("| {library:?} | yes | {heartbeats} | resumes, after a look |\n");
    }
    // For people: docs/zmq.md has it with the versions of ZMTP.
    std::io::stdout().write_all(table.as_bytes()).unwrap();
}

/// A peer of the test's own, once somebody has connected.
async fn accept(listener: &TcpListener) -> TcpStream {
    listener.accept().await.unwrap().0
}

/// As jeromq 0.2.0 greets (`testbed/zmq/README.md`): until the subscription has come.
async fn greet(stream: &mut TcpStream) {
    let mut heard = [0; 17];
    stream.write_all(b"\xff\0\0\0\0\0\0\0\x01\x7f\x01\x01\0\0").await.unwrap();
    stream.read_exact(&mut heard).await.unwrap();
    assert_eq!(heard, *b"\xff\0\0\0\0\0\0\0\x01\x7f\x03\x02\0\0\0\x01\x01");
}

fn frame(message: &str) -> Vec<u8> {
    let length = u64::try_from(message.len()).unwrap().to_be_bytes();
    [&[2], &length[..], message.as_bytes()].concat()
}

async fn listener() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_garbage_and_ends_at_every_moment_are_told_and_got_over() {
    let (listener, port) = listener().await;
    let mut source = source(port);
    let cut =
        [&b"\xff\0\0\0\0\0\0\0\x01\x7f\x01\x01\0\0"[..], &frame(&event("onFinalized", "ci-a-1-2"))].concat();
    let whole: &[u8] = &cut;
    for (said, stays, expected) in [
        (&b""[..], true, "it does not greet within 2s"),
        (b"\xff\0\0\0", true, "it does not greet within 2s"),
        (b"", false, "it hung up"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", true, "it is no ZeroMQ socket: it says `HTTP/1.1 4"),
        (b"\x01\0", true, "it speaks ZMTP 1.0"),
        (whole.get(..12).unwrap(), false, "it hung up"),
    ] {
        let peer = async {
            let mut stream = accept(&listener).await;
            stream.write_all(said).await.unwrap();
            if stays { Some(stream) } else { None }
        };
        let (error, _stream) = tokio::join!(next(&mut source), peer);
        let error = error.unwrap_err();
        assert!(error.message.contains(expected), "{error}: {expected}");
    }
    // Half an event, then its end.
    let peer = async {
        let mut stream = accept(&listener).await;
        greet(&mut stream).await;
        stream.write_all(whole.get(14..whole.len() - 1).unwrap()).await.unwrap();
    };
    let (first, ()) = tokio::join!(next(&mut source), peer);
    assert_eq!(first.unwrap(), []);
    let error = next(&mut source).await.unwrap_err();
    assert!(error.kind == ErrorKind::Transient, "{error}");
    drop(listener);
    let error = next(&mut source).await.unwrap_err();
    assert!(error.kind == ErrorKind::Transient && error.message.contains("refused"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_interrupted_at_every_byte_misses_nothing() {
    let (listener, port) = listener().await;
    let mut source = source(port);
    let told = frame(&event("onStarted", "ci-a-1-2"));
    let peer = tokio::spawn(async move {
        let mut stream = accept(&listener).await;
        greet(&mut stream).await;
        for byte in told {
            stream.write_all(&[byte]).await.unwrap();
            stream.flush().await.unwrap();
            tokio::task::yield_now().await;
        }
        stream
    });
    assert_eq!(next(&mut source).await.unwrap(), []);
    let limit = Instant::now() + BOUND;
    let news = loop {
        assert!(Instant::now() < limit, "nothing is heard");
        tokio::select! {
            biased;
            news = source.next() => break news.unwrap(),
            () = tokio::task::yield_now() => {}
        }
    };
    assert_eq!(news.len(), 1);
    assert_eq!((news[0].agent.as_str(), news[0].event), ("ci-a-1-2", CompletionEvent::Started));
    drop(peer.await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_others_events_hides_none_of_ours_and_takes_no_room() {
    let (listener, port) = listener().await;
    let mut source = source(port);
    let flood = tokio::spawn(async move {
        let mut stream = accept(&listener).await;
        greet(&mut stream).await;
        let others: Vec<u8> =
            [event("onFinalized", ""), "garbage".to_owned(), event("onFinalized", "static-7")]
                .iter()
                .flat_map(|message| frame(message))
                .collect();
        for _ in 0..30_000 {
            stream.write_all(&others).await.unwrap();
        }
        stream.write_all(&frame(&event("onFinalized", "ci-a-1-2-0123abcd"))).await.unwrap();
        // More than is ever read.
        stream.write_all(b"\x02\0\0\0\0\x40\0\0\0").await.unwrap();
        stream
    });
    assert_eq!(next(&mut source).await.unwrap(), []);
    let news = next(&mut source).await.unwrap();
    let names: Vec<_> = news.iter().map(|news| news.agent.as_str()).collect();
    assert_eq!(names, ["ci-a-1-2"], "the client of the Swarm plugin appends to the name");
    let error = next(&mut source).await.unwrap_err();
    assert!(error.message.contains("a frame has 1073741824 bytes"), "{error}");
    drop(flood.await.unwrap());
}

#[test]
fn a_wrong_config_is_refused_by_its_key() {
    for (config, said) in [
        (json!({}), "host"),
        (json!({"host": "tcp://jenkins:8888"}), "host: is no name"),
        (json!({"host": "a", "port": 0}), "port: must be"),
        (json!({"host": "a", "port": 70000}), "port"),
        (json!({"host": "a", "timeout": "5m"}), "timeout: must be"),
        (json!({"host": "a", "topic": "x"}), "unknown field `topic`"),
    ] {
        let error = build(config.clone()).err().unwrap();
        assert!(error.kind == ErrorKind::Invalid && error.message.contains(said), "{config}: {error}");
    }
}
