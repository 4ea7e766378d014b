//! What the queue does: every rule in one place, under one lock, written to disk before it is answered.

use super::limits::{self, Line, QueueOptions};
use crate::model::{
    AgentInfo, AgentRecord, Beat, Enrol, Enrolled, Job, JobState, Outcome, Revision, Submission, Waiting,
};
use crate::store::{Batch, Store};
use kubestack_core::context::Clock;
use kubestack_core::error::{Error, Result};
use kubestack_core::time::Moment;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use subtle::ConstantTimeEq;
use tokio::sync::watch;

/// Bytes of commands and environments in one answer; more comes with the next page.
const PAGE_BYTES: usize = 4 << 20;

/// What a job that wrote more than is kept ends its log with.
const TRUNCATED: &[u8] = b"\n[log truncated: the limit per job is reached]\n";

#[derive(Default)]
struct State {
    jobs: BTreeMap<u64, Job>,
    queued: Line,
    agents: BTreeMap<String, AgentRecord>,
    /// Heard of since this server started; silence is counted from here on.
    heard: BTreeMap<String, Moment>,
    reasons: BTreeMap<String, String>,
}

/// The queue.
pub struct Queue {
    store: Store,
    clock: Arc<dyn Clock>,
    operator: SecretString,
    options: QueueOptions,
    state: Mutex<State>,
    revision: watch::Sender<Revision>,
}

/// Whether the tokens are the same, in time that does not tell where they differ.
fn same(a: &str, b: &str) -> bool {
    a.as_bytes().ct_eq(b.as_bytes()).into()
}

fn hash(token: &str) -> String {
    Sha256::digest(token.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// 256 bits from the system's source of randomness.
fn fresh_token() -> Result<String> {
    let mut bytes = [0_u8; 32];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .map_err(|error| Error::bug(format!("the system gives no random numbers: {error}")))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

impl Queue {
    /// Takes over what the store holds. Agents that had a job when it was last written get a fresh lease.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn new(
        store: Store,
        clock: Arc<dyn Clock>,
        operator: SecretString,
        options: QueueOptions,
    ) -> Result<Arc<Self>> {
        let (jobs, agents) = store.load()?;
        let now = clock.now();
        let mut state = State::default();
        for agent in agents {
            if agent.job.is_some() {
                state.heard.insert(agent.name.clone(), now);
            }
            state.agents.insert(agent.name.clone(), agent);
        }
        for job in jobs {
            if job.state == JobState::Queued {
                state.queued.insert(&job);
            }
            state.jobs.insert(job.id, job);
        }
        let (revision, _) = watch::channel(Revision::default());
        Ok(Arc::new(Self { store, clock, operator, options, state: Mutex::new(state), revision }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn changed(&self, demand: bool, agents: bool) {
        self.revision.send_modify(|revision| {
            revision.demand += u64::from(demand);
            revision.agents += u64::from(agents);
        });
    }

    /// Tells of changes.
    pub fn revisions(&self) -> watch::Receiver<Revision> {
        self.revision.subscribe()
    }

    /// Whether that is the operator's token.
    pub fn is_operator(&self, token: &str) -> bool {
        same(&hash(token), &hash(self.operator.expose_secret()))
    }

    /// The agent with that token.
    pub fn agent_of(&self, token: &str) -> Option<String> {
        let hash = hash(token);
        let state = self.state();
        state.agents.values().find(|agent| same(&agent.token_hash, &hash)).map(|agent| agent.name.clone())
    }

    /// Puts a job into the queue.
    ///
    /// # Errors
    /// If it makes no sense, the queue is full, or it cannot be kept.
    pub fn submit(&self, submission: Submission) -> Result<Job> {
        limits::check(&submission)?;
        let mut state = self.state();
        if state.queued.is_full(&self.options) {
            return Err(Error::transient("the queue is full; try again once jobs have ended"));
        }
        let id = state.jobs.last_key_value().map_or(1, |(id, _)| id + 1);
        let job = Job {
            id,
            submission,
            state: JobState::Queued,
            submitted: self.clock.now(),
            started: None,
            ended: None,
            attempts: 0,
            agent: None,
            exit_code: None,
            cause: None,
            cancelling: false,
            log_bytes: 0,
            log_start: 0,
            why: None,
        };
        self.store.write(&Batch { jobs: vec![&job], ..Batch::default() })?;
        state.queued.insert(&job);
        state.jobs.insert(id, job.clone());
        drop(state);
        self.changed(true, false);
        Ok(job)
    }

    /// One job, with the reason why it waits.
    ///
    /// # Errors
    /// If there is none.
    pub fn job(&self, id: u64) -> Result<Job> {
        let state = self.state();
        let mut job = state.jobs.get(&id).cloned().ok_or_else(|| no_job(id))?;
        if job.state == JobState::Queued {
            job.why = state.reasons.get(&job.submission.label).cloned();
        }
        Ok(job)
    }

    /// Jobs with a larger number than `after`, in order: at most that many, and no more than fit into an answer.
    pub fn jobs(&self, after: u64, limit: usize) -> Vec<Job> {
        let mut room = PAGE_BYTES;
        let fits = |job: &&Job| {
            let had_room = room > 0;
            room = room.saturating_sub(limits::size(job));
            had_room
        };
        let state = self.state();
        let jobs = state.jobs.range(after.saturating_add(1)..).map(|(_, job)| job);
        let ids: Vec<u64> = jobs.take(limit).take_while(fits).map(|job| job.id).collect();
        drop(state);
        ids.into_iter().filter_map(|id| self.job(id).ok()).collect()
    }

    /// Wants the job to end.
    ///
    /// # Errors
    /// If there is none, or the wish cannot be kept.
    pub fn cancel(&self, id: u64) -> Result<Job> {
        let mut state = self.state();
        let mut job = state.jobs.get(&id).cloned().ok_or_else(|| no_job(id))?;
        match job.state {
            JobState::Queued => {
                job.state = JobState::Cancelled;
                job.ended = Some(self.clock.now());
            }
            JobState::Running => job.cancelling = true,
            _ => return Ok(job),
        }
        self.store.write(&Batch { jobs: vec![&job], ..Batch::default() })?;
        state.queued.remove(&job);
        state.jobs.insert(id, job.clone());
        drop(state);
        self.changed(true, true);
        Ok(job)
    }

    /// Log bytes from `offset` on.
    ///
    /// # Errors
    /// If there is no such job, or the store cannot be read.
    pub fn log(&self, id: u64, offset: u64, most: usize) -> Result<Vec<u8>> {
        if !self.state().jobs.contains_key(&id) {
            return Err(no_job(id));
        }
        self.store.log(id, offset, most)
    }

    /// Jobs that wait, oldest first.
    pub fn waiting(&self) -> Vec<Waiting> {
        let state = self.state();
        let jobs = state.queued.ids().filter_map(|id| state.jobs.get(id));
        jobs.map(|job| Waiting { id: job.id, label: job.submission.label.clone(), since: job.submitted })
            .collect()
    }

    /// All agents.
    pub fn agents(&self) -> Vec<AgentInfo> {
        let state = self.state();
        let now = self.clock.now();
        let online =
            |name: &str| state.heard.get(name).is_some_and(|heard| now.since(*heard) < self.options.lease);
        let agents = state.agents.values().map(|agent| AgentInfo {
            name: agent.name.clone(),
            online: online(&agent.name),
            job: agent.job,
            used: agent.used,
            drained: agent.drained,
            marks: agent.marks.clone(),
        });
        agents.collect()
    }

    /// Expects an agent of that name.
    ///
    /// # Errors
    /// If there is one already.
    pub fn enrol(&self, name: &str, enrol: Enrol) -> Result<Enrolled> {
        let token = fresh_token()?;
        let agent = AgentRecord {
            name: name.to_owned(),
            token_hash: hash(&token),
            provides: enrol.provides,
            marks: enrol.marks,
            drained: false,
            used: false,
            job: None,
        };
        let mut state = self.state();
        if state.agents.contains_key(name) {
            return Err(Error::conflict(format!("there is an agent called {name} already")));
        }
        self.store.write(&Batch { agents: vec![&agent], ..Batch::default() })?;
        state.agents.insert(name.to_owned(), agent);
        drop(state);
        self.changed(false, true);
        Ok(Enrolled { token })
    }

    /// Gives the agent no job any more.
    ///
    /// # Errors
    /// If there is none, or that cannot be kept.
    pub fn drain(&self, name: &str) -> Result<()> {
        let mut state = self.state();
        let mut agent = state.agents.get(name).cloned().ok_or_else(|| no_agent(name))?;
        agent.drained = true;
        self.store.write(&Batch { agents: vec![&agent], ..Batch::default() })?;
        state.agents.insert(name.to_owned(), agent);
        drop(state);
        self.changed(false, true);
        Ok(())
    }

    /// Forgets the agent. Its job, if `despite_busy` allows for one, is queued again or fails.
    ///
    /// # Errors
    /// If it is busy, or that cannot be kept.
    pub fn remove(&self, name: &str, despite_busy: bool) -> Result<()> {
        let mut state = self.state();
        let Some(agent) = state.agents.get(name).cloned() else { return Ok(()) };
        if agent.job.is_some() && !despite_busy {
            return Err(Error::conflict(format!("agent {name} has a job")));
        }
        let job = agent.job.and_then(|id| state.jobs.get(&id).cloned());
        let job = job.map(|job| self.lost(job, &format!("its agent {name} was taken away")));
        self.store.write(&Batch { jobs: job.iter().collect(), removed: vec![name], ..Batch::default() })?;
        state.agents.remove(name);
        state.heard.remove(name);
        self.put_back(&mut state, job);
        drop(state);
        self.changed(true, true);
        Ok(())
    }

    /// The job after its agent was lost: queued again, or failed once that happened too often.
    fn lost(&self, mut job: Job, why: &str) -> Job {
        if job.cancelling {
            job.state = JobState::Cancelled;
            job.ended = Some(self.clock.now());
        } else if job.attempts >= self.options.attempts {
            job.state = JobState::Failed;
            job.ended = Some(self.clock.now());
            job.cause = Some(format!("{why}; it was tried {} times", job.attempts));
        } else {
            job.state = JobState::Queued;
            job.cause =
                Some(format!("{why}; queued again after try {} of {}", job.attempts, self.options.attempts));
        }
        job
    }

    fn put_back(&self, state: &mut State, job: Option<Job>) {
        if let Some(job) = job {
            if job.state == JobState::Queued {
                state.queued.insert(&job);
            }
            state.jobs.insert(job.id, job);
        }
    }

    /// Why jobs wait, by label.
    pub fn explain(&self, reasons: BTreeMap<String, String>) {
        self.state().reasons = reasons;
    }

    /// An agent asks for its one job. `None`: not yet.
    ///
    /// # Errors
    /// [`Conflict`](kubestack_core::error::ErrorKind::Conflict) if it gets none any more: it is drained or has had its job.
    pub fn lease(&self, name: &str) -> Result<Option<Job>> {
        let mut state = self.state();
        let mut agent = state.agents.get(name).cloned().ok_or_else(|| no_agent(name))?;
        let attached = state.heard.insert(name.to_owned(), self.clock.now()).is_none();
        if let Some(job) = agent.job.and_then(|id| state.jobs.get(&id)) {
            // The answer to its first call was lost.
            return Ok(Some(job.clone()));
        }
        if agent.used || agent.drained {
            return Err(Error::conflict("no job for this agent any more: it had one, or is drained"));
        }
        let fits =
            |id: &&u64| state.jobs.get(id).is_some_and(|job| agent.provides.contains(&job.submission.label));
        let Some(mut job) = state.queued.ids().find(fits).and_then(|id| state.jobs.get(id)).cloned() else {
            drop(state);
            if attached {
                self.changed(false, true);
            }
            return Ok(None);
        };
        job.state = JobState::Running;
        job.started = Some(self.clock.now());
        job.attempts += 1;
        job.agent = Some(name.to_owned());
        job.log_start = job.log_bytes;
        agent.used = true;
        agent.job = Some(job.id);
        self.store.write(&Batch { jobs: vec![&job], agents: vec![&agent], ..Batch::default() })?;
        state.queued.remove(&job);
        state.jobs.insert(job.id, job.clone());
        state.agents.insert(name.to_owned(), agent);
        drop(state);
        self.changed(true, true);
        Ok(Some(job))
    }

    /// An agent lives.
    ///
    /// # Errors
    /// If it is not known, or has lost its job: then it is to end.
    pub fn beat(&self, name: &str) -> Result<Beat> {
        let mut state = self.state();
        let agent = state.agents.get(name).ok_or_else(|| no_agent(name))?;
        let job = agent.job.and_then(|id| state.jobs.get(&id));
        let job = job.ok_or_else(|| Error::conflict("this agent has no job any more"))?;
        let cancel = job.cancelling;
        state.heard.insert(name.to_owned(), self.clock.now());
        Ok(Beat { cancel })
    }

    /// Milliseconds for which an agent's call may be held back: held longer, a live agent would look dead.
    pub(super) fn silence(&self) -> u64 {
        u64::try_from((self.options.lease / 3).as_millis()).unwrap_or(u64::MAX)
    }

    /// Whether the agent's job is to end, or is gone. No sign of life.
    pub fn is_to_end(&self, name: &str) -> bool {
        let state = self.state();
        let job = state.agents.get(name).and_then(|agent| agent.job).and_then(|id| state.jobs.get(&id));
        job.is_none_or(|job| job.cancelling)
    }

    /// Keeps log bytes of the agent's job that begin at `offset`; those known already are passed over.
    ///
    /// # Errors
    /// If it has no job, there is a gap, or they cannot be kept.
    pub fn append(&self, name: &str, offset: u64, bytes: &[u8]) -> Result<()> {
        let mut state = self.state();
        let id = state.agents.get(name).ok_or_else(|| no_agent(name))?.job;
        state.heard.insert(name.to_owned(), self.clock.now());
        let mut job = id
            .and_then(|id| state.jobs.get(&id).cloned())
            .ok_or_else(|| Error::conflict("this agent has no job any more"))?;
        let known = job.log_bytes;
        // An agent counts from the beginning of its own try; what earlier tries wrote stays.
        let offset = job.log_start.saturating_add(offset);
        if known > self.options.log_bytes {
            return Ok(());
        }
        if offset > known {
            return Err(Error::conflict(format!(
                "the log of this try is known up to byte {} only; send from there",
                known - job.log_start
            )));
        }
        let skip = usize::try_from(known - offset).unwrap_or(usize::MAX);
        let fresh = bytes.get(skip..).unwrap_or_default();
        let room = self.options.log_bytes.saturating_sub(known);
        if fresh.is_empty() {
            return Ok(());
        }
        let mut kept = fresh.get(..usize::try_from(room).unwrap_or(usize::MAX)).unwrap_or(fresh).to_vec();
        if kept.len() < fresh.len() {
            kept.extend_from_slice(TRUNCATED);
        }
        job.log_bytes = known + kept.len() as u64;
        self.store.write(&Batch {
            jobs: vec![&job],
            log: Some((job.id, known, &kept)),
            ..Batch::default()
        })?;
        state.jobs.insert(job.id, job);
        drop(state);
        self.changed(false, false);
        Ok(())
    }

    /// The agent's job ended.
    ///
    /// # Errors
    /// If the agent has no job, or it cannot be kept.
    pub fn result(&self, name: &str, outcome: &Outcome) -> Result<()> {
        let mut state = self.state();
        let mut agent = state.agents.get(name).cloned().ok_or_else(|| no_agent(name))?;
        let Some(id) = agent.job else {
            // A repeated report of a job that is over.
            return if agent.used { Ok(()) } else { Err(Error::conflict("this agent has no job")) };
        };
        let mut job = state.jobs.get(&id).cloned().ok_or_else(|| no_job(id))?;
        job.state = match (outcome.cancelled, outcome.exit_code) {
            (true, _) => JobState::Cancelled,
            (false, Some(0)) if outcome.cause.is_none() => JobState::Succeeded,
            _ => JobState::Failed,
        };
        job.exit_code = outcome.exit_code;
        job.cause.clone_from(&outcome.cause);
        job.ended = Some(self.clock.now());
        agent.job = None;
        self.store.write(&Batch { jobs: vec![&job], agents: vec![&agent], ..Batch::default() })?;
        state.jobs.insert(id, job);
        state.agents.insert(name.to_owned(), agent);
        drop(state);
        self.changed(false, true);
        Ok(())
    }

    /// Queues jobs again whose agents are silent for too long, and forgets ended ones that are too many.
    /// Returns when to look again.
    pub fn expire(&self) -> Duration {
        let now = self.clock.now();
        let mut state = self.state();
        let silent: Vec<AgentRecord> = state
            .agents
            .values()
            .filter(|agent| agent.job.is_some())
            .filter(|agent| {
                state.heard.get(&agent.name).is_none_or(|heard| now.since(*heard) >= self.options.lease)
            })
            .cloned()
            .collect();
        let any = !silent.is_empty();
        for mut agent in silent {
            let seconds = self.options.lease.as_secs_f32();
            let why = format!("its agent {} was silent for {seconds} s", agent.name);
            let job =
                agent.job.take().and_then(|id| state.jobs.get(&id).cloned()).map(|job| self.lost(job, &why));
            let batch = Batch { jobs: job.iter().collect(), agents: vec![&agent], ..Batch::default() };
            match self.store.write(&batch) {
                Ok(()) => {
                    tracing::warn!(agent = %agent.name, "{why}");
                    self.put_back(&mut state, job);
                    state.agents.insert(agent.name.clone(), agent);
                }
                Err(error) => {
                    tracing::error!(%error, "a lost job could not be queued again; it is tried again")
                }
            }
        }
        self.forget(&mut state);
        drop(state);
        if any {
            self.changed(true, true);
        }
        (self.options.lease / 8).max(Duration::from_millis(10))
    }

    /// What has ended is kept for a while, not for ever.
    fn forget(&self, state: &mut State) {
        let forgotten = limits::to_forget(&state.jobs, &self.options);
        if forgotten.is_empty() {
            return;
        }
        match self.store.write(&Batch { forgotten: forgotten.clone(), ..Batch::default() }) {
            Ok(()) => state.jobs.retain(|id, _| !forgotten.contains(id)),
            Err(error) => tracing::warn!(%error, "old jobs cannot be forgotten; it is tried again"),
        }
    }
}

fn no_job(id: u64) -> Error {
    Error::not_found(format!("there is no job {id}"))
}

fn no_agent(name: &str) -> Error {
    Error::not_found(format!("there is no agent called {name}"))
}
