//! `proxy`: a real API server by way of an HTTP proxy that knows CONNECT, and nothing else. The proxy is our own.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

use common::site::{Site, config, provider, shared};
use common::{View, enrolment, label};
use kubestack_core::prelude::*;
use std::io::{BufRead, BufReader, Write, copy};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// A proxy that writes down where it was asked to connect to.
fn proxy() -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (url, asked) =
        (format!("http://{}", listener.local_addr().unwrap()), Arc::new(Mutex::new(Vec::new())));
    let log = asked.clone();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let log = log.clone();
            thread::spawn(move || drop(tunnel(stream, &log)));
        }
    });
    (url, asked)
}

fn tunnel(mut client: TcpStream, log: &Mutex<Vec<String>>) -> std::io::Result<()> {
    let mut lines = BufReader::new(client.try_clone()?).lines();
    let request = lines.next().unwrap_or_else(|| Ok(String::new()))?;
    while lines.next().transpose()?.is_some_and(|line| !line.is_empty()) {}
    log.lock().unwrap().push(request.clone());
    let target = request.strip_prefix("CONNECT ").and_then(|rest| rest.split(' ').next()).unwrap_or_default();
    let mut server = TcpStream::connect(target)?;
    client.write_all(b"HTTP/1.1 200 connected\r\n\r\n")?;
    let (mut from, mut to) = (client.try_clone()?, server.try_clone()?);
    thread::spawn(move || {
        let _ = copy(&mut from, &mut to);
        to.shutdown(Shutdown::Both)
    });
    copy(&mut server, &mut client)?;
    client.shutdown(Shutdown::Both)
}

#[tokio::test]
async fn an_agent_lives_by_way_of_a_proxy_that_sees_nothing_but_an_address() {
    let Some(cluster) = shared() else { return };
    let site = Site::new(cluster, "proxied");
    let (url, asked) = proxy();
    let mut config = config(cluster, "proxied", &site.token);
    config["proxy"] = url.into();
    let far = provider(&site.instance, &config).unwrap();
    let mut view = View::new(&far);
    let unit = far.launch(&site.request(1, label(), Some(enrolment()))).await.unwrap();
    view.until("running", |view| view.phase(&unit.name) == Some(&UnitPhase::Running)).await;
    far.destroy(&DestroyRequest::new(unit.reference(), Duration::from_secs(1))).await.unwrap();
    view.until_gone(&unit.name).await;
    assert!(view.errors.is_empty(), "{:?}", view.errors);
    let host = cluster.url().replace("https://", "");
    let asked = asked.lock().unwrap().clone();
    assert!(
        !asked.is_empty() && asked.iter().all(|line| *line == format!("CONNECT {host} HTTP/1.1")),
        "{asked:?}"
    );

    config["proxy"] = "http://127.0.0.1:1".into();
    let nowhere = provider(&site.instance, &config).unwrap();
    let error = nowhere.launch(&site.request(2, label(), None)).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Transient, "nothing was sent: {error}");
}
