//! Masters: CI systems that queue jobs and run them on agents.

use crate::agent::AgentsSnapshot;
use crate::completion::CompletionSource;
use crate::demand::{DemandRef, DemandSource};
use crate::error::{Error, Result};
use crate::label::LabelSpec;
use crate::marks::Marks;
use crate::name::AgentName;
use crate::probe::Probe;
use async_trait::async_trait;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Who makes sure that an agent runs one job only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OneJob {
    /// The master gives an agent at most one job, ever.
    Enforced,
    /// The master might give it another before we drain it; the exposure is stated and breaches are counted.
    #[default]
    Observed,
}

/// What a master can do, and how its agents behave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct MasterCapabilities {
    /// Who makes sure that an agent runs one job only.
    pub one_job: OneJob,
    /// Agents end by themselves after their job. Then an agent that ended after a start is simply done.
    pub agents_end_by_themselves: bool,
    /// [`CiMaster::agents`] shows an enrolled agent from the moment of its enrolment on (a node exists in
    /// the master). Without it, an agent is known to the master only while connected, or not at all.
    pub lists_agents: bool,
    /// [`CiMaster::drain`] works. Without it an idle agent is taken away without draining, which is safe
    /// only where [`CiMaster::remove`] refuses busy agents atomically.
    pub drains: bool,
    /// Enrolling a forgotten agent again under its old name lets the running unit attach again.
    pub re_enrols: bool,
    /// [`CiMaster::connect`] must be called once the unit runs.
    pub needs_connect: bool,
}

/// Asks a master to expect one agent.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct EnrolRequest {
    /// The agent's name.
    pub agent: AgentName,
    /// Its label.
    pub label: LabelSpec,
    /// Its marks, to be kept on the node where the master can hold a text.
    pub marks: Marks,
    /// The demand that it is made for, if that demand is bound.
    pub demand: Option<DemandRef>,
}

impl EnrolRequest {
    /// Asks for the agent with these marks.
    pub fn new(label: LabelSpec, marks: Marks) -> Self {
        let demand = marks.demand.clone().map(DemandRef::new);
        Self { agent: marks.agent(), label, marks, demand }
    }
}

/// What a master hands out so that one agent may connect.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Enrolment {
    /// Plain environment.
    pub env: BTreeMap<String, String>,
    /// Secret environment: handed over so that nobody else can read it.
    pub secrets: BTreeMap<String, SecretString>,
    /// Arguments of the agent's program, never secret.
    pub args: Vec<String>,
}

/// The answer to an enrolment.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum EnrolOutcome {
    /// The agent may connect with this.
    Enrolled(Enrolment),
    /// The master does not want it (the demand was taken or left); nothing was made.
    Refused(String),
    /// An agent of that name exists already. Names are never used twice, so this is an earlier try of ours
    /// whose answer was lost.
    AlreadyExists,
}

/// Why a job waits or failed, for the CI system's own users.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Explanation {
    /// The demand's id, where it has one.
    pub demand: Option<String>,
    /// The agent's name, where it is about one.
    pub agent: Option<AgentName>,
    /// The labels that could serve it.
    pub labels: Vec<String>,
    /// The reason, in words.
    pub text: String,
}

impl Explanation {
    /// A reason for that demand, or for all that wait for these labels.
    pub fn new(demand: Option<String>, labels: Vec<String>, text: impl Into<String>) -> Self {
        Self { demand, agent: None, labels, text: text.into() }
    }
}

/// A CI system that queues jobs and runs them on agents.
#[async_trait]
pub trait CiMaster: Send + Sync {
    /// What it can do. Constant over its life.
    fn capabilities(&self) -> MasterCapabilities;

    /// Makes the master expect that agent.
    async fn enrol(&self, request: &EnrolRequest) -> Result<EnrolOutcome>;

    /// Connects the master to a running agent, where agents do not connect by themselves.
    async fn connect(&self, _agent: &AgentName) -> Result<()> {
        Ok(())
    }

    /// All agents: one complete read.
    async fn agents(&self) -> Result<AgentsSnapshot>;

    /// Tries what a daemon will need of the master, without a change to anything: each thing by itself, see
    /// [`probe`](crate::probe). Its demand is read besides.
    async fn probe(&self) -> Vec<Probe> {
        vec![Probe::new("read all agents", self.agents().await.map(drop))]
    }

    /// Makes the agent take no new job. Idempotent. Not found is [`NotFound`](crate::error::ErrorKind::NotFound).
    async fn drain(&self, _agent: &AgentName) -> Result<()> {
        Err(Error::invalid("this master cannot drain agents"))
    }

    /// Makes the master forget the agent. Not found is success. While it is busy this is a
    /// [`Conflict`](crate::error::ErrorKind::Conflict), unless `despite_busy`: then its job is given up.
    async fn remove(&self, agent: &AgentName, despite_busy: bool) -> Result<()>;

    /// Tells the CI system's own users why jobs wait or failed. Gets all present reasons each time they
    /// changed; what is no longer among them no longer holds.
    async fn explain(&self, _reasons: &[Explanation]) -> Result<()> {
        Ok(())
    }

    /// The master's own demand source, where it has one. Called once.
    fn demand(&self) -> Option<Box<dyn DemandSource>> {
        None
    }

    /// The master's own completion source, where it has one. Called once.
    fn completion(&self) -> Option<Box<dyn CompletionSource>> {
        None
    }
}
