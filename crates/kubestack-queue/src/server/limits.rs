//! How much the queue takes: of one job, of all that wait, and of those that have ended.

use crate::model::{Job, Submission};
use kubestack_core::error::{Error, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Limits and times.
#[derive(Clone, Copy, Debug)]
pub struct QueueOptions {
    /// An agent that is silent for so long is dead, and its job is queued again.
    pub lease: Duration,
    /// A job whose agents died that often fails.
    pub attempts: u32,
    /// Bytes of log kept per job.
    pub log_bytes: u64,
    /// Jobs that may wait at once.
    pub waiting: usize,
    /// Bytes that the commands and environments of waiting jobs may take.
    pub waiting_bytes: usize,
    /// Jobs that have ended and are kept to be looked at; beyond that the oldest are forgotten.
    pub ended: usize,
    /// Bytes of log that all ended jobs may take; beyond that the oldest are forgotten.
    pub ended_log_bytes: u64,
}

impl Default for QueueOptions {
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(20),
            attempts: 3,
            log_bytes: 16 << 20,
            waiting: 100_000,
            waiting_bytes: 256 << 20,
            ended: 10_000,
            ended_log_bytes: 4 << 30,
        }
    }
}

/// Longer names of labels are no names.
const LABEL: usize = 200;
/// Ended jobs forgotten at once: more would keep everybody else waiting.
const AT_ONCE: usize = 1_000;

/// Whether the job can be run at all.
pub(super) fn check(job: &Submission) -> Result<()> {
    let wrong = |text: &str| Err(Error::invalid(text));
    if job.command.first().is_none_or(String::is_empty) {
        return wrong("the command is empty; name a program");
    }
    if job.label.is_empty() {
        return wrong("the label is empty; name the label that is to run the job");
    }
    if job.label.len() > LABEL {
        return wrong("the label is longer than 200 bytes; name one of the config");
    }
    if job.command.iter().chain(job.env.values()).any(|text| text.contains('\0')) {
        return wrong("a NUL character stands in the command or environment; no program can be given one");
    }
    if let Some(name) = job.env.keys().find(|name| name.is_empty() || name.contains(['=', '\0'])) {
        let name = name.escape_default();
        return Err(Error::invalid(format!("`{name}` is no name for an environment variable")));
    }
    if job.timeout_ms == Some(0) {
        return wrong("the timeout is zero; leave it out, or give the job some time");
    }
    Ok(())
}

/// About how much memory the job's own words take.
pub(super) fn size(job: &Job) -> usize {
    let Submission { label, command, env, .. } = &job.submission;
    let words = command.iter().chain(env.keys()).chain(env.values()).chain([label]);
    words.map(String::len).sum()
}

/// Jobs that wait, oldest first, and how much they take.
#[derive(Default)]
pub(super) struct Line {
    ids: BTreeSet<u64>,
    bytes: usize,
}

impl Line {
    pub fn insert(&mut self, job: &Job) {
        if self.ids.insert(job.id) {
            self.bytes += size(job);
        }
    }

    pub fn remove(&mut self, job: &Job) {
        if self.ids.remove(&job.id) {
            self.bytes = self.bytes.saturating_sub(size(job));
        }
    }

    pub fn ids(&self) -> impl Iterator<Item = &u64> {
        self.ids.iter()
    }

    pub fn is_full(&self, options: &QueueOptions) -> bool {
        self.ids.len() >= options.waiting || self.bytes >= options.waiting_bytes
    }
}

/// The oldest of the ended jobs that are too many, or whose logs are too much.
pub(super) fn to_forget(jobs: &BTreeMap<u64, Job>, options: &QueueOptions) -> Vec<u64> {
    let ended = || jobs.values().filter(|job| job.state.has_ended());
    let (count, bytes) =
        ended().fold((0_usize, 0_u64), |(count, bytes), job| (count + 1, bytes + job.log_bytes));
    let mut jobs_over = count.saturating_sub(options.ended);
    let mut bytes_over = bytes.saturating_sub(options.ended_log_bytes);
    let mut forgotten = Vec::new();
    // The newest job stays: the next one is numbered after it.
    let newest = jobs.last_key_value().map(|(id, _)| *id);
    for job in ended().filter(|job| Some(job.id) != newest).take(AT_ONCE) {
        if jobs_over == 0 && bytes_over == 0 {
            break;
        }
        jobs_over = jobs_over.saturating_sub(1);
        bytes_over = bytes_over.saturating_sub(job.log_bytes);
        forgotten.push(job.id);
    }
    forgotten
}
