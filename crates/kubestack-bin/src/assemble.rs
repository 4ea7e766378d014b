//! From a configuration to an engine with its plugins.

use anyhow::Result;
use kubestack_core::config::Fragment;
use kubestack_core::context::BuildContext;
use kubestack_core::error::Error;
use kubestack_core::registry::{Build, PluginKind, find};
use kubestack_engine::clock::SystemClock;
use kubestack_engine::config::{Config, PluginEntry};
use kubestack_engine::coordination::LocalCoordination;
use kubestack_engine::secrets::{NotedSecrets, SecretFiles};
use kubestack_engine::{Builder, Engine};
use kubestack_planner::settings::SourceSettings;
use std::sync::Arc;

/// Everything that the configuration names, with nothing started; and the secret files that were read for it.
pub(crate) fn builder(config: &Config) -> Result<(Builder, SecretFiles)> {
    let clock = Arc::new(SystemClock::start());
    let mut builder = Engine::builder(config.setup.clone())
        .clock(clock.clone())
        .coordination(Arc::new(LocalCoordination::new(&config.state_dir)));
    let instance = config.setup.instance.clone();
    let secrets = Arc::new(NotedSecrets::default());
    let context =
        BuildContext::new("", instance, clock, builder.spawner(), secrets.clone(), config.state_dir.clone());
    let all = [
        (PluginKind::Master, &config.masters),
        (PluginKind::Provider, &config.providers),
        (PluginKind::DemandSource, &config.demand),
        (PluginKind::CompletionSource, &config.completion),
    ];
    for (kind, entries) in all {
        for entry in entries {
            builder = add(builder, &context, kind, entry)?;
        }
    }
    Ok((builder, secrets.files()))
}

fn add(builder: Builder, context: &BuildContext, kind: PluginKind, entry: &PluginEntry) -> Result<Builder> {
    let plugin = find(kind, &entry.type_name)?;
    let context = context.named(&entry.name);
    let name = entry.name.as_str();
    if let Build::DemandSource(build) = plugin.build {
        let settings =
            SourceSettings { masters: entry.masters.clone(), merge_group: entry.merge_group.clone() };
        return Ok(builder.demand(name, settings, build(&context, &entry.fragment)?));
    }
    Ok(plug(builder, &context, plugin.build, &entry.fragment)?)
}

/// Builds one plugin that needs no settings besides its own and adds it under the context's name.
pub(crate) fn plug(
    builder: Builder,
    context: &BuildContext,
    build: Build,
    fragment: &Fragment,
) -> Result<Builder, Error> {
    let name = context.name.as_str();
    Ok(match build {
        Build::Master(build) => builder.master(name, build(context, fragment)?.into()),
        Build::Provider(build) => builder.provider(name, build(context, fragment)?.into()),
        Build::CompletionSource(build) => builder.completion(name, build(context, fragment)?),
        Build::DemandSource(_) => {
            return Err(Error::bug("a demand source comes with the masters that it serves"));
        }
    })
}
