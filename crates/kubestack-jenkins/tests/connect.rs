//! The config by its keys, and the way to the server: TLS with its own authority, a proxy, and a path below the address.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

use common::build;
use kubestack_core::prelude::*;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;

#[tokio::test]
async fn a_wrong_config_is_refused_by_its_key() {
    let url = "https://ci.example.org/jenkins";
    for (config, said) in [
        (json!({}), "missing field `external_url`"),
        (json!({"external_url": "ci"}), "external_url: is no address"),
        (json!({"external_url": "ftp://ci"}), "external_url: is no address"),
        (json!({"external_url": "https://u:p@ci"}), "external_url: is no address"),
        (json!({"external_url": "https://ci/?a=b"}), "external_url: is no address"),
        (json!({"external_url": url, "internal_url": "x"}), "internal_url: is no address"),
        (json!({"external_url": url, "proxy": "proxy"}), "proxy: is no address"),
        (json!({"external_url": url, "user": "u"}), "user: goes with `pass` or `token`"),
        (json!({"external_url": url, "pass": "p"}), "user: goes with `pass` or `token`"),
        (
            json!({"external_url": url, "user": "u", "pass": "p", "token": "t"}),
            "token: and `pass` are two ways",
        ),
        (json!({"external_url": url, "user": "a:b", "pass": "p"}), "user: has a character"),
        (json!({"external_url": url, "attach": "ssh"}), "unknown variant `ssh`"),
        (json!({"external_url": url, "attach": "swarm-client"}), "attach: `swarm-client` hands"),
        (json!({"external_url": url, "poll": "1ms"}), "poll: must be at least 100ms"),
        (json!({"external_url": url, "ca_file": "/nonexistent"}), "ca_file: cannot read /nonexistent"),
        (json!({"external_url": url, "password": "p"}), "unknown field `password`"),
    ] {
        let error = build(config.clone()).err().unwrap_or_else(|| panic!("{config} is no error"));
        assert_eq!(error.kind, ErrorKind::Invalid);
        assert!(error.message.contains(said), "{config}: {error}");
    }
    let of_2015 = json!({"external_url": "http://ci/", "internal_url": "http://in/", "user": "u", "pass": "p", "attach": "swarm-client"});
    build(of_2015).unwrap();
}

struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_checked_against_the_named_authority() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    let (key, cert) = (path("key"), path("cert"));
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"])
        .args([
            "-addext",
            "subjectAltName=IP:127.0.0.1",
            "-addext",
            "basicConstraints=critical,CA:FALSE",
            "-keyout",
            &key,
            "-out",
            &cert,
        ])
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let server = Command::new("openssl")
        .args(["s_server", "-accept", &format!("127.0.0.1:{port}"), "-www", "-key", &key, "-cert", &cert])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut server = Ended(server);
    let mut said = BufReader::new(server.0.stdout.take().unwrap());
    let mut line = String::new();
    while !line.contains("ACCEPT") {
        assert_ne!(said.read_line(&mut line).unwrap(), 0, "{line}");
    }
    let url = format!("https://127.0.0.1:{port}");
    let look = |config: Value| async move { build(config).unwrap().agents().await.unwrap_err() };
    let error = look(json!({"external_url": url})).await;
    assert_eq!(error.kind, ErrorKind::Unauthorized, "{error}");
    assert!(error.message.contains("is not trusted; name its authority in `ca_file`"), "{error}");
    // Trusted now; what answers is no Jenkins, and says so.
    let error = look(json!({"external_url": url, "ca_file": cert})).await;
    assert_eq!(error.kind, ErrorKind::Invalid, "{error}");
    assert!(error.message.contains("HTML page"), "{error}");
    let error = build(json!({"external_url": url, "ca_file": key})).err().unwrap();
    assert!(error.message.contains("holds no certificate"), "{error}");
}

/// Answers one connection: first as the proxy, then as the server behind it. What it heard comes over the channel.
fn proxy(listener: TcpListener, heard: mpsc::Sender<String>) {
    let (mut stream, _) = listener.accept().unwrap();
    let request = |stream: &mut TcpStream| {
        let mut text = Vec::new();
        while !text.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            text.push(byte[0]);
        }
        heard.send(String::from_utf8(text).unwrap()).unwrap();
    };
    request(&mut stream);
    stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
    request(&mut stream);
    stream.write_all(b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n").unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_carries_it_and_the_path_stays() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let (sender, heard) = mpsc::channel();
    let thread = std::thread::spawn(move || proxy(listener, sender));
    let config = json!({"external_url": "http://ci.invalid:8080/jenkins/", "proxy": address, "user": "u", "token": "s3cret"});
    let error = build(config).unwrap().agents().await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Transient, "{error}");
    thread.join().unwrap();
    let (connect, request) = (heard.recv().unwrap(), heard.recv().unwrap());
    assert!(connect.starts_with("CONNECT ci.invalid:8080 "), "{connect}");
    assert!(!connect.to_lowercase().contains("authorization"), "the proxy gets no credentials of Jenkins");
    assert!(request.starts_with("GET /jenkins/api/json?tree=mode "), "{request}");
}

#[tokio::test]
async fn nobody_there_means_that_nothing_was_sent() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let master = build(json!({"external_url": format!("http://127.0.0.1:{port}")})).unwrap();
    let error = master.remove(&"a".into(), false).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Transient);
    assert!(error.message.contains("cannot be reached"), "{error}");
}
