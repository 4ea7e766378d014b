//! Free capacity: from the quotas of the namespace, and if wanted from the nodes.

use crate::api::{Api, JSON, query};
use crate::fault::Answer;
use crate::object::{List, Node, PlacedPod, PlacedSpec, Quota};
use kubestack_core::prelude::*;
use kubestack_core::resources::Quantity;
use serde::de::DeserializeOwned;
use std::collections::{BTreeMap, BTreeSet};

/// Objects per page of a list.
const PAGE: u32 = 500;

/// What all nodes together have left: what those that are ready and open to pods can give, less what the pods on them ask
/// for. An upper bound: it may lie in pieces that are too small, or on nodes that a label's pods may not use.
pub async fn free_on_nodes(api: &Api) -> Answer<Resources> {
    let nodes: Vec<Node> = all(api, "/api/v1/nodes", "").await?;
    let ended = "status.phase!=Succeeded,status.phase!=Failed,spec.nodeName!=";
    let pods: Vec<PlacedPod> = all(api, "/api/v1/pods", ended).await?;
    Ok(left_on(&nodes, &pods))
}

/// All objects at a path, page by page.
async fn all<T: DeserializeOwned>(api: &Api, path: &str, fields: &str) -> Answer<Vec<T>> {
    let (mut items, mut token) = (Vec::new(), String::new());
    loop {
        let page = format!("{path}?limit={PAGE}&fieldSelector={}&continue={}", query(fields), query(&token));
        let page: List<T> = api.get(&page, JSON).await?;
        items.extend(page.items.into_iter().flatten());
        token = page.metadata.token;
        if token.is_empty() {
            return Ok(items);
        }
    }
}

fn left_on(nodes: &[Node], pods: &[PlacedPod]) -> Resources {
    let ready = |node: &&Node| {
        let ready = node.status.conditions.iter().find(|condition| condition.kind == "Ready");
        !node.spec.unschedulable && ready.is_some_and(|ready| ready.status == "True")
    };
    let open: Vec<&Node> = nodes.iter().filter(ready).collect();
    let names: BTreeSet<&str> = open.iter().map(|node| node.metadata.name.as_str()).collect();
    // Without a node there is nothing, which is not the same as no limit.
    let mut given = BTreeMap::from(["cpu", "memory", "pods"].map(|key| (key.to_owned(), 0)));
    for node in open {
        add(&mut given, &node.status.allocatable);
    }
    let mut taken = BTreeMap::new();
    for pod in pods.iter().filter(|pod| names.contains(pod.spec.node_name.as_str())) {
        *taken.entry("pods".to_owned()).or_default() += 1000;
        for (key, amount) in asked(&pod.spec) {
            *taken.entry(key).or_default() += amount;
        }
    }
    // Of a node's own resources those that agents ask for, and all devices, which have a slash in their name.
    given.retain(|key, _| ["cpu", "memory", "pods"].contains(&key.as_str()) || key.contains('/'));
    let left = given.into_iter().map(|(key, given)| {
        let left = given.saturating_sub(taken.get(&key).copied().unwrap_or_default());
        let name = if key == "pods" { Resources::AGENTS.to_owned() } else { key };
        (name, Quantity::from_millis(left))
    });
    Resources(left.collect())
}

/// In thousandths. A quantity that is not understood counts for nothing here; the scheduler knows better.
fn add(sum: &mut BTreeMap<String, u128>, amounts: &BTreeMap<String, String>) {
    for (key, amount) in amounts {
        if let Ok(amount) = amount.parse::<Quantity>() {
            let sum = sum.entry(key.clone()).or_default();
            *sum = sum.saturating_add(amount.as_millis());
        }
    }
}

/// What the scheduler counts for a pod (Kubernetes, "Resource sharing within containers"): its containers together, or its
/// largest init container if that is more.
fn asked(spec: &PlacedSpec) -> BTreeMap<String, u128> {
    let mut together = BTreeMap::new();
    for container in &spec.containers {
        add(&mut together, &container.resources.requests);
    }
    let (beside, before): (Vec<_>, Vec<_>) =
        spec.init_containers.iter().partition(|container| container.restart_policy == "Always");
    for container in beside {
        add(&mut together, &container.resources.requests);
    }
    for container in before {
        let mut alone = BTreeMap::new();
        add(&mut alone, &container.resources.requests);
        for (key, amount) in alone {
            let most = together.entry(key).or_default();
            *most = amount.max(*most);
        }
    }
    together
}

/// Of two limits the narrower one.
pub fn both(mut one: Resources, other: Resources) -> Resources {
    for (name, amount) in other.0 {
        let least = one.0.entry(name).or_insert(amount);
        *least = amount.min(*least);
    }
    one
}

/// What all quotas together leave: of each resource the least. A quota with scopes is about some pods only,
/// and which those are is not known here; so it is left out, and the server's refusal tells when it is full.
pub fn free(quotas: &[Quota]) -> Resources {
    let mut free = Resources::default();
    let whole =
        quotas.iter().filter(|quota| quota.spec.scopes.is_empty() && quota.spec.scope_selector.is_none());
    for quota in whole {
        for (key, hard) in &quota.status.hard {
            let used = quota.status.used.get(key).map_or("0", String::as_str);
            // A quantity that is not understood limits nothing here; the server knows better.
            let (Some(name), Ok(hard), Ok(used)) = (resource(key), hard.parse(), used.parse()) else {
                continue;
            };
            let left =
                Quantity::from_millis(Quantity::as_millis(hard).saturating_sub(Quantity::as_millis(used)));
            let least = free.0.entry(name.to_owned()).or_insert(left);
            *least = left.min(*least);
        }
    }
    free
}

/// What a key of a quota limits, in the words of a label; requests and limits of our agents are the same.
fn resource(key: &str) -> Option<&str> {
    match key {
        "cpu" | "memory" => Some(key),
        "pods" | "count/pods" => Some(Resources::AGENTS),
        _ => key.strip_prefix("requests.").or_else(|| key.strip_prefix("limits.")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn ready_nodes_give_what_their_pods_have_not_taken() {
        let node = |name: &str, ready: &str, closed: bool| {
            json!({"metadata": {"name": name}, "spec": {"unschedulable": closed}, "status": {
                "allocatable": {"cpu": "4", "memory": "8Gi", "pods": "10", "ephemeral-storage": "1Ti", "x.io/gpu": "1"},
                "conditions": [{"type": "MemoryPressure", "status": "False"}, {"type": "Ready", "status": ready}],
            }})
        };
        let asks = |cpu: &str| json!({"resources": {"requests": {"cpu": cpu, "memory": "1Gi"}}});
        let mut beside = asks("1");
        beside["restartPolicy"] = json!("Always");
        let nodes = json!([
            node("a", "True", false),
            node("b", "True", false),
            node("c", "False", false),
            node("d", "True", true)
        ]);
        let pods = json!([
            {"spec": {"nodeName": "a", "containers": [asks("500m"), asks("500m")], "initContainers": [asks("3")]}},
            {"spec": {"nodeName": "b", "containers": [asks("1")], "initContainers": [beside, asks("1")]}},
            {"spec": {"nodeName": "b", "containers": [{}]}},
            {"spec": {"nodeName": "c", "containers": [asks("4")]}},
        ]);
        let left = left_on(
            &serde_json::from_value::<Vec<_>>(nodes).unwrap(),
            &serde_json::from_value::<Vec<_>>(pods).unwrap(),
        );
        let left: Vec<(String, String)> =
            left.0.into_iter().map(|(name, amount)| (name, amount.to_string())).collect();
        // 8 cpus less 3 and 2; 16 GiB less 2 and 2; 20 pods less 3.
        let expected = [("agents", "17"), ("cpu", "3"), ("memory", "12Gi"), ("x.io/gpu", "2")];
        assert_eq!(left, expected.map(|(name, amount)| (name.to_owned(), amount.to_owned())));
    }

    #[test]
    fn of_each_resource_the_least_is_left() {
        let quotas: Vec<Quota> = serde_json::from_value(json!([
            {"status": {"hard": {"requests.cpu": "4", "limits.memory": "8Gi", "pods": "10", "secrets": "5"},
                        "used": {"requests.cpu": "1500m", "limits.memory": "9Gi", "pods": "3"}}},
            {"status": {"hard": {"cpu": "2", "count/pods": "20", "requests.nvidia.com/gpu": "1", "memory": "1e3"}}},
            {"spec": {"scopes": ["BestEffort"]}, "status": {"hard": {"pods": "0"}}},
        ]))
        .unwrap();
        let free: Vec<(String, String)> =
            free(&quotas).0.into_iter().map(|(name, amount)| (name, amount.to_string())).collect();
        let expected = [("agents", "7"), ("cpu", "2"), ("memory", "0"), ("nvidia.com/gpu", "1")];
        assert_eq!(free, expected.map(|(name, amount)| (name.to_owned(), amount.to_owned())));
        assert!(super::free(&[]).is_empty());
    }
}
