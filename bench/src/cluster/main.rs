//! What KubeStack costs on a real apiserver, beside a bare loop that creates the same objects, and the budgets.
//!
//! ```console
//! $ cargo run --release -p kubestack-bench --bin cluster -- [--launches N] [--rounds N] [--agents N]
//! ```
//!
//! Starts the testbed (control plane, KWOK), the daemon's rights being those of `deploy/role.yaml`. Nothing but the
//! apiserver and its crowd is shared by the two sides, and they take turns.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "prints its table, and how far it is")]
#![expect(clippy::disallowed_methods, reason = "measures real time")]

mod adopt;
mod bare;
mod desk;
mod run;
mod site;
mod wire;

use anyhow::Result;
use clap::Parser;
use site::Site;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// KubeStack on a real apiserver, in figures
#[derive(Parser)]
struct Args {
    /// Launches of one round
    #[arg(long, default_value_t = 300)]
    launches: u32,
    /// Rounds of each side; the best of each counts
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// Running agents that are adopted
    #[arg(long, default_value_t = 5000)]
    agents: u32,
    /// Adopt that many agents and say what it took (what this program starts of itself)
    #[arg(long, hide = true, value_names = ["ACCESS"])]
    adopt: Option<PathBuf>,
}

/// One line of the table.
struct Row {
    what: String,
    figure: String,
    budget: &'static str,
    met: Option<bool>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    if let Some(access) = args.adopt {
        return runtime.block_on(adopt::child(&access, args.agents));
    }
    let site = Site::start(args.agents.max(args.launches))?;
    let mut rows = runtime.block_on(rate(&site, args.launches, args.rounds))?;
    rows.extend(runtime.block_on(latency(&site))?);
    rows.extend(runtime.block_on(writes(&site))?);
    rows.extend(runtime.block_on(adoption(&site, args.agents))?);
    println!("{:<58} {:>24}  {:<22}", "what", "figure", "budget");
    for Row { what, figure, budget, met } in rows {
        let met = met.map_or("", |met| if met { "met" } else { "NOT MET" });
        println!("{what:<58} {figure:>24}  {budget:<22} {met}");
    }
    Ok(())
}

fn row(what: impl Into<String>, figure: String, budget: &'static str, met: Option<bool>) -> Row {
    Row { what: what.into(), figure, budget, met }
}

/// Launches per second, bare and by KubeStack, in turns.
async fn rate(site: &Site, launches: u32, rounds: u32) -> Result<Vec<Row>> {
    let (mut bare, mut ours) = (0.0_f64, 0.0_f64);
    for round in 0..rounds {
        let per_second = |took: Duration| f64::from(launches) / took.as_secs_f64();
        let one = per_second(bare::create(site, launches, round).await?);
        site.clear(launches)?;
        let other = per_second(run::launch(site, launches, round).await?);
        site.clear(launches)?;
        eprintln!("round {round}: bare {one:.0}, KubeStack {other:.0} launches/s");
        (bare, ours) = (bare.max(one), ours.max(other));
    }
    let ratio = 100.0 * ours / bare;
    Ok(vec![
        row(
            format!("bare loop, {} at once: Secret and pod", bare::AT_ONCE),
            format!("{bare:.0} launches/s"),
            "",
            None,
        ),
        row("KubeStack: the same objects, from demand on", format!("{ours:.0} launches/s"), "", None),
        row("ratio", format!("{ratio:.0} %"), "at least 90 %", Some(ratio >= 90.0)),
    ])
}

/// From demand to requests, at a step from 0 to 100.
async fn latency(site: &Site) -> Result<Vec<Row>> {
    let latencies = run::step(site, 100).await?;
    site.clear(101)?;
    let mut rows = Vec::new();
    for (what, mut times, counts) in [
        ("demand seen → first outbound request, all 100", latencies.seen_to_enrol, true),
        ("enrolled → first request to the apiserver (Secret)", latencies.enrolled_to_first, false),
        ("enrolled → POST pod (after its Secret is there)", latencies.enrolled_to_pod, true),
    ] {
        times.sort();
        let at = |share: f64| {
            let index = (share * times.len() as f64).ceil() as usize;
            times.get(index.saturating_sub(1)).map_or(f64::NAN, |time| time.as_secs_f64() * 1e3)
        };
        let (p50, p99) = (at(0.5), at(0.99));
        let met = counts.then_some(p50 <= 5.0 && p99 <= 50.0);
        let budget = if counts { "p50 5 ms, p99 50 ms" } else { "" };
        rows.push(row(what, format!("p50 {p50:.1}, p99 {p99:.1} ms"), budget, met));
    }
    Ok(rows)
}

/// What whole lives cost, as the apiserver's audit log tells it.
async fn writes(site: &Site) -> Result<Vec<Row>> {
    const LIVES: u32 = 100;
    /// The provider lets the server end each watch after so many seconds and opens it again.
    const WATCH_SECONDS: u64 = 30;
    let (before, began) = (site.audit()?, Instant::now());
    run::lives(site, LIVES).await?;
    let opened = 2 * (1 + began.elapsed().as_secs() / WATCH_SECONDS);
    let after = site.audit()?;
    let (writes, watches) = (after.writes_since(&before), after.watches_since(&before));
    let each = f64::from(writes.count) / f64::from(LIVES);
    eprintln!("{LIVES} lives: {}; watches opened: {}", writes.kinds, watches.kinds);
    Ok(vec![
        row("writes per agent life, with a Secret", format!("{each:.2}"), "5", Some(each <= 5.0)),
        row(
            format!("watches opened in {LIVES} lives"),
            watches.count.to_string(),
            "2, each anew after 30 s",
            Some(u64::from(watches.count) <= opened),
        ),
    ])
}

/// Memory and adoption, of a process of its own.
async fn adoption(site: &Site, agents: u32) -> Result<Vec<Row>> {
    let idle = adopt::measure(site, 0)?;
    run::fill(site, agents).await?;
    let full = adopt::measure(site, agents)?;
    let mib = |kib: u64| format!("{:.1} MiB", kib as f64 / 1024.0);
    let seconds = full.adopted.as_secs_f64();
    let whose = "RSS of engine and provider";
    Ok(vec![
        row(format!("{whose}, idle"), mib(idle.rss_kib), "25 MiB", Some(idle.rss_kib <= 25 << 10)),
        row(format!("{whose}, {agents} agents"), mib(full.rss_kib), "60 MiB", Some(full.rss_kib <= 60 << 10)),
        row(format!("the highest it was, {agents} agents"), mib(full.peak_kib), "", None),
        row(
            format!("adopt {agents} agents after a restart"),
            format!("{seconds:.2} s"),
            "3 s",
            Some(seconds <= 3.0),
        ),
        row("steps sent meanwhile", full.steps.to_string(), "0", Some(full.steps == 0)),
    ])
}
