//! What an answer that is no success means, in words for people.

use crate::wire::Lost;
use bytes::Bytes;
use http::StatusCode;
use kubestack_core::prelude::*;
use std::time::Duration;

/// How long to wait where the server asks for it without a number.
const DEFAULT_WAIT: Duration = Duration::from_secs(5);

/// No server keeps us waiting for longer than this between two tries.
const MAX_WAIT: Duration = Duration::from_secs(300);

/// Whether a request changes something: then an answer that says nothing leaves it in doubt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It reads.
    None,
    /// It writes.
    Write,
}

/// What came back.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: StatusCode,
    /// `X-Jenkins`.
    pub version: String,
    /// `X-Jenkins-Session`.
    pub session: String,
    pub location: String,
    pub cookie: String,
    pub retry_after: String,
    pub error: String,
    pub permission: String,
    pub body: Bytes,
}

fn unclear(effect: Effect) -> ErrorKind {
    match effect {
        Effect::None => ErrorKind::Transient,
        Effect::Write => ErrorKind::UnknownOutcome,
    }
}

/// No answer came.
pub fn lost(what: &str, effect: Effect, why: Lost) -> Error {
    match why {
        Lost::NotSent(text) if text.contains("invalid peer certificate") => Error::unauthorized(format!(
            "cannot {what}: the certificate of Jenkins is not trusted; name its authority in `ca_file` ({text})"
        )),
        Lost::NotSent(text) => Error::transient(format!("cannot {what}: Jenkins cannot be reached ({text})")),
        Lost::NoAnswer(text) => Error::new(unclear(effect), format!("cannot {what}: {text}")),
    }
}

/// 401 and 403.
pub fn denied(what: &str, answer: &Answer) -> Error {
    let text = String::from_utf8_lossy(&answer.body);
    if answer.status == StatusCode::UNAUTHORIZED {
        let text = format!("cannot {what}: Jenkins does not know this user and password or token");
        return Error::unauthorized(text);
    }
    if text.contains("valid crumb") {
        // What the client looks for before it gets a new one.
        return Error::unauthorized(format!("cannot {what}: no valid crumb was included in the request"));
    }
    let permission = Some(answer.permission.as_str()).filter(|text| !text.is_empty());
    let permission = permission.or_else(|| {
        let (_, rest) = text.split_once("(but didn't): ").or_else(|| text.split_once("is missing the "))?;
        rest.split(['\n', '<', ' ', '\r']).next()
    });
    let lacks = match permission {
        Some(permission) => {
            let permission: String = permission.chars().take(100).collect();
            format!("the permission {permission} is missing; give it to the daemon's user")
        }
        None => "forbidden; see docs/jenkins.md for the permissions that the daemon's user needs".to_owned(),
    };
    Error::unauthorized(format!("cannot {what}: {lacks}"))
}

/// Any other status that is no success.
pub fn refused(what: &str, effect: Effect, answer: &Answer) -> Error {
    let code = answer.status.as_u16();
    let said = said(answer);
    let plain = |kind| Error::new(kind, format!("cannot {what}: Jenkins answers {code}{said}"));
    match code {
        300..=399 => {
            let place: String =
                answer.location.split(['?', '#']).next().unwrap_or_default().chars().take(200).collect();
            let lower = place.to_lowercase();
            if ["login", "auth", "sso", "securityrealm"].iter().any(|word| lower.contains(word)) {
                return Error::unauthorized(format!(
                    "cannot {what}: Jenkins sends us to the login page {place}; check user and password or token"
                ));
            }
            let text = format!(
                "cannot {what}: Jenkins redirects to `{place}`; `external_url` must be its own address"
            );
            // Where it leads is no answer to a change.
            Error::new(
                if effect == Effect::Write { ErrorKind::UnknownOutcome } else { ErrorKind::Invalid },
                text,
            )
        }
        404 => plain(ErrorKind::NotFound),
        409 => plain(ErrorKind::Conflict),
        429 => plain(ErrorKind::RateLimited { after: wait(answer) }),
        503 if !answer.retry_after.is_empty() => plain(ErrorKind::RateLimited { after: wait(answer) }),
        503 => Error::transient(format!("cannot {what}: Jenkins is not ready yet (503{said})")),
        500..=599 => plain(unclear(effect)),
        _ => plain(ErrorKind::Invalid),
    }
}

/// Not what was asked for, but a page.
pub fn page(what: &str, body: &Bytes, error: &serde_json::Error) -> Error {
    let text = String::from_utf8_lossy(body.get(..body.len().min(4096)).unwrap_or_default()).to_lowercase();
    if !text.trim_start().starts_with('<') {
        return Error::transient(format!("cannot {what}: the answer makes no sense: {error}"));
    }
    if text.contains("j_username") || text.contains("login") || text.contains("sign in") {
        return Error::unauthorized(format!(
            "cannot {what}: a login page came in place of an answer; check user and password or token"
        ));
    }
    Error::invalid(format!(
        "cannot {what}: an HTML page came in place of an answer; is `external_url` that of Jenkins?"
    ))
}

/// What the server says about it: its own header, or the title of its page.
fn said(answer: &Answer) -> String {
    let text = if answer.error.is_empty() { title(&answer.body) } else { answer.error.clone() };
    let text: String = text.chars().filter(|character| !character.is_control()).take(200).collect();
    if text.is_empty() { text } else { format!(": {text}") }
}

fn title(body: &Bytes) -> String {
    let text = String::from_utf8_lossy(body.get(..body.len().min(16_384)).unwrap_or_default());
    // Where the ancestor says what it has against a form.
    let of = |tag: &str, end: &str| Some(text.split_once(tag)?.1.split_once(end)?.0.trim().to_owned());
    let error = text.split_once("<h1>Error</h1>").and_then(|(_, rest)| {
        let rest = rest.split_once("<p>")?.1;
        Some(rest.split_once("</p>")?.0.trim().to_owned())
    });
    error.or_else(|| of("<title>", "</title>")).unwrap_or_default()
}

fn wait(answer: &Answer) -> Duration {
    answer.retry_after.trim().parse().map_or(DEFAULT_WAIT, Duration::from_secs).min(MAX_WAIT)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, body: &str) -> Answer {
        let none = String::new;
        let status = StatusCode::from_u16(status).unwrap();
        let body = Bytes::copy_from_slice(body.as_bytes());
        Answer {
            status,
            version: none(),
            session: none(),
            location: none(),
            cookie: none(),
            retry_after: none(),
            error: none(),
            permission: none(),
            body,
        }
    }

    #[test]
    fn each_answer_has_a_kind_and_words() {
        let mut table = vec![
            answer(400, "<html><h1>Error</h1><p>Slave called 'a' already exists</p>"),
            answer(404, "<html><head><title>Error 404</title>"),
            answer(405, ""),
            answer(409, "Agent \"a\" already exists."),
            answer(429, ""),
            answer(500, "<title>Error 500</title>java.lang.NullPointerException"),
            answer(502, "<html><title>Bad Gateway</title>"),
            answer(503, "<title>Starting Jenkins</title>Please wait"),
        ];
        let redirect = |location: &str| Answer { location: location.into(), ..answer(302, "") };
        table.extend([redirect("http://ci/login?from=x"), redirect("https://ci/"), redirect("")]);
        table.push(Answer { retry_after: "99999999".into(), ..answer(503, "") });
        table.push(Answer { error: "No such\u{7} thing".into(), ..answer(400, "") });
        let rows: Vec<String> = table
            .iter()
            .map(|answer| {
                let [read, write] = [Effect::None, Effect::Write]
                    .map(|effect| refused("do it", effect, answer).kind.as_str());
                format!(
                    "{} | {read} | {write} | {}",
                    answer.status.as_u16(),
                    refused("do it", Effect::None, answer)
                )
            })
            .collect();
        insta::assert_snapshot!(rows.join("\n"));
    }

    #[test]
    fn who_is_denied_hears_what_is_missing() {
        let named = Answer { permission: "hudson.model.Computer.Create".into(), ..answer(403, "") };
        assert!(
            denied("enrol a", &named).message.contains("permission hudson.model.Computer.Create is missing")
        );
        let old = "<!--\nYou are authenticated as: anonymous\nPermission you need to have (but didn't): hudson.model.Hudson.Read\n-->";
        assert!(
            denied("look", &answer(403, old))
                .message
                .contains("permission hudson.model.Hudson.Read is missing")
        );
        let page = "<p>bob is missing the Agent/Delete permission</p>";
        assert!(denied("look", &answer(403, page)).message.contains("permission Agent/Delete is missing"));
        assert!(denied("look", &answer(401, "")).message.contains("does not know this user"));
        assert_eq!(denied("look", &answer(403, "")).kind, ErrorKind::Unauthorized);
    }
}
