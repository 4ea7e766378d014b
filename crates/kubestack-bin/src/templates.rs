//! Templates of labels on their platforms, as in 2015: for people to look at. They work beside a daemon and without one.

use crate::cli::{Action, Output};
use crate::reload::Loaded;
use crate::{Exit, NO_SUCH_THING, assemble, show};
use anyhow::Result;
use kubestack_core::error::{Error, ErrorKind};
use kubestack_engine::KeptTemplate;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

/// For each call.
const BOUND: Duration = Duration::from_secs(30);

pub(crate) async fn act(path: &Path, action: &Action, output: Output) -> Result<ExitCode> {
    let (builder, _) = assemble::builder(&Loaded::read(path)?.config)?;
    let engine = builder.build()?;
    match action {
        Action::CreateTemplate { label } => {
            let made = engine.create_template(&label.as_str().into(), BOUND).await.map_err(told)?;
            show::answer(output, &made, || {
                for KeptTemplate { provider, template, .. } in &made {
                    show::line(&show::plain(&format!(
                        "{provider} has template {} of {label}",
                        template.name
                    )));
                }
            });
        }
        Action::DeleteTemplate { id } => {
            let gone = engine.delete_template(id, BOUND).await.map_err(told)?;
            show::answer(output, &gone, || {
                let name = show::plain(&gone.template.name);
                show::line(&format!("template {name} is gone; agents are launched as before"));
            });
        }
        _ => {
            let all = engine.templates(BOUND).await.map_err(told)?;
            show::answer(output, &all, || show::templates(&all));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn told(error: Error) -> anyhow::Error {
    match error.kind {
        ErrorKind::NotFound => Exit { code: NO_SUCH_THING, text: error.message }.into(),
        _ => error.into(),
    }
}
