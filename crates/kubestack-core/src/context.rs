//! What the engine hands to plugins: a clock, a task set, secrets, the label table.

use crate::config::{Fragment, SecretRef};
use crate::error::Result;
use crate::label::LabelSpec;
use crate::name::{InstanceName, LabelName};
use crate::time::Moment;
use crate::transcript::Transcript;
use async_trait::async_trait;
use secrecy::SecretString;
use std::collections::BTreeMap;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

/// The one source of time. In tests it is virtual.
#[async_trait]
pub trait Clock: Send + Sync {
    /// Now. Never runs backwards.
    fn now(&self) -> Moment;

    /// Waits. Cancel-safe.
    async fn sleep(&self, duration: Duration);
}

/// Runs tasks that end with the engine: none outlives it, and a panic in one is reported, not lost.
pub trait Spawner: Send + Sync {
    /// Runs `task` under that name until it ends or the engine stops.
    fn spawn(&self, name: &str, task: Pin<Box<dyn Future<Output = ()> + Send>>);
}

/// Reads secrets where the config points to them.
pub trait Secrets: Send + Sync {
    /// The value now. A file is read again when it changed.
    fn resolve(&self, secret: &SecretRef) -> Result<SecretString>;
}

/// What a plugin gets when it is built.
#[derive(Clone)]
#[non_exhaustive]
pub struct BuildContext {
    /// The name of its entry in the config.
    pub name: String,
    /// The installation.
    pub instance: InstanceName,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Tasks.
    pub spawner: Arc<dyn Spawner>,
    /// Secrets.
    pub secrets: Arc<dyn Secrets>,
    /// A directory of this installation for plugins that keep something on this host.
    pub state_dir: PathBuf,
    /// Where to take down what is asked and answered, if somebody wants to see it.
    pub transcript: Option<Transcript>,
}

impl BuildContext {
    /// Everything at once.
    pub fn new(
        name: impl Into<String>,
        instance: InstanceName,
        clock: Arc<dyn Clock>,
        spawner: Arc<dyn Spawner>,
        secrets: Arc<dyn Secrets>,
        state_dir: PathBuf,
    ) -> Self {
        Self { name: name.into(), instance, clock, spawner, secrets, state_dir, transcript: None }
    }

    /// The secret that stands under `key` in the plugin's part of the config.
    ///
    /// # Errors
    /// If there is none now: with file, line, column and key, and never with the secret itself.
    pub fn secret(&self, fragment: &Fragment, key: &str, secret: &SecretRef) -> Result<SecretString> {
        self.secrets.resolve(secret).map_err(|error| fragment.error(key, error.message))
    }

    /// The same for another entry.
    #[must_use]
    pub fn named(&self, name: impl Into<String>) -> Self {
        Self { name: name.into(), ..self.clone() }
    }
}

/// What a demand source gets at each call: the labels it may map work to.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct SourceContext {
    /// The labels that this source serves. The source evaluates its own grammar (label expressions, tag
    /// sets, queries) against what each of them provides.
    pub labels: BTreeMap<LabelName, LabelSpec>,
    /// How many more agents fit at present, by label; a source that reserves work (acquire-by-id) reserves
    /// no more than that.
    pub free_capacity: BTreeMap<LabelName, u32>,
    /// Somebody only wants to look, perhaps beside a daemon: nothing may be reserved, and nobody be told anything.
    pub only_look: bool,
}

impl SourceContext {
    /// With these labels and no known capacity.
    pub fn new(labels: BTreeMap<LabelName, LabelSpec>) -> Self {
        Self { labels, free_capacity: BTreeMap::new(), only_look: false }
    }
}
