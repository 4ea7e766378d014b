//! Routes: who may ask what, and how much of it.

use super::problem::Problem;
use super::queue::Queue;
use crate::model::{AgentInfo, Beat, Enrol, Enrolled, Job, Outcome, Revision, Submission, Waiting};
use axum::body::Bytes;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, FromRequest, FromRequestParts, Path, Query, Request, State};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Json, Router};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

/// Bodies beyond this are refused unread.
const BODY: usize = 1 << 20;
/// Whoever takes longer to send a body is let go.
const BODY_TIME: Duration = Duration::from_secs(30);
/// Log bytes in one answer.
const LOG: usize = 1 << 20;
/// Jobs in one answer.
const PAGE: usize = 1_000;
/// The longest that an answer is held back.
const WAIT: u64 = 30_000;

type Shared = State<Arc<Queue>>;
type Answer<T> = Result<T, Problem>;

pub(super) fn router(queue: Arc<Queue>) -> Router {
    Router::new()
        .route("/v1/jobs", post(submit).get(jobs))
        .route("/v1/jobs/{id}", get(job))
        .route("/v1/jobs/{id}/cancel", post(cancel))
        .route("/v1/jobs/{id}/log", get(log))
        .route("/v1/changes", get(changes))
        .route("/v1/demand", get(demand))
        .route("/v1/agents", get(agents))
        .route("/v1/agents/{name}", put(enrol).delete(remove))
        .route("/v1/agents/{name}/drain", post(drain))
        .route("/v1/reasons", put(reasons))
        .route("/v1/agent/lease", post(lease))
        .route("/v1/agent/beat", post(beat))
        .route("/v1/agent/log", post(append))
        .route("/v1/agent/result", post(result))
        .fallback(async || Problem::new(StatusCode::NOT_FOUND, "there is no such path; the API is under /v1"))
        .method_not_allowed_fallback(async || {
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, "this path has other methods; `allow` names them")
        })
        .layer(DefaultBodyLimit::max(BODY))
        .with_state(queue)
}

fn bearer(parts: &Parts) -> Answer<&str> {
    let value = parts.headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    value
        .and_then(|value| value.strip_prefix("Bearer "))
        .ok_or_else(|| Problem::new(StatusCode::UNAUTHORIZED, "send `Authorization: Bearer TOKEN`"))
}

/// Proof that the caller is the operator.
struct Operator;

impl FromRequestParts<Arc<Queue>> for Operator {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, queue: &Arc<Queue>) -> Answer<Self> {
        let known = queue.is_operator(bearer(parts)?);
        known
            .then_some(Self)
            .ok_or_else(|| Problem::new(StatusCode::FORBIDDEN, "this is not the operator's token"))
    }
}

/// The agent that calls.
struct Agent(String);

impl FromRequestParts<Arc<Queue>> for Agent {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, queue: &Arc<Queue>) -> Answer<Self> {
        queue.agent_of(bearer(parts)?).map(Self).ok_or_else(|| {
            Problem::new(
                StatusCode::FORBIDDEN,
                "this is no agent's token; the agent was removed, or never enrolled",
            )
        })
    }
}

/// A body as it is, within its limits of size and time.
struct Raw(Bytes);

impl FromRequest<Arc<Queue>> for Raw {
    type Rejection = Problem;
    async fn from_request(request: Request, queue: &Arc<Queue>) -> Answer<Self> {
        let too_large = || {
            let text = format!("the body is larger than {BODY} bytes; send less at once");
            Problem::new(StatusCode::PAYLOAD_TOO_LARGE, text)
        };
        let declared = request.headers().get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok());
        if declared.and_then(|value| value.parse::<u64>().ok()).is_some_and(|length| length > BODY as u64) {
            return Err(too_large());
        }
        let Ok(bytes) = tokio::time::timeout(BODY_TIME, Bytes::from_request(request, queue)).await else {
            let text = format!("the body did not come within {} s", BODY_TIME.as_secs());
            return Err(Problem::new(StatusCode::REQUEST_TIMEOUT, text));
        };
        bytes.map(Self).map_err(|rejection| match rejection.status() {
            StatusCode::PAYLOAD_TOO_LARGE => too_large(),
            status => Problem::new(status, rejection.body_text()),
        })
    }
}

/// A JSON body, with a problem that says what is wrong with it.
struct Body<T>(T);

impl<T: DeserializeOwned> FromRequest<Arc<Queue>> for Body<T> {
    type Rejection = Problem;
    async fn from_request(request: Request, queue: &Arc<Queue>) -> Answer<Self> {
        let Raw(bytes) = Raw::from_request(request, queue).await?;
        let body = serde_json::from_slice(&bytes);
        body.map(Self).map_err(|error| {
            Problem::new(StatusCode::BAD_REQUEST, format!("the body is not understood: {error}"))
        })
    }
}

fn asked<T>(query: Result<Query<T>, QueryRejection>) -> Answer<T> {
    query.map(|Query(query)| query).map_err(|error| Problem::new(StatusCode::BAD_REQUEST, error.body_text()))
}

fn named<T>(path: Result<Path<T>, PathRejection>) -> Answer<T> {
    path.map(|Path(path)| path).map_err(|error| Problem::new(StatusCode::BAD_REQUEST, error.body_text()))
}

/// Runs `wait`, but not for longer than the caller asked for.
pub(super) async fn at_most(milliseconds: u64, wait: impl Future<Output = ()>) {
    let longest = Duration::from_millis(milliseconds.min(WAIT));
    let _ = tokio::time::timeout(longest, wait).await;
}

async fn submit(
    _: Operator,
    State(queue): Shared,
    Body(job): Body<Submission>,
) -> Answer<(StatusCode, Json<Job>)> {
    Ok((StatusCode::CREATED, Json(queue.submit(job)?)))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Page {
    #[serde(default)]
    after: u64,
    limit: Option<usize>,
}

async fn jobs(
    _: Operator,
    State(queue): Shared,
    page: Result<Query<Page>, QueryRejection>,
) -> Answer<Json<Vec<Job>>> {
    let page = asked(page)?;
    Ok(Json(queue.jobs(page.after, page.limit.unwrap_or(PAGE).min(PAGE))))
}

async fn job(_: Operator, State(queue): Shared, id: Result<Path<u64>, PathRejection>) -> Answer<Json<Job>> {
    Ok(Json(queue.job(named(id)?)?))
}

async fn cancel(
    _: Operator,
    State(queue): Shared,
    id: Result<Path<u64>, PathRejection>,
) -> Answer<Json<Job>> {
    Ok(Json(queue.cancel(named(id)?)?))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LogPart {
    #[serde(default)]
    offset: u64,
    /// Milliseconds to wait for more if there is none.
    #[serde(default)]
    wait: u64,
}

async fn log(
    _: Operator,
    State(queue): Shared,
    id: Result<Path<u64>, PathRejection>,
    part: Result<Query<LogPart>, QueryRejection>,
) -> Answer<Response> {
    let (id, part) = (named(id)?, asked(part)?);
    let mut revisions = queue.revisions();
    let there =
        || Ok::<_, Problem>(queue.job(id)?.state.has_ended() || queue.job(id)?.log_bytes > part.offset);
    if !there()? {
        at_most(part.wait, async { while revisions.changed().await.is_ok() && !there().unwrap_or(true) {} })
            .await;
    }
    let bytes = queue.log(id, part.offset, LOG)?;
    let kind = [(header::CONTENT_TYPE, "application/octet-stream")];
    Ok((kind, bytes).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Since {
    #[serde(default)]
    demand: Option<u64>,
    #[serde(default)]
    agents: Option<u64>,
    #[serde(default)]
    wait: u64,
}

/// Waits until one of the named revisions differs from what the caller knows.
async fn changes(
    _: Operator,
    State(queue): Shared,
    since: Result<Query<Since>, QueryRejection>,
) -> Answer<Json<Revision>> {
    let since = asked(since)?;
    let mut revisions = queue.revisions();
    let news = |now: &Revision| {
        since.demand.is_some_and(|known| known != now.demand)
            || since.agents.is_some_and(|known| known != now.agents)
    };
    at_most(since.wait, async {
        let _ = revisions.wait_for(news).await;
    })
    .await;
    let now = *revisions.borrow();
    Ok(Json(now))
}

async fn demand(_: Operator, State(queue): Shared) -> Json<Vec<Waiting>> {
    Json(queue.waiting())
}

async fn agents(_: Operator, State(queue): Shared) -> Json<Vec<AgentInfo>> {
    Json(queue.agents())
}

async fn enrol(
    _: Operator,
    State(queue): Shared,
    name: Result<Path<String>, PathRejection>,
    Body(body): Body<Enrol>,
) -> Answer<(StatusCode, Json<Enrolled>)> {
    Ok((StatusCode::CREATED, Json(queue.enrol(&named(name)?, body)?)))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Removal {
    #[serde(default)]
    despite_busy: bool,
}

async fn remove(
    _: Operator,
    State(queue): Shared,
    name: Result<Path<String>, PathRejection>,
    how: Result<Query<Removal>, QueryRejection>,
) -> Answer<StatusCode> {
    queue.remove(&named(name)?, asked(how)?.despite_busy)?;
    Ok(StatusCode::NO_CONTENT)
}

async fn drain(
    _: Operator,
    State(queue): Shared,
    name: Result<Path<String>, PathRejection>,
) -> Answer<StatusCode> {
    queue.drain(&named(name)?)?;
    Ok(StatusCode::NO_CONTENT)
}

async fn reasons(
    _: Operator,
    State(queue): Shared,
    Body(reasons): Body<BTreeMap<String, String>>,
) -> StatusCode {
    queue.explain(reasons);
    StatusCode::NO_CONTENT
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Patience {
    #[serde(default)]
    wait: u64,
}

/// 200 with the job, 204 if there is none yet, 409 if there will be none.
async fn lease(
    Agent(name): Agent,
    State(queue): Shared,
    how: Result<Query<Patience>, QueryRejection>,
) -> Answer<Response> {
    let patience = asked(how)?;
    let mut revisions = queue.revisions();
    let mut answer = queue.lease(&name)?;
    if answer.is_none() {
        let mut failed = None;
        at_most(patience.wait.min(queue.silence()), async {
            while revisions.changed().await.is_ok() {
                match queue.lease(&name) {
                    Ok(None) => {}
                    Ok(job) => {
                        answer = job;
                        return;
                    }
                    Err(error) => {
                        failed = Some(error);
                        return;
                    }
                }
            }
        })
        .await;
        if let Some(error) = failed {
            return Err(error.into());
        }
    }
    Ok(answer.map_or_else(|| StatusCode::NO_CONTENT.into_response(), |job| Json(job).into_response()))
}

async fn beat(
    Agent(name): Agent,
    State(queue): Shared,
    how: Result<Query<Patience>, QueryRejection>,
) -> Answer<Json<Beat>> {
    let patience = asked(how)?;
    let mut revisions = queue.revisions();
    let first = queue.beat(&name)?;
    if !first.cancel {
        // Held back so that a cancellation reaches the agent at once.
        at_most(patience.wait.min(queue.silence()), async {
            while revisions.changed().await.is_ok() && !queue.is_to_end(&name) {}
        })
        .await;
    }
    Ok(Json(queue.beat(&name)?))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Offset {
    offset: u64,
}

async fn append(
    Agent(name): Agent,
    State(queue): Shared,
    offset: Result<Query<Offset>, QueryRejection>,
    Raw(bytes): Raw,
) -> Answer<StatusCode> {
    queue.append(&name, asked(offset)?.offset, &bytes)?;
    Ok(StatusCode::NO_CONTENT)
}

async fn result(
    Agent(name): Agent,
    State(queue): Shared,
    Body(outcome): Body<Outcome>,
) -> Answer<StatusCode> {
    queue.result(&name, &outcome)?;
    Ok(StatusCode::NO_CONTENT)
}
