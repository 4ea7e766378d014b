//! The rooms: which crate may depend on which, and that what decides does no I/O.

use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

/// Each crate of ours, and those of ours that it may depend on.
const ROOMS: [(&str, &[&str]); 13] = [
    ("kubestack-core", &[]),
    ("kubestack-planner", &["kubestack-core"]),
    ("kubestack-engine", &["kubestack-core", "kubestack-planner"]),
    ("kubestack-queue", &["kubestack-core"]),
    ("kubestack-local", &["kubestack-core"]),
    ("kubestack-k8s", &["kubestack-core"]),
    ("kubestack-jenkins", &["kubestack-core"]),
    ("kubestack-listeners", &["kubestack-core"]),
    ("kubestack-testkit", &["kubestack-core", "kubestack-planner", "kubestack-engine"]),
    (
        "kubestack-bin",
        &[
            "kubestack-core",
            "kubestack-planner",
            "kubestack-engine",
            "kubestack-queue",
            "kubestack-local",
            "kubestack-k8s",
            "kubestack-jenkins",
            "kubestack-listeners",
        ],
    ),
    (
        "kubestack-bench",
        &[
            "kubestack-core",
            "kubestack-planner",
            "kubestack-engine",
            "kubestack-k8s",
            "kubestack-testbed",
            "kubestack-testkit",
        ],
    ),
    ("kubestack-testbed", &[]),
    ("xtask", &[]),
];

/// Crates that decide, and must be able to do nothing else.
const PURE: [&str; 2] = ["kubestack-core", "kubestack-planner"];

/// What does I/O, keeps time or runs tasks.
const IO: [&str; 10] =
    ["tokio", "mio", "hyper", "reqwest", "axum", "rustix", "socket2", "redb", "rand", "async-io"];

/// Reads the dependency tree and says what is against the rules.
pub(crate) fn check() -> Result<()> {
    let output = Command::new("cargo").args(["metadata", "--format-version", "1", "--locked"]).output()?;
    if !output.status.success() {
        bail!("cargo metadata failed: {}", String::from_utf8_lossy(&output.stderr));
    }
    let metadata: Value = serde_json::from_slice(&output.stdout)?;
    let tree = tree(&metadata).context("cargo metadata has another form than expected")?;
    let ours: BTreeSet<&str> = ROOMS.iter().map(|(room, _)| *room).collect();
    let mut faults = Vec::new();
    for (name, needs) in tree.iter().filter(|(name, _)| name.starts_with("kubestack") || **name == "xtask") {
        let Some((_, allowed)) = ROOMS.iter().find(|(room, _)| room == name) else {
            faults.push(format!(
                "{name} is not in the list of rooms; say in xtask/src/rooms.rs what it may depend on"
            ));
            continue;
        };
        for need in needs.iter().filter(|need| ours.contains(*need) && !allowed.contains(need)) {
            faults.push(format!("{name} must not depend on {need}"));
        }
    }
    for name in PURE {
        let mut seen = BTreeSet::new();
        let mut open = vec![name];
        while let Some(at) = open.pop() {
            if seen.insert(at) {
                open.extend(tree.get(at).into_iter().flatten());
            }
        }
        for io in IO.iter().filter(|io| seen.contains(*io)) {
            faults.push(format!("{name} must do no I/O, but {io} is in its tree"));
        }
    }
    if faults.is_empty() { Ok(()) } else { bail!("{}", faults.join("\n")) }
}

/// Package name → names of its normal dependencies.
fn tree(metadata: &Value) -> Option<BTreeMap<&str, BTreeSet<&str>>> {
    let packages = metadata.get("packages")?.as_array()?;
    let names: BTreeMap<&str, &str> = packages
        .iter()
        .filter_map(|package| Some((package.get("id")?.as_str()?, package.get("name")?.as_str()?)))
        .collect();
    let mut tree: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for node in metadata.get("resolve")?.get("nodes")?.as_array()? {
        let name = names.get(node.get("id")?.as_str()?)?;
        for need in node.get("deps")?.as_array()? {
            let normal = need
                .get("dep_kinds")?
                .as_array()?
                .iter()
                .any(|kind| kind.get("kind").is_some_and(Value::is_null));
            if normal {
                tree.entry(name).or_default().insert(names.get(need.get("pkg")?.as_str()?)?);
            }
        }
    }
    Some(tree)
}
