//! What is remembered between looks. It is advisory: losing all of it costs latency, never a promise.

use kubestack_core::cause::FailureCause;
use kubestack_core::name::{AgentName, LabelName, MasterName, ProviderName, SourceName, Uid};
use kubestack_core::time::Moment;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::settings::Policy;

/// All of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Memory {
    /// By agent, for some time after it is gone as well.
    pub agents: BTreeMap<AgentName, AgentMemory>,
    /// First sight of demand whose source does not tell its age: source → labels, joined → moment.
    pub first_seen: BTreeMap<SourceName, BTreeMap<String, Moment>>,
    /// Open and half-open breakers; one that is absent is closed.
    pub breakers: BTreeMap<LabelName, BTreeMap<ProviderName, BTreeMap<FailureCause, Breaker>>>,
}

/// What is remembered of one agent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AgentMemory {
    /// When it was first seen or sent.
    pub first_seen: Moment,
    /// Its label.
    pub label: LabelName,
    /// Its provider.
    pub provider: ProviderName,
    /// Its master.
    pub master: Option<MasterName>,
    /// The labels of the demand that it was launched for.
    pub class: BTreeSet<LabelName>,
    /// The request of the operator that it was launched for.
    pub request: Option<u64>,
    /// When its unit was first seen: by then its master had been told to expect it.
    #[serde(default)]
    pub unit_seen: Option<Moment>,
    /// It was seen attached.
    pub attached: bool,
    /// Since when it is as idle, or as offline, as it is.
    pub since: Option<Moment>,
    /// First evidence that it began its job: when that came in, and the job where known.
    pub used: Option<(Moment, Option<String>)>,
    /// The run of a job that its master showed last, or the job's id where that is all it tells.
    #[serde(default)]
    pub run: Option<String>,
    /// Jobs that it was seen with beyond its one.
    #[serde(default)]
    pub more_jobs: u32,
    /// Its unit is known to be gone since then.
    pub unit_gone: Option<Moment>,
    /// Its unit is known to have ended since then.
    pub unit_ended: Option<Moment>,
    /// Its node is missing since then.
    pub node_missing: Option<Moment>,
    /// We removed its node.
    pub detached: bool,
    /// Its launch is known to have made no unit.
    pub never_launched: bool,
    /// Its node went missing when its master's session changed.
    pub forgotten: bool,
    /// It was held: once released, it is not kept for inspection again.
    #[serde(default)]
    pub was_held: bool,
    /// Its master was told to expect it again, and has not seen it since.
    #[serde(default)]
    pub awaited: bool,
    /// The master was told to connect to it.
    pub connected: bool,
    /// It failed.
    pub failure: Option<FailureCause>,
    /// Its unit went, or is going, without our word; for people.
    #[serde(default)]
    pub removal: Option<Removal>,
    /// No demand matched it since then.
    pub surplus_since: Option<Moment>,
    /// It is idle and demand that it can serve waits, since then.
    pub offered_since: Option<Moment>,
    /// Nothing of it is left since then.
    pub gone: Option<Moment>,
}

impl AgentMemory {
    /// Of an agent just seen.
    pub fn new(
        first_seen: Moment,
        label: LabelName,
        provider: ProviderName,
        master: Option<MasterName>,
    ) -> Self {
        Self {
            first_seen,
            label,
            provider,
            master,
            class: BTreeSet::new(),
            request: None,
            unit_seen: None,
            attached: false,
            since: None,
            used: None,
            run: None,
            more_jobs: 0,
            unit_gone: None,
            unit_ended: None,
            node_missing: None,
            detached: false,
            never_launched: false,
            forgotten: false,
            was_held: false,
            awaited: false,
            connected: false,
            failure: None,
            removal: None,
            surplus_since: None,
            offered_since: None,
            gone: None,
        }
    }
}

/// How a unit went without our word: it may be gone before anybody is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removal {
    /// The unit.
    pub uid: Uid,
    /// What the platform said.
    pub text: String,
}

impl Removal {
    /// The platform said nothing.
    pub fn silent(uid: &Uid) -> Self {
        Self { uid: uid.clone(), text: String::new() }
    }
}

/// Keeps a broken image, quota or credential from being tried again and again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Breaker {
    /// Failures in a row.
    pub failures: u32,
    /// Open until then; from then on half-open: one probe at a time.
    pub until: Option<Moment>,
    /// The pause when it opens next.
    pub pause: Duration,
    /// When the last failure was.
    pub last: Moment,
}

impl Memory {
    /// Counts one failure of a launch or an agent.
    pub fn failed(
        &mut self,
        (label, provider): (&LabelName, &ProviderName),
        cause: FailureCause,
        now: Moment,
        policy: &Policy,
    ) {
        let breaker = self
            .breakers
            .entry(label.clone())
            .or_default()
            .entry(provider.clone())
            .or_default()
            .entry(cause)
            .or_insert(Breaker { failures: 0, until: None, pause: policy.breaker_pause, last: now });
        breaker.failures = breaker.failures.saturating_add(1);
        breaker.last = now;
        // Failures of agents that were launched before it opened say nothing new.
        let still_open = breaker.until.is_some_and(|until| until > now);
        if breaker.failures >= tolerance(cause) && !still_open {
            breaker.until = Some(now + breaker.pause);
            breaker.pause = (breaker.pause * 2).min(policy.breaker_max);
        }
    }

    /// An agent attached: whatever was wrong with its label on its provider is not wrong any more.
    pub fn succeeded(&mut self, label: &LabelName, provider: &ProviderName) {
        if let Some(by_provider) = self.breakers.get_mut(label) {
            by_provider.remove(provider);
            if by_provider.is_empty() {
                self.breakers.remove(label);
            }
        }
    }

    /// After a loss of this memory nothing is known of what works: one probe each.
    pub fn half_open(&mut self, label: &LabelName, provider: &ProviderName, now: Moment, policy: &Policy) {
        let breaker = Breaker { failures: 0, until: Some(now), pause: policy.breaker_pause, last: now };
        self.breakers
            .entry(label.clone())
            .or_default()
            .entry(provider.clone())
            .or_default()
            .insert(FailureCause::LaunchFailed, breaker);
    }
}

/// How many failures in a row open the breaker: one where trying again cannot help, some where chance plays a part.
pub fn tolerance(cause: FailureCause) -> u32 {
    match cause {
        FailureCause::ImageWrong
        | FailureCause::BadTemplate
        | FailureCause::Config
        | FailureCause::Quota
        | FailureCause::Unschedulable
        | FailureCause::ImageUnavailable => 1,
        FailureCause::NeverAttached | FailureCause::OfferedNotTaken | FailureCause::EnrolmentRefused => 2,
        _ => 3,
    }
}

/// How long a pending unit may show this cause before it counts as failed; `None`: as long as the label's
/// `launch_timeout` allows.
pub fn patience(cause: FailureCause) -> Option<Duration> {
    match cause {
        // Waiting cannot mend a wrong name or a template that is refused.
        FailureCause::ImageWrong | FailureCause::BadTemplate | FailureCause::Config => Some(Duration::ZERO),
        // A registry is often back within minutes; a crash may be a start-up race.
        FailureCause::ImageUnavailable => Some(Duration::from_secs(120)),
        FailureCause::CrashLoop | FailureCause::OutOfMemory => Some(Duration::from_secs(30)),
        // Waiting for a node is no failure while the cluster scales.
        _ => None,
    }
}

/// Whether failures of this cause say something about the label on the provider, rather than about one job,
/// one machine or somebody's hand.
pub fn counts_against_label(cause: FailureCause) -> bool {
    !matches!(
        cause,
        FailureCause::LostWhileBusy
            | FailureCause::LifetimeExceeded
            | FailureCause::NodeRemoved
            | FailureCause::UnitRemoved
            | FailureCause::MasterDown
            | FailureCause::Evicted
            | FailureCause::NodeLost
    )
}

/// What planning wants to have remembered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "note")]
pub enum Note {
    /// No demand matches the agent, or some does again.
    Surplus {
        /// The agent.
        agent: AgentName,
        /// Whether none does.
        surplus: bool,
    },
    /// The agent is idle while demand that it can serve waits, or not any more.
    Offered {
        /// The agent.
        agent: AgentName,
        /// Whether it is so.
        offered: bool,
    },
    /// The agent failed.
    Failed {
        /// The agent.
        agent: AgentName,
        /// Why.
        cause: FailureCause,
    },
}
