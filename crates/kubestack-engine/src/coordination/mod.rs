//! Coordination: who leads, and what has no object of its own to live on.
//!
//! Kept: the leader's term, the operator's intent, and advisory memory. All else is derived from what the
//! providers and masters show.

mod local;
mod memory;

pub use local::LocalCoordination;
pub use memory::MemoryCoordination;

use kubestack_core::async_trait;
use kubestack_core::error::Result;
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
    /// Becomes the leader: waits for it, or refuses where a live holder is no reason to wait.
    ///
    /// # Errors
    /// [`Conflict`](kubestack_core::error::ErrorKind::Conflict) if another holder is alive; the text names it.
    async fn acquire(&self) -> Result<Leadership>;

    /// What the next leader would get, without becoming it and without a change to anything.
    async fn peek(&self) -> Result<Leadership> {
        Ok(Leadership::new(1, true, None, Value::Null))
    }

    /// Whether this is still the leader. Asked before each send; cheap.
    fn holds(&self) -> bool;

    /// Keeps the operator's intent; once this returns it survives a crash.
    async fn save_intent(&self, intent: Value) -> Result<()>;

    /// Keeps advisory memory; its loss costs latency, never a promise.
    async fn save_memory(&self, memory: Value) -> Result<()>;

    /// Gives up the lead. `clean`: nothing that was sent can still land.
    async fn release(&self, clean: bool) -> Result<()>;
}
