//! The words and the four traits of KubeStack: all that a plugin author depends on.
//!
//! ```text
//!  CI system ──DemandSource──►  ┌────────┐  ◄──watch── SlaveProvider ── platform
//!            ──CompletionSource►│ engine │  ──launch─►
//!            ◄────CiMaster────► └────────┘  ──destroy►
//! ```
//!
//! A plugin is a type that implements one of the four traits, a config struct, and one
//! [`inventory::submit!`] of a [`registry::Plugin`]. The engine finds it by its type name, hands it a
//! [`config::Fragment`] of the user's file and a [`context::BuildContext`], and from then on calls it.
//!
//! Rules that every plugin keeps, and that the conformance suites check:
//! * **Snapshots are truth, events are hints.** A snapshot is complete and says when its read *began*.
//! * **Cancel-safe**: the engine may drop any future at any await point.
//! * **No clock and no threads of its own**: both come with the [`context::BuildContext`].
//! * **Errors have a kind** ([`error::ErrorKind`]); a plugin never retries a call that has an effect,
//!   the engine alone decides about retry, back-off and alarm.
//!
//! What this crate deliberately does not know: any CI system, any platform, any file format, any
//! runtime. It does no I/O.

pub mod agent;
pub mod cause;
pub mod completion;
pub mod config;
pub mod context;
pub mod coordination;
pub mod demand;
pub mod error;
pub mod label;
pub mod marks;
pub mod master;
pub mod name;
pub mod probe;
pub mod provider;
pub mod registry;
pub mod resources;
pub mod template;
pub mod time;
pub mod transcript;

pub use async_trait::async_trait;
pub use inventory;
pub use schemars;
pub use secrecy;

/// What almost every plugin imports.
pub mod prelude {
    pub use crate::agent::{Activity, AgentView, AgentsSnapshot, Drained};
    pub use crate::async_trait;
    pub use crate::cause::FailureCause;
    pub use crate::completion::{Completion, CompletionEvent, CompletionSource};
    pub use crate::config::{Fragment, SecretRef};
    pub use crate::context::{BuildContext, Clock, SourceContext};
    pub use crate::coordination::{Coordination, Leadership};
    pub use crate::demand::{Binding, Demand, DemandRef, DemandSnapshot, DemandSource};
    pub use crate::error::{Error, ErrorKind, Result};
    pub use crate::label::LabelSpec;
    pub use crate::marks::Marks;
    pub use crate::master::{
        CiMaster, EnrolOutcome, EnrolRequest, Enrolment, Explanation, MasterCapabilities,
    };
    pub use crate::name::{AgentName, InstanceName, LabelName, MasterName, ProviderName, SourceName, Uid};
    pub use crate::probe::Probe;
    pub use crate::provider::{
        DestroyRequest, Failure, LaunchRequest, MarkPatch, ProviderCapabilities, SlaveProvider, Unit,
        UnitPhase, UnitRef, UnitWatch, WatchEvent,
    };
    pub use crate::registry::{Plugin, PluginKind};
    pub use crate::resources::Resources;
    pub use crate::time::Moment;
}
