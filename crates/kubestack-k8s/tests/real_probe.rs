//! What `kubestack check --online` finds out of a real API server; its permissions are tried in `real_role.rs`.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

use common::label;
use common::site::{Site, config, provider, shared};
use kubestack_core::prelude::*;
use serde_json::{Value, json};

#[tokio::test]
async fn a_probe_tries_each_label_s_pod_on_the_server_and_makes_none() {
    let Some(cluster) = shared() else { return };
    let site = Site::new(cluster, "probe");
    let named = |name: &str| {
        let mut label = label();
        label.name = name.into();
        label
    };
    let patched = |name: &str, patch: Value| {
        let mut label = named(name);
        label.pod = Some(Fragment::from_value(patch));
        label
    };
    let agent = |change: Value| {
        let mut agent = json!({"name": "agent"});
        agent.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        json!({"spec": {"containers": [agent]}})
    };
    let mut secret = named("secret");
    secret.env.insert("KEY".into(), serde_json::from_value("s3cret".into()).unwrap());
    let privileged =
        agent(json!({"securityContext": {"privileged": true, "allowPrivilegeEscalation": true}}));
    let labels = [
        label(),
        secret,
        patched("privileged", privileged),
        patched("misspelt", agent(json!({"imagePullPolicy": "Sometimes"}))),
        patched("account", json!({"spec": {"serviceAccountName": "nobody"}})),
        LabelSpec::new("bare"),
    ];
    let all = site.provider.probe(&labels).await;
    assert!(all.len() > labels.len() && !format!("{all:?}").contains("s3cret"), "{all:?}");
    let missing = site.missing(&labels).await;
    let expected = [
        ("privileged", "violates PodSecurity"),
        ("misspelt", "imagePullPolicy"),
        ("account", "serviceaccount \"nobody\" not found"),
        ("bare", "names no `image`"),
    ];
    assert_eq!(missing.len(), expected.len(), "{missing:?}");
    for ((what, why), (label, words)) in missing.iter().zip(expected) {
        assert!(what.ends_with(label) && why.contains(words), "{what}: {why}");
    }
    assert!(site.names("pods").is_empty() && site.names("secrets").is_empty());

    // What makes all else pointless is told alone.
    let mut config = config(cluster, "probe", "wrong");
    let told = provider("ci", &config).unwrap().probe(&labels).await;
    let [one] = told.as_slice() else { panic!("{told:?}") };
    assert!(one.result.as_ref().unwrap_err().message.contains("check `api_key`"), "{told:?}");
    config["url"] = "https://127.0.0.1:1".into();
    let told = provider("ci", &config).unwrap().probe(&labels).await;
    let [one] = told.as_slice() else { panic!("{told:?}") };
    assert!(one.result.as_ref().unwrap_err().message.contains("cannot be reached"), "{told:?}");
}
