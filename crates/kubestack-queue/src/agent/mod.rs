//! The agent: takes one job, runs it, reports, and exits. A process of its own, in real time.

mod process;

use crate::client::{QueueClient, broken, persist};
use crate::model::{Beat, Job, Outcome};
use kubestack_core::error::{Error, ErrorKind, Result};
use process::{End, Running, Wish};
use reqwest::{Method, StatusCode};
use rustix::process::Signal;
use secrecy::SecretString;
use std::convert::Infallible;
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// Environment: where the queue answers.
pub const URL: &str = "KUBESTACK_QUEUE_URL";
/// Environment: the agent's name.
pub const NAME: &str = "KUBESTACK_AGENT_NAME";
/// Environment: the agent's token.
pub const TOKEN: &str = "KUBESTACK_AGENT_TOKEN";
/// Environment: a file that holds the agent's token, instead of [`TOKEN`].
pub const TOKEN_FILE: &str = "KUBESTACK_AGENT_TOKEN_FILE";

/// What an enrolment sets. The job sees none of it.
const ENROLMENT: [&str; 4] = [URL, NAME, TOKEN, TOKEN_FILE];

/// How long a call may be held back by the server. Less than half a lease, so that an agent that waits is
/// heard of often enough.
const WAIT: Duration = Duration::from_secs(5);
/// How long a job that is to end may take to do so before it is killed.
const GRACE: Duration = Duration::from_secs(5);
/// The queue may be restarted under a running job; a job is worth more patience than an idle agent.
const IDLE_PATIENCE: Duration = Duration::from_secs(120);
const BUSY_PATIENCE: Duration = Duration::from_secs(24 * 3600);
/// Log bytes in one call.
const CHUNK: usize = 256 * 1024;

/// What an agent needs.
pub struct AgentConfig {
    /// Where the queue answers.
    pub url: String,
    /// Its token.
    pub token: SecretString,
}

impl AgentConfig {
    /// From the environment that the enrolment set.
    ///
    /// # Errors
    /// If something is missing; the text names it.
    pub fn from_env() -> Result<Self> {
        let var = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let missing = |what: &str| {
            Error::invalid(format!("{what} is not set; agents are started by a provider, not by hand"))
        };
        let token = match (var(TOKEN), var(TOKEN_FILE)) {
            (Some(token), _) => token,
            (None, Some(path)) => std::fs::read_to_string(&path)
                .map_err(|error| Error::invalid(format!("cannot read the token file {path}: {error}")))?
                .trim_end()
                .to_owned(),
            (None, None) => return Err(missing(TOKEN)),
        };
        Ok(Self { url: var(URL).ok_or_else(|| missing(URL))?, token: token.into() })
    }
}

/// Runs at most one job. `Ok` whatever became of the job: that is the queue's to know.
///
/// # Errors
/// If the queue cannot be reached for too long, or refuses the token.
pub async fn run(config: AgentConfig) -> Result<()> {
    let client = QueueClient::new(&config.url, config.token)?;
    let mut signals = process::Signals::new()?;
    let job = tokio::select! {
        job = lease(&client) => match job? {
            Some(job) => job,
            None => return Ok(()),
        },
        _ = signals.next() => return Ok(()),
    };
    let outcome = work(&client, &job, &mut signals).await;
    let Some(outcome) = outcome else { return Ok(()) };
    persist(BUSY_PATIENCE, || async {
        client.send(client.request(Method::POST, "/v1/agent/result").json(&outcome)).await.map(drop)
    })
    .await
}

/// Waits for the one job; `None` if there will be none.
async fn lease(client: &QueueClient) -> Result<Option<Job>> {
    let path = format!("/v1/agent/lease?wait={}", WAIT.as_millis());
    // Asked again, the queue answers with the same job: an answer that broke half-way is asked for again.
    let call = || async {
        let response = client.send(client.request(Method::POST, &path)).await?;
        if response.status() == StatusCode::NO_CONTENT {
            return Ok(None);
        }
        response.json().await.map(Some).map_err(|error| broken(&error))
    };
    loop {
        match persist(IDLE_PATIENCE, call).await {
            Ok(None) => {}
            // Drained, removed, or had its job already.
            Err(error)
                if matches!(
                    error.kind,
                    ErrorKind::Conflict | ErrorKind::Unauthorized | ErrorKind::NotFound
                ) =>
            {
                return Ok(None);
            }
            answer => return answer,
        }
    }
}

/// Runs the job to its end. `None` if it is not this agent's job any more: then nobody wants to know.
async fn work(client: &QueueClient, job: &Job, signals: &mut process::Signals) -> Option<Outcome> {
    let failed = |cause| Outcome { exit_code: None, cause: Some(cause), cancelled: false };
    let running = match Running::start(&job.submission) {
        Ok(running) => running,
        Err(cause) => return Some(failed(cause)),
    };
    let timeout = job.submission.timeout_ms.map(Duration::from_millis);
    let (tell, wishes) = watch::channel(Wish::GoOn);
    let (log, chunks) = mpsc::channel(4);
    let supervise = running.supervise(timeout, GRACE, signals, wishes.clone(), log);
    let mut dropped = wishes.clone();
    let ship = async {
        tokio::select! {
            () = ship(client, chunks) => {}
            _ = dropped.wait_for(|wish| *wish == Wish::Drop) => {}
        }
    };
    // All three at once: neither a slow queue nor a slow end keeps the heartbeat, the timeout or a signal waiting.
    let ((end, passed_on), ()) = tokio::select! {
        biased;
        never = heartbeat(client, &tell) => match never {},
        end = async { tokio::join!(supervise, ship) } => end,
    };
    if *wishes.borrow() == Wish::Drop {
        return None;
    }
    let told = passed_on.map_or("", |signal| match signal {
        Signal::TERM => ", after SIGTERM to its agent",
        Signal::INT => ", after SIGINT to its agent",
        _ => ", after SIGHUP to its agent",
    });
    Some(match end {
        End::Exit(0) => Outcome { exit_code: Some(0), cause: None, cancelled: false },
        End::Exit(code) => Outcome { exit_code: Some(code), ..failed(format!("exit status {code}{told}")) },
        End::Signal(signal) => failed(format!("ended by signal {signal}{told}")),
        End::Unseen(error) => failed(format!("its end was not seen: {error}{told}")),
        End::TimedOut => {
            failed(format!("ended after its timeout of {} s", timeout.unwrap_or_default().as_secs_f32()))
        }
        End::Wished => Outcome { cancelled: true, ..failed("cancelled".to_owned()) },
    })
}

/// Tells the queue that this agent lives, and the job what the queue wishes.
async fn heartbeat(client: &QueueClient, tell: &watch::Sender<Wish>) -> Infallible {
    let path = format!("/v1/agent/beat?wait={}", WAIT.as_millis());
    loop {
        let call = || async { client.json::<Beat>(client.request(Method::POST, &path)).await };
        match persist(BUSY_PATIENCE, call).await {
            Ok(Beat { cancel: false }) => {}
            Ok(Beat { cancel: true }) => {
                tell.send_replace(Wish::Cancel);
                // Such an answer is not held back.
                process::after(Some(Duration::from_secs(1))).await;
            }
            Err(error) => {
                tracing::warn!(%error, "the job is not this agent's any more; it is ended");
                tell.send_replace(Wish::Drop);
                return std::future::pending().await;
            }
        }
    }
}

/// Sends log bytes until the queue has them. A log that the queue refuses is no reason to end the job.
async fn ship(client: &QueueClient, mut chunks: mpsc::Receiver<Vec<u8>>) {
    let mut sent = 0;
    while let Some(mut chunk) = chunks.recv().await {
        while chunk.len() < CHUNK
            && let Ok(more) = chunks.try_recv()
        {
            chunk.extend(more);
        }
        let path = format!("/v1/agent/log?offset={sent}");
        sent += chunk.len() as u64;
        let body = axum::body::Bytes::from(chunk);
        let shipped = persist(BUSY_PATIENCE, || async {
            client.send(client.request(Method::POST, &path).body(body.clone())).await.map(drop)
        })
        .await;
        if let Err(error) = shipped {
            tracing::warn!(%error, "the queue does not take the log");
        }
    }
}
