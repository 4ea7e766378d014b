//! `capacity: nodes` on a real API server with fake nodes, without the rights of `deploy/capacity.yaml` and with them.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use common::label;
use common::site::{Site, config, deployed, provider};
use kubestack_core::prelude::*;
use kubestack_testbed::{Options, cluster, wait};
use serde_json::json;
use std::time::Duration;

const BOUND: Duration = Duration::from_secs(60);

#[tokio::test]
async fn what_agents_take_of_the_nodes_is_free_no_more() {
    // A cluster of its own: other tests' pods would count.
    let Some(cluster) = cluster(&Options::control_plane().fake_nodes(2)).unwrap() else { return };
    let site = Site::new(&cluster, "room");
    let mut config = config(&cluster, "room", &site.token);
    config["capacity"] = json!("nodes");
    let provider = provider(&site.instance, &config).unwrap();
    assert_eq!(
        provider.capacity().await.unwrap(),
        Some(Resources::default()),
        "no quota, no rights, no limit"
    );
    site.apply(&deployed("capacity.yaml", "room"));
    let account = "--as=system:serviceaccount:kubestack:kubestack";
    for kind in ["nodes", "pods"] {
        let may = || Ok(cluster.kubectl(["auth", "can-i", "list", kind, "--all-namespaces", account]).ok());
        wait("role", BOUND, may).unwrap();
    }
    let free = async || provider.capacity().await.unwrap().unwrap();
    let before = free().await;
    let mut small = label();
    small.resources = serde_json::from_value(json!({"cpu": "2", "memory": "3Gi"})).unwrap();
    let mut expected = before.clone();
    for serial in 1..=3 {
        provider.launch(&site.request(serial, small.clone(), None)).await.unwrap();
        expected.remove(&small.resources.clone().with_agents(1));
    }
    let placed = "--output=jsonpath={.items[*].spec.nodeName}";
    let all = || Ok((site.kubectl(&["get", "pods", placed])?.split_whitespace().count() == 3).then_some(()));
    wait("their nodes", BOUND, all).unwrap();
    assert_eq!(free().await, expected);
    // A quota that leaves less counts as well, and a node that is closed has nothing to give.
    site.apply(&deployed("quota.yaml", "room").replace("pods: \"50\"", "pods: \"4\""));
    let counted = "--output=jsonpath={.status.used.pods}";
    let counted = || Ok((site.kubectl(&["get", "resourcequota", "room", counted])? == "3").then_some(()));
    wait("a counted quota", BOUND, counted).unwrap();
    assert_eq!(free().await.0.get(Resources::AGENTS), Some(&"1".parse().unwrap()));
    let nodes = cluster.kubectl(["get", "nodes", "--output=jsonpath={.items[*].metadata.name}"]).unwrap();
    for node in nodes.split_whitespace() {
        cluster.kubectl(["cordon", node]).unwrap();
    }
    for (name, amount) in free().await.0 {
        assert!(amount == "0".parse().unwrap() || name.contains('/'), "{name}: {amount}");
    }
}
