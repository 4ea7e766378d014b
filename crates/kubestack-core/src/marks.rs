//! Marks: what is written on an agent itself, so that its state can be derived from what is there.

use crate::name::{AgentName, InstanceName, LabelName, MasterName, ProviderName};
use serde::{Deserialize, Serialize};

/// What every agent carries, on its unit and, where the master can hold a text, on its node.
///
/// Marks make state derivable: a restart, a new leader or a second look reads them and knows as much.
/// A plugin stores and returns them unchanged; [`Marks::to_text`] is a form for systems that hold one text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Marks {
    /// The installation that made it. What carries another instance's mark, or none, is never touched.
    pub instance: InstanceName,
    /// The label it was made from.
    pub label: LabelName,
    /// The provider it runs on.
    pub provider: ProviderName,
    /// The master it serves, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub master: Option<MasterName>,
    /// The leader's term in which it was launched.
    pub term: u64,
    /// Its number within that term.
    pub serial: u64,
    /// Hash of the label's template at its launch; another hash today makes it surplus while idle.
    pub template: String,
    /// The id of the demand that it was made for, if that demand is bound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub demand: Option<String>,
    /// Written at the first evidence that it began its one job: the job's id, or `?` where unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used: Option<String>,
    /// Why it is held, if it is: then nothing touches it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<String>,
}

impl Marks {
    /// Marks of a new agent.
    pub fn new(
        instance: InstanceName,
        label: LabelName,
        provider: ProviderName,
        master: Option<MasterName>,
        (term, serial): (u64, u64),
        template: String,
    ) -> Self {
        Self {
            instance,
            label,
            provider,
            master,
            term,
            serial,
            template,
            demand: None,
            used: None,
            held: None,
        }
    }

    /// The agent's name that these marks belong to.
    pub fn agent(&self) -> AgentName {
        AgentName::compose(&self.instance, &self.label, self.term, self.serial)
    }

    /// One line of text that [`Marks::from_text`] reads back; for systems that hold only a description.
    pub fn to_text(&self) -> String {
        format!("kubestack {}", serde_json::to_string(self).unwrap_or_default())
    }

    /// Reads what [`Marks::to_text`] wrote, wherever it stands in `text`; `None` if it is not there.
    pub fn from_text(text: &str) -> Option<Self> {
        let (_, json) = text.split_once("kubestack {")?;
        let json = format!("{{{json}");
        serde_json::Deserializer::from_str(&json).into_iter::<Self>().next()?.ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_survive_a_description_with_words_around_them() {
        let mut marks = Marks::new("ci".into(), "a \"b\"".into(), "p".into(), None, (1, 2), "h".into());
        marks.used = Some("job}{".into());
        let text = format!("our agent: {} (do not edit)", marks.to_text());
        assert_eq!(Marks::from_text(&text), Some(marks));
        assert_eq!(Marks::from_text("kubestack {\"instance\":"), None);
    }
}
