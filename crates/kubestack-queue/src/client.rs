//! The operator's side of the API.

use crate::model::{AgentInfo, Enrol, Enrolled, Job, Revision, Submission, Waiting};
use crate::server::Problem;
use kubestack_core::error::{Error, ErrorKind, Result};
use reqwest::{Method, RequestBuilder, Response};
use secrecy::{ExposeSecret, SecretString};
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::future::Future;
use std::time::Duration;

/// How long a call may take beyond what it asks the server to wait.
const PATIENCE: Duration = Duration::from_secs(15);

/// Talks to one queue.
#[derive(Clone)]
pub struct QueueClient {
    http: reqwest::Client,
    base: String,
    token: SecretString,
}

impl QueueClient {
    /// For the queue at that URL, with the operator's token or, for an agent, its own.
    ///
    /// # Errors
    /// If no HTTP client can be made.
    pub fn new(url: &str, token: SecretString) -> Result<Self> {
        let http = reqwest::Client::builder()
            .connect_timeout(Duration::from_secs(5))
            // Well before the server lets an idle connection go.
            .pool_idle_timeout(Duration::from_secs(20))
            // A redirect would carry the token to a place that nobody named.
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|error| Error::bug(format!("cannot make an HTTP client: {error}")))?;
        Ok(Self { http, base: url.trim_end_matches('/').to_owned(), token })
    }

    /// Puts a job into the queue.
    ///
    /// # Errors
    /// As the server says.
    pub async fn submit(&self, job: &Submission) -> Result<Job> {
        self.json(self.request(Method::POST, "/v1/jobs").json(job)).await
    }

    /// One job.
    ///
    /// # Errors
    /// As the server says.
    pub async fn job(&self, id: u64) -> Result<Job> {
        self.json(self.request(Method::GET, &format!("/v1/jobs/{id}"))).await
    }

    /// All jobs, oldest first.
    ///
    /// # Errors
    /// As the server says.
    pub async fn jobs(&self) -> Result<Vec<Job>> {
        let mut all: Vec<Job> = Vec::new();
        loop {
            let after = all.last().map_or(0, |job| job.id);
            let page: Vec<Job> =
                self.json(self.request(Method::GET, &format!("/v1/jobs?after={after}"))).await?;
            if page.is_empty() {
                return Ok(all);
            }
            all.extend(page);
        }
    }

    /// Wants a job to end.
    ///
    /// # Errors
    /// As the server says.
    pub async fn cancel(&self, id: u64) -> Result<Job> {
        self.json(self.request(Method::POST, &format!("/v1/jobs/{id}/cancel"))).await
    }

    /// Log bytes from `offset` on; waits that long for the first of them while the job has not ended.
    ///
    /// # Errors
    /// As the server says.
    pub async fn log(&self, id: u64, offset: u64, wait: Duration) -> Result<Vec<u8>> {
        let path = format!("/v1/jobs/{id}/log?offset={offset}&wait={}", wait.as_millis());
        let response = self.send(self.request(Method::GET, &path).timeout(wait + PATIENCE)).await?;
        Ok(response.bytes().await.map_err(|error| broken(&error))?.to_vec())
    }

    /// The revisions, once one of them differs from what is known, or after `wait`.
    ///
    /// # Errors
    /// As the server says.
    pub async fn changes(
        &self,
        demand: Option<u64>,
        agents: Option<u64>,
        wait: Duration,
    ) -> Result<Revision> {
        let known =
            |name: &str, value: Option<u64>| value.map_or(String::new(), |value| format!("{name}={value}&"));
        let (demand, agents) = (known("demand", demand), known("agents", agents));
        let path = format!("/v1/changes?{demand}{agents}wait={}", wait.as_millis());
        self.json(self.request(Method::GET, &path).timeout(wait + PATIENCE)).await
    }

    /// Jobs that wait.
    ///
    /// # Errors
    /// As the server says.
    pub async fn waiting(&self) -> Result<Vec<Waiting>> {
        self.json(self.request(Method::GET, "/v1/demand")).await
    }

    /// All agents.
    ///
    /// # Errors
    /// As the server says.
    pub async fn agents(&self) -> Result<Vec<AgentInfo>> {
        self.json(self.request(Method::GET, "/v1/agents")).await
    }

    /// Makes the queue expect an agent.
    ///
    /// # Errors
    /// [`Conflict`](ErrorKind::Conflict) if there is one of that name.
    pub async fn enrol(&self, name: &str, enrol: &Enrol) -> Result<Enrolled> {
        self.json(self.request(Method::PUT, &format!("/v1/agents/{name}")).json(enrol)).await
    }

    /// Gives an agent no job any more.
    ///
    /// # Errors
    /// As the server says.
    pub async fn drain(&self, name: &str) -> Result<()> {
        self.send(self.request(Method::POST, &format!("/v1/agents/{name}/drain"))).await.map(drop)
    }

    /// Forgets an agent.
    ///
    /// # Errors
    /// [`Conflict`](ErrorKind::Conflict) while it has a job, unless `despite_busy`.
    pub async fn remove(&self, name: &str, despite_busy: bool) -> Result<()> {
        let path = format!("/v1/agents/{name}?despite_busy={despite_busy}");
        self.send(self.request(Method::DELETE, &path)).await.map(drop)
    }

    /// Tells why jobs wait, by label.
    ///
    /// # Errors
    /// As the server says.
    pub async fn reasons(&self, reasons: &BTreeMap<String, String>) -> Result<()> {
        self.send(self.request(Method::PUT, "/v1/reasons").json(reasons)).await.map(drop)
    }

    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.base));
        request.timeout(PATIENCE).bearer_auth(self.token.expose_secret())
    }

    pub(crate) async fn json<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T> {
        let response = self.send(request).await?;
        response.json().await.map_err(|error| broken(&error))
    }

    pub(crate) async fn send(&self, request: RequestBuilder) -> Result<Response> {
        let response = request.send().await.map_err(|error| broken(&error))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let problem = response.json::<Problem>().await.ok();
        let text = problem.map_or_else(|| format!("the queue answered {status}"), |problem| problem.detail);
        Err(Error::new(
            match status.as_u16() {
                401 | 403 => ErrorKind::Unauthorized,
                404 => ErrorKind::NotFound,
                409 => ErrorKind::Conflict,
                429 => ErrorKind::RateLimited { after: Duration::from_secs(1) },
                503 => ErrorKind::Transient,
                500..=599 => ErrorKind::UnknownOutcome,
                _ => ErrorKind::Invalid,
            },
            text,
        ))
    }
}

/// Repeats a call that may be repeated until it has an answer, with growing pauses, for about so long.
///
/// # Errors
/// The last one, if it did not pass in time; any other at once.
#[expect(clippy::disallowed_methods, reason = "agents and the command line live in real time")]
pub async fn persist<T, W: Future<Output = Result<T>>>(
    patience: Duration,
    call: impl Fn() -> W,
) -> Result<T> {
    let mut pause = Duration::from_millis(50);
    let mut waited = Duration::ZERO;
    loop {
        match call().await {
            Err(error)
                if waited < patience
                    && matches!(
                        error.kind,
                        ErrorKind::Transient | ErrorKind::UnknownOutcome | ErrorKind::RateLimited { .. }
                    ) =>
            {
                tokio::time::sleep(pause).await;
                waited += pause;
                pause = (pause * 2).min(Duration::from_secs(2));
            }
            answer => return answer,
        }
    }
}

/// What a call without an answer means: no connection, no effect; after that, who knows.
pub(crate) fn broken(error: &reqwest::Error) -> Error {
    let kind = if error.is_connect() || error.is_builder() {
        ErrorKind::Transient
    } else {
        ErrorKind::UnknownOutcome
    };
    // The inner errors tell what happened; the outer one only names the URL.
    let mut source: &dyn std::error::Error = error;
    while let Some(inner) = source.source() {
        source = inner;
    }
    Error::new(kind, format!("the queue does not answer: {source}"))
}
