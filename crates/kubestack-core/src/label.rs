//! A label as plugins see it: the template of an agent.

use crate::config::{Fragment, SecretRef};
use crate::name::LabelName;
use crate::resources::Resources;
use std::collections::{BTreeMap, BTreeSet};

/// What a provider and a master need to know of a label.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct LabelSpec {
    /// Its name.
    pub name: LabelName,
    /// What it offers to jobs: its own name and the entries of `provides`.
    pub provides: BTreeSet<String>,
    /// Whether it also takes jobs that ask for nothing.
    pub unlabelled: bool,
    /// The image, where the platform knows images.
    pub image: Option<String>,
    /// What one agent needs.
    pub resources: Resources,
    /// How its agents attach, in the master's own words; `None`: the master's default.
    pub attach: Option<String>,
    /// Environment of the agent.
    pub env: BTreeMap<String, SecretRef>,
    /// Platform-specific extras of the template (for pods: a JSON merge patch), parsed by the provider.
    pub pod: Option<Fragment>,
}

impl LabelSpec {
    /// A label that provides its own name and needs nothing.
    pub fn new(name: impl Into<LabelName>) -> Self {
        let name = name.into();
        Self {
            provides: BTreeSet::from([name.as_str().to_owned()]),
            name,
            unlabelled: false,
            image: None,
            resources: Resources::default(),
            attach: None,
            env: BTreeMap::new(),
            pod: None,
        }
    }

    /// Hash of all that shapes an agent, secrets by reference: another hash means another template.
    pub fn template_hash(&self) -> String {
        use sha2::{Digest, Sha256};
        let value = serde_json::json!([
            &self.image,
            &self.resources,
            &self.attach,
            &self.provides,
            self.unlabelled,
            self.env.iter().map(|(name, value)| (name, value.fingerprint())).collect::<BTreeMap<_, _>>(),
            self.pod.as_ref().map(|pod| pod.value()),
        ]);
        let digest = Sha256::digest(value.to_string().as_bytes());
        digest.iter().take(6).map(|byte| format!("{byte:02x}")).collect()
    }
}
