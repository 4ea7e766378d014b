//! Requests to one Jenkins. Each is sent once; only a POST that was refused for its crumb, and so had no effect, is
//! sent again with a new one.

use crate::fault::{Answer, Effect, denied, lost, page, refused};
use crate::versions::{Profile, profile};
use crate::wire::{Lost, Wire};
use base64::Engine as _;
use bytes::Bytes;
use http::header::{
    ACCEPT_LANGUAGE, AUTHORIZATION, CONTENT_TYPE, COOKIE, HeaderValue, LOCATION, SET_COOKIE, USER_AGENT,
};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use kubestack_core::prelude::*;
use kubestack_core::secrecy::{ExposeSecret, SecretString};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tower::ServiceExt;

/// No answer may be larger: a queue of 50,000 items has some 25 MiB.
pub(crate) const MAX_ANSWER: usize = 64 << 20;

/// A request that takes longer is given up.
const DEADLINE: Duration = Duration::from_secs(25);

/// All but unreserved characters (RFC 3986).
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Who we are.
pub enum Credentials {
    /// Nobody.
    Anonymous,
    /// A user and one of his API tokens: no crumb, and no cookie, which would make Jenkins want a crumb.
    Token(String, SecretString),
    /// A user and his password: each change takes a crumb, which holds for one session.
    Password(String, SecretString),
}

/// One Jenkins.
pub struct Client {
    wire: Wire,
    base: String,
    credentials: Credentials,
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
}

/// What answers have told.
#[derive(Default)]
struct State {
    crumb: Option<Crumb>,
    profile: Option<&'static Profile>,
    session: Option<String>,
}

/// What lets a POST pass.
#[derive(Clone, Default)]
struct Crumb {
    /// Header and value; none where Jenkins wants none.
    header: Option<(String, String)>,
    /// The cookies of the session that it holds for.
    cookie: String,
}

impl Client {
    /// For the server at `base`, such as `https://ci.example.org/jenkins`.
    pub fn new(wire: Wire, base: &str, credentials: Credentials, clock: Arc<dyn Clock>) -> Self {
        let base = base.trim_end_matches('/').to_owned();
        Self { wire, base, credentials, clock, state: Mutex::default() }
    }

    /// Now.
    pub fn now(&self) -> Moment {
        self.clock.now()
    }

    /// Waits.
    pub async fn sleep(&self, duration: Duration) {
        self.clock.sleep(duration).await;
    }

    /// What kind of server it is; asks once.
    pub async fn profile(&self) -> Result<&'static Profile> {
        if let Some(profile) = self.state().profile {
            return Ok(profile);
        }
        self.json("ask for its version", "api/json?tree=mode").await?;
        self.state().profile.ok_or_else(|| Error::bug("an answer without a version"))
    }

    /// Changes when the server was started anew, where it tells (`X-Jenkins-Session`).
    pub fn session(&self) -> Option<String> {
        self.state().session.clone()
    }

    /// Reads a document of the API; what stands twice in it counts the last time.
    pub async fn json(&self, what: &str, path: &str) -> Result<Value> {
        let body = self.api(what, path).await?;
        serde_json::from_slice(&body).map_err(|error| page(what, &body, &error))
    }

    /// Reads an answer of the API as it is.
    pub async fn api(&self, what: &str, path: &str) -> Result<Bytes> {
        let answer = self.send(what, Effect::None, Method::GET, path, None, None).await?;
        Ok(answer.body)
    }

    /// Reads a page.
    pub async fn text(&self, what: &str, path: &str) -> Result<String> {
        Ok(String::from_utf8_lossy(&self.api(what, path).await?).into_owned())
    }

    /// Changes something. A redirect back to the nodes is success; one to anywhere else is not.
    pub async fn post(&self, what: &str, path: &str, form: &[(&str, &str)]) -> Result<Bytes> {
        let crumb = self.crumb().await?;
        let sent = self.send(what, Effect::Write, Method::POST, path, Some(form), Some(&crumb)).await;
        let answer = match sent {
            Err(error) if crumb.header.is_some() && error.message.contains("valid crumb") => {
                self.state().crumb = None;
                let crumb = self.crumb().await?;
                self.send(what, Effect::Write, Method::POST, path, Some(form), Some(&crumb)).await?
            }
            other => other?,
        };
        Ok(answer.body)
    }

    async fn crumb(&self) -> Result<Crumb> {
        if !matches!(self.credentials, Credentials::Password(..)) {
            return Ok(Crumb::default());
        }
        if let Some(crumb) = self.state().crumb.clone() {
            return Ok(crumb);
        }
        let path = "crumbIssuer/api/json";
        let crumb = match self.send("get a crumb", Effect::None, Method::GET, path, None, None).await {
            Ok(answer) => {
                let crumb: Value = serde_json::from_slice(&answer.body)
                    .map_err(|error| page("get a crumb", &answer.body, &error))?;
                let text = |key: &str| crumb.get(key).and_then(Value::as_str).map(str::to_owned);
                Crumb { header: text("crumbRequestField").zip(text("crumb")), cookie: answer.cookie }
            }
            // Protection against forged requests is off.
            Err(error) if error.kind == ErrorKind::NotFound => Crumb::default(),
            Err(error) => return Err(error),
        };
        self.state().crumb = Some(crumb.clone());
        Ok(crumb)
    }

    async fn send(
        &self,
        what: &str,
        effect: Effect,
        method: Method,
        path: &str,
        form: Option<&[(&str, &str)]>,
        crumb: Option<&Crumb>,
    ) -> Result<Answer> {
        let request = self.request(method, path, form, crumb)?;
        let asking = exchange(self.wire.clone(), request);
        let answer = tokio::select! {
            biased;
            answer = asking => answer,
            () = self.clock.sleep(DEADLINE) => {
                Err(Lost::NoAnswer(format!("no answer within {} s", DEADLINE.as_secs())))
            }
        };
        let answer = answer.map_err(|why| lost(what, effect, why))?;
        self.learn(&answer);
        if answer.status == StatusCode::FORBIDDEN || answer.status == StatusCode::UNAUTHORIZED {
            return Err(denied(what, &answer));
        }
        if answer.status.is_redirection() {
            let back = effect == Effect::Write && leads_to_the_nodes(&answer.location);
            return if back { Ok(answer) } else { Err(refused(what, effect, &answer)) };
        }
        if answer.status.is_success() { Ok(answer) } else { Err(refused(what, effect, &answer)) }
    }

    fn request(
        &self,
        method: Method,
        path: &str,
        form: Option<&[(&str, &str)]>,
        crumb: Option<&Crumb>,
    ) -> Result<Request<Full<Bytes>>> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}/{path}", self.base))
            .header(USER_AGENT, concat!("kubestack/", env!("CARGO_PKG_VERSION")))
            // Why a job waits is told in the language of whoever asks.
            .header(ACCEPT_LANGUAGE, "en");
        if let Credentials::Token(user, secret) | Credentials::Password(user, secret) = &self.credentials {
            let both = format!("{user}:{}", secret.expose_secret());
            let basic = format!("Basic {}", base64::prelude::BASE64_STANDARD.encode(both));
            let mut basic = HeaderValue::from_str(&basic).map_err(|error| Error::bug(error.to_string()))?;
            basic.set_sensitive(true);
            request = request.header(AUTHORIZATION, basic);
        }
        if let Some(crumb) = crumb {
            if let Some((name, value)) = &crumb.header {
                request = request.header(name, value);
            }
            if !crumb.cookie.is_empty() {
                request = request.header(COOKIE, &crumb.cookie);
            }
        }
        let mut body = String::new();
        if let Some(form) = form {
            request = request.header(CONTENT_TYPE, "application/x-www-form-urlencoded");
            let pairs: Vec<String> =
                form.iter().map(|(key, value)| format!("{}={}", encode(key), encode(value))).collect();
            body = pairs.join("&");
        }
        request.body(Full::from(body)).map_err(|error| Error::bug(format!("cannot ask for {path}: {error}")))
    }

    /// Takes note of what every answer tells of its server.
    fn learn(&self, answer: &Answer) {
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let (version, session) = (some(&answer.version), some(&answer.session));
        let mut state = self.state();
        // Errors of a proxy before it tell nothing of Jenkins.
        if version.is_some() || answer.status.is_success() {
            state.profile = Some(profile(version.as_deref()));
        }
        if session.is_some() && state.session != session {
            state.session = session;
            // Sessions ended with the server, and crumbs with them.
            state.crumb = None;
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A text as one segment of a path, or as a value of a query or form.
pub fn encode(text: &str) -> String {
    utf8_percent_encode(text, RESERVED).to_string()
}

/// Where Jenkins sends a browser after a change of a node: `.`, `..`, or the absolute address of the same. A login page
/// is elsewhere, whatever it is called.
fn leads_to_the_nodes(location: &str) -> bool {
    let path = location.split(['?', '#']).next().unwrap_or_default();
    let path =
        path.split_once("://").map_or(path, |(_, rest)| rest.split_once('/').map_or("", |(_, path)| path));
    matches!(path, "." | "..") || path.split('/').any(|segment| segment == "computer")
}

type Exchange = Pin<Box<dyn Future<Output = Result<Answer, Lost>> + Send>>;

/// Sends one request and reads the whole answer.
fn exchange(wire: Wire, request: Request<Full<Bytes>>) -> Exchange {
    Box::pin(async move {
        let (parts, body) = wire.oneshot(request).await?.into_parts();
        let body = Limited::new(body, MAX_ANSWER).collect().await.map_err(|error| {
            let large = error.downcast_ref::<LengthLimitError>().is_some();
            let text = format!("the answer is larger than {} MiB", MAX_ANSWER >> 20);
            Lost::NoAnswer(if large { text } else { format!("the answer was cut: {error}") })
        })?;
        let header = |name: &str| {
            let value = parts.headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()));
            value.unwrap_or_default().into_owned()
        };
        let cookies = parts.headers.get_all(SET_COOKIE).into_iter();
        let cookies = cookies.filter_map(|cookie| cookie.to_str().ok()?.split(';').next()).map(str::trim);
        Ok(Answer {
            status: parts.status,
            version: header("x-jenkins"),
            session: header("x-jenkins-session"),
            location: header(LOCATION.as_str()),
            cookie: cookies.collect::<Vec<_>>().join("; "),
            retry_after: header("retry-after"),
            error: header("x-error"),
            permission: header("x-required-permission"),
            body: body.to_bytes(),
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_page_is_not_among_the_nodes() {
        for (location, nodes) in [
            (".", true),
            ("..", true),
            ("http://ci:8080/computer/ks-1/..", true),
            ("https://ci/jenkins/computer/", true),
            ("/login?from=%2Fcomputer%2Fks-1%2FdoDelete", false),
            ("https://ci/securityRealm/commenceLogin?from=/computer/", false),
            ("https://computer/login", false),
            ("https://sso.example.org/auth?back=https://ci/computer/a", false),
            ("", false),
        ] {
            assert_eq!(leads_to_the_nodes(location), nodes, "{location}");
        }
    }

    #[test]
    fn every_odd_character_is_encoded() {
        assert_eq!(encode("a b&&c/ü?%"), "a%20b%26%26c%2F%C3%BC%3F%25");
    }
}
