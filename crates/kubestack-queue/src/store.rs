//! Jobs, agents and logs on disk. Whatever returns `Ok` here survives a crash.
//!
//! Calls block for the time of one disk sync. They are short, and rare compared with what they wait for, so
//! they run where they are called: a thread per call would cost more than it saves.

use crate::model::{AgentRecord, Job};
use kubestack_core::error::{Error, Result};
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};

const JOBS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("jobs");
const AGENTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("agents");
/// (job, offset) → bytes.
const LOGS: TableDefinition<'_, (u64, u64), &[u8]> = TableDefinition::new("logs");

/// The database.
pub struct Store {
    path: PathBuf,
    /// None once it has failed: redb does nothing more with a database after an I/O error, so that it is
    /// opened anew for the next call. A disk that was full may have room again.
    db: RwLock<Option<Database>>,
}

/// Changes that are made together or not at all.
#[derive(Default)]
pub struct Batch<'a> {
    /// Jobs to write.
    pub jobs: Vec<&'a Job>,
    /// Agents to write.
    pub agents: Vec<&'a AgentRecord>,
    /// Agents to remove.
    pub removed: Vec<&'a str>,
    /// Jobs to remove, with their logs.
    pub forgotten: Vec<u64>,
    /// A log chunk to write: job, offset, bytes.
    pub log: Option<(u64, u64, &'a [u8])>,
}

impl Store {
    /// Opens the store, or makes a new one.
    ///
    /// # Errors
    /// If the file cannot be opened, or another process has it open; the text says what to do.
    pub fn open(path: &Path) -> Result<Self> {
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(|error| {
                Error::invalid(format!("cannot make {}: {error}; choose another data_dir", parent.display()))
            })?;
        }
        let db = Database::create(path).map_err(|error| unopened(path, &error))?;
        let store = Self { path: path.to_owned(), db: RwLock::new(Some(db)) };
        // Tables exist from the start, so that reading an empty store is no special case.
        store.transact(|transaction| {
            transaction.open_table(JOBS)?;
            transaction.open_table(AGENTS)?;
            transaction.open_table(LOGS)?;
            Ok(())
        })?;
        Ok(store)
    }

    /// All jobs and agents.
    ///
    /// # Errors
    /// If the store cannot be read or holds what this version does not understand.
    pub fn load(&self) -> Result<(Vec<Job>, Vec<AgentRecord>)> {
        let read = |db: &Database| -> std::result::Result<_, redb::Error> {
            let transaction = db.begin_read()?;
            let jobs = transaction.open_table(JOBS)?;
            let agents = transaction.open_table(AGENTS)?;
            let mut raw = (Vec::new(), Vec::new());
            for entry in jobs.iter()? {
                raw.0.push(entry?.1.value().to_vec());
            }
            for entry in agents.iter()? {
                raw.1.push(entry?.1.value().to_vec());
            }
            Ok(raw)
        };
        let (jobs, agents) = self.with(read)?;
        let broken = |error: serde_json::Error| {
            Error::bug(format!("the store holds what this version cannot read: {error}"))
        };
        let jobs = jobs.iter().map(|raw| serde_json::from_slice(raw)).collect::<std::result::Result<_, _>>();
        let agents =
            agents.iter().map(|raw| serde_json::from_slice(raw)).collect::<std::result::Result<_, _>>();
        Ok((jobs.map_err(broken)?, agents.map_err(broken)?))
    }

    /// Makes these changes together.
    ///
    /// # Errors
    /// If they could not be made durable; then none of them was made.
    pub fn write(&self, batch: &Batch<'_>) -> Result<()> {
        self.transact(|transaction| {
            let mut jobs = transaction.open_table(JOBS)?;
            for job in &batch.jobs {
                jobs.insert(job.id, serde_json::to_vec(job).unwrap_or_default().as_slice())?;
            }
            let mut agents = transaction.open_table(AGENTS)?;
            for agent in &batch.agents {
                agents
                    .insert(agent.name.as_str(), serde_json::to_vec(agent).unwrap_or_default().as_slice())?;
            }
            for name in &batch.removed {
                agents.remove(name)?;
            }
            let mut logs = transaction.open_table(LOGS)?;
            for id in &batch.forgotten {
                jobs.remove(id)?;
                logs.retain_in((*id, 0)..=(*id, u64::MAX), |_, _| false)?;
            }
            if let Some((job, offset, bytes)) = batch.log {
                logs.insert((job, offset), bytes)?;
            }
            Ok(())
        })
    }

    /// Log bytes of a job from `offset` on, at most about `most`.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn log(&self, job: u64, offset: u64, most: usize) -> Result<Vec<u8>> {
        let read = |db: &Database| -> std::result::Result<Vec<u8>, redb::Error> {
            let table = db.begin_read()?.open_table(LOGS)?;
            // The chunk that holds `offset` may begin before it.
            let first = table.range((job, 0)..=(job, offset))?.next_back();
            let first = first.transpose()?.map_or((job, offset), |(key, _)| key.value());
            let mut bytes = Vec::new();
            for entry in table.range(first..=(job, u64::MAX))? {
                let (key, chunk) = entry?;
                let skip = usize::try_from(offset.saturating_sub(key.value().1)).unwrap_or(usize::MAX);
                bytes.extend_from_slice(chunk.value().get(skip..).unwrap_or_default());
                if bytes.len() >= most {
                    break;
                }
            }
            bytes.truncate(most);
            Ok(bytes)
        };
        self.with(read)
    }

    fn transact(
        &self,
        change: impl FnOnce(&redb::WriteTransaction) -> std::result::Result<(), redb::Error>,
    ) -> Result<()> {
        self.with(|db| {
            let transaction = db.begin_write()?;
            change(&transaction)?;
            // Immediate durability is redb's default: the commit returns after the sync.
            transaction.commit()?;
            Ok(())
        })
    }

    /// Works with the database, which is opened anew if it failed before.
    fn with<T>(&self, work: impl FnOnce(&Database) -> std::result::Result<T, redb::Error>) -> Result<T> {
        if self.db.read().unwrap_or_else(PoisonError::into_inner).is_none() {
            let mut db = self.db.write().unwrap_or_else(PoisonError::into_inner);
            if db.is_none() {
                *db = Some(Database::create(&self.path).map_err(|error| unopened(&self.path, &error))?);
                tracing::debug!("the queue's store is open again");
            }
        }
        let db = self.db.read().unwrap_or_else(PoisonError::into_inner);
        let outcome = work(db.as_ref().ok_or_else(|| fault(&redb::Error::PreviousIo))?);
        drop(db);
        if let Err(redb::Error::Io(_) | redb::Error::PreviousIo) = &outcome {
            *self.db.write().unwrap_or_else(PoisonError::into_inner) = None;
        }
        outcome.map_err(|error| fault(&error))
    }
}

fn unopened(path: &Path, error: &redb::DatabaseError) -> Error {
    use redb::{DatabaseError, StorageError};
    let hint = match error {
        DatabaseError::DatabaseAlreadyOpen => {
            "; another daemon uses it: stop that one, or choose another `data_dir`"
        }
        DatabaseError::Storage(StorageError::Io(error)) => hint(error),
        _ => "",
    };
    Error::transient(format!("cannot open the queue's store {}: {error}{hint}", path.display()))
}

fn fault(error: &redb::Error) -> Error {
    let hint = if let redb::Error::Io(error) = error { hint(error) } else { "" };
    Error::transient(format!("the queue's store failed: {error}{hint}"))
}

/// What to do about it.
fn hint(error: &std::io::Error) -> &'static str {
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
            "; free some space there, and it goes on"
        }
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
            "; make it writable for the daemon's user"
        }
        _ => "",
    }
}
