//! Failures as Kubernetes Events: for whoever looks at the cluster rather than at KubeStack. Never on a success, never
//! two alike within a while, and never more than so many.

use crate::marks;
use kubestack_core::prelude::*;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// For so long a failure like the last one is counted instead of told. An Event lives for an hour by default.
const WINDOW: Duration = Duration::from_secs(600);
/// In one window no more Events than this are written.
const MOST: usize = 100;
/// The API takes no longer note in an Event (`events.k8s.io/v1`); a text without end is of no use here either.
const MAX_MESSAGE: usize = 1024;

/// What was told of late: an agent (or else its label) and a cause; when, and how many like it came since.
#[derive(Default)]
pub struct Events(Mutex<BTreeMap<(String, FailureCause), (Moment, u32)>>);

impl Events {
    /// The Event to write about that failure, if it is to be told at all.
    pub fn event(
        &self,
        failure: &Failure,
        instance: &InstanceName,
        namespace: &str,
        now: Moment,
    ) -> Option<Value> {
        let about = match failure.unit {
            Some(_) => format!("agent {}", failure.agent),
            None => format!("label {}", failure.label),
        };
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (about, failure.cause);
        let mut count = 1;
        if let Some((at, more)) = told.get_mut(&key) {
            if now.since(*at) < WINDOW {
                *more = more.saturating_add(1);
                return None;
            }
            count += *more;
        }
        told.retain(|_, (at, _)| now.since(*at) < WINDOW);
        if told.len() >= MOST {
            return None;
        }
        told.insert(key, (now, 0));
        Some(event(failure, instance, namespace, now, count))
    }
}

/// Source of the fields: the Kubernetes API reference, `core/v1` Event.
fn event(failure: &Failure, instance: &InstanceName, namespace: &str, now: Moment, count: u32) -> Value {
    let Failure { agent, label, unit, cause, text, .. } = failure;
    let what = match unit {
        Some(_) => format!("the agent of label {label} failed"),
        None => format!("an agent of label {label} could not be launched"),
    };
    let colon = if text.is_empty() { "" } else { ": " };
    let mut message = format!("{what}: {cause}{colon}{text}");
    let end = (0..=MAX_MESSAGE.min(message.len())).rev().find(|at| message.is_char_boundary(*at));
    message.truncate(end.unwrap_or_default());
    let mut regarding = json!({"apiVersion": "v1", "kind": "Pod", "namespace": namespace, "name": agent});
    if let (Some(uid), Some(regarding)) = (unit, regarding.as_object_mut()) {
        regarding.insert("uid".to_owned(), uid.as_str().into());
    }
    let micros = i64::try_from(now.as_micros()).unwrap_or_default();
    let at = jiff::Timestamp::from_microsecond(micros).unwrap_or_default().to_string();
    json!({
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {
            "name": format!("{agent}.{micros:x}"),
            "namespace": namespace,
            "labels": marks::of_instance(instance),
        },
        "type": "Warning",
        "reason": reason(*cause),
        "message": message,
        "involvedObject": regarding,
        "count": count,
        "firstTimestamp": at,
        "lastTimestamp": at,
        "source": {"component": "kubestack"},
        "reportingComponent": "kubestack.io/kubestack",
        "reportingInstance": marks::label_value(instance.as_str()),
    })
}

/// `image_wrong` as `ImageWrong`, which is how reasons are written there.
fn reason(cause: FailureCause) -> String {
    let parts = cause.as_str().split('_').filter_map(|part| {
        let mut letters = part.chars();
        Some(letters.next()?.to_ascii_uppercase().to_string() + letters.as_str())
    });
    parts.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(agent: &str, unit: Option<&str>, cause: FailureCause) -> Failure {
        Failure::new(agent.into(), "small".into(), unit.map(Into::into), cause, "it said so")
    }

    #[test]
    fn failures_alike_are_one_event_and_there_are_never_too_many() {
        let events = Events::default();
        let count = |failure: &Failure, seconds: u64| {
            let now = Moment::from_millis(1_000_000 + seconds * 1000);
            let event = events.event(failure, &"ci".into(), "agents", now)?;
            event["count"].as_u64()
        };
        let refused = |number: u32| failure(&format!("a-{number}"), None, FailureCause::Quota);
        assert_eq!(count(&refused(1), 0), Some(1));
        assert_eq!([2, 3, 4].map(|number| count(&refused(number), 60)), [None; 3], "of the same label");
        assert_eq!(count(&failure("a-5", None, FailureCause::BadTemplate), 60), Some(1), "another cause");
        assert_eq!(count(&refused(6), 600), Some(4), "all that were not told");
        let failed = failure("b", Some("u"), FailureCause::CrashLoop);
        assert_eq!([count(&failed, 600), count(&failed, 601)], [Some(1), None]);
        let many = (0..1000).filter_map(|number| {
            count(&failure(&format!("c-{number}"), Some("u"), FailureCause::Evicted), 602)
        });
        assert!(many.count() < MOST);
        assert_eq!(count(&failure("d", Some("u"), FailureCause::Evicted), 1300), Some(1), "later again");
    }

    #[test]
    fn an_event_says_what_failed_and_why_and_is_no_longer_than_it_may_be() {
        let mut failure = failure("ci-small-1-2", Some("u-1"), FailureCause::ImageWrong);
        let now = Moment::from_millis(1_767_225_600_000);
        insta::assert_yaml_snapshot!(Events::default().event(&failure, &"ci".into(), "agents", now));
        failure.text = "ü".repeat(2000);
        let event = Events::default().event(&failure, &"ci".into(), "agents", now).unwrap();
        assert!(event["message"].as_str().unwrap().len() <= MAX_MESSAGE);
    }
}
