//! Names: one newtype per concept, so that an agent's name is never taken for a label's.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fmt;
use std::sync::Arc;

macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Takes the text as it is; where a text comes from a user, the config has validated it.
            pub fn new(text: impl AsRef<str>) -> Self {
                Self(Arc::from(text.as_ref()))
            }

            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self::new(text)
            }
        }

        impl From<String> for $name {
            fn from(text: String) -> Self {
                Self(Arc::from(text))
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl schemars::JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }
            fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
                String::json_schema(generator)
            }
        }
    };
}

name!(
    /// One KubeStack installation. Everything it creates carries this name.
    InstanceName
);
name!(
    /// A class of agents, as named in the config.
    LabelName
);
name!(
    /// A CI system instance, as named in the config.
    MasterName
);
name!(
    /// A platform, as named in the config.
    ProviderName
);
name!(
    /// A demand or completion source, as named in the config.
    SourceName
);
name!(
    /// One agent. Made by [`AgentName::compose`], never used twice.
    AgentName
);
name!(
    /// What a platform calls one unit, unique over all time on that platform (Kubernetes: `metadata.uid`).
    Uid
);

/// Longest name that every platform and CI system takes: a DNS-1123 label (RFC 1123 §2.1).
pub const MAX_AGENT_NAME: usize = 63;

impl AgentName {
    /// `<instance>-<label slug>-<term>-<serial>`, lower-case `[a-z0-9-]`, at most 63 characters.
    ///
    /// A name is never used twice: the term grows with each leader and the serial with each launch of that
    /// leader. Where the text would not fit, or where a slug lost characters, eight hex digits of a SHA-256
    /// over the original names keep two names that look alike apart.
    pub fn compose(instance: &InstanceName, label: &LabelName, term: u64, serial: u64) -> Self {
        let tail = format!("{term}-{serial}");
        let (instance_slug, label_slug) = (slug(instance.as_str()), slug(label.as_str()));
        let exact = instance_slug == instance.as_str() && label_slug == label.as_str();
        let plain = format!("{instance_slug}-{label_slug}-{tail}");
        if exact && plain.len() <= MAX_AGENT_NAME {
            return Self::from(plain);
        }
        let digest = Sha256::digest(format!("{instance}\n{label}").as_bytes());
        let hash: String = digest.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
        let room = MAX_AGENT_NAME.saturating_sub(tail.len() + hash.len() + 2);
        let mut head: String = format!("{instance_slug}-{label_slug}").chars().take(room).collect();
        while head.ends_with('-') {
            head.pop();
        }
        Self::from(format!("{head}-{hash}-{tail}"))
    }

    /// Whether a name has the form of those that [`AgentName::compose`] makes for that installation: all that is known
    /// where a CI system shows names and no marks. A longer instance whose name begins alike has names of that form too.
    pub fn may_be_of(instance: &InstanceName, name: &str) -> bool {
        let number = |text: Option<&str>| {
            text.is_some_and(|text| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()))
        };
        // A long name is cut; so much of it is there in any case.
        let head: String = slug(instance.as_str()).chars().take(20).collect();
        let mut parts = name.rsplitn(3, '-');
        number(parts.next())
            && number(parts.next())
            && parts.next().is_some_and(|start| start.starts_with(&head))
    }

    /// The name of that form in the name of a node that a client of Jenkins' Swarm plugin made for itself: such clients
    /// append `-` and eight hex digits to the name that they are given.
    pub fn before_appended<'a>(instance: &InstanceName, node: &'a str) -> Option<&'a str> {
        let (agent, end) = node.rsplit_once('-')?;
        let hash = end.len() == 8 && end.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        (hash && Self::may_be_of(instance, agent)).then_some(agent)
    }
}

/// Lower-case, every run of other characters than `[a-z0-9]` as one `-`, none at either end; never empty.
pub fn slug(text: &str) -> String {
    let mut slug = String::with_capacity(text.len());
    for character in text.chars() {
        let character = character.to_ascii_lowercase();
        if character.is_ascii_lowercase() || character.is_ascii_digit() {
            slug.push(character);
        } else if !slug.ends_with('-') && !slug.is_empty() {
            slug.push('-');
        }
    }
    while slug.ends_with('-') {
        slug.pop();
    }
    if slug.is_empty() { "x".to_owned() } else { slug }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compose(instance: &str, label: &str) -> AgentName {
        AgentName::compose(&instance.into(), &label.into(), 3, 17)
    }

    #[test]
    fn a_plain_name_is_kept_readable() {
        assert_eq!(compose("ci", "small").as_str(), "ci-small-3-17");
    }

    #[test]
    fn every_name_that_we_make_is_known_again() {
        for instance in ["ci", "CI of the Department", &"long".repeat(30), "ü"] {
            let agent = AgentName::compose(&instance.into(), &"label".into(), 1, 2);
            assert!(AgentName::may_be_of(&instance.into(), agent.as_str()), "{agent}");
        }
        for foreign in ["master", "", "-", "a-1-2", "ci", "ci-1", "ci-x-1-b"] {
            assert!(!AgentName::may_be_of(&"ci".into(), foreign), "{foreign}");
        }
    }

    #[test]
    fn labels_that_slug_alike_get_different_names() {
        assert_ne!(compose("ci", "a_b"), compose("ci", "a.b"));
        assert_ne!(compose("ci", "A-b"), compose("ci", "a-b"));
    }

    #[test]
    fn a_long_name_fits_and_starts_and_ends_well() {
        let name = compose(&"i".repeat(80), &"ü-".repeat(90));
        assert!(name.as_str().len() <= MAX_AGENT_NAME, "{name}");
        assert!(name.as_str().ends_with("-3-17"));
        assert!(name.as_str().bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'));
    }
}
