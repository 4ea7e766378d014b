//! Who leads, on a real API server, with the rights of `deploy/` and no more.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]
#![expect(clippy::disallowed_methods, reason = "several daemons of one process, in real time")]

mod common;

use common::context;
use common::leader::Leader;
use common::site::{Site, config, deployed, provider, shared};
use kubestack_core::prelude::*;
use kubestack_k8s::KubeProvider;
use kubestack_testbed::{Cluster, Component, Options, cluster, wait};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::task::JoinHandle;

const BOUND: Duration = Duration::from_secs(60);
/// Short, for the tests that wait for its end.
const SHORT: Duration = Duration::from_secs(2);
/// Longer than any test: a lead that passes on did so for another reason.
const LONG: Duration = Duration::from_hours(1);

fn daemon(site: &Site<'_>, lease: Duration) -> Leader {
    let config = config(site.cluster, &site.namespace, &site.token);
    let config = Fragment::from_value(config).parse().unwrap();
    Leader::new(context(&site.instance), lease, |context| KubeProvider::new(context, config))
}

/// A namespace in which that daemon may lead.
fn site<'a>(cluster: &'a Cluster, namespace: &str) -> Site<'a> {
    let site = Site::new(cluster, namespace);
    site.apply(&role(&site));
    wait("role", BOUND, || Ok(may(&site, "patch", "leases").then_some(()))).unwrap();
    site
}

fn role(site: &Site<'_>) -> String {
    let name = format!("kubestack-{}", site.instance);
    deployed("coordination.yaml", &site.namespace).replace("kubestack-ci]", &format!("{name}]"))
}

fn may(site: &Site<'_>, verb: &str, kind: &str) -> bool {
    let what = format!("{kind}/kubestack-{}", site.instance);
    let what = if verb == "create" { kind } else { &what };
    site.kubectl(&["auth", "can-i", verb, what, "--as=system:serviceaccount:kubestack:kubestack"]).is_ok()
}

async fn bounded<T>(what: &str, work: impl Future<Output = T>) -> T {
    tokio::time::timeout(BOUND, work).await.unwrap_or_else(|_| panic!("never {what}"))
}

/// One that waits for the lead, and has seen who has it.
async fn standby(daemon: &Leader) -> JoinHandle<Result<Leadership>> {
    let lead = daemon.lead.clone();
    let waiting = tokio::spawn(async move { lead.acquire().await });
    bounded("standing by", async {
        while daemon.lead.waits_for().is_none() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    waiting
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lead_that_is_given_up_passes_on_with_all_that_was_kept() {
    let Some(cluster) = shared() else { return };
    let site = site(cluster, "passes");
    let (first, second) = (daemon(&site, LONG), daemon(&site, LONG));
    let leadership = first.lead.acquire().await.unwrap();
    assert_eq!((leadership.term, leadership.clean_predecessor), (1, true));
    assert_eq!((leadership.intent, leadership.memory), (Value::Null, None));
    assert!(first.lead.holds());
    let waiting = standby(&second).await;
    let named = second.lead.waits_for().unwrap();
    assert!(named.contains("leads instance `ci-passes`") && named.contains(&std::process::id().to_string()));
    assert!(!second.lead.holds());
    first.lead.save_intent(json!({"paused": "ä \"reason\""})).await.unwrap();
    first.lead.save_memory(json!({"agents": 3})).await.unwrap();
    let peeked = second.lead.peek().await.unwrap();
    assert_eq!((peeked.term, peeked.intent), (2, json!({"paused": "ä \"reason\""})));
    first.lead.release(true).await.unwrap();
    assert!(!first.lead.holds());
    bounded("lost", first.lead.lost()).await;
    let leadership = bounded("leading", waiting).await.unwrap().unwrap();
    assert_eq!((leadership.term, leadership.clean_predecessor), (2, true));
    assert_eq!(leadership.intent, json!({"paused": "ä \"reason\""}));
    assert_eq!(leadership.memory, Some(json!({"agents": 3})));
    // One that had something under way says so by not saying that it had not.
    second.lead.release(false).await.unwrap();
    let third = daemon(&site, LONG);
    let leadership = third.lead.acquire().await.unwrap();
    assert_eq!((leadership.term, leadership.clean_predecessor), (3, false));
    assert!(first.lead.save_intent(json!(1)).await.is_err(), "who does not lead keeps nothing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_lead_of_one_that_was_killed_is_taken_over_again_and_again() {
    let Some(cluster) = shared() else { return };
    let site = site(cluster, "killed");
    let mut leader = daemon(&site, SHORT);
    assert_eq!(leader.lead.acquire().await.unwrap().term, 1);
    leader.lead.save_intent(json!("kept")).await.unwrap();
    for term in 2..5 {
        let next = daemon(&site, SHORT);
        let waiting = standby(&next).await;
        drop(leader);
        let leadership = bounded("leading", waiting).await.unwrap().unwrap();
        assert_eq!((leadership.term, leadership.clean_predecessor), (term, false));
        assert_eq!(leadership.intent, json!("kept"));
        leader = next;
    }
    // Renewed, it outlasts its lease by far: the one that waits is still waiting.
    let last = daemon(&site, SHORT);
    let waiting = standby(&last).await;
    let mut seen = std::collections::BTreeSet::new();
    let renewed = "--output=jsonpath={.spec.renewTime}";
    wait("ten renewals", BOUND, || {
        seen.insert(site.kubectl(&["get", "lease", "kubestack-ci-killed", renewed])?);
        Ok((seen.len() > 10).then_some(()))
    })
    .unwrap();
    assert!(leader.lead.holds() && !waiting.is_finished());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_at_once_one_leads() {
    let Some(cluster) = shared() else { return };
    let site = site(cluster, "many");
    let daemons: Vec<_> = (0..8).map(|_| daemon(&site, LONG)).collect();
    let mut waiting: Vec<_> = daemons
        .iter()
        .map(|daemon| {
            let lead = daemon.lead.clone();
            tokio::spawn(async move { lead.acquire().await.unwrap().term })
        })
        .collect();
    for term in 1..=8 {
        let (led, at, rest) = bounded("leading", futures_util::future::select_all(waiting)).await;
        let last = led.unwrap();
        assert_eq!(last, term);
        waiting = rest;
        let _ = at;
        let leading: Vec<_> = daemons.iter().filter(|daemon| daemon.lead.holds()).collect();
        assert_eq!(leading.len(), 1);
        leading.first().unwrap().lead.release(true).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_whose_server_does_not_answer_stops_by_itself() {
    let Some(cluster) = cluster(&Options::control_plane()).unwrap() else { return };
    let site = site(&cluster, "frozen");
    let (first, second) = (daemon(&site, SHORT), daemon(&site, SHORT));
    first.lead.acquire().await.unwrap();
    let waiting = standby(&second).await;
    cluster.pause(Component::ApiServer).unwrap();
    bounded("lost", first.lead.lost()).await;
    assert!(!first.lead.holds());
    let error = first.lead.save_intent(json!(1)).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Conflict, "{error}");
    assert!(!waiting.is_finished());
    cluster.resume(Component::ApiServer).unwrap();
    let leadership = bounded("leading", waiting).await.unwrap().unwrap();
    assert_eq!((leadership.term, leadership.clean_predecessor), (2, false));
    assert!(!first.lead.holds(), "what came late is not taken back");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_done_by_hand_ends_the_lead_or_is_mended() {
    let Some(cluster) = shared() else { return };
    let site = site(cluster, "hand");
    let name = "kubestack-ci-hand";
    let first = daemon(&site, SHORT);
    first.lead.acquire().await.unwrap();
    first.lead.save_intent(json!("one")).await.unwrap();

    // The map is the leader's own: whatever becomes of it, what is kept is there again.
    site.kubectl(&["delete", "configmap", name]).unwrap();
    first.lead.save_memory(json!("two")).await.unwrap();
    let peeked = first.lead.peek().await.unwrap();
    assert_eq!((peeked.term, peeked.intent, peeked.memory), (2, json!("one"), Some(json!("two"))));
    site.kubectl(&["label", "configmap", name, "by=hand"]).unwrap();
    first.lead.save_intent(json!("three")).await.unwrap();
    assert_eq!(first.lead.peek().await.unwrap().intent, json!("three"));

    // The Lease is everyone's: deleted or taken, the lead is over.
    site.kubectl(&["delete", "lease", name]).unwrap();
    bounded("lost", first.lead.lost()).await;
    let second = daemon(&site, SHORT);
    assert_eq!(second.lead.acquire().await.unwrap().term, 2);
    site.kubectl(&[
        "patch",
        "lease",
        name,
        "--type=merge",
        r#"--patch={"spec": {"holderIdentity": "somebody"}}"#,
    ])
    .unwrap();
    bounded("lost", second.lead.lost()).await;
    let third = daemon(&site, SHORT);
    let waiting = standby(&third).await;
    assert!(third.lead.waits_for().unwrap().starts_with("somebody leads"));
    assert_eq!(bounded("leading", waiting).await.unwrap().unwrap().term, 3);

    // Damaged, what it said is put aside, and terms go on.
    let damage = r#"--patch={"data": {"term": "x", "intent": "{", "memory": "y"}}"#;
    drop(third);
    site.kubectl(&["patch", "configmap", name, "--type=merge", damage]).unwrap();
    let fourth = daemon(&site, SHORT);
    let leadership = bounded("leading", fourth.lead.acquire()).await.unwrap();
    assert_eq!((leadership.term, leadership.clean_predecessor), (4, false));
    assert_eq!((leadership.intent, leadership.memory), (Value::Null, None));
    let data = site.kubectl(&["get", "configmap", name, "--output=jsonpath={.data}"]).unwrap();
    let data: Value = serde_json::from_str(&data).unwrap();
    let aside = json!({"term": "4", "term-damaged": "x", "intent-damaged": "{", "memory": "y"});
    assert_eq!(data, aside);
}

/// What is remembered of so many agents, as the planner has it.
fn memory(agents: u64) -> Value {
    let one = |serial: u64| {
        let at = 1_795_000_000_000_000 + serial.wrapping_mul(0x9E37_79B9) % 86_400_000_000;
        let known = json!({
            "first_seen": at, "label": "small", "provider": "cluster", "master": "queue", "class": ["small"],
            "request": null, "unit_seen": at + 31_557, "attached": true, "since": at + 4_213_317,
            "used": [at + 5_000_111, format!("{serial}")], "unit_gone": null, "unit_ended": null,
            "node_missing": null, "detached": false, "never_launched": false, "forgotten": false, "was_held": false,
            "awaited": false, "connected": false, "failure": null, "removal": null, "surplus_since": null,
            "offered_since": null, "gone": null,
        });
        (format!("ci-small-3-{serial}"), known)
    };
    json!({"agents": (0..agents).map(one).collect::<serde_json::Map<_, _>>()})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_that_is_too_large_is_given_up_and_intent_is_not() {
    let Some(cluster) = shared() else { return };
    let site = site(cluster, "large");
    let first = daemon(&site, LONG);
    first.lead.acquire().await.unwrap();
    first.lead.save_memory(memory(5_000)).await.unwrap();
    first.lead.save_intent(json!("y".repeat(200 << 10))).await.unwrap();
    assert_eq!(first.lead.peek().await.unwrap().memory, Some(memory(5_000)));
    first.lead.save_memory(memory(50_000)).await.unwrap();
    let peeked = first.lead.peek().await.unwrap();
    assert_eq!((peeked.memory, peeked.intent.as_str().map(str::len)), (None, Some(200 << 10)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_verb_of_the_role_is_needed_and_its_absence_is_named() {
    let Some(cluster) = shared() else { return };
    let site = site(cluster, "verbs");
    assert!(daemon(&site, LONG).lead.probe().await.iter().all(|probe| probe.result.is_ok()));
    let role = site.kubectl(&["get", "role", "kubestack-coordination", "--output=json"]).unwrap();
    let mut role: Value = serde_json::from_str(&role).unwrap();
    role["metadata"] = json!({"name": "kubestack-coordination", "namespace": "verbs"});
    for (index, rule) in role["rules"].as_array().unwrap().iter().enumerate() {
        let kind = rule["resources"][0].as_str().unwrap();
        for verb in rule["verbs"].as_array().unwrap().iter().map(|verb| verb.as_str().unwrap()) {
            let mut less = role.clone();
            let verbs = less["rules"][index]["verbs"].as_array_mut().unwrap();
            verbs.retain(|one| one != verb);
            if verbs.is_empty() {
                less["rules"].as_array_mut().unwrap().remove(index);
            }
            for object in ["leases", "configmaps"] {
                let _ = site.kubectl(&["delete", object, "kubestack-ci-verbs"]);
            }
            site.apply(&less.to_string());
            wait("the loss of a verb", BOUND, || Ok((!may(&site, verb, kind)).then_some(()))).unwrap();
            let daemon = daemon(&site, LONG);
            let probes = daemon.lead.probe().await;
            let missing: Vec<_> = probes.iter().filter(|probe| probe.result.is_err()).collect();
            let [missing] = *missing else { panic!("{verb} {kind}: {probes:?}") };
            assert!(missing.what.starts_with(&format!("may {verb} {kind}")), "{missing:?}");
            let everything = async {
                daemon.lead.acquire().await?;
                daemon.lead.save_intent(json!(verb)).await?;
                daemon.lead.release(true).await
            };
            let error = bounded("an answer", everything).await.expect_err("a verb is not needed");
            assert_eq!(error.kind, ErrorKind::Unauthorized, "{verb} {kind}: {error}");
            for word in [&format!("cannot {verb} resource \"{kind}\""), "deploy/coordination.yaml"] {
                assert!(error.message.contains(word), "{verb} {kind}: {error}");
            }
            site.apply(&role.to_string());
            wait("the verb", BOUND, || Ok(may(&site, verb, kind).then_some(()))).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_that_is_not_there_is_named() {
    let Some(cluster) = shared() else { return };
    // Rights without a namespace are those of somebody who may do everything.
    let site = site(cluster, "lonely");
    let mut config = config(cluster, "nowhere", &site.token);
    config["api_key"] = json!(cluster.service_account("kube-system", "admin").unwrap().token);
    site.apply(
        "{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRoleBinding, metadata: {name: lonely-admin}, \
         roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: cluster-admin}, \
         subjects: [{kind: ServiceAccount, name: admin, namespace: kube-system}]}",
    );
    let lead = provider("lonely", &config).unwrap().coordination(LONG).unwrap();
    let error = bounded("an answer", lead.acquire()).await.unwrap_err();
    assert!(error.message.contains("create namespace `nowhere`"), "{error}");
}
