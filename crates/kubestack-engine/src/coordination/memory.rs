//! Coordination within one process: for embedding, and for tests that restart an engine.

use kubestack_core::async_trait;
use kubestack_core::coordination::{Coordination, Leadership};
use kubestack_core::error::{Error, Result};
use serde_json::Value;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What outlives an engine.
#[derive(Debug, Default)]
struct Kept {
    term: u64,
    /// The term that leads now; 0 if nobody does.
    leads: u64,
    clean: bool,
    memory: Option<Value>,
    intent: Value,
}

/// Keeps everything in this process. Clones share what they keep.
#[derive(Clone, Debug, Default)]
pub struct MemoryCoordination {
    kept: Arc<Mutex<Kept>>,
    own: Arc<Mutex<u64>>,
}

impl MemoryCoordination {
    /// Another contender for the same lead, such as the same daemon after a restart.
    #[must_use]
    pub fn contender(&self) -> Self {
        Self { kept: self.kept.clone(), own: Arc::default() }
    }

    /// Ends the lead of whoever has it, as a crash or an expired lease does.
    pub fn depose(&self) {
        self.kept().leads = 0;
    }

    /// Loses the advisory memory.
    pub fn forget(&self) {
        self.kept().memory = None;
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn own(&self) -> MutexGuard<'_, u64> {
        self.own.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Coordination for MemoryCoordination {
    async fn acquire(&self) -> Result<Leadership> {
        let mut kept = self.kept();
        if kept.leads != 0 {
            return Err(Error::conflict("another engine leads this instance; stop it first"));
        }
        let clean = kept.term == 0 || kept.clean;
        kept.term += 1;
        kept.leads = kept.term;
        kept.clean = false;
        *self.own() = kept.term;
        Ok(Leadership::new(kept.term, clean, kept.memory.clone(), kept.intent.clone()))
    }

    fn holds(&self) -> bool {
        let own = *self.own();
        own != 0 && self.kept().leads == own
    }

    async fn save_intent(&self, intent: Value) -> Result<()> {
        self.kept().intent = intent;
        Ok(())
    }

    async fn save_memory(&self, memory: Value) -> Result<()> {
        self.kept().memory = Some(memory);
        Ok(())
    }

    async fn release(&self, clean: bool) -> Result<()> {
        if self.holds() {
            let mut kept = self.kept();
            kept.leads = 0;
            kept.clean = clean;
        }
        Ok(())
    }
}
