//! Jobs, agents and logs on disk. Whatever returns `Ok` here survives a crash.
//!
//! Calls block for the time of one disk sync. They are short, and rare compared with what they wait for, so
//! they run where they are called: a thread per call would cost more than it saves.

use crate::model::{AgentRecord, Job};
use kubestack_core::error::{Error, ErrorKind, Result};
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use std::path::Path;

const JOBS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("jobs");
const AGENTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("agents");
/// (job, offset) → bytes.
const LOGS: TableDefinition<'_, (u64, u64), &[u8]> = TableDefinition::new("logs");

/// The database.
pub struct Store {
    db: Database,
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
    /// A log chunk to write: job, offset, bytes.
    pub log: Option<(u64, u64, &'a [u8])>,
}

impl Store {
    /// Opens the store, or makes a new one.
    ///
    /// # Errors
    /// If the file cannot be opened, or another process has it open; the text says what to do.
    pub fn open(path: &Path) -> Result<Self> {
        let shown = path.display();
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(|error| {
                Error::invalid(format!("cannot make {}: {error}; choose another data_dir", parent.display()))
            })?;
        }
        let db = Database::create(path).map_err(|error| {
            Error::invalid(format!(
                "cannot open the queue's store {shown}: {error}; is another daemon using it?"
            ))
        })?;
        let store = Self { db };
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
        let read = || -> std::result::Result<_, redb::Error> {
            let transaction = self.db.begin_read()?;
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
        let (jobs, agents) = read().map_err(|error| fault(&error))?;
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
            if let Some((job, offset, bytes)) = batch.log {
                transaction.open_table(LOGS)?.insert((job, offset), bytes)?;
            }
            Ok(())
        })
    }

    /// Log bytes of a job from `offset` on, at most about `most`.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn log(&self, job: u64, offset: u64, most: usize) -> Result<Vec<u8>> {
        let read = || -> std::result::Result<Vec<u8>, redb::Error> {
            let table = self.db.begin_read()?.open_table(LOGS)?;
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
        read().map_err(|error| fault(&error))
    }

    fn transact(
        &self,
        change: impl FnOnce(&redb::WriteTransaction) -> std::result::Result<(), redb::Error>,
    ) -> Result<()> {
        let run = || -> std::result::Result<(), redb::Error> {
            let transaction = self.db.begin_write()?;
            change(&transaction)?;
            // Immediate durability is redb's default: the commit returns after the sync.
            transaction.commit()?;
            Ok(())
        };
        run().map_err(|error| fault(&error))
    }
}

fn fault(error: &redb::Error) -> Error {
    let text = format!("the queue's store failed: {error}");
    let full = text.contains("No space left");
    let hint = if full { "; free some space on its disk" } else { "" };
    Error::new(ErrorKind::Transient, format!("{text}{hint}"))
}
