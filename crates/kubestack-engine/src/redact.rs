//! Masks secrets that are known here in what platforms and agents say: an agent may print what it was given.

use crate::secrets::HostSecrets;
use kubestack_core::context::Secrets;
use kubestack_core::label::LabelSpec;
use kubestack_core::name::{AgentName, LabelName};
use kubestack_core::provider::{Unit, UnitPhase};
use secrecy::{ExposeSecret, SecretString};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Shorter values stand in any text by chance.
const SHORTEST: usize = 6;
/// What stands in their place.
const MASK: &str = "***";

/// Knows the secrets of the labels, and of each agent that this daemon launched. Cheap to clone; all see the same.
#[derive(Clone, Default)]
pub(crate) struct Redactor(Arc<Mutex<Known>>);

#[derive(Default)]
struct Known {
    labels: BTreeMap<LabelName, Vec<SecretString>>,
    agents: BTreeMap<AgentName, Vec<SecretString>>,
}

impl Redactor {
    /// Takes the variables of these labels as secrets, for some are, and cannot be told from the others.
    pub fn labels(&self, labels: &BTreeMap<LabelName, LabelSpec>) {
        let known = labels.iter().map(|(name, label)| (name.clone(), variables(label))).collect();
        self.known().labels = known;
    }

    /// That agent gets these, and its label's as they are now.
    pub fn agent<'a>(
        &self,
        agent: &AgentName,
        label: &LabelSpec,
        enrolment: impl Iterator<Item = &'a SecretString>,
    ) {
        let mut secrets = variables(label);
        secrets.extend(enrolment.filter(|secret| is_long_enough(secret)).cloned());
        if !secrets.is_empty() {
            self.known().agents.insert(agent.clone(), secrets);
        }
    }

    /// Forgets the agents that are not to be kept.
    pub fn retain(&self, keep: impl Fn(&AgentName) -> bool) {
        self.known().agents.retain(|agent, _| keep(agent));
    }

    /// A text about that agent, with all its secrets masked; without its label, those of all labels.
    pub fn text(&self, agent: &AgentName, label: Option<&LabelName>, mut text: String) -> String {
        let known = self.known();
        let labels = known.labels.iter().filter(|(name, _)| label.is_none_or(|label| label == *name));
        let own = known.agents.get(agent).into_iter().chain(labels.map(|(_, secrets)| secrets)).flatten();
        let mut secrets: Vec<&str> = own.map(ExposeSecret::expose_secret).collect();
        // One may be part of another.
        secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        for secret in secrets {
            let lines = secret.lines().map(str::trim).filter(|line| line.len() >= SHORTEST);
            for part in std::iter::once(secret).chain(lines) {
                if text.contains(part) {
                    text = text.replace(part, MASK);
                }
            }
        }
        text
    }

    /// A unit, with its secrets masked in what the platform says of it.
    pub fn unit(&self, mut unit: Unit) -> Unit {
        if let UnitPhase::Pending { text, .. }
        | UnitPhase::Ended { text, .. }
        | UnitPhase::Terminating { text, .. } = &mut unit.phase
            && !text.is_empty()
        {
            *text = self.text(&unit.name, Some(&unit.marks.label), std::mem::take(text));
        }
        unit
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What cannot be read now, no agent can have been given now.
fn variables(label: &LabelSpec) -> Vec<SecretString> {
    let values = label.env.values().filter_map(|value| HostSecrets.resolve(value).ok());
    values.filter(is_long_enough).collect()
}

fn is_long_enough(secret: &SecretString) -> bool {
    secret.expose_secret().len() >= SHORTEST
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_agent_was_given_is_masked_in_its_words_and_nobody_else_s() {
        let mut label = LabelSpec::new("a");
        label.env.insert("KEY".into(), serde_json::from_value("line-one\nline-two".into()).unwrap());
        label.env.insert("LANG".into(), serde_json::from_value("C".into()).unwrap());
        let redactor = Redactor::default();
        redactor.labels(&BTreeMap::from([("a".into(), label.clone())]));
        let tokens: [SecretString; 2] = ["token-1".into(), "token-12".into()];
        redactor.agent(&"x".into(), &label, tokens.iter());
        let said = "token-12, token-1, C: line-two of line-one\nline-two";
        let text =
            |agent: &str, label: &str| redactor.text(&agent.into(), Some(&label.into()), said.to_owned());
        assert_eq!(text("x", "a"), "***, ***, C: *** of ***");
        assert_eq!(text("y", "a"), "token-12, token-1, C: *** of ***");
        assert_eq!(text("y", "b"), said);
        redactor.retain(|_| false);
        assert!(text("x", "a").starts_with("token-12"));
    }
}
