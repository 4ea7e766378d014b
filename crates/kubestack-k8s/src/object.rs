//! What is read of Kubernetes objects: a small part, so that thousands of them fit in little memory.
//!
//! Source of the fields: the Kubernetes API reference, `core/v1` Pod and `meta/v1` ObjectMeta.

use kubestack_core::time::Moment;
use serde::Deserialize;
use std::collections::BTreeMap;

/// The metadata of any object.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Meta {
    pub name: String,
    pub uid: String,
    pub resource_version: String,
    pub creation_timestamp: Option<jiff::Timestamp>,
    pub deletion_timestamp: Option<jiff::Timestamp>,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
}

impl Meta {
    /// Its resource version as a number; 0 if the server does not count (the API promises no numbers).
    pub fn version(&self) -> u64 {
        self.resource_version.parse().unwrap_or(0)
    }

    /// When the server made it.
    pub fn created(&self) -> Moment {
        let micros = self.creation_timestamp.map_or(0, jiff::Timestamp::as_microsecond);
        Moment::from_micros(u64::try_from(micros).unwrap_or(0))
    }
}

/// Any object, of which only the metadata matters.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Partial {
    pub metadata: Meta,
}

/// A pod.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Pod {
    pub metadata: Meta,
    pub status: PodStatus,
}

/// What the platform says about a pod.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodStatus {
    pub phase: String,
    pub reason: String,
    pub message: String,
    pub conditions: Vec<Condition>,
    pub init_container_statuses: Vec<ContainerStatus>,
    pub container_statuses: Vec<ContainerStatus>,
}

/// One condition of a pod.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Condition {
    #[serde(rename = "type")]
    pub kind: String,
    pub status: String,
    pub reason: String,
    pub message: String,
}

/// One container of a pod.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ContainerStatus {
    pub name: String,
    pub restart_count: u32,
    pub state: ContainerState,
}

/// At most one of them is there.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ContainerState {
    pub waiting: Option<Waiting>,
    pub running: Option<Running>,
    pub terminated: Option<Terminated>,
}

/// A container that has not started.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Waiting {
    pub reason: String,
    pub message: String,
}

/// A container that runs.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Running {}

/// A container that ended.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Terminated {
    pub exit_code: i32,
    pub signal: i32,
    pub reason: String,
    pub message: String,
}

/// One page of a list.
#[derive(Clone, Debug, Deserialize)]
pub struct List<T> {
    pub metadata: ListMeta,
    /// `null` where there are none.
    pub items: Option<Vec<T>>,
}

/// Where a page of a list stands.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ListMeta {
    pub resource_version: String,
    #[serde(rename = "continue")]
    pub token: String,
}

/// One line of a watch.
#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "type", content = "object", rename_all = "UPPERCASE")]
pub enum Line<T> {
    Added(T),
    Modified(T),
    Deleted(T),
    Bookmark(Partial),
    Error(Status),
}

/// What the server says when it refuses.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Status {
    pub code: u16,
    pub reason: String,
    pub message: String,
    pub details: Option<StatusDetails>,
}

/// More of it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StatusDetails {
    pub retry_after_seconds: u32,
}

/// What a node has to give.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Node {
    pub metadata: Meta,
    pub spec: NodeSpec,
    pub status: NodeStatus,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct NodeSpec {
    pub unschedulable: bool,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct NodeStatus {
    pub allocatable: BTreeMap<String, String>,
    pub conditions: Vec<Condition>,
}

/// What a pod takes of its node.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct PlacedPod {
    pub spec: PlacedSpec,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PlacedSpec {
    pub node_name: String,
    pub containers: Vec<PlacedContainer>,
    pub init_containers: Vec<PlacedContainer>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PlacedContainer {
    /// `Always` on an init container: it goes on beside the others.
    pub restart_policy: String,
    pub resources: Requests,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Requests {
    pub requests: BTreeMap<String, String>,
}

/// A quota.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Quota {
    pub spec: QuotaSpec,
    pub status: QuotaStatus,
}

/// Which pods a quota is about; without scopes: all.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct QuotaSpec {
    pub scopes: Vec<String>,
    pub scope_selector: Option<serde_json::Value>,
}

/// What a quota allows, and what of it is taken.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct QuotaStatus {
    pub hard: BTreeMap<String, String>,
    pub used: BTreeMap<String, String>,
}
