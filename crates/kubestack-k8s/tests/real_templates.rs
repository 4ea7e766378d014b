//! Templates on a real API server, with the rights of `deploy/templates.yaml`.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod common;

use common::site::{Site, config, deployed, provider, shared};
use common::{SECRET, patched};
use kubestack_core::prelude::*;
use kubestack_testbed::wait;
use serde_json::{Value, json};
use std::time::Duration;

const BOUND: Duration = Duration::from_secs(60);

fn may(site: &Site<'_>, verb: &str) -> bool {
    let account = "--as=system:serviceaccount:kubestack:kubestack";
    site.kubectl(&["auth", "can-i", verb, "podtemplates", account]).is_ok()
}

fn spec(size: &str) -> LabelSpec {
    let mut label = patched(json!({"spec": {"nodeSelector": {"size": size}}}));
    label.env.insert("KEY".into(), serde_json::from_value(json!(SECRET)).unwrap());
    label
}

#[tokio::test]
async fn a_template_is_made_once_for_each_state_of_a_label_and_taken_away() {
    let Some(cluster) = shared() else { return };
    let site = Site::new(cluster, "templates");
    site.apply(&deployed("templates.yaml", "templates"));
    wait("role", BOUND, || Ok(may(&site, "create").then_some(()))).unwrap();
    let templates = site.provider.templates().unwrap();
    assert_eq!(templates.list().await.unwrap(), []);
    let small = templates.create(&spec("small")).await.unwrap();
    assert_eq!((small.label.as_str(), &small.hash), ("small", &spec("small").template_hash()));
    assert_eq!(templates.create(&spec("small")).await.unwrap(), small, "it is there");
    let large = templates.create(&spec("large")).await.unwrap();
    assert_ne!(large.name, small.name);
    let mut all = templates.list().await.unwrap();
    all.sort_by_key(|template| template.created);
    assert_eq!(all.len(), 2);

    // What it holds: the very pod, without secrets, and without what would make it ours.
    let object = site.kubectl(&["get", "podtemplate", &small.name, "--output=json"]).unwrap();
    assert!(!object.contains(SECRET), "{object}");
    let object: Value = serde_json::from_str(&object).unwrap();
    let pod = &object["template"];
    assert_eq!(pod["spec"]["nodeSelector"], json!({"size": "small"}));
    assert_eq!(pod["spec"]["containers"][0]["image"], "registry.invalid/agent:1");
    assert_eq!(pod["metadata"]["labels"], Value::Null);

    // Another installation has its own, and what is not ours is not told.
    let other = provider("other", &config(cluster, "templates", &site.token)).unwrap();
    let other = other.templates().unwrap();
    assert_eq!(other.list().await.unwrap(), []);
    assert_ne!(other.create(&spec("small")).await.unwrap().name, small.name);
    assert_eq!(templates.list().await.unwrap().len(), 2);
    let foreign = object.to_string().replace("kubestack.io/template", "somebody.example/template");
    let _ = site.kubectl(&["delete", "podtemplate", &small.name]);
    let foreign: Value = serde_json::from_str(&foreign).unwrap();
    let mut foreign = foreign;
    foreign["metadata"] = json!({"name": small.name, "namespace": "templates"});
    site.apply(&foreign.to_string());
    let error = templates.create(&spec("small")).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Conflict);
    assert!(error.message.contains("not this label's"), "{error}");
    // Exactly that one: by now another has the name.
    templates.delete(&small).await.unwrap_err();

    templates.delete(&large).await.unwrap();
    templates.delete(&large).await.unwrap();
    assert_eq!(templates.list().await.unwrap(), []);
    assert_eq!(site.names("podtemplates").len(), 2);
}

#[tokio::test]
async fn without_the_rights_each_call_says_which_are_missing() {
    let Some(cluster) = shared() else { return };
    let site = Site::new(cluster, "rightless");
    let templates = site.provider.templates().unwrap();
    let made = templates.create(&spec("small")).await.unwrap_err();
    let listed = templates.list().await.unwrap_err();
    let site = Site::new(cluster, "rightful");
    site.apply(&deployed("templates.yaml", "rightful").replace(", delete]", "]"));
    wait("role", BOUND, || Ok(may(&site, "create").then_some(()))).unwrap();
    let template = site.provider.templates().unwrap().create(&spec("small")).await.unwrap();
    let deleted = site.provider.templates().unwrap().delete(&template).await.unwrap_err();
    for (error, verb) in [(made, "create"), (listed, "list"), (deleted, "delete")] {
        assert_eq!(error.kind, ErrorKind::Unauthorized, "{error}");
        let words = format!("cannot {verb} resource \"podtemplates\"");
        assert!(error.message.contains(&words) && error.message.contains("deploy/templates.yaml"), "{error}");
    }
}
