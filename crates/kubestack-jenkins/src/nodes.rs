//! The nodes of a Jenkins, as its API tells them.

use crate::client::{Client, encode};
use crate::fault::page;
use crate::json::{is, items, list, text};
use kubestack_core::prelude::*;
use serde_json::Value;

/// What is asked of each node; what a version does not know it leaves out.
const TREE: &str = "displayName,description,offline,temporarilyOffline,offlineCauseReason,idle,\
    assignedLabels[name],executors[idle,currentExecutable[url,queueId]],oneOffExecutors[currentExecutable[url]]";

/// What our own word for "takes no more jobs" begins with.
pub const DRAINED: &str = "kubestack: ";

/// One node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// Its name; the built-in node's is for people only.
    pub name: String,
    /// Its description, where the API tells it.
    pub description: Option<String>,
    /// Whether an agent is connected and takes jobs.
    pub offline: bool,
    /// Whether somebody took it out.
    pub taken_out: bool,
    /// Why it is offline, where the API tells it.
    pub reason: Option<String>,
    /// Its executors.
    pub executors: u32,
    /// Those with a job.
    pub busy: u32,
    /// The address of a build on it.
    pub build: Option<String>,
    /// That build's id in the queue, where the API tells it.
    pub queue_id: Option<u64>,
    /// Its labels, where the API tells them.
    pub labels: Vec<String>,
}

impl Node {
    fn read(value: &Value) -> Option<Self> {
        let executables: Vec<&Value> = items(value, "executors")
            .chain(items(value, "oneOffExecutors"))
            .filter_map(|executor| executor.get("currentExecutable").filter(|it| it.is_object()))
            .collect();
        // A build that the daemon's user may not see is none to him: then only `idle` tells.
        let idle = |executor: &&Value| executor.get("idle").and_then(Value::as_bool).unwrap_or(true);
        let busy = items(value, "executors").filter(|executor| !idle(executor)).count();
        let busy = busy.max(executables.len());
        let all_idle = value.get("idle").and_then(Value::as_bool).unwrap_or(busy == 0);
        let busy = if all_idle { busy } else { busy.max(1) };
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        Some(Self {
            name: text(value, "displayName")?,
            description: text(value, "description"),
            offline: is(value, "offline"),
            taken_out: is(value, "temporarilyOffline"),
            reason: text(value, "offlineCauseReason"),
            executors: count(items(value, "executors").count()).max(count(busy)),
            busy: count(busy),
            build: executables.first().and_then(|it| text(it, "url")),
            queue_id: executables.first().and_then(|it| it.get("queueId")?.as_u64()),
            labels: items(value, "assignedLabels").filter_map(|label| text(label, "name")).collect(),
        })
    }
}

/// All nodes.
pub async fn all(client: &Client) -> Result<Vec<Node>> {
    let what = "read the nodes";
    let body = client.api(what, &format!("computer/api/json?tree=computer[{TREE}]")).await?;
    list(&body, "computer", Node::read).map_err(|error| page(what, &body, &error))
}

/// One node; `None` if there is none of that name.
pub async fn one(client: &Client, name: &str) -> Result<Option<Node>> {
    let what = format!("read node {name}");
    match client.json(&what, &format!("{}/api/json?tree={TREE}", place(name))).await {
        Ok(value) => match Node::read(&value) {
            Some(node) => Ok(Some(node)),
            None => Err(Error::bug(format!("cannot {what}: the answer has no name"))),
        },
        Err(error) if error.kind == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// What only the page of a node tells on old servers: its description, and why it is offline.
pub async fn page_of(client: &Client, name: &str) -> Result<String> {
    client.text(&format!("read the page of node {name}"), &format!("{}/", place(name))).await
}

/// Where a node is.
pub fn place(name: &str) -> String {
    format!("computer/{}", encode(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_node_is_read_whatever_is_missing_or_absurd() {
        let real = json!({"displayName":"ks-1","executors":[{"currentExecutable":null,"idle":true,"number":0}],"idle":true,"numExecutors":1,"offline":true,"offlineCause":{},"oneOffExecutors":[],"temporarilyOffline":true});
        let node = Node::read(&real).unwrap();
        assert_eq!((node.executors, node.busy, node.offline, node.taken_out), (1, 0, true, true));

        let hidden = json!({"displayName": "a", "idle": false, "executors": [{"idle": false, "currentExecutable": null}]});
        assert_eq!(Node::read(&hidden).unwrap().busy, 1, "a build that we may not see is one");
        let bare = json!({"displayName": "a", "idle": false, "executors": [{}]});
        assert_eq!(Node::read(&bare).unwrap().busy, 1);
        let one_off = json!({"displayName": "a", "oneOffExecutors": [{"currentExecutable": {"url": "u", "queueId": -3}}]});
        let node = Node::read(&one_off).unwrap();
        assert_eq!((node.busy, node.build.as_deref(), node.queue_id), (1, Some("u"), None));
        let odd = json!({"displayName": "a", "executors": 7, "idle": "x", "assignedLabels": [{"name": 1}, {}, {"name": "l"}]});
        assert_eq!(Node::read(&odd).unwrap().labels, ["l"]);
        assert_eq!(Node::read(&json!({"displayName": ""})), None);
        assert_eq!(Node::read(&json!(3)), None);
    }
}
