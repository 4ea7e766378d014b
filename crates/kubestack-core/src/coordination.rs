//! Coordination: which daemon of an installation leads, and what has no object of its own to live on.
//!
//! Kept are the leader's term, the operator's intent, and advisory memory. All else is derived from what providers
//! and masters show. A platform that can keep this offers it with
//! [`SlaveProvider::coordination`](crate::provider::SlaveProvider::coordination).

use crate::error::Result;
use crate::probe::Probe;
use async_trait::async_trait;
use serde_json::Value;

/// What a new leader gets.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Leadership {
    /// Larger than every term before.
    pub term: u64,
    /// Nothing that the leader before sent can still land: there was none, or it stopped in good order.
    pub clean_predecessor: bool,
    /// The last advisory memory; `None` if there is none, or if it was lost.
    pub memory: Option<Value>,
    /// The operator's intent; null if there is none.
    pub intent: Value,
}

impl Leadership {
    /// Everything at once.
    pub fn new(term: u64, clean_predecessor: bool, memory: Option<Value>, intent: Value) -> Self {
        Self { term, clean_predecessor, memory, intent }
    }
}

/// Decides who leads, and keeps what must survive a leader.
#[async_trait]
pub trait Coordination: Send + Sync {
    /// Becomes the leader: waits for it, or refuses where a live holder is no reason to wait. From then on the lead
    /// is kept up by a task of the engine's own, so that it ends with the engine.
    ///
    /// # Errors
    /// [`Conflict`](crate::error::ErrorKind::Conflict) if another holder is alive and is not waited for; the text
    /// names it.
    async fn acquire(&self) -> Result<Leadership>;

    /// While [`acquire`](Self::acquire) waits: for whom or for what, in words for people.
    fn waits_for(&self) -> Option<String> {
        None
    }

    /// What the next leader would get, without becoming it and without a change to anything.
    async fn peek(&self) -> Result<Leadership> {
        Ok(Leadership::new(1, true, None, Value::Null))
    }

    /// Whether this is still the leader. Asked before each send; cheap.
    fn holds(&self) -> bool;

    /// Ends once this is not the leader any more, so that one that has nothing to send learns of it too. Where nobody
    /// can take the lead away, never. Cancel-safe.
    async fn lost(&self) {
        std::future::pending().await
    }

    /// Keeps the operator's intent; once this returns it survives a crash.
    async fn save_intent(&self, intent: Value) -> Result<()>;

    /// Keeps advisory memory; its loss costs latency, never a promise.
    async fn save_memory(&self, memory: Value) -> Result<()>;

    /// Gives up the lead. `clean`: nothing that was sent can still land.
    async fn release(&self, clean: bool) -> Result<()>;

    /// Tries what it will need, without a change to anything; see [`probe`](crate::probe).
    async fn probe(&self) -> Vec<Probe> {
        Vec::new()
    }
}
