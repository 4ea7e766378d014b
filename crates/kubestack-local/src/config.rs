//! The config of the provider and its place in the registry.

use crate::provider::LocalProvider;
use kubestack_core::inventory;
use kubestack_core::prelude::*;
use kubestack_core::registry::Build;
use kubestack_core::time::Span;
use std::path::PathBuf;
use std::time::Duration;

/// Agents as processes of this host.
#[derive(Clone, Debug, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct LocalConfig {
    /// The agent's program and its first arguments; what the master's enrolment adds follows them. Default:
    /// the program that runs as the daemon.
    pub command: Vec<String>,
    /// Where the directories of the agents are. Default: `local/<name of this entry>` in the state directory.
    pub dir: Option<PathBuf>,
    /// How long processes that outlive their agent, or whose directory was removed by hand, may take to end
    /// by themselves before they are killed.
    pub term_grace: Span,
}

impl Default for LocalConfig {
    fn default() -> Self {
        Self { command: Vec::new(), dir: None, term_grace: Span(Duration::from_secs(5)) }
    }
}

fn build(context: &BuildContext, fragment: &Fragment) -> Result<Box<dyn SlaveProvider>> {
    let config: LocalConfig = fragment.parse()?;
    if fragment.value().get("command").is_some() && config.command.first().is_none_or(String::is_empty) {
        return Err(fragment.error("command", "names no program; name one, or leave the key out"));
    }
    Ok(Box::new(LocalProvider::new(context, config)?))
}

inventory::submit! {
    Plugin {
        type_name: "local",
        summary: "agents as processes of this host",
        schema: || schemars::schema_for!(LocalConfig),
        example: "{name: local, type: local, command: [/usr/bin/kubestack], term_grace: 5s}",
        build: Build::Provider(build),
    }
}
