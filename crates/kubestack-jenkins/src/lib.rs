//! Jenkins as a CI master: the master type `jenkins`, with its own demand and completion.
//!
//! ```text
//!  enrol ───► node + secret          inbound: doCreateItem; swarm: the Swarm plugin; swarm-client: the agent itself
//!  agents ◄── computer/api/json ──┬► completion: what two looks differ in
//!  demand ◄── queue/api/json      └► demand: which names are nodes
//!  drain ───► read, toggle once, read again          remove ─► read, refuse while busy, doDelete
//! ```
//!
//! One client, one session, and no request for completion: it follows from looks that are taken anyway.
//!
//! **What a job asks for** is an [`expression`] over labels. Jenkins tells it of each job (`labelExpression`), or in the
//! words in which it says why an item waits; of old servers it stands in the job's config only. What was found out for
//! an item is kept while it waits: once a node of its label is there, Jenkins names that node in its place.
//!
//! **A node of ours** carries the marks in its description. Old servers tell that on the node's page only, which is
//! read once for each node.
//!
//! **Nothing is retried here**, except a change that was refused for its crumb, which had no effect.
//!
//! Versions differ in one place, `versions.rs`. What this crate deliberately does not know: platforms, which agent to
//! make when, and any other way to hear of jobs (Gearman, ZMQ).

mod board;
mod client;
mod completion;
mod config;
mod demand;
mod enrol;
pub mod expression;
mod fault;
mod jobs;
mod json;
mod master;
mod nodes;
mod ours;
mod recorded;
#[cfg(test)]
mod scripted;
mod versions;
mod why;
mod wire;

pub use config::{Attach, JenkinsConfig};
pub use master::JenkinsMaster;
