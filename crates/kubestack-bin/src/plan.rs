//! `kubestack plan`: what a daemon would do now, and why. Sends nothing, and works beside a daemon.

use crate::cli::Output;
use crate::reload::Loaded;
use crate::{assemble, show};
use anyhow::Result;
use kubestack_core::time::Span;
use std::path::Path;
use std::process::ExitCode;

/// Looks once at every system that the config names. It failed if one of them did not answer: then more might be
/// done than is shown.
pub(crate) async fn plan(path: &Path, timeout: Span, output: Output) -> Result<ExitCode> {
    let (builder, _) = assemble::builder(&Loaded::read(path)?.config)?;
    let outlook = builder.build()?.look(timeout.0).await?;
    show::answer(output, &outlook, || show::outlook(&outlook, output == Output::Wide));
    let silent = outlook.status.systems.iter().any(|system| system.error.is_some());
    let failed = silent || !outlook.violations.is_empty();
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
