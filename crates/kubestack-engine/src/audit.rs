//! The audit record: one JSON line for each step, with its reason and how it ended.

use kubestack_core::name::AgentName;
use kubestack_core::time::Moment;
use kubestack_planner::{Reason, Step};
use serde::Serialize;
use std::io::Write;

/// One line of it.
#[derive(Serialize)]
pub struct Record<'a> {
    /// When, in microseconds since the Unix epoch.
    pub at: Moment,
    /// The leader's term.
    pub term: u64,
    /// The agent.
    pub agent: &'a AgentName,
    /// `launch`, `drain`…
    pub step: &'static str,
    /// `sent`, `done`, `failed`, `unknown`, `refused`.
    pub outcome: &'static str,
    /// The reason's stable word.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'static str>,
    /// The reason, or the error, in words.
    pub text: String,
}

/// Where the record goes.
pub(crate) struct Audit {
    sink: Option<Box<dyn Write + Send>>,
    pub term: u64,
}

impl Audit {
    pub fn new(sink: Option<Box<dyn Write + Send>>) -> Self {
        Self { sink, term: 0 }
    }

    /// A step was sent, for that reason.
    pub fn sent(&mut self, at: Moment, step: &Step, reason: &Reason) {
        tracing::info!(agent = %step.agent(), step = step.kind(), reason = reason.as_str(), "{reason}");
        let term = self.term;
        self.write(&Record {
            at,
            term,
            agent: step.agent(),
            step: step.kind(),
            outcome: "sent",
            reason: Some(reason.as_str()),
            text: reason.to_string(),
        });
    }

    /// A step ended.
    pub fn ended(
        &mut self,
        at: Moment,
        agent: &AgentName,
        step: &'static str,
        outcome: &'static str,
        text: String,
    ) {
        if outcome == "done" {
            tracing::debug!(%agent, step, outcome);
        } else {
            tracing::warn!(%agent, step, outcome, "{text}");
        }
        let term = self.term;
        self.write(&Record { at, term, agent, step, outcome, reason: None, text });
    }

    fn write(&mut self, record: &Record<'_>) {
        let Some(sink) = &mut self.sink else { return };
        let line = serde_json::to_string(record).unwrap_or_default();
        // A full disk must not stop the work; it is said once, then the record is given up.
        if let Err(error) = writeln!(sink, "{line}").and_then(|()| sink.flush()) {
            tracing::error!(%error, "the audit record cannot be written any more; free some space and restart");
            self.sink = None;
        }
    }
}
