//! What a plugin asked of its system and what came back, taken down for somebody who wants to show it to others
//! (`kubestack check --online --record`). A plugin that takes part leaves out what is nobody's business **before** it adds
//! anything: secrets, names of hosts, and whatever it does not read itself.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// One question and its answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exchange {
    /// The name of the plugin's entry in the config.
    pub system: String,
    /// What was asked: `GET api/json`.
    pub asked: String,
    /// The status of the answer, in the protocol's own numbers.
    pub status: u16,
    /// What came with it, as far as the plugin reads it; names in lower case.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// The answer.
    pub body: String,
}

/// A transcript in the making. Its clones are one.
#[derive(Clone, Debug, Default)]
pub struct Transcript(Arc<Mutex<Vec<Exchange>>>);

impl Transcript {
    /// Takes down one exchange.
    pub fn add(&self, exchange: Exchange) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(exchange);
    }

    /// All of them so far.
    pub fn exchanges(&self) -> Vec<Exchange> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
