//! Demand: work that waits for an agent.

use crate::context::SourceContext;
use crate::error::Result;
use crate::name::LabelName;
use crate::time::Moment;
use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Whether any fitting agent may serve the demand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Binding {
    /// Any agent of one of the labels.
    #[default]
    Fungible,
    /// Only an agent made for this very job (acquire-by-id, just-in-time runners). Such demand needs an id
    /// and stands for one job; its agent is cancelled when the demand leaves before it began.
    Bound,
}

/// Waiting work: one job with an id where the source knows it, or a count.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Demand {
    /// The job's id, unique within its source over the life of the job; `None` for a count.
    pub id: Option<String>,
    /// Those labels of ours that can serve it. Empty: none of ours can; it is reported and left alone.
    pub needs: BTreeSet<LabelName>,
    /// What the CI system said about it, for people.
    pub text: String,
    /// Whether any fitting agent may serve it.
    pub binding: Binding,
    /// Jobs that wait. With an id: 1, or 0 once it runs.
    pub waiting: u32,
    /// Jobs of this demand that run now, where the source knows it.
    pub running: u32,
    /// Since when it waits, where the source knows it.
    pub since: Option<Moment>,
    /// What it belongs to, for reports (a pipeline, a tenant).
    pub group: Option<String>,
}

impl Demand {
    /// One waiting job with an id.
    pub fn job(id: impl Into<String>, needs: impl IntoIterator<Item = LabelName>) -> Self {
        Self { id: Some(id.into()), ..Self::count(1, needs) }
    }

    /// That many waiting jobs without ids.
    pub fn count(waiting: u32, needs: impl IntoIterator<Item = LabelName>) -> Self {
        Self {
            id: None,
            needs: needs.into_iter().collect(),
            text: String::new(),
            binding: Binding::Fungible,
            waiting,
            running: 0,
            since: None,
            group: None,
        }
    }

    /// Makes it bound to an agent of its own.
    #[must_use]
    pub fn bound(mut self) -> Self {
        self.binding = Binding::Bound;
        self
    }

    /// Sets what the CI system said.
    #[must_use]
    pub fn text(mut self, text: impl Into<String>) -> Self {
        self.text = text.into();
        self
    }

    /// Sets since when it waits.
    #[must_use]
    pub fn since(mut self, since: Moment) -> Self {
        self.since = Some(since);
        self
    }
}

/// Names one bound demand, for the enrolment of its agent.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[non_exhaustive]
pub struct DemandRef {
    /// [`Demand::id`].
    pub id: String,
}

impl DemandRef {
    /// Names the demand with that id.
    pub fn new(id: impl Into<String>) -> Self {
        Self { id: id.into() }
    }
}

/// The complete demand of one source, as one read showed it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct DemandSnapshot {
    /// When the read that produced it *began* (not when the wait before it did).
    pub began: Moment,
    /// All of it. An empty list means: nothing waits. A failed read is an error, never an empty list.
    pub demands: Vec<Demand>,
}

impl DemandSnapshot {
    /// A complete snapshot of a read that began then.
    pub fn new(began: Moment, demands: Vec<Demand>) -> Self {
        Self { began, demands }
    }
}

/// Tells what work waits.
#[async_trait]
pub trait DemandSource: Send {
    /// Waits until a look is worth it, looks, and returns the complete demand.
    ///
    /// The first call looks at once. Later calls may wait for a change (a long poll, an event) or for the
    /// source's own interval; a source that only waits for events still looks every minute or so, since a
    /// snapshot that grows old counts as stale and launches nothing new. Wait first, then read: a read that
    /// is held open for long gives a snapshot whose beginning lies far in the past.
    ///
    /// The engine calls again after each return, with the labels as they are then, and drops the call when
    /// labels change, or when something hints that a fresh look is worth it. Cancel-safe.
    async fn next(&mut self, context: &SourceContext) -> Result<DemandSnapshot>;
}
