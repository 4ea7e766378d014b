//! Gearman's queue, asked of the real gearmand; and of what only says that it is one.
#![allow(clippy::unwrap_used, clippy::panic, clippy::disallowed_methods, reason = "tests, on real sockets")]

use kubestack_core::prelude::*;
use kubestack_core::registry::{Build, find};
use kubestack_listeners as _;
use kubestack_testbed::gearman::gearmand;
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

fn build(config: Value) -> Result<Box<dyn DemandSource>> {
    let Build::DemandSource(build) = find(PluginKind::DemandSource, "gearman")?.build else {
        panic!("not a demand source");
    };
    build(&kubestack_testkit::host::context("gearman-server", "ci"), &Fragment::from_value(config))
}

fn source(config: Value) -> Box<dyn DemandSource> {
    build(config).unwrap_or_else(|error| panic!("{error}"))
}

fn labels() -> SourceContext {
    let mut any = LabelSpec::new("any");
    any.unlabelled = true;
    let labels = [LabelSpec::new("small"), any];
    SourceContext::new(labels.into_iter().map(|label| (label.name.clone(), label)).collect())
}

/// What waits, what runs and who can serve it, by function.
async fn look(source: &mut Box<dyn DemandSource>) -> Result<Vec<String>> {
    let snapshot = source.next(&labels()).await?;
    let row = |demand: Demand| {
        let needs: Vec<_> = demand.needs.iter().map(ToString::to_string).collect();
        format!("{} {}+{} {}", demand.text, demand.waiting, demand.running, needs.join(","))
    };
    Ok(snapshot.demands.into_iter().map(row).collect())
}

/// Looks until it sees that.
async fn sees(source: &mut Box<dyn DemandSource>, expected: &[&str]) {
    let limit = Instant::now() + Duration::from_secs(60);
    loop {
        let seen = look(source).await;
        if seen.as_ref().is_ok_and(|seen| seen == expected) {
            return;
        }
        assert!(Instant::now() < limit, "saw {seen:?}, not {expected:?}");
    }
}

#[tokio::test]
async fn the_queue_of_a_real_server_by_label_with_one_job_running() {
    let Some(server) = gearmand().unwrap() else { return };
    let mut source = source(json!({"host": "127.0.0.1", "port": server.port(), "poll": "100ms"}));
    assert_eq!(look(&mut source).await.unwrap(), Vec::<String>::new());
    for function in
        ["build:a:small", "build:a:small", "build:a:other", "build:a", "build:b", "set_description:x"]
    {
        server.submit(function).unwrap();
    }
    let waiting = ["build:a 1+0 small", "build:a:other 1+0 ", "build:a:small 2+0 small", "build:b 1+0 any"];
    sees(&mut source, &waiting).await;
    let worker = server.work("build:a:small").unwrap();
    let running = ["build:a 1+0 small", "build:a:other 1+0 ", "build:a:small 1+1 small", "build:b 1+0 any"];
    sees(&mut source, &running).await;
    // A worker that dies gives its job back.
    drop(worker);
    sees(&mut source, &waiting).await;
}

#[tokio::test]
async fn real_servers_add_up_and_one_that_is_down_or_hangs_is_no_smaller_queue() {
    let (Some(one), Some(mut two)) = (gearmand().unwrap(), gearmand().unwrap()) else { return };
    let servers = [one.port(), two.port()].map(|port| format!("127.0.0.1:{port}"));
    let mut source = source(json!({"servers": servers, "poll": "100ms", "timeout": "1s"}));
    one.submit("build:b").unwrap();
    two.submit("build:b").unwrap();
    sees(&mut source, &["build:b 2+0 any"]).await;
    two.signal("STOP").unwrap();
    let error = look(&mut source).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Transient);
    let said = format!("no whole answer to `status` from gearman at 127.0.0.1:{} within 1s", two.port());
    assert_eq!(error.message, said);
    two.signal("CONT").unwrap();
    sees(&mut source, &["build:b 2+0 any"]).await;
    two.kill().unwrap();
    let error = look(&mut source).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Transient);
    assert!(
        error.message.starts_with(&format!("cannot connect to gearman at 127.0.0.1:{}", two.port())),
        "{error}"
    );
    // It comes back without what it had.
    two.up().unwrap();
    sees(&mut source, &["build:b 1+0 any"]).await;
}

/// A server of ours that says that to whoever asks: what no gearmand says.
async fn impostor(answer: Vec<u8>) -> (u16, impl Future<Output = ()>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let serve = async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut asked = [0; 7];
            stream.read_exact(&mut asked).await.unwrap();
            assert_eq!(&asked, b"status\n");
            let _ = stream.write_all(&answer).await;
        }
    };
    (port, serve)
}

#[tokio::test]
async fn what_no_gearmand_says_is_an_error_that_shows_it() {
    let flood = b"build:a\t1\t0\t0\n".repeat(1 << 20);
    for (answer, kind, said) in [
        (b"build:a\t1\t0\t0\nbuild:".to_vec(), ErrorKind::Transient, "hung up in the middle of its answer"),
        (b"".to_vec(), ErrorKind::Transient, "hung up in the middle of its answer"),
        (b"ERR UNKNOWN_COMMAND no\r\n".to_vec(), ErrorKind::Bug, "with the line `ERR UNKNOWN_COMMAND no`"),
        (b"build:a\t-1\t0\t0\n.\n".to_vec(), ErrorKind::Bug, "with the line `build:a\\t-1\\t0\\t0`"),
        (b"\xff\x00\x01\n.\n".to_vec(), ErrorKind::Bug, "with the line `\u{fffd}\\0\\u{1}`"),
        (flood, ErrorKind::Bug, "with more than 8 MiB"),
    ] {
        let (port, serve) = impostor(answer).await;
        let mut source = source(json!({"host": "127.0.0.1", "port": port}));
        let error = tokio::select! {
            seen = look(&mut source) => seen.unwrap_err(),
            () = serve => unreachable!(),
        };
        assert_eq!(error.kind, kind, "{error}");
        assert!(error.message.contains(said), "{error}");
    }
}

#[tokio::test]
async fn half_a_line_and_then_silence_ends_with_the_time_limit() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut source = source(json!({"host": "127.0.0.1", "port": port, "timeout": "200ms"}));
    let silent = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"build:a\t1").await.unwrap();
        std::future::pending::<()>().await;
    };
    let error = tokio::select! {
        seen = look(&mut source) => seen.unwrap_err(),
        () = silent => unreachable!(),
    };
    assert!(error.message.starts_with("no whole answer to `status`"), "{error}");
}

#[tokio::test]
async fn a_wrong_config_is_refused_by_its_key() {
    for (config, said) in [
        (json!({}), "host: is missing"),
        (json!({"host": "a", "servers": ["b"]}), "servers: and `host` are two ways"),
        (json!({"host": "a", "nodes": 1}), "unknown field `nodes`"),
    ] {
        let error = build(config).err().unwrap();
        assert!(error.kind == ErrorKind::Invalid && error.message.contains(said), "{error}");
    }
}
