//! Errors that cross the traits: a kind for the engine, words for people.

use crate::cause::FailureCause;
use std::time::Duration;

/// Short for a result with [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What the engine should make of an error. It alone decides about retry, back-off and alarm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ErrorKind {
    /// Passing: the same call may work a moment later, and this one had **no effect**.
    Transient,
    /// The system asks to wait at least this long; the call had no effect.
    RateLimited {
        /// How long to wait.
        after: Duration,
    },
    /// The thing is not in the state the call presumed (busy, changed, other uid); the call had no effect.
    Conflict,
    /// The thing the call names does not exist.
    NotFound,
    /// The credentials are missing, wrong or too weak.
    Unauthorized,
    /// The request can never work as it is: bad config, bad template, refused by policy.
    Invalid,
    /// The call may or may not have had its effect (a time-out after sending, a cut connection).
    /// **When in doubt, this one.** The engine then waits for a look instead of repeating the call.
    UnknownOutcome,
    /// A defect of the plugin or of the system behind it, such as an answer that makes no sense.
    Bug,
}

impl ErrorKind {
    /// A stable word for metrics and reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Transient => "transient",
            Self::RateLimited { .. } => "rate_limited",
            Self::Conflict => "conflict",
            Self::NotFound => "not_found",
            Self::Unauthorized => "unauthorized",
            Self::Invalid => "invalid",
            Self::UnknownOutcome => "unknown_outcome",
            Self::Bug => "bug",
        }
    }
}

/// An error at one of the four traits.
///
/// The message is lower-case, specific, without a full stop, tells what to do where the user can do
/// something, and never holds a secret.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
#[non_exhaustive]
pub struct Error {
    /// What the engine should make of it.
    pub kind: ErrorKind,
    /// What happened, for people.
    pub message: String,
    /// Why an agent cannot be launched, where the error says so (quota, bad template…).
    pub cause: Option<FailureCause>,
}

impl Error {
    /// An error of that kind.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), cause: None }
    }

    /// [`ErrorKind::Transient`].
    pub fn transient(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Transient, message)
    }

    /// [`ErrorKind::Conflict`].
    pub fn conflict(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Conflict, message)
    }

    /// [`ErrorKind::NotFound`].
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::NotFound, message)
    }

    /// [`ErrorKind::Unauthorized`].
    pub fn unauthorized(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unauthorized, message)
    }

    /// [`ErrorKind::Invalid`].
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Invalid, message)
    }

    /// [`ErrorKind::UnknownOutcome`].
    pub fn unknown_outcome(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::UnknownOutcome, message)
    }

    /// [`ErrorKind::Bug`].
    pub fn bug(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Bug, message)
    }

    /// Adds the failure cause.
    #[must_use]
    pub fn with_cause(mut self, cause: FailureCause) -> Self {
        self.cause = Some(cause);
        self
    }
}

/// All that an error says, from the outside in; what a part of it repeats is said once.
///
/// ```
/// let inner = std::io::Error::other("connection refused");
/// # #[derive(Debug, thiserror::Error)]
/// # #[error("cannot connect")]
/// # struct Outer(#[source] std::io::Error);
/// assert_eq!(kubestack_core::error::chain(&Outer(inner)), "cannot connect: connection refused");
/// ```
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut link = error.source();
    while let Some(error) = link {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        link = error.source();
    }
    text
}
