//! The provider as the engine finds it: by its type name, with a part of a config file.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

use common::context;
use kubestack_core::prelude::*;
use kubestack_core::registry::{Build, find, verify};
use kubestack_local as _;
use serde_json::{Value, json};

fn build(dir: &std::path::Path, config: Value) -> Result<Box<dyn SlaveProvider>> {
    verify().unwrap();
    let Build::Provider(build) = find(PluginKind::Provider, "local")?.build else { panic!("not a provider") };
    build(&context("ci", dir).0, &Fragment::from_value(config))
}

#[tokio::test]
async fn it_is_registered_and_touches_nothing_before_its_first_call() {
    let dir = tempfile::tempdir().unwrap();
    let provider = build(dir.path(), json!({"term_grace": "2s", "command": ["/bin/true"]})).unwrap();
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    assert!(provider.capabilities().marks && provider.capabilities().conditional_destroy);
    assert_eq!(provider.capacity().await.unwrap(), None);
    let first = provider.watch().await.unwrap().next().await.unwrap();
    assert!(matches!(first, WatchEvent::Complete { units, .. } if units.is_empty()));
    assert!(dir.path().join("local/local").is_dir(), "below the state directory, by the entry's name");
}

#[test]
fn a_wrong_config_is_refused_by_its_key() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |config| build(dir.path(), config).err().unwrap().to_string();
    assert!(refused(json!({"comand": ["x"]})).contains("`comand`"));
    assert!(refused(json!({"term_grace": 5})).contains("term_grace"));
    assert!(refused(json!({"command": []})).contains("command"));
    assert!(refused(json!({"command": ["", "x"]})).contains("command"));
    assert!(build(dir.path(), json!({})).is_ok());
}

#[test]
fn the_schema_names_every_key() {
    let schema = serde_json::to_value((find(PluginKind::Provider, "local").unwrap().schema)()).unwrap();
    for key in ["command", "dir", "term_grace"] {
        assert!(schema.pointer(&format!("/properties/{key}/description")).is_some(), "{key}: {schema}");
    }
}
