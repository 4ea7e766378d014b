//! From a configuration to an engine with its plugins.

use anyhow::Result;
use kubestack_core::config::Fragment;
use kubestack_core::context::BuildContext;
use kubestack_core::error::Error;
use kubestack_core::registry::{Build, PluginKind, find};
use kubestack_core::transcript::Transcript;
use kubestack_engine::clock::SystemClock;
use kubestack_engine::config::{Config, PluginEntry};
use kubestack_engine::coordination::LocalCoordination;
use kubestack_engine::secrets::{NotedSecrets, SecretFiles};
use kubestack_engine::{Builder, Engine};
use kubestack_planner::settings::SourceSettings;
use std::sync::Arc;

/// Everything that the configuration names, with nothing started; and the secret files that were read for it.
pub(crate) fn builder(config: &Config) -> Result<(Builder, SecretFiles)> {
    builder_with(config, None)
}

/// The same; what plugins ask and are answered is taken down, as far as they can tell it.
pub(crate) fn builder_with(
    config: &Config,
    transcript: Option<Transcript>,
) -> Result<(Builder, SecretFiles)> {
    let secrets = Arc::new(NotedSecrets::default());
    let (mut builder, mut context) = begin(config, secrets.clone());
    context.transcript = transcript;
    for (kind, entry) in entries(config) {
        builder = add(builder, &context, kind, entry)?;
    }
    if let Some(by) = &config.coordination {
        let wrong = |error: Error| Error::invalid(format!("coordination.provider: {error}"));
        builder = builder.coordination_by(&by.provider, by.lease).map_err(wrong)?;
    }
    Ok((builder, secrets.files()))
}

/// What the plugins have against their parts of the configuration, a line each. An unknown type is nothing
/// that a plugin could tell of.
pub(crate) fn problems(config: &Config) -> Vec<String> {
    let (_, context) = begin(config, Arc::new(NotedSecrets::default()));
    let errors = entries(config).filter_map(|(kind, entry)| {
        let context = context.named(&entry.name);
        let built = match find(kind, &entry.type_name).ok()?.build {
            Build::Master(build) => build(&context, &entry.fragment).map(drop),
            Build::Provider(build) => build(&context, &entry.fragment).map(drop),
            Build::DemandSource(build) => build(&context, &entry.fragment).map(drop),
            Build::CompletionSource(build) => build(&context, &entry.fragment).map(drop),
            Build::DemandOfMaster(_) => Ok(()),
        };
        built.err()
    });
    errors.map(|error| error.message).collect()
}

fn begin(config: &Config, secrets: Arc<NotedSecrets>) -> (Builder, BuildContext) {
    let clock = Arc::new(SystemClock::start());
    let builder = Engine::builder(config.setup.clone())
        .clock(clock.clone())
        .coordination(Arc::new(LocalCoordination::new(&config.state_dir)));
    let instance = config.setup.instance.clone();
    let context =
        BuildContext::new("", instance, clock, builder.spawner(), secrets, config.state_dir.clone());
    (builder, context)
}

fn entries(config: &Config) -> impl Iterator<Item = (PluginKind, &PluginEntry)> {
    let all = [
        (PluginKind::Master, &config.masters),
        (PluginKind::Provider, &config.providers),
        (PluginKind::DemandSource, &config.demand),
        (PluginKind::CompletionSource, &config.completion),
    ];
    all.into_iter().flat_map(|(kind, entries)| entries.iter().map(move |entry| (kind, entry)))
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
        Build::DemandSource(_) | Build::DemandOfMaster(_) => {
            return Err(Error::bug("a demand source comes with the masters that it serves"));
        }
    })
}
