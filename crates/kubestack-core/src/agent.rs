//! An agent as its master shows it.

use crate::marks::Marks;
use crate::time::Moment;
use serde::{Deserialize, Serialize};

/// How busy an agent is, as far as its master can tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activity {
    /// The master cannot tell. Counts as possibly busy.
    #[default]
    Unknown,
    /// That many of its slots are taken.
    Slots {
        /// Slots with a job on them.
        used: u32,
        /// All slots.
        total: u32,
    },
}

impl Activity {
    /// No slot is taken.
    pub fn is_idle(self) -> bool {
        matches!(self, Self::Slots { used: 0, .. })
    }

    /// At least one slot is taken.
    pub fn is_busy(self) -> bool {
        matches!(self, Self::Slots { used: 1.., .. })
    }
}

/// Whether an agent takes new jobs, and who said so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Drained {
    /// It takes new jobs.
    #[default]
    No,
    /// We took it out.
    ByUs,
    /// Somebody else did, such as an operator in the CI system. Then it is held, never toggled back.
    ByOthers,
}

/// One agent as its master shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct AgentView {
    /// Its name in the master.
    pub name: String,
    /// Whether it is connected.
    pub online: bool,
    /// How busy it is.
    pub activity: Activity,
    /// The id of the job on it, where known: the same id as [`Demand::id`](crate::demand::Demand::id).
    pub job: Option<String>,
    /// What tells the job on it from the next one, where the master knows something of that kind: the address of a
    /// build. By it jobs are noticed that an agent was given beyond its one.
    pub run: Option<String>,
    /// Whether it takes new jobs.
    pub drained: Drained,
    /// Whether the master knows that it already had its one job.
    pub used: bool,
    /// The marks on the node, where the master holds them. A node without marks is ours only while a unit
    /// of ours has exactly its name.
    pub marks: Option<Marks>,
}

impl AgentView {
    /// An agent that is offline, idle, and takes jobs.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            online: false,
            activity: Activity::Slots { used: 0, total: 1 },
            job: None,
            run: None,
            drained: Drained::No,
            used: false,
            marks: None,
        }
    }
}

/// All agents of one master, as one read showed them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct AgentsSnapshot {
    /// When the read began.
    pub began: Moment,
    /// All of them, ours and others'.
    pub agents: Vec<AgentView>,
    /// Whether the master takes no new work at present (it is about to shut down): nothing is launched.
    pub quiet: bool,
    /// Changes when the master was restarted and may have forgotten agents, where that can be told.
    pub session: Option<String>,
}

impl AgentsSnapshot {
    /// A complete snapshot of a read that began then.
    pub fn new(began: Moment, agents: Vec<AgentView>) -> Self {
        Self { began, agents, quiet: false, session: None }
    }
}
