//! Templates of labels as PodTemplates: what KubeStack of 2015 made on its operator's word, and nothing reads.

use crate::api::{Api, JSON, query};
use crate::fault::{Effect, Fault};
use crate::manifest::Manifest;
use crate::marks;
use crate::object::{List, Meta, Partial};
use crate::provider::{KubeProvider, refused};
use http::StatusCode;
use kubestack_core::name::slug;
use kubestack_core::prelude::*;
use kubestack_core::template::{Template, Templates};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

const KIND: &str = "podtemplates";
/// Annotation: what it is of, as JSON.
const OF: &str = "kubestack.io/template";

#[derive(PartialEq, Serialize, Deserialize)]
struct Of {
    instance: InstanceName,
    label: LabelName,
    hash: String,
}

/// The template that an object is, if it is that instance's.
fn read(meta: &Meta, instance: &InstanceName) -> Option<Template> {
    let of: Of = serde_json::from_str(meta.annotations.get(OF)?).ok()?;
    let uid = meta.uid.as_str().into();
    (of.instance == *instance)
        .then(|| Template::new(meta.name.clone(), uid, of.label, of.hash, meta.created()))
}

fn told(fault: Fault, doing: &str, effect: Effect) -> Error {
    let mut error = fault.error(doing, effect);
    error.message = error.message.replace("deploy/role.yaml", "deploy/templates.yaml");
    error
}

/// The object, and its name: one for each label and state of it.
fn object(provider: &KubeProvider, label: &LabelSpec, namespace: &str) -> Result<(String, Value)> {
    let instance = &provider.instance;
    let of = Of { instance: instance.clone(), label: label.name.clone(), hash: label.template_hash() };
    let digest = Sha256::digest(format!("{}\0{}", of.label, of.hash));
    let digest: String = digest.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    let slugs: String = slug(&format!("{instance}-{}", of.label)).chars().take(200).collect();
    let name = format!("{}-{digest}", slugs.trim_end_matches('-'));
    // Terms begin with 1, so that no agent is called so.
    let marks =
        Marks::new(instance.clone(), of.label.clone(), "template".into(), None, (0, 0), of.hash.clone());
    let request = LaunchRequest::new(label.clone(), marks, None);
    let pod = Manifest::new(&request, namespace, &*provider.access.context.secrets)?.pod;
    let object = json!({
        "apiVersion": "v1",
        "kind": "PodTemplate",
        "metadata": {
            "name": name,
            "labels": marks::of_instance(instance),
            "annotations": {OF: serde_json::to_string(&of).unwrap_or_default()},
        },
        // Without the marks: nothing that is made of it is an agent of ours.
        "template": {"spec": pod.get("spec")},
    });
    Ok((name, object))
}

impl KubeProvider {
    async fn template(&self, api: &Api, name: &str) -> Result<Option<Template>> {
        match api.get::<Partial>(&format!("{KIND}/{name}"), JSON).await {
            Ok(object) => Ok(read(&object.metadata, &self.instance)),
            Err(fault) => Err(told(fault, &format!("read PodTemplate {name}"), Effect::None)),
        }
    }
}

#[async_trait]
impl Templates for KubeProvider {
    async fn list(&self) -> Result<Vec<Template>> {
        let api = self.api().await?;
        let path = format!("{KIND}?labelSelector={}", query(&marks::selector(&self.instance)));
        let list: List<Partial> =
            api.get(&path, JSON).await.map_err(|fault| told(fault, "list PodTemplates", Effect::None))?;
        let items = list.items.unwrap_or_default();
        Ok(items.iter().filter_map(|object| read(&object.metadata, &self.instance)).collect())
    }

    async fn create(&self, label: &LabelSpec) -> Result<Template> {
        let api = self.api().await?;
        let (name, object) = object(self, label, &api.namespace)?;
        let known = match api.create::<Partial>(KIND, &object).await {
            Ok(made) => read(&made.metadata, &self.instance),
            Err(fault) if fault.already_exists() => self.template(api, &name).await?,
            Err(fault) if fault.is(StatusCode::NOT_FOUND) => {
                return Err(refused(fault, &format!("make PodTemplate {name}"), api));
            }
            Err(fault) => return Err(told(fault, &format!("make PodTemplate {name}"), Effect::Write)),
        };
        known.filter(|known| known.label == label.name && known.hash == label.template_hash()).ok_or_else(
            || {
                Error::conflict(format!(
                    "there is a PodTemplate {name} in namespace `{}` that is not this label's; delete it",
                    api.namespace
                ))
            },
        )
    }

    async fn delete(&self, template: &Template) -> Result<()> {
        let api = self.api().await?;
        let options = json!({"preconditions": {"uid": template.uid}});
        match api.delete(KIND, &template.name, &options).await {
            Err(fault) if !fault.is(StatusCode::NOT_FOUND) => {
                Err(told(fault, &format!("delete PodTemplate {}", template.name), Effect::Write))
            }
            _ => Ok(()),
        }
    }
}
