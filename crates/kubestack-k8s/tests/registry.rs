//! The provider as the engine finds it: by its type name, with a part of a config file.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod common;

use common::context;
use kubestack_core::prelude::*;
use kubestack_core::registry::{Build, find, verify};
use kubestack_k8s as _;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// Far more than anything here takes.
const BOUND: Duration = Duration::from_secs(30);

fn build(config: Value) -> Result<Box<dyn SlaveProvider>> {
    verify().unwrap();
    let Build::Provider(build) = find(PluginKind::Provider, "kubernetes")?.build else {
        panic!("not a provider")
    };
    build(&context("ci"), &Fragment::from_value(config))
}

#[test]
fn it_is_registered_and_needs_neither_cluster_nor_runtime_to_be_built() {
    for config in [
        json!({}),
        json!({"url": "https://127.0.0.1:1", "api_key": "s3cret", "namespace": "agents"}),
        json!({"url": "http://[::1]:8001"}),
        json!({"kubeconfig": "/nonexistent", "context": "c", "proxy": "http://proxy:3128", "ca_file": "/nonexistent"}),
    ] {
        let provider = build(config).unwrap();
        assert!(provider.capabilities().marks && provider.capabilities().conditional_destroy);
    }
}

#[test]
fn a_wrong_config_is_refused_by_its_key() {
    for (config, said) in [
        (json!({"uri": "x"}), "unknown field `uri`"),
        (json!({"url": "10.0.0.1"}), "url: is no address"),
        (json!({"url": "ftp://x"}), "url: is no address"),
        (json!({"url": "https://x", "kubeconfig": "y"}), "kubeconfig: and `url` both name a cluster"),
        (json!({"api_key": "x"}), "api_key: is for `url`"),
        (json!({"context": "x"}), "context: is for `kubeconfig`"),
        (json!({"url": "https://x", "proxy": "proxy:3128"}), "proxy: is no address"),
        (json!({"namespace": "A/b"}), "namespace: is no name"),
        (
            json!({"url": "https://x", "ca_file": "x", "insecure_skip_tls_verify": true}),
            "insecure_skip_tls_verify",
        ),
        (json!({"url": "https://x", "api_key": {"evn": "X"}}), "api_key"),
    ] {
        let error = build(config.clone()).err().unwrap();
        assert!(error.kind == ErrorKind::Invalid && error.message.contains(said), "{config}: {error}");
    }
}

#[tokio::test]
async fn what_cannot_work_is_told_by_the_first_call_and_again_by_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    std::fs::write(path("bad"), "{").unwrap();
    for (config, said) in [
        (json!({}), "neither `url` nor `kubeconfig` is set"),
        (json!({"kubeconfig": path("none")}), "`kubeconfig`"),
        (json!({"kubeconfig": path("bad")}), "`kubeconfig`"),
        (json!({"url": "https://127.0.0.1:1", "api_key": {"file": path("none")}}), "none"),
        (json!({"url": "https://127.0.0.1:1", "ca_file": path("none")}), "cannot make a client"),
    ] {
        let provider = build(config.clone()).unwrap();
        for _ in 0..2 {
            let error = provider.capacity().await.unwrap_err();
            assert!(error.kind == ErrorKind::Invalid && error.message.contains(said), "{config}: {error}");
        }
    }
    let provider = build(json!({"url": "https://127.0.0.1:1"})).unwrap();
    let error = provider.capacity().await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Transient);
    assert!(error.message.contains("the cluster cannot be reached"), "{error}");
}

#[tokio::test]
async fn the_key_of_a_file_is_sent_without_its_line_break_and_read_again() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("key");
    std::fs::write(&file, "one\n").unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let provider = build(json!({"url": url, "api_key": {"file": file}, "namespace": "agents"})).unwrap();
    for (text, sent) in [("one\n", Some("one")), ("two\r\n", Some("two")), ("", Some("two"))] {
        std::fs::write(&file, text).unwrap();
        let answer = async {
            let mut stream = listener.accept().await.unwrap().0;
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") {
                head.push(char::from(stream.read_u8().await.unwrap()));
            }
            let refused = b"HTTP/1.1 503 No\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
            stream.write_all(refused).await.unwrap();
            head
        };
        // A client that refuses the key never calls.
        let both = async { tokio::join!(provider.capacity(), answer) };
        let (told, head) = tokio::time::timeout(BOUND, both).await.expect("a call");
        told.unwrap_err();
        let key = head.lines().find_map(|line| line.strip_prefix("authorization: Bearer "));
        assert_eq!(key, sent, "{head}");
    }
}

#[test]
fn the_schema_names_every_key() {
    let schema = serde_json::to_value((find(PluginKind::Provider, "kubernetes").unwrap().schema)()).unwrap();
    let keys = schema["properties"].as_object().unwrap();
    for key in [
        "api_key",
        "ca_file",
        "capacity",
        "context",
        "insecure_skip_tls_verify",
        "kubeconfig",
        "namespace",
        "proxy",
        "url",
    ] {
        assert!(keys.contains_key(key), "{key}: {schema}");
    }
    for (key, property) in keys {
        assert!(property.get("description").is_some(), "{key}: {schema}");
    }
    for (key, property) in keys {
        assert!(property.get("description").is_some(), "{key}: {schema}");
    }
}
