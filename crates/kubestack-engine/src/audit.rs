//! The audit record: one JSON line for each step, with its reason and how it ended; and a file for it.

use kubestack_core::name::AgentName;
use kubestack_core::time::Moment;
use kubestack_planner::{Reason, Step};
use serde::Serialize;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

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
    /// Lines that could not be written since the last one that could.
    lost: u64,
}

impl Audit {
    pub fn new(sink: Option<Box<dyn Write + Send>>) -> Self {
        Self { sink, term: 0, lost: 0 }
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

    /// An agent failed, for that cause; or, under another word, what is known of it besides.
    pub fn failed(&mut self, at: Moment, agent: &AgentName, cause: &'static str, text: String) {
        tracing::warn!(%agent, cause, "failed: {text}");
        let term = self.term;
        self.write(&Record { at, term, agent, step: "agent", outcome: "failed", reason: Some(cause), text });
    }

    fn write(&mut self, record: &Record<'_>) {
        let Some(sink) = &mut self.sink else { return };
        let mut line = serde_json::to_vec(record).unwrap_or_default();
        line.push(b'\n');
        // A full disk must not stop the work. It is said once, not for each line.
        match sink.write_all(&line).and_then(|()| sink.flush()) {
            Err(error) => {
                if self.lost == 0 {
                    tracing::error!(%error, "the audit record cannot be written; free some space, its lines are lost until then");
                }
                self.lost += 1;
            }
            Ok(()) if self.lost > 0 => {
                tracing::warn!(lost = self.lost, "the audit record is written again");
                self.lost = 0;
            }
            Ok(()) => {}
        }
    }
}

/// A file of JSON lines that does not grow for ever: once it is full it is put aside as `<name>.1`, in place
/// of the one put aside before, and a new one begins.
#[derive(Debug)]
pub struct AuditFile {
    path: PathBuf,
    file: File,
    size: u64,
    most: u64,
}

impl AuditFile {
    /// Goes on with that file, or begins it, readable for its owner only. It is put aside at `most` bytes.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub fn open(path: impl Into<PathBuf>, most: u64) -> io::Result<Self> {
        let path = path.into();
        let file = OpenOptions::new().create(true).append(true).mode(0o600).open(&path)?;
        let size = file.metadata()?.len();
        Ok(Self { path, file, size, most })
    }
}

impl Write for AuditFile {
    /// All of it or nothing: a line cut in the middle would spoil the next one too.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.size >= self.most {
            let mut aside = self.path.clone().into_os_string();
            aside.push(".1");
            std::fs::rename(&self.path, aside)?;
            *self = Self::open(&self.path, self.most)?;
        }
        if let Err(error) = self.file.write_all(line) {
            let _ = self.file.set_len(self.size);
            return Err(error);
        }
        self.size += line.len() as u64;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    fn record(audit: &mut Audit, number: u64) {
        audit.ended(Moment::from_millis(number), &"a".into(), "launch", "done", String::new());
    }

    #[test]
    fn a_file_is_put_aside_when_it_is_full_and_no_line_is_cut() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.jsonl");
        let read = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap_or_default();
        for round in 0..5 {
            // A restart goes on where the last one stopped.
            let mut audit = Audit::new(Some(Box::new(AuditFile::open(&path, 300).unwrap())));
            for number in 0..3 {
                record(&mut audit, round * 3 + number);
            }
        }
        let (now, before) = (read("audit.jsonl"), read("audit.jsonl.1"));
        assert!(now.len() < 400 && before.len() < 400, "{now}{before}");
        let lines = before.lines().chain(now.lines());
        let at =
            |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["at"].as_u64().unwrap();
        let seen: Vec<u64> = lines.map(|line| at(line) / 1000).collect();
        assert!(seen.len() > 3 && seen.is_sorted() && seen.last() == Some(&14), "{seen:?}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
    }

    /// A disk that is full while the flag is set.
    struct Disk(Arc<Mutex<(bool, Vec<u8>)>>);

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let mut disk = self.0.lock().unwrap();
            if disk.0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            disk.1.extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn the_record_goes_on_once_the_disk_has_room_again() {
        let disk = Arc::new(Mutex::new((false, Vec::new())));
        let mut audit = Audit::new(Some(Box::new(Disk(disk.clone()))));
        for (number, full) in [(1, false), (2, true), (3, true), (4, false)] {
            disk.lock().unwrap().0 = full;
            record(&mut audit, number);
        }
        assert_eq!(audit.lost, 0);
        assert_eq!(String::from_utf8_lossy(&disk.lock().unwrap().1).lines().count(), 2);
    }
}
