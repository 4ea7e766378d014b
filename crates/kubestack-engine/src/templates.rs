//! Templates of labels on the platforms, for operators; works beside a daemon.

use crate::engine::Engine;
use crate::look::bounded;
use kubestack_core::error::{Error, Result};
use kubestack_core::name::{LabelName, ProviderName};
use kubestack_core::registry::nearest;
use kubestack_core::template::{Template, Templates};
use serde::Serialize;
use std::time::Duration;

/// A template, and where it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct KeptTemplate {
    /// The provider that keeps it.
    pub provider: ProviderName,
    /// The template.
    #[serde(flatten)]
    pub template: Template,
    /// Whether the label would give the same today.
    pub current: bool,
}

impl Engine {
    /// All templates of all providers that keep any.
    ///
    /// # Errors
    /// If none of them keeps templates, or one does not answer within `bound`.
    pub async fn templates(&self, bound: Duration) -> Result<Vec<KeptTemplate>> {
        let mut found = Vec::new();
        for (provider, templates) in self.keepers(|_| true) {
            let list = bounded(&*self.clock, bound, templates.list()).await;
            let list = list.map_err(|error| at(provider, error))?;
            found.extend(list.into_iter().map(|template| self.kept(provider, template)));
        }
        if found.is_empty() && self.keepers(|_| true).next().is_none() {
            return Err(none());
        }
        Ok(found)
    }

    /// Makes a template of the label as it is now with each of its providers that keeps templates.
    ///
    /// # Errors
    /// If there is no such label, none of its providers keeps templates, or one refuses.
    pub async fn create_template(&self, label: &LabelName, bound: Duration) -> Result<Vec<KeptTemplate>> {
        let settings = &self.setup.settings.labels;
        let (Some(spec), Some(its)) = (self.setup.labels.get(label), settings.get(label)) else {
            let near = nearest(label.as_str(), settings.keys().map(LabelName::as_str));
            let hint = near.map_or(String::new(), |near| format!(", did you mean `{near}`?"));
            return Err(Error::not_found(format!("there is no label `{label}`{hint}")));
        };
        let mut made = Vec::new();
        for (provider, templates) in self.keepers(|name| its.providers.contains(name)) {
            let template = bounded(&*self.clock, bound, templates.create(spec)).await;
            made.push(self.kept(provider, template.map_err(|error| at(provider, error))?));
        }
        if made.is_empty() { Err(none()) } else { Ok(made) }
    }

    /// Takes one template away, by its name or uid.
    ///
    /// # Errors
    /// If there is none, or its provider refuses.
    pub async fn delete_template(&self, id: &str, bound: Duration) -> Result<KeptTemplate> {
        let all = self.templates(bound).await?;
        let is = |kept: &KeptTemplate| kept.template.name == id || kept.template.uid.as_str() == id;
        let found = all.into_iter().find(is).ok_or_else(|| {
            Error::not_found(format!(
                "there is no template with the name or uid `{id}`; `kubestack list-templates` shows them"
            ))
        })?;
        for (provider, templates) in self.keepers(|name| *name == found.provider) {
            let deleting = templates.delete(&found.template);
            bounded(&*self.clock, bound, deleting).await.map_err(|error| at(provider, error))?;
        }
        Ok(found)
    }

    fn keepers(
        &self,
        wanted: impl Fn(&ProviderName) -> bool,
    ) -> impl Iterator<Item = (&ProviderName, &dyn Templates)> {
        let providers = self.systems.providers.iter().filter(move |(name, _)| wanted(name));
        providers.filter_map(|(name, provider)| Some((name, provider.templates()?)))
    }

    fn kept(&self, provider: &ProviderName, template: Template) -> KeptTemplate {
        let now = self.setup.labels.get(&template.label).map(|spec| spec.template_hash());
        let current = now.as_ref() == Some(&template.hash);
        KeptTemplate { provider: provider.clone(), template, current }
    }
}

fn at(provider: &ProviderName, mut error: Error) -> Error {
    error.message = format!("provider {provider}: {}", error.message);
    error
}

fn none() -> Error {
    Error::invalid("no provider here keeps templates; `kubernetes` does")
}
