//! Commands that ask a running daemon.

use crate::cli::{Action, Cli, Output};
use crate::control::Client;
use crate::{Exit, NO_SUCH_THING, show};
use anyhow::Result;
use kubestack_engine::Command;
use kubestack_engine::config::Config;
use std::process::ExitCode;

pub(crate) async fn act(cli: &Cli, action: &Action) -> Result<ExitCode> {
    let config = Config::load(&cli.config).map_err(Exit::from)?;
    let client = Client::new(&config.state_dir);
    let command = match action {
        Action::List => {
            let status = client.status().await?;
            show::answer(cli.output, &status, || show::status(&status, cli.output == Output::Wide));
            return Ok(ExitCode::SUCCESS);
        }
        Action::Explain { what } => {
            let lines = client.status().await?.explain(what);
            if lines.is_empty() && !config.setup.labels.contains_key(what.as_str()) {
                let text =
                    format!("nothing here is called `{what}`; name a label, or an agent's name or uid");
                return Err(Exit { code: NO_SUCH_THING, text }.into());
            }
            show::answer(cli.output, &lines, || {
                if lines.is_empty() {
                    show::line(&format!("nothing waits for {what}, and it has no agents"));
                }
                lines.iter().for_each(|line| show::line(&show::plain(line)));
            });
            return Ok(ExitCode::SUCCESS);
        }
        Action::Create { label } => Command::Create { label: label.as_str().into() },
        Action::Delete { id, force } => Command::Delete { id: id.clone(), force: *force },
        Action::Hold { id, reason } => Command::Hold { id: id.clone(), reason: reason.clone() },
        Action::Release { id } => Command::Release { id: id.clone() },
        Action::Pause { reason } => Command::Pause { reason: reason.clone() },
        Action::DrainAll { reason } => Command::DrainAll { reason: reason.clone() },
        // All others were carried out before a daemon was needed.
        _ => Command::Resume,
    };
    let text = client.command(command).await?;
    show::answer(cli.output, &serde_json::json!({ "done": text }), || show::line(&text));
    Ok(ExitCode::SUCCESS)
}
