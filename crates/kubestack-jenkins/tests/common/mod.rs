//! What the tests of this crate share: what the engine would hand to the master.
#![allow(dead_code, clippy::unwrap_used, clippy::panic, reason = "shared by several test binaries")]

use kubestack_core::prelude::*;
use kubestack_core::registry::{Build, find, verify};
use kubestack_jenkins as _;
use serde_json::Value;
use std::collections::BTreeMap;

pub fn build(config: Value) -> Result<Box<dyn CiMaster>> {
    verify()?;
    let Build::Master(build) = find(PluginKind::Master, "jenkins")?.build else { panic!("not a master") };
    build(&kubestack_testkit::host::context("jenkins", "ci"), &Fragment::from_value(config))
}

/// A label that provides these besides its name.
pub fn label(name: &str, provides: &[&str]) -> LabelSpec {
    let mut label = LabelSpec::new(name);
    label.provides.extend(provides.iter().map(ToString::to_string));
    label
}

pub fn request(label: LabelSpec, serial: u64) -> EnrolRequest {
    let name = label.name.clone();
    let marks = Marks::new("ci".into(), name, "p".into(), Some("jenkins".into()), (1, serial), "t".into());
    EnrolRequest::new(label, marks)
}

pub fn context(labels: &[LabelSpec]) -> SourceContext {
    let labels: BTreeMap<_, _> = labels.iter().map(|label| (label.name.clone(), label.clone())).collect();
    SourceContext::new(labels)
}
