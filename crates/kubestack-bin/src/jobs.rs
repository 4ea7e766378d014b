//! Jobs of the built-in queue: submit, look at the log, and run one as an agent.

use crate::cli::{Jobs, Output, Submit};
use crate::{Exit, NO_SUCH_THING, USAGE, show};
use anyhow::{Context, Result, anyhow};
use kubestack_core::context::{Clock, Secrets};
use kubestack_core::error::ErrorKind;
use kubestack_engine::clock::SystemClock;
use kubestack_engine::config::Config;
use kubestack_engine::secrets::HostSecrets;
use kubestack_queue::agent::{self, AgentConfig};
use kubestack_queue::client::{QueueClient, persist};
use kubestack_queue::master::QueueConfig;
use kubestack_queue::model::{Job, JobState, Submission};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

/// How long one look at a job that goes on is held back.
const LOOK: Duration = Duration::from_secs(20);
/// How long whoever waits for a job outlasts a queue that does not answer: its daemon may be restarted, and
/// the job goes on meanwhile.
const RESTART: Duration = Duration::from_secs(60);

/// The queue that the config names.
fn client(path: &Path) -> Result<QueueClient> {
    let config = Config::load(path).map_err(Exit::from)?;
    let entry = config.masters.iter().find(|entry| entry.type_name == "queue").ok_or_else(|| {
        anyhow!("{} names no master of type `queue`; jobs are submitted to your CI system", path.display())
    })?;
    let queue: QueueConfig = entry.fragment.parse()?;
    Ok(QueueClient::new(&queue.url, HostSecrets.resolve(&queue.token)?)?)
}

pub(crate) async fn submit(path: &Path, submit: &Submit, output: Output) -> Result<ExitCode> {
    let env = submit.env.iter().map(|pair| {
        let (name, value) = pair
            .split_once('=')
            .ok_or_else(|| Exit { code: USAGE, text: format!("`{pair}` is not NAME=VALUE") })?;
        Ok((name.to_owned(), value.to_owned()))
    });
    let job = Submission {
        label: submit.label.clone(),
        command: submit.command.clone(),
        env: env.collect::<Result<_, Exit>>()?,
        timeout_ms: submit.timeout.map(|span| u64::try_from(span.0.as_millis()).unwrap_or(u64::MAX)),
    };
    let job = client(path)?.submit(&job).await?;
    show::answer(output, &job, || show::line(&job.id.to_string()));
    Ok(ExitCode::SUCCESS)
}

pub(crate) async fn jobs(path: &Path, action: &Jobs, output: Output) -> Result<ExitCode> {
    let client = client(path)?;
    let now = SystemClock::start().now();
    match action {
        Jobs::List { state, label } => {
            let mut jobs = client.jobs().await?;
            jobs.retain(|job| {
                state.is_none_or(|state| job.state == state)
                    && label.as_ref().is_none_or(|label| job.submission.label == *label)
            });
            show::answer(output, &jobs, || show::jobs(&jobs, now));
        }
        Jobs::Show { job } => {
            let job = find(&client, job).await?;
            show::answer(output, &job, || show::job(&job, now));
        }
        Jobs::Cancel { job } => {
            let id = find(&client, job).await?.id;
            let job = client.cancel(id).await?;
            show::answer(output, &job, || show::job(&job, now));
        }
        Jobs::Result { job } => {
            let mut job = find(&client, job).await?;
            while !job.state.has_ended() {
                // A log that grows, or a job that ends, answers at once.
                persist(RESTART, || client.log(job.id, job.log_bytes, LOOK)).await?;
                job = persist(RESTART, || client.job(job.id)).await?;
            }
            show::answer(output, &job, || show::job(&job, SystemClock::start().now()));
            if job.state != JobState::Succeeded {
                return Ok(ExitCode::FAILURE);
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The job of that id.
async fn find(client: &QueueClient, id: &str) -> Result<Job> {
    let unknown = || Exit { code: NO_SUCH_THING, text: format!("there is no job `{id}`") };
    match client.job(id.parse().map_err(|_| unknown())?).await {
        Err(error) if error.kind == ErrorKind::NotFound => Err(unknown().into()),
        job => Ok(job?),
    }
}

pub(crate) async fn logs(path: &Path, job: &str, follow: bool) -> Result<ExitCode> {
    let client = client(path)?;
    let id = find(&client, job).await?.id;
    let mut offset = 0;
    let (wait, patience) = if follow { (LOOK, RESTART) } else { (Duration::ZERO, Duration::ZERO) };
    loop {
        let job = persist(patience, || client.job(id)).await?;
        let bytes =
            persist(patience, || client.log(id, offset, wait)).await.context("cannot read the log")?;
        offset += bytes.len() as u64;
        if !show::raw(&bytes) {
            return Ok(ExitCode::SUCCESS);
        }
        if bytes.is_empty() && (!follow || job.state.has_ended()) {
            return Ok(ExitCode::SUCCESS);
        }
    }
}

pub(crate) async fn agent() -> Result<ExitCode> {
    agent::run(AgentConfig::from_env()?).await?;
    Ok(ExitCode::SUCCESS)
}
