//! The registry: how the engine finds plugins by type name.
//!
//! ```
//! use kubestack_core::prelude::*;
//! use kubestack_core::{inventory, registry::Build};
//! # struct Nothing;
//! # #[async_trait] impl DemandSource for Nothing {
//! #     async fn next(&mut self, _: &SourceContext) -> Result<DemandSnapshot> {
//! #         Ok(DemandSnapshot::new(Moment::default(), vec![])) } }
//! /// The config of this source.
//! #[derive(serde::Deserialize, schemars::JsonSchema)]
//! #[serde(deny_unknown_fields)]
//! struct Config { host: String, password: SecretRef }
//!
//! fn build(context: &BuildContext, fragment: &Fragment) -> Result<Box<dyn DemandSource>> {
//!     let config: Config = fragment.parse()?;
//!     let password = context.secret(fragment, "password", &config.password)?;
//!     # let _ = (config.host, password); Ok(Box::new(Nothing))
//! }
//!
//! inventory::submit! {
//!     Plugin {
//!         type_name: "nothing",
//!         summary: "demand that never comes",
//!         schema: || schemars::schema_for!(Config),
//!         example: "{name: nothing, type: nothing, host: localhost, password: {env: PASSWORD}}",
//!         build: Build::DemandSource(build),
//!     }
//! }
//! ```
//!
//! The binary must name the crate (`use my_plugin as _;`), or the linker drops it with its registration.

use crate::completion::CompletionSource;
use crate::config::Fragment;
use crate::context::BuildContext;
use crate::demand::DemandSource;
use crate::error::{Error, Result};
use crate::master::CiMaster;
use crate::provider::SlaveProvider;
use std::fmt;

/// Which of the four traits a plugin implements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PluginKind {
    /// [`DemandSource`], listed under `demand-listeners:`.
    DemandSource,
    /// [`CompletionSource`], listed under `destroy-listeners:`.
    CompletionSource,
    /// [`CiMaster`], listed under `masters:`.
    Master,
    /// [`SlaveProvider`], listed under `providers:`.
    Provider,
}

impl fmt::Display for PluginKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::DemandSource => "demand source",
            Self::CompletionSource => "completion source",
            Self::Master => "master",
            Self::Provider => "provider",
        })
    }
}

/// Builds one kind of plugin: from its config to a thing that runs. Does no I/O: what cannot be reached now
/// is reported by the first call, so that one system that is down keeps no other from starting.
type BuildFn<T> = fn(&BuildContext, &Fragment) -> Result<Box<T>>;

/// The build function of a plugin.
#[derive(Clone, Copy)]
pub enum Build {
    /// Builds a [`DemandSource`].
    DemandSource(BuildFn<dyn DemandSource>),
    /// No source of its own but another name for the demand that masters of that type bring along
    /// ([`CiMaster::demand`]): an entry has no further keys.
    DemandOfMaster(&'static str),
    /// Builds a [`CompletionSource`].
    CompletionSource(BuildFn<dyn CompletionSource>),
    /// Builds a [`CiMaster`].
    Master(BuildFn<dyn CiMaster>),
    /// Builds a [`SlaveProvider`].
    Provider(BuildFn<dyn SlaveProvider>),
}

/// One registered plugin.
pub struct Plugin {
    /// The `type:` that users write: lower-case, `[a-z0-9_-]`, unique within its kind.
    pub type_name: &'static str,
    /// One line for `kubestack plugins list`.
    pub summary: &'static str,
    /// The JSON schema of its config, without `name` and `type`.
    pub schema: fn() -> schemars::Schema,
    /// A complete entry as YAML, ready to be copied.
    pub example: &'static str,
    /// How it is built.
    pub build: Build,
}

impl Plugin {
    /// Which trait it implements.
    pub fn kind(&self) -> PluginKind {
        match self.build {
            Build::DemandSource(_) | Build::DemandOfMaster(_) => PluginKind::DemandSource,
            Build::CompletionSource(_) => PluginKind::CompletionSource,
            Build::Master(_) => PluginKind::Master,
            Build::Provider(_) => PluginKind::Provider,
        }
    }
}

inventory::collect!(Plugin);

/// All plugins in this binary, sorted by kind and type name.
pub fn plugins() -> Vec<&'static Plugin> {
    let mut plugins: Vec<_> = inventory::iter::<Plugin>().collect();
    plugins.sort_by_key(|plugin| (plugin.kind(), plugin.type_name));
    plugins
}

/// Whether each type name is unique within its kind. Asked whenever a config is read.
///
/// # Errors
/// If two plugins of one kind have the same type name: which of them is meant nobody could say.
pub fn verify() -> Result<()> {
    for pair in plugins().windows(2) {
        if let [a, b] = pair
            && (a.kind(), a.type_name) == (b.kind(), b.type_name)
        {
            let text = format!("two {} plugins are called `{}`; rename one of them", a.kind(), a.type_name);
            return Err(Error::bug(text));
        }
    }
    Ok(())
}

/// The plugin of that kind and type name; otherwise an error that names the known ones and the nearest.
pub fn find(kind: PluginKind, type_name: &str) -> Result<&'static Plugin> {
    let known: Vec<_> = plugins().into_iter().filter(|plugin| plugin.kind() == kind).collect();
    if let Some(plugin) = known.iter().find(|plugin| plugin.type_name == type_name) {
        return Ok(plugin);
    }
    let names: Vec<_> = known.iter().map(|plugin| plugin.type_name).collect();
    let hint = nearest(type_name, names.iter().copied())
        .map_or(String::new(), |name| format!(", did you mean `{name}`?"));
    let list = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
    Err(Error::invalid(format!("there is no {kind} of type `{type_name}`{hint} (known: {list})")))
}

/// The candidate that looks most like `word`, if one is near enough to be what was meant.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let folded = |text: &str| text.to_lowercase().replace('-', "_");
    let word = folded(word);
    let near = 1 + word.chars().count() / 3;
    candidates
        .into_iter()
        .map(|candidate| (distance(&word, &folded(candidate)), candidate))
        .filter(|(distance, _)| *distance <= near)
        .min()
        .map(|(_, candidate)| candidate)
}

/// Levenshtein distance.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (cell, y) in row.iter_mut().skip(1).zip(b.chars()) {
            let substitute = diagonal + usize::from(x != y);
            diagonal = *cell;
            left = substitute.min(left + 1).min(diagonal + 1);
            *cell = left;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_suggested_only_if_near() {
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(nearest("jenkins-queue", ["gearman", "jenkins_queue"]), Some("jenkins_queue"));
        assert_eq!(nearest("labals", ["labels", "masters"]), Some("labels"));
        assert_eq!(nearest("frobnicate", ["labels", "masters"]), None);
    }
}
