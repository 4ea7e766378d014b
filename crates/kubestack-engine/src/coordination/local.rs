//! Coordination on one host: a lock file and one JSON file.

use super::DirectoryLock;
use kubestack_core::async_trait;
use kubestack_core::coordination::{Coordination, Leadership};
use kubestack_core::error::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What outlives the daemon.
#[derive(Clone, Default, Serialize, Deserialize)]
struct Kept {
    term: u64,
    /// The leader of that term stopped in good order.
    clean: bool,
    #[serde(default)]
    intent: Value,
    #[serde(default)]
    memory: Option<Value>,
}

/// The lead, while it is held.
struct Held {
    lock: DirectoryLock,
    kept: Kept,
}

/// Keeps the lead of one installation in a directory of this host.
pub struct LocalCoordination {
    dir: PathBuf,
    held: Mutex<Option<Held>>,
}

impl LocalCoordination {
    /// In that directory; made if it is not there.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into(), held: Mutex::new(None) }
    }

    fn held(&self) -> MutexGuard<'_, Option<Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn file(&self) -> PathBuf {
        self.dir.join("state.json")
    }

    /// The term alone, so that a damaged state file cannot make a term come twice.
    fn term_file(&self) -> PathBuf {
        self.dir.join("term")
    }

    fn read(&self) -> Result<Kept> {
        let path = self.file();
        let noted = match std::fs::read_to_string(self.term_file()) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            text => Some(text.ok().and_then(|text| text.trim().parse::<u64>().ok())),
        };
        let term = noted.flatten();
        let kept = match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice::<Kept>(&bytes).map_err(|error| error.to_string()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Kept::default()),
            Err(error) => return Err(fault("cannot read", &path, &error, "check its permissions")),
        };
        if kept.is_err() && term.is_none() {
            // A term used twice would give an agent's name twice. To guess is not safe; to ask is.
            return Err(Error::invalid(format!(
                "neither state.json nor term in {} can be read, so the last term is not known; write a number \
                 larger than the term of any agent (`<instance>-<label>-<term>-<serial>`) into the file term",
                self.dir.display()
            )));
        }
        let mut kept = kept.unwrap_or_else(|error| {
            let aside = self.dir.join(format!("state.damaged-{}", term.unwrap_or(0)));
            let _ = std::fs::rename(&path, &aside);
            tracing::error!(
                file = %aside.display(),
                "the state file was damaged ({error}) and was put aside; what the operator had asked for (pause, hold) is lost"
            );
            Kept::default()
        });
        kept.term = kept.term.max(term.unwrap_or(0));
        Ok(kept)
    }

    fn write(&self, kept: &Kept) -> Result<()> {
        let bytes = serde_json::to_vec_pretty(kept).map_err(|error| Error::bug(error.to_string()))?;
        replace(&self.file(), &bytes)
    }

    fn change(&self, change: impl FnOnce(&mut Kept)) -> Result<()> {
        let mut held = self.held();
        let held = held.as_mut().ok_or_else(|| Error::conflict("this daemon does not lead any more"))?;
        // What did not reach the disk is not kept, and must not reach it with a later change.
        let mut kept = held.kept.clone();
        change(&mut kept);
        self.write(&kept)?;
        held.kept = kept;
        Ok(())
    }
}

pub(super) fn fault(what: &str, path: &Path, error: &std::io::Error, advice: &str) -> Error {
    Error::new(ErrorKind::Invalid, format!("{what} {}: {error}; {advice}", path.display()))
}

/// Replaces a file such that a crash leaves the old content or the new one.
fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let temporary = path.with_extension("new");
    let write = || -> std::io::Result<()> {
        let mut file = File::create(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)?;
        let parent = path.parent().map(File::open).transpose()?;
        parent.map_or(Ok(()), |parent| parent.sync_all())
    };
    write().map_err(|error| fault("cannot write", path, &error, "free some space or check permissions"))
}

#[async_trait]
impl Coordination for LocalCoordination {
    async fn acquire(&self) -> Result<Leadership> {
        let lock = DirectoryLock::take(&self.dir)?;
        let mut kept = self.read()?;
        let clean = kept.term == 0 || kept.clean;
        kept.term += 1;
        kept.clean = false;
        // On disk before it is used: no two leaders ever have the same term.
        replace(&self.term_file(), kept.term.to_string().as_bytes())?;
        self.write(&kept)?;
        let leadership = Leadership::new(kept.term, clean, kept.memory.clone(), kept.intent.clone());
        *self.held() = Some(Held { lock, kept });
        Ok(leadership)
    }

    async fn peek(&self) -> Result<Leadership> {
        let path = self.file();
        let kept = match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice::<Kept>(&bytes)
                .map_err(|error| Error::invalid(format!("{} is damaged: {error}", path.display())))?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Kept::default(),
            Err(error) => return Err(fault("cannot read", &path, &error, "check its permissions")),
        };
        Ok(Leadership::new(kept.term + 1, kept.term == 0 || kept.clean, kept.memory, kept.intent))
    }

    fn holds(&self) -> bool {
        let held = self.held();
        held.as_ref().is_some_and(|held| held.lock.holds())
    }

    async fn save_intent(&self, intent: Value) -> Result<()> {
        self.change(|kept| kept.intent = intent)
    }

    async fn save_memory(&self, memory: Value) -> Result<()> {
        self.change(|kept| kept.memory = Some(memory))
    }

    async fn release(&self, clean: bool) -> Result<()> {
        let kept = if self.holds() { self.change(|kept| kept.clean = clean) } else { Ok(()) };
        *self.held() = None;
        kept
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn terms_grow_over_restarts_and_a_damaged_file() {
        let dir = tempfile::tempdir().unwrap();
        let mut last = 0;
        for round in 0..20 {
            let coordination = LocalCoordination::new(dir.path());
            let leadership = coordination.acquire().await.unwrap();
            assert!(leadership.term > last, "{} after {last}", leadership.term);
            last = leadership.term;
            if round % 5 == 4 {
                std::fs::write(dir.path().join("state.json"), b"{\"term\":").unwrap();
            }
        }
        assert!(dir.path().join("state.damaged-5").exists());
    }

    #[tokio::test]
    async fn a_second_daemon_is_refused_with_the_first_one_s_pid() {
        let dir = tempfile::tempdir().unwrap();
        let first = LocalCoordination::new(dir.path());
        first.acquire().await.unwrap();
        let error = LocalCoordination::new(dir.path()).acquire().await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Conflict);
        assert!(error.message.contains(&std::process::id().to_string()), "{error}");
    }

    #[tokio::test]
    async fn intent_survives_and_a_clean_stop_is_known() {
        let dir = tempfile::tempdir().unwrap();
        let first = LocalCoordination::new(dir.path());
        assert!(first.acquire().await.unwrap().clean_predecessor);
        first.save_intent(serde_json::json!({"paused": "x"})).await.unwrap();
        drop(first);
        let second = LocalCoordination::new(dir.path());
        let leadership = second.acquire().await.unwrap();
        assert!(!leadership.clean_predecessor, "the first one crashed");
        assert_eq!(leadership.intent, serde_json::json!({"paused": "x"}));
        second.release(true).await.unwrap();
        assert!(!second.holds());
        assert!(LocalCoordination::new(dir.path()).acquire().await.unwrap().clean_predecessor);
    }
}
