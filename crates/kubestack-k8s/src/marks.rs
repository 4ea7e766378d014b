//! Marks as labels and annotations.
//!
//! Labels are there to be selected by, and say as much of a name as a label's value can hold; what counts is
//! the annotation, which holds every name as it is.

use crate::object::Meta;
use kubestack_core::prelude::*;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

/// Every label and annotation of ours begins so.
pub const PREFIX: &str = "kubestack.io/";
/// Label: the installation. The one that is selected by.
const INSTANCE: &str = "kubestack.io/instance";
/// Annotation: all marks that never change, as JSON.
const MARKS: &str = "kubestack.io/marks";
/// Annotation: what it was used for.
const USED: &str = "kubestack.io/used";
/// Annotation: why it is held.
const HELD: &str = "kubestack.io/held";
/// Annotation of a pod: the uid of the Secret that was made for it.
const SECRET: &str = "kubestack.io/secret";

/// Longest value of a label (Kubernetes, "Labels and Selectors": 63 characters).
const MAX_VALUE: usize = 63;

/// The name itself if it can be a label's value; otherwise what of it can be, and eight hex digits of a
/// SHA-256 over it.
pub fn label_value(name: &str) -> String {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    let legal = name.chars().all(fits) && edge(name.chars().next()) && edge(name.chars().next_back());
    if legal && name.len() <= MAX_VALUE {
        return name.to_owned();
    }
    let digest = Sha256::digest(name.as_bytes());
    let hash: String = digest.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    let head: String = name.chars().filter(|c| fits(*c)).take(MAX_VALUE - hash.len() - 1).collect();
    let head = head.trim_matches(|c: char| !c.is_ascii_alphanumeric());
    if head.is_empty() { hash } else { format!("{head}-{hash}") }
}

/// Selects all that carries that instance's label.
pub fn selector(instance: &InstanceName) -> String {
    format!("{INSTANCE}={}", label_value(instance.as_str()))
}

/// Labels that say whose something is.
pub fn of_instance(instance: &InstanceName) -> Value {
    json!({"app.kubernetes.io/managed-by": "kubestack", INSTANCE: label_value(instance.as_str())})
}

/// The metadata of an object that belongs to that agent.
pub fn metadata(marks: &Marks, namespace: &str) -> Value {
    let mut fixed = marks.clone();
    (fixed.used, fixed.held) = (None, None);
    let mut annotations = Map::new();
    annotations.insert(MARKS.to_owned(), serde_json::to_string(&fixed).unwrap_or_default().into());
    for (key, value) in [(USED, &marks.used), (HELD, &marks.held)] {
        annotations.extend(value.iter().map(|value| (key.to_owned(), value.as_str().into())));
    }
    let mut labels = Map::new();
    let mut label = |key: &str, value: &str| labels.insert(key.to_owned(), label_value(value).into());
    label("app.kubernetes.io/managed-by", "kubestack");
    label(INSTANCE, marks.instance.as_str());
    label("kubestack.io/label", marks.label.as_str());
    label("kubestack.io/provider", marks.provider.as_str());
    if let Some(master) = &marks.master {
        label("kubestack.io/master", master.as_str());
    }
    json!({
        "name": marks.agent().as_str(),
        "namespace": namespace,
        "labels": labels,
        "annotations": annotations,
    })
}

/// Says on a pod which Secret was made for it.
pub fn name_secret(pod: &mut Value, uid: &str) {
    if let Some(annotations) = pod.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut) {
        annotations.insert(SECRET.to_owned(), uid.into());
    }
}

/// The uid of the Secret that was made for that pod.
pub fn secret_of(meta: &Meta) -> Option<&str> {
    meta.annotations.get(SECRET).map(String::as_str)
}

/// The marks of an object, if it is that instance's: by label, marks, and a name that belongs to them.
pub fn read(meta: &Meta, instance: &InstanceName) -> Option<Marks> {
    if meta.labels.get(INSTANCE) != Some(&label_value(instance.as_str())) {
        return None;
    }
    let mut marks: Marks = serde_json::from_str(meta.annotations.get(MARKS)?).ok()?;
    marks.used = meta.annotations.get(USED).cloned();
    marks.held = meta.annotations.get(HELD).cloned();
    (marks.instance == *instance && marks.agent().as_str() == meta.name).then_some(marks)
}

/// The merge patch that changes marks of exactly that unit.
pub fn change(unit: &UnitRef, patch: &MarkPatch) -> Result<Value> {
    let (key, value) = match patch {
        MarkPatch::Used(job) => (USED, Value::from(job.as_str())),
        MarkPatch::Held(reason) => (HELD, Value::from(reason.as_str())),
        MarkPatch::Released => (HELD, Value::Null),
        _ => return Err(Error::bug("a mark that this version does not know")),
    };
    Ok(json!({"metadata": {"uid": unit.uid.as_str(), "annotations": {key: value}}}))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marks(instance: &str, label: &str) -> Marks {
        Marks::new(instance.into(), label.into(), "k8s".into(), Some("ci ö".into()), (3, 7), "h".into())
    }

    fn meta(marks: &Marks) -> Meta {
        serde_json::from_value(metadata(marks, "agents")).unwrap()
    }

    #[test]
    fn any_name_makes_a_legal_value_and_no_two_the_same() {
        let long = "x".repeat(64);
        let names =
            ["a", "a b", "a/b", "ü", "", "-", "a-", long.as_str(), "🦀🦀", "jenkins.example.org_8080"];
        let values: std::collections::BTreeSet<String> = names.iter().map(|name| label_value(name)).collect();
        assert_eq!(values.len(), names.len());
        for value in &values {
            assert!(value.len() <= MAX_VALUE, "{value}");
            assert_eq!(*value, label_value(value), "a legal value stays as it is");
        }
        assert_eq!(label_value("jenkins.example.org_8080"), "jenkins.example.org_8080");
    }

    #[test]
    fn marks_are_read_back_whatever_the_names() {
        for (instance, label) in [("ci", "small"), ("ci of ünïts", "a&&b"), (&*"i".repeat(99), "x/y")] {
            let mut marks = marks(instance, label);
            marks.used = Some("job \"7\"".into());
            marks.held = Some("look".into());
            assert_eq!(read(&meta(&marks), &marks.instance), Some(marks.clone()));
        }
    }

    #[test]
    fn what_is_not_exactly_ours_is_not_read() {
        let ours = marks("ci", "small");
        assert_eq!(read(&meta(&ours), &"other".into()), None);
        let mut renamed = meta(&ours);
        renamed.name.push('x');
        assert_eq!(read(&renamed, &ours.instance), None, "a copy under another name");
        let mut foreign = meta(&ours);
        foreign.labels.insert(INSTANCE.into(), "other".into());
        assert_eq!(read(&foreign, &ours.instance), None, "another one's label");
        let mut bare = meta(&ours);
        bare.annotations.clear();
        assert_eq!(read(&bare, &ours.instance), None, "no marks");
    }
}
