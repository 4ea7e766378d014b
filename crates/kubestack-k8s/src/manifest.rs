//! From a launch request to the objects that are created.

use crate::{AGENT_CONTAINER, marks, patch};
use kubestack_core::context::Secrets;
use kubestack_core::prelude::*;
use kubestack_core::secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// What is created for one agent.
pub struct Manifest {
    /// The pod, without a secret in it.
    pub pod: Value,
    /// Variable → value, for the Secret of the pod's name; empty: no Secret.
    pub secrets: BTreeMap<String, SecretString>,
}

impl Manifest {
    /// Renders the label's template for that agent.
    pub fn new(request: &LaunchRequest, namespace: &str, secrets: &dyn Secrets) -> Result<Self> {
        let (label, enrolment) = (&request.label, request.enrolment.as_ref());
        // A label's variable may be a secret, and cannot be told from one that is not.
        let mut hidden = BTreeMap::new();
        for (key, value) in &label.env {
            hidden.insert(key.clone(), secrets.resolve(value)?);
        }
        let mut plain = BTreeMap::new();
        for (key, value) in enrolment.iter().flat_map(|enrolment| &enrolment.env) {
            hidden.remove(key);
            plain.insert(key.clone(), value.clone());
        }
        for (key, value) in enrolment.iter().flat_map(|enrolment| &enrolment.secrets) {
            plain.remove(key);
            hidden.insert(key.clone(), value.clone());
        }
        if let Some(key) = plain.keys().chain(hidden.keys()).find(|key| !is_variable(key)) {
            let text = format!("`{}` is no name for an environment variable", key.escape_default());
            return Err(Error::invalid(text).with_cause(FailureCause::Config));
        }
        let mut pod = pod(request, namespace, &plain, &hidden);
        if let Some(fragment) = &label.pod {
            patch::apply(&mut pod, fragment)?;
        }
        let containers = pod.pointer("/spec/containers").and_then(Value::as_array);
        let agent =
            containers.into_iter().flatten().find(|one| one.get("name") == Some(&AGENT_CONTAINER.into()));
        if agent.is_none_or(|agent| agent.get("image").and_then(Value::as_str).is_none_or(str::is_empty)) {
            let text = format!("label `{}` names no `image`; a pod needs one", label.name);
            return Err(Error::invalid(text).with_cause(FailureCause::Config));
        }
        Ok(Self { pod, secrets: hidden })
    }

    /// The Secret as it is sent: the only place where the values stand.
    pub fn secret(&self, marks: &Marks, namespace: &str) -> Value {
        let values = self.secrets.iter().map(|(key, value)| (key.clone(), value.expose_secret().into()));
        json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": marks::metadata(marks, namespace),
            "type": "Opaque",
            // Never changed, so the kubelet need not watch it.
            "immutable": true,
            "stringData": values.collect::<serde_json::Map<String, Value>>(),
        })
    }
}

/// What is both a variable's name and a key of a Secret (Kubernetes: `[-._a-zA-Z0-9]+`).
fn is_variable(key: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    !key.is_empty()
        && key.len() <= 253
        && !key.starts_with(|c: char| c.is_ascii_digit())
        && key.bytes().all(fits)
        && key != "."
        && !key.starts_with("..")
}

/// A text in which Kubernetes expands nothing: `$$` stands for one `$`.
fn literal(text: &str) -> String {
    text.replace('$', "$$")
}

fn pod(
    request: &LaunchRequest,
    namespace: &str,
    plain: &BTreeMap<String, String>,
    hidden: &BTreeMap<String, SecretString>,
) -> Value {
    let name = request.name.as_str();
    let plain = plain.iter().map(|(key, value)| json!({"name": key, "value": literal(value)}));
    let hidden = hidden
        .keys()
        .map(|key| json!({"name": key, "valueFrom": {"secretKeyRef": {"name": name, "key": key}}}));
    let env: Vec<Value> = plain.chain(hidden).collect();
    let args = request.enrolment.iter().flat_map(|enrolment| &enrolment.args);
    let args: Vec<String> = args.map(|arg| literal(arg)).collect();
    let mut container = json!({
        "name": AGENT_CONTAINER,
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "capabilities": {"drop": ["ALL"]},
        },
        // The last lines of a failed agent come with its status, without a read of its log.
        "terminationMessagePolicy": "FallbackToLogsOnError",
    });
    if let Value::Object(container) = &mut container {
        let mut add = |key: &str, value: Value| container.insert(key.to_owned(), value);
        if let Some(image) = &request.label.image {
            add("image", image.as_str().into());
        }
        if !args.is_empty() {
            add("args", args.into());
        }
        if !env.is_empty() {
            add("env", env.into());
        }
        if !request.label.resources.is_empty() {
            let amounts = json!(request.label.resources);
            add("resources", json!({"requests": amounts, "limits": amounts}));
        }
    }
    let mut metadata = marks::metadata(&request.marks, namespace);
    if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
        // From the first moment on: an agent that was moved has lost its job.
        annotations.insert("cluster-autoscaler.kubernetes.io/safe-to-evict".to_owned(), "false".into());
        annotations.insert("karpenter.sh/do-not-disrupt".to_owned(), "true".into());
    }
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata,
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": false,
            "enableServiceLinks": false,
            "securityContext": {
                "runAsNonRoot": true,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [container],
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Plain;

    impl Secrets for Plain {
        fn resolve(&self, secret: &SecretRef) -> Result<SecretString> {
            match secret {
                SecretRef::Text(text) => Ok(text.expose().into()),
                _ => Err(Error::invalid("only texts here")),
            }
        }
    }

    fn request(label: LabelSpec, enrolment: Option<Enrolment>) -> LaunchRequest {
        let marks = Marks::new(
            "ci".into(),
            label.name.clone(),
            "k8s".into(),
            Some("queue".into()),
            (3, 7),
            "h1".into(),
        );
        LaunchRequest::new(label, marks, enrolment)
    }

    fn label() -> LabelSpec {
        let mut label = LabelSpec::new("small");
        label.image = Some("registry.example.org/agent:1".into());
        label
    }

    fn render(label: LabelSpec, enrolment: Option<Enrolment>) -> Result<Manifest> {
        Manifest::new(&request(label, enrolment), "agents", &Plain)
    }

    #[test]
    fn a_label_with_an_image_only() {
        let manifest = render(label(), None).unwrap();
        assert!(manifest.secrets.is_empty());
        insta::assert_yaml_snapshot!(manifest.pod);
    }

    #[test]
    fn everything_at_once() {
        let mut label = label();
        let amounts = [("cpu", "250m"), ("memory", "512Mi")];
        label.resources = Resources(
            amounts.iter().map(|(name, text)| ((*name).to_owned(), text.parse().unwrap())).collect(),
        );
        label.env.insert("LANG".into(), serde_json::from_value("C".into()).unwrap());
        label.env.insert("TOKEN".into(), serde_json::from_value("lost to the enrolment".into()).unwrap());
        label.pod = Some(Fragment::from_value(serde_json::json!({
            "metadata": {"labels": {"team": "build"},
                         "annotations": {"cluster-autoscaler.kubernetes.io/safe-to-evict": null}},
            "spec": {
                "imagePullSecrets": [{"name": "registry"}],
                "securityContext": {"runAsNonRoot": false},
                "containers": [{"name": "agent", "resources": {"limits": {"cpu": null}}}],
                "initContainers": [{"name": "dind", "image": "docker:dind", "restartPolicy": "Always"}],
            },
        })));
        let mut enrolment = Enrolment::default();
        enrolment.env.insert("PLAIN".into(), "costs $(MUCH) $5".into());
        enrolment.secrets.insert("TOKEN".into(), "s3cret".into());
        enrolment.args.push("--name=$(X)".into());
        let manifest = render(label, Some(enrolment)).unwrap();
        assert!(!manifest.pod.to_string().contains("s3cret"));
        assert!(!manifest.pod.to_string().contains("lost to"));
        let marks = request(LabelSpec::new("small"), None).marks;
        insta::assert_yaml_snapshot!(vec![manifest.pod.clone(), manifest.secret(&marks, "agents")]);
    }

    #[test]
    fn what_cannot_be_a_pod_is_refused_before_anything_is_sent() {
        let refused = |label: LabelSpec, enrolment| render(label, enrolment).err().unwrap().message;
        assert_eq!(refused(LabelSpec::new("bare"), None), "label `bare` names no `image`; a pod needs one");
        for name in ["", "A=B", "ö", "A B", "1A", ".."] {
            let mut enrolment = Enrolment::default();
            enrolment.secrets.insert(name.into(), "s3cret".into());
            let text = refused(label(), Some(enrolment));
            assert!(text.ends_with("is no name for an environment variable"), "{text}");
        }
    }

    #[test]
    fn the_image_may_come_with_the_patch() {
        let mut label = LabelSpec::new("patched");
        label.pod = Some(Fragment::from_value(serde_json::json!({
            "spec": {"containers": [{"name": "agent", "image": "i"}]},
        })));
        assert!(render(label, None).is_ok());
    }
}
