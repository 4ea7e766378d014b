//! What people see: tables and sentences. The only module that prints.
#![expect(clippy::print_stderr, reason = "this module is the program's output")]

use crate::cli::Output;
use comfy_table::{ContentArrangement, Table, presets};
use kubestack_core::context::Clock;
use kubestack_core::registry::Plugin;
use kubestack_core::time::{Moment, Span};
use kubestack_engine::clock::SystemClock;
use kubestack_engine::look::StepStatus;
use kubestack_engine::{KeptTemplate, Outlook, Status};
use kubestack_queue::model::Job;
use rustix::termios::tcgetwinsize;
use std::io::Write;
use std::os::fd::AsFd;
use std::time::Duration;

/// Prints one line; a reader that has gone away (`| head`) is no error.
pub(crate) fn line(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// Prints text as it is; whether somebody still reads.
pub(crate) fn raw(text: &[u8]) -> bool {
    let mut out = std::io::stdout();
    out.write_all(text).and_then(|()| out.flush()).is_ok()
}

/// Prints one line for people beside the output proper.
pub(crate) fn aside(text: &str) {
    eprintln!("{text}");
}

/// Replaces the progress line of a terminal.
pub(crate) fn progress(text: &str) {
    // A line that wraps could not be replaced.
    let room = width(std::io::stderr()).map_or(usize::MAX, |width| usize::from(width).saturating_sub(1));
    let text: String = text.chars().take(room).collect();
    eprint!("\r\x1b[2K{text}");
    let _ = std::io::stderr().flush();
}

/// Prints an answer in the form that was asked for.
pub(crate) fn answer(output: Output, value: &impl serde::Serialize, for_people: impl FnOnce()) {
    match output {
        Output::Table | Output::Wide => for_people(),
        Output::Json => line(&serde_json::to_string_pretty(value).unwrap_or_default()),
        Output::Yaml => line(serde_saphyr::to_string(value).unwrap_or_default().trim_end()),
    }
}

/// Jobs of the built-in queue.
pub(crate) fn jobs(jobs: &[Job], now: Moment) {
    let mut rows = table(&["id", "label", "state", "age", "agent", "command", "about"]);
    for job in jobs {
        rows.add_row([
            job.id.to_string(),
            plain(&job.submission.label),
            job.state.to_string(),
            ago(now, job.submitted),
            job.agent.as_deref().map_or("-".to_owned(), plain),
            shortened(&job.submission.command.join(" ")),
            plain(job.cause.as_deref().or(job.why.as_deref()).unwrap_or_default()),
        ]);
    }
    if jobs.is_empty() {
        line("no jobs");
    } else {
        line(&rows.trim_fmt());
    }
}

/// One job, a line for each thing known.
pub(crate) fn job(job: &Job, now: Moment) {
    let mut facts = vec![
        ("id", job.id.to_string()),
        ("state", job.state.to_string()),
        ("label", job.submission.label.clone()),
        ("command", job.submission.command.join(" ")),
        ("submitted", format!("{} ago", ago(now, job.submitted))),
        ("attempts", job.attempts.to_string()),
    ];
    let took = job.started.zip(job.ended).map(|(from, to)| Span(to.since(from)).to_string());
    let more = [
        ("agent", job.agent.clone()),
        ("took", took),
        ("exit code", job.exit_code.map(|code| code.to_string())),
        ("cause", job.cause.clone()),
        ("waits", job.why.clone()),
        ("log", (job.log_bytes > 0).then(|| format!("{} bytes", job.log_bytes))),
    ];
    facts.extend(more.into_iter().filter_map(|(name, value)| Some((name, value?))));
    for (name, value) in facts {
        line(&format!("{name:<10} {}", plain(&value)));
    }
}

/// Enough of a command to know it by.
fn shortened(text: &str) -> String {
    const ROOM: usize = 40;
    let text = plain(text);
    if text.chars().count() <= ROOM { text } else { text.chars().take(ROOM - 1).chain(['…']).collect() }
}

/// A table without lines, as tools print them. On a terminal it is no wider than that.
pub(crate) fn table(head: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(head.iter().map(|text| text.to_uppercase()));
    if let Some(width) = width(std::io::stdout()) {
        table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width);
    }
    table
}

/// Whether output goes to a terminal with less than so many columns.
pub(crate) fn is_narrower_than(columns: u16) -> bool {
    width(std::io::stdout()).is_some_and(|width| width < columns)
}

/// Columns of the terminal, if it is one that tells.
fn width(stream: impl AsFd) -> Option<u16> {
    tcgetwinsize(stream).ok().map(|size| size.ws_col).filter(|columns| *columns > 0)
}

/// `3m`, `2h5m`: how long ago, in at most two units.
pub(crate) fn ago(now: Moment, then: Moment) -> String {
    let seconds = now.since(then).as_secs();
    let rounded = match seconds {
        0..600 => seconds,
        600..36_000 => seconds / 60 * 60,
        _ => seconds / 3600 * 3600,
    };
    Span(Duration::from_secs(rounded)).to_string()
}

/// Control characters of hostile names must not reach the terminal.
pub(crate) fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// Agents, demand and what does not answer; wide: uids, jobs and the systems that answer as well.
pub(crate) fn status(status: &Status, wide: bool) {
    intent(status);
    agents(status, wide);
    rest(status, wide);
}

/// What a daemon would do, what becomes of the demand, and what does not answer.
pub(crate) fn outlook(outlook: &Outlook, wide: bool) {
    intent(&outlook.status);
    // A launch is like another: without its agent's name only their number tells.
    let mut counted: Vec<(&StepStatus, usize)> = Vec::new();
    for step in &outlook.steps {
        match counted.iter_mut().find(|(known, _)| *known == step) {
            Some((_, count)) => *count += 1,
            None => counted.push((step, 1)),
        }
    }
    let mut steps = table(&["step", "agent", "label", "provider", "master", "reason"]);
    for (step, count) in &counted {
        let times = if *count > 1 { format!(" x{count}") } else { String::new() };
        steps.add_row([
            format!("{}{times}", step.step.replace('_', " ")),
            or_none(step.agent.as_ref()),
            or_none(step.label.as_ref()),
            or_none(step.provider.as_ref()),
            or_none(step.master.as_ref()),
            plain(&step.reason),
        ]);
    }
    if counted.is_empty() {
        line("nothing to do");
    } else {
        line(&steps.trim_fmt());
    }
    for violation in &outlook.violations {
        line(&format!("would not be sent, please report this defect: {}", plain(violation)));
    }
    rest(&outlook.status, wide);
}

fn or_none(thing: Option<&impl ToString>) -> String {
    thing.map_or("-".to_owned(), |thing| plain(&thing.to_string()))
}

/// What the operator asked for.
fn intent(status: &Status) {
    for (reason, what) in [(&status.paused, "paused"), (&status.draining, "draining")] {
        if let Some(reason) = reason {
            line(&format!("{what}: {}", plain(reason)));
        }
    }
}

fn agents(status: &Status, wide: bool) {
    let head: &[&str] = if wide { &["uid", "job"] } else { &[] };
    let mut rows =
        table(&[&["name", "label", "provider", "master", "state", "age"], head, &["about"]].concat());
    for agent in &status.agents {
        let mut row = vec![
            agent.name.to_string(),
            agent.label.to_string(),
            agent.provider.to_string(),
            or_none(agent.master.as_ref()),
            agent.state.clone(),
            ago(status.now, agent.created),
        ];
        if wide {
            row.extend([or_none(agent.uid.as_ref()), or_none(agent.job.as_ref())]);
        }
        row.push(headline(&agent.text));
        rows.add_row(row);
    }
    if status.agents.is_empty() {
        line("no agents");
    } else {
        line(&rows.trim_fmt());
    }
}

/// Demand, and systems: those that do not answer, or all.
fn rest(status: &Status, wide: bool) {
    for demand in &status.demand {
        line(&plain(&demand.text));
    }
    if status.foreign > 0 {
        let jobs = if status.foreign == 1 { "1 job waits" } else { &format!("{} jobs wait", status.foreign) };
        line(&format!("{jobs} that no label here can serve"));
    }
    for system in status.systems.iter().filter(|system| wide || system.error.is_some() || system.stale) {
        let about = match (&system.error, system.heard) {
            (Some(error), _) => plain(error),
            (None, Some(heard)) => format!("answered {} ago", ago(status.now, heard)),
            (None, None) => "no answer yet".to_owned(),
        };
        line(&format!("{} {}: {about}", system.kind, system.name));
    }
}

/// The first line of a text, which says that there are more.
fn headline(text: &str) -> String {
    let mut lines = text.lines();
    let first = plain(lines.next().unwrap_or_default());
    if lines.next().is_some() { first + " …" } else { first }
}

/// Templates of labels.
pub(crate) fn templates(templates: &[KeptTemplate]) {
    let mut rows = table(&["name", "label", "provider", "age", "about"]);
    for KeptTemplate { provider, template, current, .. } in templates {
        rows.add_row([
            plain(&template.name),
            plain(template.label.as_str()),
            provider.to_string(),
            ago(SystemClock::start().now(), template.created),
            if *current { "as the config has it" } else { "of another state of the config" }.to_owned(),
        ]);
    }
    if templates.is_empty() {
        line("no templates");
    } else {
        line(&rows.trim_fmt());
    }
}

/// All plugins.
pub(crate) fn plugins(output: Output, plugins: &[&'static Plugin]) {
    let shown = plugins.iter().map(|plugin| {
        let (kind, type_name) = (plugin.kind().to_string(), plugin.type_name);
        serde_json::json!({ "kind": kind, "type": type_name, "summary": plugin.summary })
    });
    answer(output, &shown.collect::<Vec<_>>(), || {
        let mut rows = table(&["kind", "type", "summary"]);
        for plugin in plugins {
            rows.add_row([plugin.kind().to_string(), plugin.type_name.to_owned(), plugin.summary.to_owned()]);
        }
        line(&rows.trim_fmt());
    });
}
