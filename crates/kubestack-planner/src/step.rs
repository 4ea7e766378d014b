//! Steps and their reasons. A reason is an enum and becomes words only when somebody reads it.

use kubestack_core::cause::FailureCause;
use kubestack_core::demand::DemandRef;
use kubestack_core::marks::Marks;
use kubestack_core::name::{AgentName, InstanceName, LabelName, MasterName, ProviderName, Uid};
use kubestack_core::provider::MarkPatch;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;

/// One thing to do to one agent. Executing it makes no choices: all it needs stands in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "step")]
pub enum Step {
    /// Enrol the agent with its master, then launch its unit.
    Launch(Launch),
    /// Tell a master that forgot a living agent to expect it again, under its old name.
    ReEnrol {
        /// The agent.
        agent: AgentName,
        /// Its master.
        master: MasterName,
        /// Its marks, as its unit carries them.
        marks: Box<Marks>,
    },
    /// Connect the master to the running agent.
    Connect {
        /// The agent.
        agent: AgentName,
        /// Its master.
        master: MasterName,
    },
    /// Make the agent take no new job.
    Drain {
        /// The agent.
        agent: AgentName,
        /// Its master.
        master: MasterName,
    },
    /// Make the master forget the agent.
    RemoveNode {
        /// The agent.
        agent: AgentName,
        /// Its master.
        master: MasterName,
        /// Even if the master shows a job on it.
        despite_busy: bool,
    },
    /// Take the unit away.
    Destroy {
        /// The agent.
        agent: AgentName,
        /// Its provider.
        provider: ProviderName,
        /// The unit that was seen.
        uid: Uid,
        /// Its version then.
        version: u64,
        /// Only if nothing of ours has run in it.
        only_if_not_started: bool,
    },
    /// Change marks on the unit.
    Mark {
        /// The agent.
        agent: AgentName,
        /// Its provider.
        provider: ProviderName,
        /// The unit that was seen.
        uid: Uid,
        /// The change.
        patch: MarkPatch,
    },
}

/// What one launch needs to know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Launch {
    /// The new agent's name.
    pub agent: AgentName,
    /// Its number within the term.
    pub serial: u64,
    /// Its label.
    pub label: LabelName,
    /// Where it is launched.
    pub provider: ProviderName,
    /// The master it attaches to, if any.
    pub master: Option<MasterName>,
    /// The bound demand that it is made for, if any.
    pub demand: Option<DemandRef>,
    /// Hash of the template that is meant.
    pub template: String,
    /// The labels that the demand behind it named; for fair shares.
    pub class: BTreeSet<LabelName>,
    /// The operator's request that it fulfils, if any.
    pub request: Option<u64>,
}

impl Launch {
    /// The marks of the agent to be.
    pub fn marks(&self, instance: &InstanceName, term: u64) -> Marks {
        let mut marks = Marks::new(
            instance.clone(),
            self.label.clone(),
            self.provider.clone(),
            self.master.clone(),
            (term, self.serial),
            self.template.clone(),
        );
        marks.demand = self.demand.as_ref().map(|demand| demand.id.clone());
        marks
    }
}

impl Step {
    /// The agent it is about.
    pub fn agent(&self) -> &AgentName {
        match self {
            Self::Launch(launch) => &launch.agent,
            Self::ReEnrol { agent, .. }
            | Self::Connect { agent, .. }
            | Self::Drain { agent, .. }
            | Self::RemoveNode { agent, .. }
            | Self::Destroy { agent, .. }
            | Self::Mark { agent, .. } => agent,
        }
    }

    /// A stable word for metrics and logs.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Launch(_) => "launch",
            Self::ReEnrol { .. } => "re_enrol",
            Self::Connect { .. } => "connect",
            Self::Drain { .. } => "drain",
            Self::RemoveNode { .. } => "remove_node",
            Self::Destroy { .. } => "destroy",
            Self::Mark { .. } => "mark",
        }
    }

    /// The provider and the master that it talks to.
    pub fn systems(&self) -> (Option<&ProviderName>, Option<&MasterName>) {
        match self {
            Self::Launch(launch) => (Some(&launch.provider), launch.master.as_ref()),
            Self::ReEnrol { master, .. }
            | Self::Connect { master, .. }
            | Self::Drain { master, .. }
            | Self::RemoveNode { master, .. } => (None, Some(master)),
            Self::Destroy { provider, .. } | Self::Mark { provider, .. } => (Some(provider), None),
        }
    }

    /// The same, as what a back-off may be about.
    pub fn targets(&self) -> impl Iterator<Item = Target> {
        let (provider, master) = self.systems();
        let provider = provider.cloned().map(Target::Provider);
        provider.into_iter().chain(master.cloned().map(Target::Master))
    }
}

/// A system or thing that a back-off is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// Everything sent to that provider.
    Provider(ProviderName),
    /// Everything sent to that master.
    Master(MasterName),
    /// Launches of that label on that provider.
    Launches(LabelName, ProviderName),
    /// Steps about that agent.
    Agent(AgentName),
}

/// A step and why it is taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedStep {
    /// What to do.
    pub step: Step,
    /// Why.
    pub reason: Reason,
}

/// Why a step is taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "reason")]
pub enum Reason {
    /// Work waits.
    Demand,
    /// The label keeps agents ready.
    MinReady,
    /// The operator asked for it.
    Operator,
    /// Its job began.
    JobBegan,
    /// Its one job is over.
    Done,
    /// Idle without demand for longer than `idle_timeout`.
    IdleTimeout,
    /// Launched for demand that has left.
    DemandLeft,
    /// Its template is no longer the label's.
    TemplateChanged,
    /// Its label is no longer configured.
    LabelGone,
    /// Another class of demand has a better claim to the capacity.
    Reclaimed {
        /// The labels that wait for it.
        labels: BTreeSet<LabelName>,
    },
    /// It failed.
    Failed {
        /// Why.
        cause: FailureCause,
    },
    /// It was drained by us before; the reason is not known any more.
    Draining,
    /// Its node is gone from the master by our hand.
    Detached,
    /// A node of ours without a unit.
    OrphanNode,
    /// Something that a unit left behind.
    Remnant,
    /// A second unit of the same name.
    Duplicate,
    /// The operator drains everything.
    DrainAll,
    /// Its master was restarted and forgot it.
    Forgotten,
    /// It runs and waits to be connected.
    Running,
    /// It failed, and its label keeps failed agents for inspection.
    KeptForInspection {
        /// Why it failed.
        cause: FailureCause,
    },
}

impl Reason {
    /// A stable word for metrics, logs and the audit record.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Demand => "demand",
            Self::MinReady => "min_ready",
            Self::Operator => "operator",
            Self::JobBegan => "job_began",
            Self::Done => "done",
            Self::IdleTimeout => "idle_timeout",
            Self::DemandLeft => "demand_left",
            Self::TemplateChanged => "template_changed",
            Self::LabelGone => "label_gone",
            Self::Reclaimed { .. } => "reclaimed",
            Self::Failed { .. } => "failed",
            Self::Draining => "draining",
            Self::Detached => "detached",
            Self::OrphanNode => "orphan_node",
            Self::Remnant => "remnant",
            Self::Duplicate => "duplicate",
            Self::DrainAll => "drain_all",
            Self::Forgotten => "forgotten",
            Self::Running => "running",
            Self::KeptForInspection { .. } => "kept_for_inspection",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Demand => f.write_str("work waits that it can serve"),
            Self::MinReady => f.write_str("its label keeps agents ready"),
            Self::Operator => f.write_str("the operator asked for it"),
            Self::JobBegan => f.write_str("its job began"),
            Self::Done => f.write_str("its one job is over"),
            Self::IdleTimeout => f.write_str("idle without demand for longer than idle_timeout"),
            Self::DemandLeft => f.write_str("the demand that it was launched for has left"),
            Self::TemplateChanged => f.write_str("its label's template has changed"),
            Self::LabelGone => f.write_str("its label is no longer configured"),
            Self::Reclaimed { labels } => {
                write!(f, "its capacity is wanted by work for {}", join(labels))
            }
            Self::Failed { cause } => write!(f, "it failed: {cause}"),
            Self::Draining => f.write_str("it was drained before"),
            Self::Detached => f.write_str("its master has let it go"),
            Self::OrphanNode => f.write_str("its node has no unit any more"),
            Self::Remnant => f.write_str("something of it was left behind"),
            Self::Duplicate => f.write_str("an older unit has the same name"),
            Self::DrainAll => f.write_str("the operator drains everything"),
            Self::Forgotten => f.write_str("its master was restarted and forgot it"),
            Self::Running => f.write_str("it runs and waits to be connected"),
            Self::KeptForInspection { cause } => write!(f, "kept for inspection, it failed: {cause}"),
        }
    }
}

/// `a, b or c`.
pub(crate) fn join(labels: &BTreeSet<LabelName>) -> String {
    let names: Vec<&str> = labels.iter().map(LabelName::as_str).collect();
    match names.split_last() {
        None => "no label of ours".to_owned(),
        Some((last, [])) => (*last).to_owned(),
        Some((last, rest)) => format!("{} or {last}", rest.join(", ")),
    }
}
