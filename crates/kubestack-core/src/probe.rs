//! Probes: what `kubestack check --online` finds out about a system before anything depends on it.
//!
//! Every provider and master has a probe by default: one read. One that needs more than that (permissions, a
//! template that the platform takes) tries each thing by itself, so that an operator sees at once all that is
//! missing:
//! ```
//! use kubestack_core::prelude::*;
//!
//! async fn may(verb: &str) -> Result<()> {
//!     match verb {
//!         "delete" => Err(Error::unauthorized("not permitted; give the daemon's role this verb")),
//!         _ => Ok(()),
//!     }
//! }
//!
//! async fn probe() -> Vec<Probe> {
//!     let mut probes = Vec::new();
//!     for verb in ["create", "delete"] {
//!         probes.push(Probe::new(format!("may {verb} machines"), may(verb).await));
//!     }
//!     probes
//! }
//! ```

use crate::error::Result;

/// One thing that was tried, and what came of it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Probe {
    /// What was tried, in a few words: `may create pods`.
    pub what: String,
    /// How it went. An error says what is missing and what to do.
    pub result: Result<()>,
    /// Whether nothing, or not enough, works without it. What is not needed makes no check fail.
    pub needed: bool,
}

impl Probe {
    /// That was tried, with that result.
    pub fn new(what: impl Into<String>, result: Result<()>) -> Self {
        Self { what: what.into(), result, needed: true }
    }

    /// The same as something that is good to have.
    #[must_use]
    pub fn optional(mut self) -> Self {
        self.needed = false;
        self
    }
}
