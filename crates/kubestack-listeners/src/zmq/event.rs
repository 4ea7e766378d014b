//! What the plugin publishes: `TOPIC<space>JSON` in one frame, for each step of a build (ZMQ Event Publisher,
//! `HudsonNotificationProperty` and `Phase`).

use kubestack_core::prelude::*;

/// A build's step. Fields that KubeStack has no use for are not named, and may have any form.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Event {
    pub event: CompletionEvent,
    /// Where it runs; empty on the server's own node, absent where the build has no executor.
    pub node: Option<String>,
    /// The queue item that it was, where a fork of the plugin tells it.
    pub queue_id: Option<u64>,
}

#[derive(serde::Deserialize)]
struct Body {
    build: Build,
}

#[derive(serde::Deserialize)]
struct Build {
    node_name: Option<String>,
    queue_id: Option<u64>,
}

/// Reads a message; `None` for topics of others.
pub(super) fn parse(message: &[u8]) -> Option<Result<Event, serde_json::Error>> {
    let topic = message.split(|byte| *byte == b' ').next()?;
    let event = match topic {
        b"onStarted" => CompletionEvent::Started,
        b"onCompleted" => CompletionEvent::Completed,
        b"onFinalized" => CompletionEvent::Finalized,
        _ => return None,
    };
    let json = message.get(topic.len()..).unwrap_or_default();
    Some(serde_json::from_slice(json).map(|Body { build }| Event {
        event,
        node: build.node_name,
        queue_id: build.queue_id,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(text: &str) -> Option<Event> {
        parse(text.as_bytes()).map(|event| event.unwrap())
    }

    #[test]
    fn each_step_is_read_whatever_else_is_told() {
        // As the real plugin on a real server sent it.
        let started = r#"onStarted {"name":"one","url":"job/one/","build":{"number":1,"phase":"STARTED","url":"job/one/1/","node_name":"ks-1","host_name":"h"}}"#;
        let node = || Some("ks-1".to_owned());
        assert_eq!(
            told(started),
            Some(Event { event: CompletionEvent::Started, node: node(), queue_id: None })
        );
        let all = r#"onFinalized {"build":{"full_url":"http://j/job/a/5/","number":5,"phase":"FINISHED","status":"SUCCESS","parameters":{"A":"1","B":["x"]},"node_name":"ks-1","node_description":"d","queue_id":7}}"#;
        assert_eq!(
            told(all),
            Some(Event { event: CompletionEvent::Finalized, node: node(), queue_id: Some(7) })
        );
        let none = told(r#"onCompleted {"build":{}}"#);
        assert_eq!(none, Some(Event { event: CompletionEvent::Completed, node: None, queue_id: None }));
    }

    #[test]
    fn other_topics_are_none_of_ours_and_garbage_is_told() {
        for other in ["", " ", "onDeleted {}", "onStartedX {\"build\":{}}", "\u{0}"] {
            assert_eq!(told(other), None, "{other:?}");
        }
        for garbage in [
            "onStarted",
            "onStarted ",
            "onStarted {",
            "onStarted {\"build\":{\"node_name\":3}}",
            "onFinalized []",
        ] {
            assert!(parse(garbage.as_bytes()).unwrap().is_err(), "{garbage}");
        }
    }
}
