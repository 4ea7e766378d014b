//! A small durable job queue: the CI master for people without a CI system, and the agent that runs its jobs.
//! It is the fallback, not a new CI: no pipelines, no users, no schedules.
//!
//! ```text
//!  submit ──► server (store on disk) ◄── QueueMaster: demand, agents, enrol, drain, remove
//!                 ▲      │
//!     heartbeat,  │      ▼ lease: one job per agent, ever
//!     log, result └── agent ── command in a process group of its own
//! ```
//!
//! * [`store`]: jobs, agents and logs on disk; what was acknowledged survives a crash.
//! * [`server`]: the HTTP API, with one token for operators and one for each agent.
//! * [`client`]: the operator's side of that API.
//! * [`master`]: the same as a [`CiMaster`](kubestack_core::master::CiMaster), registered as type `queue`.
//! * [`agent`]: runs one job, then exits.
//!
//! What this crate deliberately does not know: how its agents are launched, and what launches them.

pub mod agent;
pub mod client;
pub mod master;
pub mod model;
pub mod server;
pub mod store;
