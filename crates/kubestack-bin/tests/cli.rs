//! The program as a user calls it.
#![expect(clippy::unwrap_used, reason = "a test stops where its own set-up fails")]

use std::process::{Command, Output};

fn kubestack(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_kubestack")).args(args).env_remove("KUBESTACK_CONFIG").output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A plugin that nothing names is dropped by the linker together with its registration, without a word.
#[test]
fn all_plugins_are_in_the_binary() {
    let listed = text(&kubestack(&["plugins", "list"]).stdout);
    let rows: Vec<Vec<&str>> =
        listed.lines().skip(1).map(|line| line.split_whitespace().take(2).collect()).collect();
    assert_eq!(rows, [["master", "queue"], ["provider", "local"]]);
}

#[test]
fn the_examples_are_valid() {
    let output =
        kubestack(&["-c", concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/local.yaml"), "check"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
}

#[test]
fn a_bad_config_ends_with_2_and_names_each_problem_and_starts_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bad.yaml");
    let state = dir.path().join("state");
    let config = format!(
        "state_dir: {}\nmasters:\n  - {{name: q, type: queue, url: 'http://127.0.0.1:1', tokn: x}}\nproviders:\n  - {{name: l, type: lokal}}\nlabels:\n  - {{name: a, cpus: 2}}\n",
        state.display()
    );
    std::fs::write(&path, config).unwrap();
    for action in ["check", "run"] {
        let output = kubestack(&["-c", path.to_str().unwrap(), action]);
        assert_eq!(output.status.code(), Some(2), "{action}");
        let said = text(&output.stderr);
        assert!(said.contains("bad.yaml:5:") && said.contains("did you mean `local`?"), "{said}");
        assert!(said.contains("bad.yaml:7:") && said.contains("`cpus`"), "{said}");
        assert!(!state.exists());
    }
    // What only the plugin knows is checked as well.
    let config =
        std::fs::read_to_string(&path).unwrap().replace("lokal", "local").replace("cpus: 2", "cpu: 2");
    std::fs::write(&path, config).unwrap();
    let output = kubestack(&["-c", path.to_str().unwrap(), "check"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("`tokn`"), "{}", text(&output.stderr));
}

#[test]
fn without_a_daemon_it_says_how_to_start_one() {
    let dir = tempfile::tempdir().unwrap();
    let example =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/local.yaml")).unwrap();
    let path = dir.path().join("c.yaml");
    std::fs::write(&path, example.replace("/tmp/kubestack-example", dir.path().to_str().unwrap())).unwrap();
    let output = kubestack(&["-c", path.to_str().unwrap(), "list"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("kubestack run"), "{}", text(&output.stderr));
}

#[test]
fn a_demo_ends_well_and_leaves_nothing() {
    let output = kubestack(&["demo", "--jobs", "12", "--seed", "5", "-o", "json"]);
    assert!(output.status.success(), "{}\n{}", text(&output.stdout), text(&output.stderr));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["left"], serde_json::json!([]));
    assert_eq!(report["unexpected"], serde_json::json!([]));
}
