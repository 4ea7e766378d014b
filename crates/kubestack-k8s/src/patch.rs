//! The label's `pod`: a JSON merge patch (RFC 7386) on the pod that we make.
//!
//! One thing differs, because a merge patch replaces lists whole: containers, and their variables, are merged
//! by `name`. So a sidecar can be added, or a volume mounted, without repeating what is ours.

use crate::AGENT_CONTAINER;
use crate::marks::PREFIX;
use kubestack_core::prelude::*;
use serde_json::{Map, Value};

/// Applies the patch, or says which key of it cannot be.
pub fn apply(pod: &mut Value, patch: &Fragment) -> Result<()> {
    let wrong = |key: &str, text: &str| Err(patch.error(key, text).with_cause(FailureCause::BadTemplate));
    let Value::Object(top) = patch.value() else {
        return wrong("", "must be a map with `metadata` and `spec`, as in a pod");
    };
    for (key, value) in top {
        match (key.as_str(), value) {
            ("metadata" | "spec", Value::Object(_)) => {}
            ("metadata" | "spec", _) => return wrong(key, "must be a map"),
            _ => return wrong(key, "cannot be set here; a pod's patch has `metadata` and `spec`"),
        }
    }
    for (key, value) in top.get("metadata").and_then(Value::as_object).into_iter().flatten() {
        let path = format!("metadata.{key}");
        if !matches!(key.as_str(), "labels" | "annotations") {
            return wrong(&path, "is set by kubestack; only `labels` and `annotations` can be added");
        }
        let Value::Object(entries) = value else { return wrong(&path, "must be a map") };
        if let Some(name) = entries.keys().find(|name| name.starts_with(PREFIX)) {
            return wrong(
                &path,
                &format!("`{name}` is one of the marks by which kubestack knows its agents"),
            );
        }
        if let Some((name, _)) = entries.iter().find(|(_, value)| !value.is_string() && !value.is_null()) {
            return wrong(&path, &format!("`{name}` must be a text; put it in quotes"));
        }
    }
    let spec = top.get("spec").and_then(Value::as_object);
    if spec.is_some_and(|spec| spec.contains_key("restartPolicy")) {
        return wrong(
            "spec.restartPolicy",
            "cannot be changed: an agent runs one job and is never restarted",
        );
    }
    if let Some(containers) = spec.and_then(|spec| spec.get("containers"))
        && !containers.as_array().is_some_and(|containers| containers.iter().all(named))
    {
        let text = format!("must be a list of containers with a `name`; the agent's is `{AGENT_CONTAINER}`");
        return wrong("spec.containers", &text);
    }
    merge(pod, patch.value(), "");
    Ok(())
}

fn named(item: &Value) -> bool {
    item.get("name").is_some_and(Value::is_string)
}

/// Merges `patch` into `target`; `key` is the key that both stand under.
fn merge(target: &mut Value, patch: &Value, key: &str) {
    match patch {
        Value::Object(entries) => {
            if !target.is_object() {
                *target = Value::Object(Map::new());
            }
            let Value::Object(map) = target else { return };
            for (key, value) in entries {
                if value.is_null() {
                    map.remove(key);
                } else {
                    merge(map.entry(key.clone()).or_insert(Value::Null), value, key);
                }
            }
        }
        Value::Array(items) if matches!(key, "containers" | "env") && items.iter().all(named) => {
            if !target.is_array() {
                *target = Value::Array(Vec::new());
            }
            let Value::Array(list) = target else { return };
            for item in items {
                match list.iter_mut().find(|known| known.get("name") == item.get("name")) {
                    // A variable has one source: `value` and `valueFrom` together are refused.
                    Some(known) if key == "env" => *known = item.clone(),
                    Some(known) => merge(known, item, ""),
                    None => {
                        let mut new = Value::Null;
                        merge(&mut new, item, "");
                        list.push(new);
                    }
                }
            }
        }
        other => *target = other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn patched(patch: Value) -> Result<Value> {
        let mut pod = json!({
            "metadata": {"name": "a", "labels": {"x": "1"}},
            "spec": {
                "restartPolicy": "Never",
                "enableServiceLinks": false,
                "containers": [{"name": "agent", "image": "i", "env": [{"name": "A", "value": "1"}]}],
            },
        });
        apply(&mut pod, &Fragment::new(patch, "labels[0].pod", std::sync::Arc::default()))?;
        Ok(pod)
    }

    #[test]
    fn it_merges_as_rfc_7386_does_and_removes_with_null() {
        let pod = patched(json!({
            "metadata": {"labels": {"x": null, "y": "2"}},
            "spec": {"enableServiceLinks": null, "nodeSelector": {"disk": "ssd"}, "tolerations": [{"key": "ci"}]},
        }))
        .unwrap();
        assert_eq!(pod["metadata"]["labels"], json!({"y": "2"}));
        assert_eq!(pod["spec"]["nodeSelector"], json!({"disk": "ssd"}));
        assert_eq!(pod["spec"]["tolerations"], json!([{"key": "ci"}]));
        assert_eq!(pod["spec"].get("enableServiceLinks"), None);
    }

    #[test]
    fn containers_and_variables_are_merged_by_name() {
        let pod = patched(json!({"spec": {"containers": [
            {"name": "agent", "volumeMounts": [{"name": "v", "mountPath": "/v"}],
             "env": [{"name": "B", "value": "2"}, {"name": "A", "value": "3"}]},
            {"name": "helper", "image": "h"},
        ]}}))
        .unwrap();
        assert_eq!(pod["spec"]["containers"][0]["image"], "i");
        assert_eq!(
            pod["spec"]["containers"][0]["env"],
            json!([{"name": "A", "value": "3"}, {"name": "B", "value": "2"}])
        );
        assert_eq!(pod["spec"]["containers"][1], json!({"name": "helper", "image": "h"}));
    }

    #[test]
    fn what_cannot_be_changed_is_refused_by_its_key() {
        for (patch, key) in [
            (json!({"metadata": {"name": "x"}}), "labels[0].pod.metadata.name"),
            (json!({"metadata": {"namespace": "x"}}), "labels[0].pod.metadata.namespace"),
            (json!({"metadata": {"finalizers": ["x"]}}), "labels[0].pod.metadata.finalizers"),
            (
                json!({"metadata": {"labels": {"kubestack.io/instance": "x"}}}),
                "labels[0].pod.metadata.labels",
            ),
            (json!({"metadata": {"annotations": {"kubestack.io/held": null}}}), "labels[0].pod.metadata.ann"),
            (json!({"metadata": {"labels": {"x": 1}}}), "labels[0].pod.metadata.labels"),
            (json!({"spec": {"restartPolicy": "Always"}}), "labels[0].pod.spec.restartPolicy"),
            (json!({"spec": {"containers": null}}), "labels[0].pod.spec.containers"),
            (json!({"spec": {"containers": [{"image": "x"}]}}), "labels[0].pod.spec.containers"),
            (json!({"spec": null}), "labels[0].pod.spec"),
            (json!({"status": {}}), "labels[0].pod.status"),
            (json!([]), "labels[0].pod"),
        ] {
            let error = patched(patch.clone()).unwrap_err();
            assert_eq!((error.kind, error.cause), (ErrorKind::Invalid, Some(FailureCause::BadTemplate)));
            assert!(error.message.starts_with(key), "{patch}: {error}");
        }
    }
}
