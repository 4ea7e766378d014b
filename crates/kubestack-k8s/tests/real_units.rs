//! Launching, marking and destroying on a real API server, with exactly the rights of `deploy/role.yaml`.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

use common::site::{Site, deployed, shared};
use common::{SECRET, enrolment, label, patched};
use kubestack_core::prelude::*;
use serde_json::json;
use std::time::Duration;

#[tokio::test]
async fn an_agent_lives_and_leaves_nothing_and_its_secret_stands_in_its_secret_only() {
    let Some(cluster) = shared() else { return };
    let site = Site::new(cluster, "life");
    let mut view = site.view();
    let unit = site.launch(1, label(), Some(enrolment())).await.unwrap();
    assert_eq!(site.launch(1, label(), Some(enrolment())).await.unwrap().uid, unit.uid, "idempotent by name");
    view.until("running", |view| view.phase(&unit.name) == Some(&UnitPhase::Running)).await;
    assert_eq!(
        (site.names("pods"), site.names("secrets")),
        (vec![unit.name.to_string()], vec![unit.name.to_string()])
    );
    let secret = site.kubectl(&[
        "get",
        "secret",
        unit.name.as_str(),
        "--output=go-template={{.data.TOKEN | base64decode}}",
    ]);
    assert_eq!(secret.unwrap(), SECRET);
    for kind in ["pods", "events", "configmaps", "resourcequotas"] {
        let shown = site.kubectl(&["get", kind, "--output=yaml"]).unwrap();
        assert!(!shown.contains(SECRET), "{kind}: {shown}");
    }
    assert!(!format!("{unit:?} {:?}", site.request(1, label(), Some(enrolment()))).contains(SECRET));
    site.destroy(&unit).await.unwrap();
    site.destroy(&unit).await.unwrap();
    view.until_gone(&unit.name).await;
    assert!(site.names("pods").is_empty() && site.names("secrets").is_empty());
    assert_eq!(view.errors.len(), 0);
}

#[tokio::test]
async fn without_secrets_no_secret_is_made() {
    let Some(cluster) = shared() else { return };
    let site = Site::new(cluster, "plain");
    let unit = site.launch(1, label(), None).await.unwrap();
    assert!(site.names("secrets").is_empty());
    site.destroy(&unit).await.unwrap();
    site.view().until_gone(&unit.name).await;
}

#[tokio::test]
async fn what_has_the_name_and_is_not_ours_stays_as_it_is() {
    let Some(cluster) = shared() else { return };
    let site = Site::new(cluster, "foreign");
    let name = site.request(1, label(), None).name;
    let spec = "spec: {containers: [{name: c, image: i, securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}}], securityContext: {runAsNonRoot: true, seccompProfile: {type: RuntimeDefault}}}";
    site.apply(&format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, namespace: foreign}}, {spec}}}"
    ));
    for enrolment in [None, Some(enrolment())] {
        let error = site.launch(1, label(), enrolment).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Conflict, "{error}");
        assert!(error.message.contains("is not this agent's"), "{error}");
    }
    assert!(site.names("secrets").is_empty(), "the Secret made for it is taken back");

    let other = site.request(2, label(), None).name;
    site.apply(&format!("{{apiVersion: v1, kind: Secret, metadata: {{name: {other}, namespace: foreign}}}}"));
    let error = site.launch(2, label(), Some(enrolment())).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Conflict, "{error}");
    assert_eq!(
        (site.names("pods"), site.names("secrets")),
        (vec![name.to_string()], vec![other.to_string()])
    );

    // Nor are they told, nor destroyed: by the name alone nothing is ours.
    let mut view = site.view();
    view.until("looked", |view| view.looks > 0).await;
    assert!(view.units.is_empty());
    let uid = site.kubectl(&["get", "pod", name.as_str(), "--output=jsonpath={.metadata.uid}"]).unwrap();
    let grace = Duration::from_secs(1);
    let foreign = DestroyRequest::new(UnitRef::new(name.clone(), uid.as_str().into()), grace);
    assert_eq!(site.provider.destroy(&foreign).await.unwrap_err().kind, ErrorKind::Conflict);
    site.provider
        .destroy(&DestroyRequest::new(UnitRef::new(other.clone(), "x".into()), grace))
        .await
        .unwrap();
    assert_eq!(
        (site.names("pods"), site.names("secrets")),
        (vec![name.to_string()], vec![other.to_string()])
    );
}

#[tokio::test]
async fn a_newer_pod_of_the_name_is_never_hit() {
    let Some(cluster) = shared() else { return };
    let site = Site::new(cluster, "newer");
    let old = site.launch(1, label(), Some(enrolment())).await.unwrap();
    site.kubectl(&["delete", "pod", old.name.as_str(), "--force", "--grace-period=0"]).unwrap();
    let new = site.launch(1, label(), Some(enrolment())).await.unwrap();
    assert_ne!(old.uid, new.uid);
    site.destroy(&old).await.unwrap();
    let error = site.provider.mark(&old.reference(), &MarkPatch::Used("j".into())).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::NotFound, "{error}");
    let uid = site.kubectl(&["get", "pod", new.name.as_str(), "--output=jsonpath={.metadata.uid}"]).unwrap();
    assert_eq!(uid, new.uid.as_str());
    let marks = site.provider.mark(&new.reference(), &MarkPatch::Released).await.unwrap().marks;
    assert_eq!((marks.used, marks.held), (None, None));
    assert_eq!(site.names("secrets"), [new.name.to_string()]);
    site.destroy(&new).await.unwrap();
}

#[tokio::test]
async fn marks_are_kept_on_the_pod_and_a_held_one_is_not_destroyed() {
    let Some(cluster) = shared() else { return };
    let site = Site::new(cluster, "marked");
    let unit = site.launch(1, label(), None).await.unwrap();
    let reference = unit.reference();
    let used = site.provider.mark(&reference, &MarkPatch::Used("job 7 {\"ü\"}".into())).await.unwrap();
    assert_eq!(used.marks.used.as_deref(), Some("job 7 {\"ü\"}"));
    assert!(used.version > unit.version);
    site.provider.mark(&reference, &MarkPatch::Held("to be looked at".into())).await.unwrap();
    let error = site.destroy(&unit).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Conflict);
    assert!(error.message.contains("held (to be looked at)"), "{error}");
    let mut view = site.view();
    view.until("held", |view| view.units.values().any(|unit| unit.marks.held.is_some())).await;
    site.provider.mark(&reference, &MarkPatch::Released).await.unwrap();
    site.destroy(&unit).await.unwrap();
    view.until_gone(&unit.name).await;
}

#[tokio::test]
async fn only_what_has_not_started_is_destroyed_if_that_is_asked() {
    let Some(cluster) = shared() else { return };
    let site = Site::new(cluster, "started");
    let mut view = site.view();
    let runs = site.launch(1, label(), None).await.unwrap();
    let mut large = label();
    large.resources.0.insert("cpu".into(), "1000".parse().unwrap());
    let waits = site.launch(2, large, None).await.unwrap();
    view.until("running", |view| view.phase(&runs.name) == Some(&UnitPhase::Running)).await;
    view.until("unschedulable", |view| {
        let cause = FailureCause::Unschedulable;
        matches!(view.phase(&waits.name), Some(UnitPhase::Pending { cause: Some(c), text }) if *c == cause && text.contains("Insufficient cpu"))
    })
    .await;
    let only = |unit: &Unit| {
        let mut request = DestroyRequest::new(unit.reference(), Duration::from_secs(1));
        request.only_if_not_started = true;
        request
    };
    let error = site.provider.destroy(&only(&runs)).await.unwrap_err();
    assert_eq!((error.kind, error.message), (ErrorKind::Conflict, format!("{} has started", runs.name)));
    site.provider.destroy(&only(&waits)).await.unwrap();
    view.until_gone(&waits.name).await;
    assert_eq!(view.phase(&runs.name), Some(&UnitPhase::Running));
    site.destroy(&runs).await.unwrap();
}

#[tokio::test]
async fn a_secret_without_a_pod_is_a_remnant() {
    let Some(cluster) = shared() else { return };
    let site = Site::new(cluster, "remnant");
    let mut view = site.view();
    // As if the daemon had been killed between the two; and one whose pod was deleted by hand.
    let request = site.request(1, label(), Some(enrolment()));
    let kept = site.launch(1, label(), Some(enrolment())).await.unwrap();
    view.until("seen", |view| view.phase(&kept.name).is_some()).await;
    site.kubectl(&["delete", "pod", kept.name.as_str(), "--force", "--grace-period=0"]).unwrap();
    view.until("a remnant", |view| view.phase(&kept.name) == Some(&UnitPhase::Remnant)).await;
    let remnant = view.units.values().next().unwrap().clone();
    assert_eq!((view.units.len(), &remnant.marks), (1, &request.marks));
    site.destroy(&remnant).await.unwrap();
    view.until_gone(&kept.name).await;
    assert!(site.names("secrets").is_empty());

    // A remnant that gets its pod after all is none any more.
    let unit = site.launch(1, label(), Some(enrolment())).await.unwrap();
    site.kubectl(&["delete", "pod", unit.name.as_str(), "--force", "--grace-period=0"]).unwrap();
    view.until("a remnant", |view| view.phase(&unit.name) == Some(&UnitPhase::Remnant)).await;
    let remnant = view.units.values().next().unwrap().clone();
    let again = site.launch(1, label(), Some(enrolment())).await.unwrap();
    view.until("a pod", |view| view.units.len() == 1 && view.phase(&unit.name) != Some(&UnitPhase::Remnant))
        .await;
    site.destroy(&remnant).await.unwrap();
    assert_eq!(
        site.names("pods"),
        [again.name.to_string()],
        "the new pod and its new Secret are not the remnant"
    );
    assert_eq!(site.names("secrets"), [again.name.to_string()]);
    site.destroy(&again).await.unwrap();
}

#[tokio::test]
async fn what_the_cluster_refuses_has_its_cause_and_leaves_nothing() {
    let Some(cluster) = shared() else { return };
    let site = Site::new(cluster, "refused");
    for patch in [
        json!({"spec": {"containers": [{"name": "agent", "securityContext": {"privileged": true, "allowPrivilegeEscalation": true}}]}}),
        json!({"spec": {"nodeSelector": {"not a key": "x"}}}),
        json!({"spec": {"tolerations": "none"}}),
    ] {
        let error = site.launch(1, patched(patch.clone()), Some(enrolment())).await.unwrap_err();
        assert_eq!(
            (error.kind, error.cause),
            (ErrorKind::Invalid, Some(FailureCause::BadTemplate)),
            "{error}"
        );
        assert!(!error.message.contains(SECRET));
    }
    let quota = deployed("quota.yaml", "refused").replace("pods: \"50\"", "pods: \"1\"");
    site.apply(&quota);
    let counted = |json: &str| site.kubectl(&["get", "resourcequota", "refused", json]);
    kubestack_testbed::wait("a counted quota", Duration::from_secs(60), || {
        Ok((counted("--output=jsonpath={.status.used.pods}")? == "0").then_some(()))
    })
    .unwrap();
    let free = site.provider.capacity().await.unwrap().unwrap();
    assert_eq!(free.0[Resources::AGENTS], "1".parse().unwrap());
    assert_eq!(free.0["cpu"], "32".parse().unwrap());
    let unit = site.launch(2, label(), Some(enrolment())).await.unwrap();
    let error = site.launch(3, label(), Some(enrolment())).await.unwrap_err();
    assert_eq!((error.kind, error.cause), (ErrorKind::Transient, Some(FailureCause::Quota)), "{error}");
    assert_eq!(site.names("secrets"), [unit.name.to_string()], "Secrets of what was refused are taken back");
    site.destroy(&unit).await.unwrap();
}

#[tokio::test]
async fn a_namespace_without_quotas_limits_nothing() {
    let Some(cluster) = shared() else { return };
    let site = Site::new(cluster, "unlimited");
    assert_eq!(site.provider.capacity().await.unwrap(), Some(Resources::default()));
}
