//! The real ZMQ Event Publisher, on a real server of Jenkins' line, with a real agent.
#![allow(clippy::unwrap_used, clippy::panic, clippy::disallowed_methods, reason = "tests, on real sockets")]

use kubestack_core::prelude::*;
use kubestack_core::registry::{Build, find};
use kubestack_jenkins as _;
use kubestack_listeners as _;
use kubestack_testbed::hudson::{Hudson, hudson};
use kubestack_testkit::host::context;
use serde_json::json;
use std::time::Duration;

/// Far more than anything here takes.
const BOUND: Duration = Duration::from_secs(180);

/// Waits until the publisher is heard. It listens from the first build on.
async fn heard(source: &mut Box<dyn CompletionSource>) {
    let hearing = async {
        while let Err(error) = source.next().await {
            assert_eq!(error.kind, ErrorKind::Transient, "{error}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(BOUND, hearing).await.unwrap();
}

/// A job that ends when the gate is there, on an agent of ours; what is told of it.
async fn told(
    server: &Hudson,
    source: &mut Box<dyn CompletionSource>,
    job: &str,
) -> Vec<(String, CompletionEvent)> {
    let gate = server.directory().join(format!("gate-{job}"));
    let script = format!("until [ -e {} ]; do sleep 0.1; done", gate.display());
    server.job(job, "small", &script).unwrap();
    server.build(job).unwrap();
    let mut told = Vec::new();
    while told.len() < 3 {
        let news = tokio::time::timeout(BOUND, source.next()).await.unwrap().unwrap();
        for news in news {
            if news.event == CompletionEvent::Started {
                std::fs::write(&gate, "").unwrap();
            }
            told.push((news.agent, news.event));
        }
    }
    told
}

#[tokio::test(flavor = "multi_thread")]
async fn the_real_plugin_tells_each_step_and_does_so_again_after_the_restart_of_its_server() {
    let Some(mut server) = hudson().unwrap() else { return };
    let Build::Master(build) = find(PluginKind::Master, "jenkins").unwrap().build else {
        panic!("no master")
    };
    let work = server.directory().join("work").display().to_string();
    let config = json!({"external_url": server.url(), "work_dir": work});
    let master = build(&context("jenkins", "ci"), &Fragment::from_value(config)).unwrap();
    let Build::CompletionSource(build) = find(PluginKind::CompletionSource, "zmq").unwrap().build else {
        panic!("no source");
    };
    let config = json!({"host": "127.0.0.1", "port": server.publisher()});
    let mut source = build(&context("zmq", "ci"), &Fragment::from_value(config)).unwrap();

    // Nobody listens before the first build: on the server's own node, of which nothing is told.
    let error = source.next().await.unwrap_err();
    assert!(error.kind == ErrorKind::Transient && error.message.contains("refused"), "{error}");
    server.job("first", "master", "true").unwrap();
    server.build("first").unwrap();
    heard(&mut source).await;

    let marks =
        Marks::new("ci".into(), "small".into(), "p".into(), Some("jenkins".into()), (1, 1), "t".into());
    let request = EnrolRequest::new(LabelSpec::new("small"), marks);
    let EnrolOutcome::Enrolled(given) = master.enrol(&request).await.unwrap() else { panic!("not enrolled") };
    server.start_agent("agent", &given.args).unwrap();
    let agent = request.agent.to_string();
    let steps = [CompletionEvent::Started, CompletionEvent::Completed, CompletionEvent::Finalized];
    let expected = steps.map(|step| (agent.clone(), step));
    assert_eq!(told(&server, &mut source, "one").await, expected);

    server.kill().unwrap();
    let error = source.next().await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Transient, "{error}");
    server.up().unwrap();
    server.kill_agent("agent").unwrap();
    server.start_agent("agent", &given.args).unwrap();
    server.build("first").unwrap();
    heard(&mut source).await;
    assert_eq!(told(&server, &mut source, "two").await, expected);
}
