//! Jobs of the built-in queue: submit, look at the log, and run one as an agent.

use crate::cli::{Output, Submit};
use crate::{Exit, NO_SUCH_THING, USAGE, show};
use anyhow::{Context, Result, anyhow};
use kubestack_core::context::Secrets;
use kubestack_core::error::ErrorKind;
use kubestack_engine::config::Config;
use kubestack_engine::secrets::HostSecrets;
use kubestack_queue::agent::{self, AgentConfig};
use kubestack_queue::client::QueueClient;
use kubestack_queue::master::QueueConfig;
use kubestack_queue::model::Submission;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

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
    match output {
        Output::Json => show::json(&job),
        Output::Table => show::line(&job.id.to_string()),
    }
    Ok(ExitCode::SUCCESS)
}

pub(crate) async fn logs(path: &Path, job: &str, follow: bool) -> Result<ExitCode> {
    let unknown = || Exit { code: NO_SUCH_THING, text: format!("there is no job `{job}`") };
    let id: u64 = job.parse().map_err(|_| unknown())?;
    let client = client(path)?;
    let mut offset = 0;
    loop {
        let job = match client.job(id).await {
            Err(error) if error.kind == ErrorKind::NotFound => return Err(unknown().into()),
            job => job?,
        };
        let wait = if follow { Duration::from_secs(20) } else { Duration::ZERO };
        let bytes = client.log(id, offset, wait).await.context("cannot read the log")?;
        offset += bytes.len() as u64;
        show::raw(&bytes);
        if bytes.is_empty() && (!follow || job.state.has_ended()) {
            return Ok(ExitCode::SUCCESS);
        }
    }
}

pub(crate) async fn agent() -> Result<ExitCode> {
    agent::run(AgentConfig::from_env()?).await?;
    Ok(ExitCode::SUCCESS)
}
