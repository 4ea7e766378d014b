//! Reasons as words for people: rendered late, the same on every surface.

use crate::agent::{Agent, AgentState};
use crate::plan::ClassReport;
use crate::room::{Blocker, Scope};
use crate::step::{Reason, join};
use crate::world::World;
use kubestack_core::provider::UnitPhase;
use kubestack_core::time::{Moment, Span};
use std::fmt::Write;

/// Why work of that class waits, in one sentence.
pub fn class(report: &ClassReport, now: Moment) -> String {
    let labels = join(&report.class.needs);
    let mut text = format!("{} waiting for {labels}: ", jobs(report.waiting.max(report.stale)));
    let rest = report.waiting.saturating_sub(report.served).saturating_sub(report.granted);
    if report.stale > 0 {
        let _ = write!(text, "the source has not answered for a while, so nothing new is launched; ");
    }
    if report.served > 0 {
        let _ = write!(text, "{} at hand will serve {}", agents(report.served), them(report.served));
    }
    if report.granted > 0 {
        let comma = if report.served > 0 { ", " } else { "" };
        let _ = write!(text, "{comma}{} launched now", agents(report.granted));
    }
    if rest > 0 {
        let semicolon = if report.served + report.granted > 0 { "; the rest waits: " } else { "" };
        let why = report
            .blocked
            .as_ref()
            .map_or("not yet planned".to_owned(), |blocker| self::blocker(blocker, now));
        let _ = write!(text, "{semicolon}{why}");
    }
    if let Some(first) = report.waits_for.first() {
        let more = report.waits_for.len() - 1;
        let others = if more > 0 { format!(" and {more} more") } else { String::new() };
        let _ = write!(text, "; {first}{others} will make room");
    }
    text
}

/// What stands in the way, fit to follow "because".
pub fn blocker(blocker: &Blocker, now: Moment) -> String {
    let wait = |until: Moment| Span(round(until.since(now)));
    match blocker {
        Blocker::Caps { full } => {
            let scopes: Vec<String> = full.iter().map(scope).collect();
            format!("{} full", scopes.join(" and "))
        }
        Blocker::TooLarge { scopes } => {
            let scopes: Vec<String> = scopes.iter().map(scope).collect();
            format!("{} too small for a single such agent", scopes.join(" and "))
        }
        Blocker::PlatformFull { provider } => format!("provider {provider} reports no room for it"),
        Blocker::ProviderStale { provider } => {
            format!("provider {provider} has not answered; check it with `kubestack list`")
        }
        Blocker::MasterStale { master } => format!("master {master} has not answered"),
        Blocker::MasterQuiet { master } => format!("master {master} takes no new work at present"),
        Blocker::Breaker { cause, until: Some(until) } => {
            format!("agents failed before ({cause}); the next try is in {}", wait(*until))
        }
        Blocker::Breaker { cause, until: None } => {
            format!("agents failed before ({cause}); one is being tried now")
        }
        Blocker::Backoff { until, error } => format!("{error}; the next try is in {}", wait(*until)),
        Blocker::InFlight => "as many steps as may be are under way".to_owned(),
        Blocker::Paused { text } => format!("the operator paused launching: {text}"),
        Blocker::Settling { until } => {
            format!("a new leader waits {} until the sends of the one before have landed", wait(*until))
        }
        Blocker::Nowhere => "its labels name no provider and master that fit".to_owned(),
    }
}

/// Why a step is taken, in a few words.
pub fn reason(reason: &Reason) -> String {
    match reason {
        Reason::Failed { cause } => format!("failed: {cause}"),
        Reason::KeptForInspection { cause } => format!("kept for inspection: {cause}"),
        Reason::Reclaimed { labels } => format!("room for {}", join(labels)),
        Reason::IdleTimeout => "idle for longer than its idle_timeout".to_owned(),
        other => other.as_str().replace('_', " "),
    }
}

/// Why an agent is as it is, in one sentence. The platform's own words come last; where they are several lines, such
/// as the last ones of a log, so is this.
pub fn agent(agent: &Agent<'_>, world: &World) -> String {
    let mut text = match &agent.state {
        AgentState::Held(reason) => format!("held: {reason}"),
        state => state.to_string(),
    };
    if let Some((_, Some(job))) = agent.memory.and_then(|memory| memory.used.as_ref()) {
        let _ = write!(text, ", job {job}");
    }
    if let Some(more) = agent.memory.map(|memory| memory.more_jobs).filter(|more| *more > 0) {
        let _ = write!(text, ", {more} more than its one job, given by its master before it was taken out");
    }
    let (hindrance, ended, platform) = match agent.unit.map(|unit| &unit.unit.phase) {
        Some(UnitPhase::Pending { cause, text }) => (*cause, None, text.as_str()),
        // How a job's unit ended is of interest only where it failed.
        Some(UnitPhase::Ended { cause, text }) if cause.or(agent.failure()).is_some() => {
            (None, *cause, text.as_str())
        }
        Some(UnitPhase::Terminating { cause, text }) => (None, *cause, text.as_str()),
        _ => (None, None, ""),
    };
    if let Some(cause) = agent.failure().or(ended) {
        let _ = write!(text, ", failed: {cause}");
    } else if let Some(cause) = hindrance {
        let _ = write!(text, ", {cause}");
    }
    if let Some(flight) = agent.flight {
        let doubt = if flight.doubt.is_some() { " (outcome unknown, waiting for a look)" } else { "" };
        let _ = write!(text, ", {} under way{doubt}", flight.step.kind());
    }
    if let Some(backoff) = world.backoff.get(&crate::step::Target::Agent(agent.name.clone())) {
        let _ = write!(text, ", last try failed: {}", backoff.error);
    }
    if !platform.is_empty() {
        let _ = write!(text, ": {platform}");
    }
    text
}

fn scope(scope: &Scope) -> String {
    match scope {
        Scope::Global => "the global cap is".to_owned(),
        Scope::Label(label) => format!("the cap of label {label} is"),
        Scope::Master(master) => format!("the cap of master {master} is"),
        Scope::Provider(provider) => format!("the cap of provider {provider} is"),
    }
}

fn round(duration: std::time::Duration) -> std::time::Duration {
    std::time::Duration::from_secs(duration.as_millis().div_ceil(1000).try_into().unwrap_or(u64::MAX))
}

fn jobs(count: u32) -> String {
    if count == 1 { "1 job".to_owned() } else { format!("{count} jobs") }
}

fn agents(count: u32) -> String {
    if count == 1 { "1 agent".to_owned() } else { format!("{count} agents") }
}

fn them(count: u32) -> &'static str {
    if count == 1 { "it" } else { "them" }
}
