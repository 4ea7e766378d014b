//! What the queue speaks of. The same shapes on disk and on the wire.

use kubestack_core::marks::Marks;
use kubestack_core::time::Moment;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// A job as it is submitted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Submission {
    /// The label that is to run it.
    pub label: String,
    /// The command and its arguments; no shell in between.
    pub command: Vec<String>,
    /// Environment besides that of the agent.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Milliseconds after which it is ended and fails.
    #[serde(default)]
    pub timeout_ms: Option<u64>,
}

/// How far a job is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// It waits for an agent.
    Queued,
    /// It is on an agent.
    Running,
    /// It ended with exit status 0.
    Succeeded,
    /// It ended otherwise; its cause tells how.
    Failed,
    /// It was cancelled.
    Cancelled,
}

impl JobState {
    /// Whether nothing happens to it any more.
    pub fn has_ended(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }
}

impl fmt::Display for JobState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        })
    }
}

impl std::str::FromStr for JobState {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let all = [Self::Queued, Self::Running, Self::Succeeded, Self::Failed, Self::Cancelled];
        all.into_iter().find(|state| state.to_string() == text).ok_or_else(|| {
            format!("`{text}` is no state of a job; one of {}", all.map(|state| state.to_string()).join(", "))
        })
    }
}

/// A job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// Its number, growing with each submission.
    pub id: u64,
    /// What was submitted.
    #[serde(flatten)]
    pub submission: Submission,
    /// How far it is.
    pub state: JobState,
    /// When it was submitted.
    pub submitted: Moment,
    /// When it was leased last.
    pub started: Option<Moment>,
    /// When it ended.
    pub ended: Option<Moment>,
    /// How often an agent took it.
    pub attempts: u32,
    /// The agent that has it, or had it last.
    pub agent: Option<String>,
    /// The exit status of its command.
    pub exit_code: Option<i32>,
    /// Why it failed, or why it was queued again, in words.
    pub cause: Option<String>,
    /// Somebody wants it to end.
    #[serde(default)]
    pub cancelling: bool,
    /// Bytes of log kept.
    #[serde(default)]
    pub log_bytes: u64,
    /// Where the log of the last try begins.
    #[serde(default)]
    pub log_start: u64,
    /// Why it waits, as told by whoever launches agents; only shown, not kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// An agent that may take one job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentRecord {
    /// Its name.
    pub name: String,
    /// SHA-256 of its token, in hex: the token itself is kept nowhere.
    pub token_hash: String,
    /// What its label provides: it takes jobs for any of these.
    pub provides: BTreeSet<String>,
    /// The marks of whoever launched it.
    pub marks: Option<Marks>,
    /// It takes no job.
    pub drained: bool,
    /// It has had its one job.
    pub used: bool,
    /// The job on it.
    pub job: Option<u64>,
}

/// An agent as the API shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentInfo {
    /// Its name.
    pub name: String,
    /// It was heard of recently.
    pub online: bool,
    /// The job on it.
    pub job: Option<u64>,
    /// It has had its one job.
    pub used: bool,
    /// It takes no job.
    pub drained: bool,
    /// The marks of whoever launched it.
    pub marks: Option<Marks>,
}

/// Asks to expect an agent.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Enrol {
    /// What it takes jobs for.
    pub provides: BTreeSet<String>,
    /// Marks to keep with it.
    #[serde(default)]
    pub marks: Option<Marks>,
}

/// What lets an agent connect.
#[derive(Clone, Serialize, Deserialize)]
pub struct Enrolled {
    /// Its token. Told once.
    pub token: String,
}

/// Counters that grow with each change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revision {
    /// Of the jobs that wait.
    pub demand: u64,
    /// Of the agents.
    pub agents: u64,
}

/// One waiting job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    /// Its number.
    pub id: u64,
    /// Its label.
    pub label: String,
    /// Since when it waits.
    pub since: Moment,
}

/// How a job ended on its agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Outcome {
    /// The command's exit status, if it had one.
    pub exit_code: Option<i32>,
    /// Why it failed otherwise, in words.
    #[serde(default)]
    pub cause: Option<String>,
    /// It ended because it was cancelled.
    #[serde(default)]
    pub cancelled: bool,
}

/// The answer to an agent's heartbeat.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Beat {
    /// Its job is to end now.
    pub cancel: bool,
}
