//! `deploy/role.yaml` has what is needed and nothing else: without any one of its verbs something fails, and says
//! which verb is missing.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

use common::site::{Site, shared};
use common::{enrolment, label};
use kubestack_core::prelude::*;
use kubestack_testbed::wait;
use serde_json::{Value, json};
use std::time::Duration;

/// Does everything that a daemon does; the first error, if there is one.
async fn everything(site: &Site<'_>, serial: u64) -> Result<()> {
    let mut watch = site.provider.watch().await?;
    watch.next().await?;
    site.provider.capacity().await?;
    let unit = site.launch(serial, label(), Some(enrolment())).await?;
    site.provider.mark(&unit.reference(), &MarkPatch::Used("j".into())).await?;
    site.provider.log_tail(&unit.reference(), 1).await.or_else(|error| {
        // A fake node has no log; what counts is that it may be asked for.
        if error.kind == ErrorKind::Unauthorized { Err(error) } else { Ok(String::new()) }
    })?;
    let (agent, uid) = (unit.name.clone(), Some(unit.uid.clone()));
    site.provider
        .report(&Failure::new(agent, "small".into(), uid, FailureCause::CrashLoop, "it said so"))
        .await?;
    // Until the watches are open and tell of it.
    while !matches!(watch.next().await?, WatchEvent::Applied(told) if told.uid == unit.uid) {}
    site.destroy(&unit).await?;
    while !matches!(watch.next().await?, WatchEvent::Gone(told) if told.uid == unit.uid) {}
    // What an earlier try left is replaced.
    let left = site.launch(serial + 1000, label(), Some(enrolment())).await?;
    site.kubectl(&["delete", "pod", left.name.as_str(), "--force", "--grace-period=0"]).unwrap();
    let again = site.launch(serial + 1000, label(), Some(enrolment())).await?;
    site.destroy(&again).await
}

#[tokio::test]
async fn each_verb_of_the_role_is_needed_and_its_absence_is_named() {
    let Some(cluster) = shared() else { return };
    let site = Site::new(cluster, "verbs");
    everything(&site, 0).await.unwrap();
    assert_eq!(site.missing(&[label()]).await, []);
    let role = site.kubectl(&["get", "role", "kubestack", "--output=json"]).unwrap();
    let mut role: Value = serde_json::from_str(&role).unwrap();
    role["metadata"] = json!({"name": "kubestack", "namespace": "verbs"});
    let mut serial = 1;
    for (index, rule) in role["rules"].as_array().unwrap().iter().enumerate() {
        let resource = rule["resources"][0].as_str().unwrap();
        for verb in rule["verbs"].as_array().unwrap() {
            let verb = verb.as_str().unwrap();
            let mut less = role.clone();
            let verbs = less["rules"][index]["verbs"].as_array_mut().unwrap();
            verbs.retain(|one| one != verb);
            if verbs.is_empty() {
                less["rules"].as_array_mut().unwrap().remove(index);
            }
            site.apply(&less.to_string());
            let (main, sub) = resource.split_once('/').unwrap_or((resource, ""));
            let (account, sub) =
                ("--as=system:serviceaccount:kubestack:kubestack", format!("--subresource={sub}"));
            let may = || Ok(site.kubectl(&["auth", "can-i", verb, main, &sub, account]).err().map(drop));
            wait("the loss of a verb", Duration::from_secs(60), may).unwrap();
            let missing = site.missing(&[label()]).await;
            assert_eq!(missing.len(), 1, "{verb} {resource}: {missing:?}");
            let (what, why) = missing.first().unwrap();
            assert_eq!(*what, format!("may {verb} {resource}"));
            assert!(why.contains("deploy/role.yaml"), "{why}");
            let told = everything(&site, serial).await;
            if resource == "resourcequotas" {
                // Told once, and lived without.
                told.unwrap();
                assert_eq!(site.provider.capacity().await.unwrap(), None);
            } else {
                let error = told.expect_err(&format!("{verb} {resource} is not needed"));
                assert_eq!(error.kind, ErrorKind::Unauthorized, "{verb} {resource}: {error}");
                for word in [&format!("cannot {verb} resource"), main, "deploy/role.yaml"] {
                    assert!(error.message.contains(word), "{verb} {resource}: {error}");
                }
            }
            serial += 1;
        }
    }
}
