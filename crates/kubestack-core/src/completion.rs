//! Completion: the news that a job on an agent began or ended. A hint, never the truth.

use crate::error::Result;
use crate::time::Moment;
use async_trait::async_trait;
use serde::{Deserialize, Serialize};

/// What happened to the job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CompletionEvent {
    /// The agent began its job.
    Started,
    /// The job ended; the CI system may still be busy with it.
    Completed,
    /// The CI system is done with the job.
    Finalized,
}

/// One piece of news about an agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Completion {
    /// The agent's name as the CI system tells it. Matched exactly against ours; all else is ignored.
    pub agent: String,
    /// What happened.
    pub event: CompletionEvent,
    /// The job's id, where known.
    pub job: Option<String>,
    /// When it was received.
    pub at: Moment,
}

impl Completion {
    /// That event for that agent, received then.
    pub fn new(agent: impl Into<String>, event: CompletionEvent, at: Moment) -> Self {
        Self { agent: agent.into(), event, job: None, at }
    }

    /// Adds the job's id.
    #[must_use]
    pub fn job(mut self, job: impl Into<String>) -> Self {
        self.job = Some(job.into());
        self
    }
}

/// Tells that jobs began or ended.
#[async_trait]
pub trait CompletionSource: Send {
    /// Waits for news. An empty list is a hint without an agent: *look again* (after a reconnect, when
    /// news may have been lost). Cancel-safe.
    async fn next(&mut self) -> Result<Vec<Completion>>;
}
