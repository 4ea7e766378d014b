//! Agents as Kubernetes pods: the provider type `kubernetes`.
//!
//! ```text
//!  launch ──► Secret <agent>      only if there are secrets; made first, so that the pod can start at once
//!         ──► Pod    <agent>      labels and annotations carry the marks
//!  watch  ◄── one watch on the pods of this instance, one on its Secrets (metadata only)
//!  destroy ─► Pod by uid, then its Secret by uid
//! ```
//!
//! **Writes per agent life**: pod, mark, delete (3); with a Secret two more (5).
//!
//! A failure takes one more, an Event; failures alike are one Event.
//!
//! **What belongs to us** carries the label `kubestack.io/instance` *and* marks in an annotation whose instance
//! and agent name are exactly ours; nothing else is told, changed or deleted. A Secret of ours without a pod
//! is told as a remnant. It has no owner reference: that would take one more write per agent, and a Secret
//! must be there before its pod.
//!
//! **Nothing is retried here**, not by the client either: whether a call that failed is made again, the engine
//! decides. A server that asks to wait (429, `Retry-After`) is obeyed by all calls of the provider at once.
//!
//! **One container counts**: `agent`. When it has ended, the unit has. A sidecar should be an init container
//! with `restartPolicy: Always`, which ends with it.
//!
//! **How current the view is** is proven, not assumed: a small consistent read tells a resource version, and
//! once the watch has come that far, everything before the read has been told.
//!
//! **Who leads** is a Lease of the namespace, and what survives a leader a ConfigMap beside it (`coordination`); both have
//! connections of their own, so that nothing that the provider does can cost the lead.
//!
//! What this crate deliberately does not know: any CI system, what the agent does, which pod to launch when.

mod api;
mod capacity;
mod config;
mod coordination;
mod events;
mod fault;
mod feed;
mod manifest;
mod marks;
mod object;
mod patch;
mod phase;
mod probe;
mod provider;
mod record;
mod templates;
mod watch;

pub use config::{CapacityOf, KubeConfig};
pub use provider::KubeProvider;

/// The name of the container that is the agent; the others of its pod only help.
pub const AGENT_CONTAINER: &str = "agent";
