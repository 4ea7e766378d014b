//! What went wrong with a request, and what the engine should make of it.

use crate::object::Status;
use http::StatusCode;
use kubestack_core::prelude::*;
use std::time::Duration;

/// How long to wait if the server asks to, and does not say how long.
const DEFAULT_WAIT: Duration = Duration::from_secs(1);

/// A request that did not bring what it asked for.
#[derive(Clone, Debug)]
pub enum Fault {
    /// The server answered that it will not.
    Refused(Status),
    /// Nothing was sent: the server cannot be reached or is not who it should be, or we wait for it.
    NotSent(Error),
    /// Something was sent, and no whole answer came.
    NoAnswer(String),
    /// The answer makes no sense.
    Nonsense(String),
}

/// Short for a result with a [`Fault`].
pub type Answer<T> = std::result::Result<T, Fault>;

/// What a request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It reads.
    None,
    /// It changes something.
    Write,
}

impl Fault {
    /// Whether the server refused with that status.
    pub fn is(&self, code: StatusCode) -> bool {
        matches!(self, Self::Refused(status) if status.code == code.as_u16())
    }

    /// Whether it refused because a thing of that name exists (the other conflict is a failed precondition).
    pub fn already_exists(&self) -> bool {
        matches!(self, Self::Refused(status) if status.reason == "AlreadyExists")
    }

    /// As an error. `doing` says what was tried, fit to follow "cannot".
    pub fn error(self, doing: &str, effect: Effect) -> Error {
        let text = |words: &str| format!("cannot {doing}: {words}");
        match self {
            Self::Refused(status) => refused(doing, &status, effect),
            Self::NotSent(mut error) => {
                error.message = text(&error.message);
                error
            }
            Self::NoAnswer(words) if effect == Effect::None => Error::transient(text(&words)),
            Self::NoAnswer(words) => Error::unknown_outcome(text(&words)),
            Self::Nonsense(words) if effect == Effect::None => Error::bug(text(&words)),
            Self::Nonsense(words) => Error::unknown_outcome(text(&words)),
        }
    }
}

/// How long the server asks to wait.
pub fn wait(status: &Status, header: Option<&str>) -> Duration {
    let header = header.and_then(|header| header.trim().parse().ok());
    let details = status.details.as_ref().map(|details| u64::from(details.retry_after_seconds));
    header.or(details.filter(|seconds| *seconds > 0)).map_or(DEFAULT_WAIT, Duration::from_secs)
}

fn refused(doing: &str, status: &Status, effect: Effect) -> Error {
    let message = status.message.trim();
    let message = if message.is_empty() { status.reason.as_str() } else { message };
    let plain = |kind| Error::new(kind, format!("cannot {doing}: {message}"));
    let code = status.code;
    match StatusCode::from_u16(code).unwrap_or_default() {
        StatusCode::UNAUTHORIZED => Error::unauthorized(format!(
            "cannot {doing}: the cluster does not know these credentials; check `api_key` or the kubeconfig's user"
        )),
        StatusCode::FORBIDDEN => forbidden(doing, message),
        StatusCode::NOT_FOUND => plain(ErrorKind::NotFound),
        StatusCode::CONFLICT => plain(ErrorKind::Conflict),
        StatusCode::TOO_MANY_REQUESTS => plain(ErrorKind::RateLimited { after: wait(status, None) }),
        StatusCode::GONE => plain(ErrorKind::Transient),
        code if code.is_client_error() => {
            let error = plain(ErrorKind::Invalid);
            if effect == Effect::Write { error.with_cause(FailureCause::BadTemplate) } else { error }
        }
        // Admission comes before anything is stored; the API server itself answers 503 before it begins.
        _ if effect == Effect::None || message.contains("failed calling webhook") => {
            plain(ErrorKind::Transient)
        }
        StatusCode::SERVICE_UNAVAILABLE if status.reason == "ServiceUnavailable" => {
            plain(ErrorKind::Transient)
        }
        // What a database answered late, or a proxy gave up on, may have happened all the same.
        _ => plain(ErrorKind::UnknownOutcome),
    }
}

/// One code for three things: permissions, quotas and policies.
fn forbidden(doing: &str, message: &str) -> Error {
    let text = format!("cannot {doing}: {message}");
    if message.contains("exceeded quota") {
        return Error::transient(text).with_cause(FailureCause::Quota);
    }
    if message.contains("error looking up service account") {
        // Made by a controller a moment after the namespace.
        return Error::transient(text);
    }
    if message.contains("is forbidden: User ") {
        return Error::unauthorized(format!("{text}; give the daemon's role this verb (deploy/role.yaml)"));
    }
    Error::invalid(text).with_cause(FailureCause::BadTemplate)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(code: u16, reason: &str, message: &str) -> Status {
        Status { code, reason: reason.into(), message: message.into(), details: None }
    }

    /// What becomes of each answer to a write, and to a read.
    #[test]
    fn each_answer_has_its_kind() {
        let table = [
            status(
                400,
                "BadRequest",
                "Pod in version \"v1\" cannot be handled as a Pod: strict decoding error",
            ),
            status(401, "Unauthorized", "Unauthorized"),
            status(
                403,
                "Forbidden",
                "pods is forbidden: User \"system:serviceaccount:ci:kubestack\" cannot create resource \"pods\" in API group \"\" in the namespace \"ci\"",
            ),
            status(
                403,
                "Forbidden",
                "pods \"a\" is forbidden: exceeded quota: agents, requested: cpu=2, used: cpu=9, limited: cpu=10",
            ),
            status(
                403,
                "Forbidden",
                "pods \"a\" is forbidden: failed quota: agents: must specify limits.cpu for: agent",
            ),
            status(
                403,
                "Forbidden",
                "pods \"a\" is forbidden: violates PodSecurity \"restricted:latest\": privileged (container \"agent\" must not set securityContext.privileged=true)",
            ),
            status(
                403,
                "Forbidden",
                "pods \"a\" is forbidden: maximum cpu usage per Container is 1, but limit is 2",
            ),
            status(
                403,
                "Forbidden",
                "pods \"a\" is forbidden: error looking up service account ci/default: serviceaccount \"default\" not found",
            ),
            status(404, "NotFound", "namespaces \"nope\" not found"),
            status(409, "AlreadyExists", "pods \"a\" already exists"),
            status(
                409,
                "Conflict",
                "Operation cannot be fulfilled on pods \"a\": Precondition failed: UID in precondition: x, UID in object meta: y",
            ),
            status(410, "Expired", "The provided continue parameter is too old"),
            status(413, "RequestEntityTooLarge", "limit is 3145728"),
            status(422, "Invalid", "Pod \"a\" is invalid: spec.containers[0].image: Required value"),
            status(429, "TooManyRequests", "Too many requests, please try again later."),
            status(
                500,
                "InternalError",
                "Internal error occurred: failed calling webhook \"x\": connection refused",
            ),
            status(500, "InternalError", "etcdserver: request timed out"),
            status(502, "", ""),
            status(503, "ServiceUnavailable", "the server is currently unable to handle the request"),
            status(503, "", "upstream connect error or disconnect/reset before headers"),
            status(504, "Timeout", "Timeout: request did not complete within requested timeout"),
        ];
        let rows: Vec<String> = table
            .into_iter()
            .map(|status| {
                let write = Fault::Refused(status.clone()).error("launch a", Effect::Write);
                let read = Fault::Refused(status.clone()).error("launch a", Effect::None);
                let cause = write.cause.map_or("-", FailureCause::as_str);
                let (code, kinds) = (status.code, (write.kind.as_str(), read.kind.as_str()));
                format!("{code} | {} | {} | {cause} | {write}", kinds.0, kinds.1)
            })
            .collect();
        insta::assert_snapshot!(rows.join("\n"));
    }

    #[test]
    fn an_answer_that_was_lost_leaves_a_write_in_doubt() {
        for fault in [Fault::NoAnswer("cut".into()), Fault::Nonsense("half".into())] {
            assert_eq!(fault.error("launch a", Effect::Write).kind, ErrorKind::UnknownOutcome);
        }
        assert_eq!(Fault::NoAnswer("cut".into()).error("list", Effect::None).kind, ErrorKind::Transient);
        let unsent = Fault::NotSent(Error::transient("refused")).error("launch a", Effect::Write);
        assert_eq!(
            (unsent.kind, unsent.message.as_str()),
            (ErrorKind::Transient, "cannot launch a: refused")
        );
    }

    #[test]
    fn the_header_says_how_long_to_wait_then_the_body_then_a_second() {
        let mut status = status(429, "TooManyRequests", "");
        assert_eq!(wait(&status, None), DEFAULT_WAIT);
        status.details = Some(crate::object::StatusDetails { retry_after_seconds: 3 });
        assert_eq!(wait(&status, Some("a date")), Duration::from_secs(3));
        assert_eq!(wait(&status, Some("7")), Duration::from_secs(7));
    }
}
