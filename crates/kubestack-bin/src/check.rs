//! `kubestack check`: whether the config file is right, and with `--online` whether its systems are.

use crate::cli::Output;
use crate::reload::Loaded;
use crate::{assemble, show};
use anyhow::{Context, Result};
use kubestack_core::time::Span;
use kubestack_core::transcript::{Exchange, Transcript};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::ExitCode;

/// Checks the file, and that each plugin takes its part of it. Starts nothing.
pub(crate) fn config(path: &Path) -> Result<ExitCode> {
    let config = Loaded::read(path)?.config;
    let instance = &config.setup.instance;
    let (labels, masters, providers) =
        (config.setup.labels.len(), config.masters.len(), config.providers.len());
    show::line(&format!(
        "{}: valid (instance {instance}, {labels} labels, {masters} masters, {providers} providers)",
        path.display()
    ));
    Ok(ExitCode::SUCCESS)
}

/// The same, and tries of each system what a daemon will need. It failed if something is missing.
pub(crate) async fn online(
    path: &Path,
    timeout: Span,
    record: Option<&Path>,
    output: Output,
) -> Result<ExitCode> {
    let transcript = record.map(|_| Transcript::default());
    let (builder, _) = assemble::builder_with(&Loaded::read(path)?.config, transcript.clone())?;
    if output.is_for_people() {
        config(path)?;
    }
    let engine = builder.build()?;
    // Before anything is asked; and not before it is known that something can be.
    let file = record.map(create).transpose()?;
    let systems = engine.probe(timeout.0).await;
    let all = systems.iter().flat_map(|system| system.probes.iter().map(move |probe| (system, probe)));
    let findings: Vec<_> = all
        .clone()
        .map(|(system, probe)| {
            let missing = probe.result.as_ref().err().map(|error| &error.message);
            serde_json::json!({
                "kind": system.kind, "name": system.name, "what": probe.what, "missing": missing, "needed": probe.needed,
            })
        })
        .collect();
    show::answer(output, &findings, || {
        for (system, probe) in all.clone() {
            let result = probe.result.as_ref().map_or_else(|error| error.message.as_str(), |()| "ok");
            let optional = if probe.needed || probe.result.is_ok() { "" } else { " (optional)" };
            let whose = format!("{} {}", system.kind, system.name);
            let what = format!("{}: {}{optional}: {result}", whose.trim_end(), probe.what);
            show::line(&show::plain(&what));
        }
    });
    if let (Some(file), Some(path), Some(transcript)) = (file, record, transcript) {
        let exchanges = transcript.exchanges();
        write(file, &exchanges).with_context(|| format!("{}: cannot be written", path.display()))?;
        let number = exchanges.len();
        show::aside(&format!(
            "{number} questions and answers are in {}. Secrets and the address of the server are not in it; names of jobs, nodes, \
             labels and users are. Read it before you hand it on.",
            path.display()
        ));
    }
    let failed = all.clone().any(|(_, probe)| probe.needed && probe.result.is_err());
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// A file for nobody else to read, which must not be there yet: what it holds is not to be overwritten.
fn create(path: &Path) -> Result<File> {
    let mut options = File::options();
    let file = options.write(true).create_new(true).mode(0o600).open(path);
    file.with_context(|| format!("{}: cannot be made", path.display()))
}

/// One exchange a line, as JSON.
fn write(file: File, exchanges: &[Exchange]) -> Result<()> {
    let mut file = BufWriter::new(file);
    for exchange in exchanges {
        serde_json::to_writer(&mut file, exchange)?;
        file.write_all(b"\n")?;
    }
    Ok(file.flush()?)
}
