//! `kubestack check`: whether the config file is right, and with `--online` whether its systems are.

use crate::cli::Output;
use crate::reload::Loaded;
use crate::{assemble, show};
use anyhow::Result;
use kubestack_core::time::Span;
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
pub(crate) async fn online(path: &Path, timeout: Span, output: Output) -> Result<ExitCode> {
    let (builder, _) = assemble::builder(&Loaded::read(path)?.config)?;
    if output.is_for_people() {
        config(path)?;
    }
    let systems = builder.build()?.probe(timeout.0).await;
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
    let failed = all.clone().any(|(_, probe)| probe.needed && probe.result.is_err());
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
