//! The table at the end of a demo.

use super::jobs::{DemoJob, Expected, LABELS};
use crate::show;
use kubestack_core::time::Moment;
use kubestack_queue::model::{Job, JobState};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// What stands before the name of an agent in a line that says what of it is left: a path's or a word's end.
const LEFT: char = '/';

/// Columns that the table needs for its words to stay whole.
const TABLE: u16 = 90;

/// What became of one label's jobs and agents.
#[derive(Debug, Default, Serialize)]
pub(super) struct LabelReport {
    pub label: String,
    pub jobs: u32,
    pub succeeded: u32,
    pub failed: BTreeMap<String, u32>,
    /// Milliseconds at p50 and p95.
    pub queued_to_running: (u64, u64),
    /// Milliseconds at p50 and p95.
    pub done_to_gone: (u64, u64),
    pub launched: u32,
    pub gone: u32,
    pub leaked: u32,
}

/// What became of everything.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub labels: Vec<LabelReport>,
    /// Jobs that did not end as expected, in words.
    pub unexpected: Vec<String>,
    /// Processes, directories, ports that are left, in words.
    pub left: Vec<String>,
    pub seconds: f64,
}

/// What was seen of one agent.
pub(super) struct Sighting {
    pub label: String,
    pub job: Option<String>,
    pub gone: Option<Moment>,
}

pub(super) fn report(
    mix: &[DemoJob],
    jobs: &[Job],
    agents: &BTreeMap<String, Sighting>,
    launched: &BTreeSet<String>,
    left: Vec<String>,
    took: Duration,
) -> Report {
    let ended: BTreeMap<String, Moment> =
        jobs.iter().filter_map(|job| Some((job.id.to_string(), job.ended?))).collect();
    let labels = LABELS.iter().map(|(label, _)| {
        let own: Vec<&Job> = jobs.iter().filter(|job| job.submission.label == *label).collect();
        let mine: Vec<&Sighting> = agents.values().filter(|agent| agent.label == *label).collect();
        let mut failed = BTreeMap::new();
        for job in own.iter().filter(|job| job.state != JobState::Succeeded) {
            *failed.entry(why(job)).or_insert(0) += 1;
        }
        let waits = own.iter().filter_map(|job| Some(job.started?.since(job.submitted)));
        let goes = mine.iter().filter_map(|agent| {
            let ended = ended.get(agent.job.as_ref()?)?;
            Some(agent.gone?.since(*ended))
        });
        let prefix = format!("demo-{label}-");
        let launched = || launched.iter().filter(|name| name.starts_with(&prefix));
        // By what is there in the end, not by what the engine shows.
        let is_left = |name: &&String| left.iter().any(|line| line.ends_with(&format!("{LEFT}{name}")));
        let leaked = count(launched().filter(is_left));
        let launched = count(launched());
        LabelReport {
            label: (*label).to_owned(),
            jobs: count(own.iter()),
            succeeded: count(own.iter().filter(|job| job.state == JobState::Succeeded)),
            failed,
            queued_to_running: percentiles(waits),
            done_to_gone: percentiles(goes),
            launched,
            gone: launched.saturating_sub(leaked),
            leaked,
        }
    });
    let unexpected = mix.iter().zip(jobs).filter(|(wanted, job)| !as_expected(wanted.expected, job));
    let unexpected = unexpected
        .map(|(wanted, job)| format!("job {}: expected {:?}, got {}", job.id, wanted.expected, why(job)));
    Report { labels: labels.collect(), unexpected: unexpected.collect(), left, seconds: took.as_secs_f64() }
}

fn as_expected(expected: Expected, job: &Job) -> bool {
    let cause = job.cause.as_deref().unwrap_or_default();
    match expected {
        Expected::Success => job.state == JobState::Succeeded,
        Expected::Exit(code) => job.state == JobState::Failed && job.exit_code == Some(code),
        Expected::TimeOut => job.state == JobState::Failed && cause.contains("timeout"),
        Expected::NoSuchCommand => job.state == JobState::Failed && cause.contains("cannot be started"),
    }
}

/// One or two words, fit to be counted.
fn why(job: &Job) -> String {
    let cause = job.cause.as_deref().unwrap_or_default();
    match (job.state, job.exit_code) {
        (JobState::Succeeded, _) => "success".to_owned(),
        (JobState::Failed, _) if cause.contains("timeout") => "timeout".to_owned(),
        (JobState::Failed, _) if cause.contains("cannot be started") => "no such command".to_owned(),
        (JobState::Failed, Some(code)) => format!("exit {code}"),
        (JobState::Failed, None) => "lost".to_owned(),
        (state, _) => format!("{state:?}").to_lowercase(),
    }
}

fn count<T>(items: impl Iterator<Item = T>) -> u32 {
    u32::try_from(items.count()).unwrap_or(u32::MAX)
}

fn percentiles(durations: impl Iterator<Item = Duration>) -> (u64, u64) {
    let mut millis: Vec<u64> = durations.map(|d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX)).collect();
    millis.sort_unstable();
    let at = |percent: usize| {
        let index = (millis.len() * percent).div_ceil(100).saturating_sub(1);
        millis.get(index).copied().unwrap_or(0)
    };
    (at(50), at(95))
}

impl Report {
    pub fn is_good(&self) -> bool {
        self.unexpected.is_empty()
            && self.left.is_empty()
            && self.labels.iter().all(|label| label.leaked == 0)
    }

    pub fn print(&self) {
        if show::is_narrower_than(TABLE) {
            self.print_blocks();
        } else {
            self.print_table();
        }
        show::line("(times are p50 / p95)");
        for line in &self.unexpected {
            show::line(&format!("unexpected: {line}"));
        }
        for line in &self.left {
            show::line(&format!("left behind: {line}"));
        }
        let jobs: u32 = self.labels.iter().map(|label| label.jobs).sum();
        let verdict = if self.is_good() {
            "every job ended as expected, nothing is left"
        } else {
            "this is not as it should be"
        };
        show::line(&format!("{jobs} jobs in {:.1} s: {verdict}", self.seconds));
    }

    fn print_table(&self) {
        let mut table = show::table(&[
            "label",
            "jobs",
            "succeeded",
            "failed",
            "queued→running",
            "done→gone",
            "launched",
            "gone",
            "leaked",
        ]);
        for label in &self.labels {
            table.add_row([
                label.label.clone(),
                label.jobs.to_string(),
                label.succeeded.to_string(),
                label.failures(),
                pair(label.queued_to_running),
                pair(label.done_to_gone),
                label.launched.to_string(),
                label.gone.to_string(),
                label.leaked.to_string(),
            ]);
        }
        show::line(&table.trim_fmt());
    }

    /// The same for a terminal on which the columns have no room.
    fn print_blocks(&self) {
        for label in &self.labels {
            let LabelReport { label: name, jobs, succeeded, launched, gone, leaked, .. } = label;
            show::line(name);
            show::line(&format!("  jobs {jobs}, succeeded {succeeded}, failed {}", label.failures()));
            show::line(&format!("  queued→running {}", pair(label.queued_to_running)));
            show::line(&format!("  done→gone {}", pair(label.done_to_gone)));
            show::line(&format!("  launched {launched}, gone {gone}, leaked {leaked}"));
        }
    }
}

impl LabelReport {
    fn failures(&self) -> String {
        let failed: Vec<String> = self.failed.iter().map(|(why, count)| format!("{count} {why}")).collect();
        if failed.is_empty() { "-".to_owned() } else { failed.join(", ") }
    }
}

/// p50 and p95.
fn pair((p50, p95): (u64, u64)) -> String {
    format!("{p50} / {p95} ms")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_of_an_agent_makes_it_leaked() {
        let launched = ["demo-quick-1-1", "demo-quick-1-11", "demo-steady-1-2"].map(str::to_owned).into();
        let report = |left: &[&str]| {
            let left = left.iter().map(|&line| line.to_owned()).collect();
            report(&[], &[], &BTreeMap::new(), &launched, left, Duration::ZERO)
        };
        assert!(report(&[]).is_good());
        for left in ["directory /x/local/demo-quick-1-11", "the queue's agents/demo-quick-1-11"] {
            let report = report(&[left]);
            let found: Vec<(u32, u32)> =
                report.labels.iter().map(|label| (label.gone, label.leaked)).collect();
            assert_eq!((found, report.is_good()), (vec![(1, 1), (1, 0), (0, 0)], false), "{left}");
        }
    }

    #[test]
    fn percentiles_are_values_that_occurred() {
        let durations = (1..=100).map(Duration::from_millis);
        assert_eq!(percentiles(durations), (50, 95));
        assert_eq!(percentiles(std::iter::empty()), (0, 0));
        assert_eq!(percentiles([Duration::from_millis(7)].into_iter()), (7, 7));
    }
}
