//! The watch on a real API server that is cut, halted, killed and started again; and many agents at once.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

use common::site::{Site, config, provider, shared};
use common::{View, enrolment, label};
use kubestack_core::prelude::*;
use kubestack_testbed::{Component, Options, cluster};
use serde_json::json;
use std::collections::BTreeSet;
use std::time::Duration;

#[tokio::test]
async fn a_quiet_view_is_proven_current_without_listing_all_again() {
    let Some(cluster) = shared() else { return };
    let site = Site::new(cluster, "quiet");
    let mut view = site.view();
    view.until("looked", |view| view.looks == 1).await;
    let first = view.as_of;
    // The cluster goes on meanwhile: its version grows, and nothing of that is ours.
    site.kubectl(&["create", "configmap", "noise"]).unwrap();
    view.until("current", |view| view.as_of > first).await;
    let second = view.as_of;
    view.until("current again", |view| view.as_of > second).await;
    assert_eq!((view.looks, view.errors.len()), (1, 0));
}

#[tokio::test]
async fn after_a_restart_of_the_server_and_what_happened_meanwhile_the_view_is_right() {
    let Some(cluster) = cluster(&Options::control_plane().fake_nodes(2)).unwrap() else { return };
    let site = Site::new(&cluster, "restarted");
    let stays = site.launch(1, label(), None).await.unwrap();
    let goes = site.launch(2, label(), Some(enrolment())).await.unwrap();
    let mut view = site.view();
    view.until("both run", |view| {
        [&stays, &goes].iter().all(|unit| view.phase(&unit.name) == Some(&UnitPhase::Running))
    })
    .await;

    cluster.kill(Component::ApiServer).unwrap();
    view.until("cut", |view| !view.errors.is_empty()).await;
    assert!(view.errors.iter().all(|error| error.kind == ErrorKind::Transient), "{:?}", view.errors);
    let error = site.launch(3, label(), None).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Transient, "nothing was sent: {error}");
    assert_eq!(site.destroy(&goes).await.unwrap_err().kind, ErrorKind::Transient);

    cluster.kill(Component::Etcd).unwrap();
    cluster.start_component(Component::Etcd).unwrap();
    cluster.start_component(Component::ApiServer).unwrap();
    let other = provider(&site.instance, &config(&cluster, "restarted", &site.token)).unwrap();
    other.destroy(&DestroyRequest::new(goes.reference(), Duration::from_secs(1))).await.unwrap();
    let new = site.launch(4, label(), None).await.unwrap();
    view.until_gone(&goes.name).await;
    view.until("the new one runs", |view| view.phase(&new.name) == Some(&UnitPhase::Running)).await;
    assert_eq!(view.phase(&stays.name), Some(&UnitPhase::Running));
    assert_eq!(view.units.len(), 2);
}

#[tokio::test]
async fn a_halted_server_is_not_believed() {
    let Some(cluster) = cluster(&Options::api_only()).unwrap() else { return };
    let namespace = "{apiVersion: v1, kind: Namespace, metadata: {name: halted}}";
    cluster.apply(namespace).unwrap();
    let token =
        cluster.kubectl(["config", "view", "--raw", "--output=jsonpath={.users[0].user.token}"]).unwrap();
    let provider = provider("ci", &config(&cluster, "halted", token.trim())).unwrap();
    let mut view = View::new(&provider);
    view.until("looked", |view| view.looks == 1).await;
    let seen = view.as_of;
    cluster.pause(Component::ApiServer).unwrap();
    view.until("an error", |view| !view.errors.is_empty()).await;
    assert_eq!(view.errors[0].kind, ErrorKind::Transient, "{}", view.errors[0]);
    let silent = view.as_of;
    cluster.resume(Component::ApiServer).unwrap();
    view.until("current", |view| view.as_of > silent).await;
    assert!(silent >= seen);
}

#[tokio::test]
async fn a_version_that_the_server_has_forgotten_is_no_failure() {
    let Some(cluster) = cluster(&Options::api_only()).unwrap() else { return };
    cluster.apply("{apiVersion: v1, kind: Namespace, metadata: {name: forgotten}}").unwrap();
    let token =
        cluster.kubectl(["config", "view", "--raw", "--output=jsonpath={.users[0].user.token}"]).unwrap();
    let provider = provider("ci", &config(&cluster, "forgotten", token.trim())).unwrap();
    let mut view = View::new(&provider);
    view.until("looked", |view| view.looks == 1).await;
    // The world goes on while the watch, which nobody asks, does not; and a server that starts anew knows nothing
    // from before its start.
    for number in 0..5 {
        cluster
            .kubectl(["create", "configmap", &format!("noise-{number}"), "--namespace=forgotten"])
            .unwrap();
    }
    cluster.kill(Component::ApiServer).unwrap();
    cluster.start_component(Component::ApiServer).unwrap();
    view.until("looked again", |view| view.looks == 2).await;
    assert!(view.errors.is_empty(), "{:?}", view.errors);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_agents_at_once_come_and_go() {
    let Some(cluster) = shared() else { return };
    let site = Site::new(cluster, "many");
    let mut view = site.view();
    view.until("looked", |view| view.looks == 1).await;
    let launches: Vec<_> = (0..200).map(|serial| site.launch(serial, label(), Some(enrolment()))).collect();
    let launched = together(launches).await;
    let units: Vec<Unit> = launched.into_iter().map(std::result::Result::unwrap).collect();
    assert_eq!(units.iter().map(|unit| &unit.uid).collect::<BTreeSet<_>>().len(), 200);
    view.until("200 run", |view| {
        view.units.len() == 200 && view.units.values().all(|unit| unit.phase == UnitPhase::Running)
    })
    .await;
    // A second daemon finds them all.
    let other = provider(&site.instance, &config(cluster, "many", &site.token)).unwrap();
    let mut adopted = View::new(&other);
    adopted.until("adopted", |view| view.units.len() == 200).await;
    assert_eq!(adopted.looks, 1, "at the first look");
    for destroyed in together(units.iter().map(|unit| site.destroy(unit)).collect()).await {
        destroyed.unwrap();
    }
    view.until("none is left", |view| view.units.is_empty()).await;
    assert!(site.names("secrets").is_empty());
    assert_eq!((view.looks, view.errors.len()), (1, 0), "{:?}", view.errors);
}

/// All of them at once.
async fn together<T>(futures: Vec<impl Future<Output = T>>) -> Vec<T> {
    let mut open: Vec<_> = futures.into_iter().map(|future| (Box::pin(future), None)).collect();
    std::future::poll_fn(|context| {
        let mut ready = true;
        for (future, answer) in open.iter_mut().filter(|(_, answer)| answer.is_none()) {
            match future.as_mut().poll(context) {
                std::task::Poll::Ready(value) => *answer = Some(value),
                std::task::Poll::Pending => ready = false,
            }
        }
        if ready { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    open.into_iter().map(|(_, answer)| answer.unwrap()).collect()
}

#[tokio::test]
async fn what_is_wrong_with_the_access_is_said() {
    let Some(cluster) = shared() else { return };
    let site = Site::new(cluster, "access");
    let right = config(cluster, "access", &site.token);
    let with = |key: &str, value: serde_json::Value| {
        let mut config = right.clone();
        config[key] = value;
        config
    };
    let without_ca = json!({"url": cluster.url(), "api_key": site.token, "namespace": "access"});
    for (config, kind, said) in [
        (with("api_key", "wrong".into()), ErrorKind::Unauthorized, "does not know these credentials"),
        (without_ca, ErrorKind::Unauthorized, "ca_file"),
        (with("url", "https://127.0.0.1:1".into()), ErrorKind::Transient, "cannot be reached"),
        (with("namespace", "nowhere".into()), ErrorKind::Unauthorized, "in the namespace \"nowhere\""),
    ] {
        let provider = provider(&site.instance, &config).unwrap();
        let watched = provider.watch().await.unwrap().next().await.unwrap_err();
        let launched = provider.launch(&site.request(1, label(), Some(enrolment()))).await.unwrap_err();
        for error in [watched, launched] {
            assert_eq!(error.kind, kind, "{error}");
            assert!(error.message.contains(said) && !error.message.contains(common::SECRET), "{error}");
        }
    }
    let admin =
        cluster.kubectl(["config", "view", "--raw", "--output=jsonpath={.users[0].user.token}"]).unwrap();
    let provider = provider(&site.instance, &config(cluster, "nowhere", admin.trim())).unwrap();
    let error = provider.launch(&site.request(1, label(), None)).await.unwrap_err();
    assert_eq!((error.kind, error.cause), (ErrorKind::Invalid, Some(FailureCause::Config)));
    assert!(error.message.contains("create namespace `nowhere`"), "{error}");
}
