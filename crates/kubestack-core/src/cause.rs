//! Why an agent failed: told apart, because each cause wants its own patience and its own words.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Why an agent came to nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum FailureCause {
    /// The image does not exist or may not be pulled; waiting does not help.
    ImageWrong,
    /// The image registry does not answer; waiting may help.
    ImageUnavailable,
    /// No node has room, and none is on its way.
    Unschedulable,
    /// A quota of the platform is full.
    Quota,
    /// The platform refuses the label's template as it is.
    BadTemplate,
    /// The label's configuration cannot work (a missing executable, a wrong path).
    Config,
    /// The agent starts and ends again without having done anything.
    CrashLoop,
    /// Ended by the platform for want of memory.
    OutOfMemory,
    /// Evicted by the platform.
    Evicted,
    /// The machine it ran on is gone.
    NodeLost,
    /// It ran but never attached to its master in time.
    NeverAttached,
    /// Its master does not answer.
    MasterDown,
    /// It vanished with a job on it.
    LostWhileBusy,
    /// It was attached and idle, a job that it can serve waited, and the master did not give it the job.
    OfferedNotTaken,
    /// It lived longer than the label's `max_lifetime`.
    LifetimeExceeded,
    /// Its node was removed from the master by hand.
    NodeRemoved,
    /// It was deleted on the platform by hand.
    UnitRemoved,
    /// The master refused to enrol it.
    EnrolmentRefused,
    /// The platform did not start it, for a reason not told apart further.
    LaunchFailed,
}

impl FailureCause {
    /// All of them.
    pub const ALL: [Self; 19] = [
        Self::ImageWrong,
        Self::ImageUnavailable,
        Self::Unschedulable,
        Self::Quota,
        Self::BadTemplate,
        Self::Config,
        Self::CrashLoop,
        Self::OutOfMemory,
        Self::Evicted,
        Self::NodeLost,
        Self::NeverAttached,
        Self::MasterDown,
        Self::LostWhileBusy,
        Self::OfferedNotTaken,
        Self::LifetimeExceeded,
        Self::NodeRemoved,
        Self::UnitRemoved,
        Self::EnrolmentRefused,
        Self::LaunchFailed,
    ];

    /// A stable word for metrics, marks and reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ImageWrong => "image_wrong",
            Self::ImageUnavailable => "image_unavailable",
            Self::Unschedulable => "unschedulable",
            Self::Quota => "quota",
            Self::BadTemplate => "bad_template",
            Self::Config => "config",
            Self::CrashLoop => "crash_loop",
            Self::OutOfMemory => "out_of_memory",
            Self::Evicted => "evicted",
            Self::NodeLost => "node_lost",
            Self::NeverAttached => "never_attached",
            Self::MasterDown => "master_down",
            Self::LostWhileBusy => "lost_while_busy",
            Self::OfferedNotTaken => "offered_not_taken",
            Self::LifetimeExceeded => "lifetime_exceeded",
            Self::NodeRemoved => "node_removed",
            Self::UnitRemoved => "unit_removed",
            Self::EnrolmentRefused => "enrolment_refused",
            Self::LaunchFailed => "launch_failed",
        }
    }

    /// The same for people, fit to follow "because".
    pub fn words(self) -> &'static str {
        match self {
            Self::ImageWrong => "its image does not exist or may not be pulled",
            Self::ImageUnavailable => "the image registry does not answer",
            Self::Unschedulable => "no node has room for it",
            Self::Quota => "a quota of the platform is full",
            Self::BadTemplate => "the platform refuses its template",
            Self::Config => "its label's configuration cannot work",
            Self::CrashLoop => "it starts and ends again without having done anything",
            Self::OutOfMemory => "it ran out of memory",
            Self::Evicted => "the platform evicted it",
            Self::NodeLost => "the machine it ran on is gone",
            Self::NeverAttached => "it never attached to its master",
            Self::MasterDown => "its master does not answer",
            Self::LostWhileBusy => "it vanished with a job on it",
            Self::OfferedNotTaken => "its master did not give it the job it was made for",
            Self::LifetimeExceeded => "it lived longer than its max_lifetime",
            Self::NodeRemoved => "its node was removed from the master by hand",
            Self::UnitRemoved => "it was deleted on the platform by hand",
            Self::EnrolmentRefused => "the master refused to enrol it",
            Self::LaunchFailed => "the platform did not start it",
        }
    }
}

impl fmt::Display for FailureCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.words())
    }
}
