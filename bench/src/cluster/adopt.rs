//! A restart: a process of its own that finds agents there, what it takes, and how much memory.

use crate::desk::{Conduct, Desk};
use crate::run::{engine, marks, provider};
use crate::site::{Access, Site};
use anyhow::{Context, Result, bail};
use kubestack_engine::clock::SystemClock;
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// After the adoption, before memory is read: what a daemon is most of its time.
const SETTLE: Duration = Duration::from_secs(5);

/// What the child found.
#[derive(Serialize, Deserialize)]
pub struct Found {
    /// From the start of the engine until all are known as busy.
    pub adopted: Duration,
    pub rss_kib: u64,
    pub peak_kib: u64,
    /// Steps that it sent.
    pub steps: u64,
}

/// Starts the child and waits for what it says.
pub fn measure(site: &Site, agents: u32) -> Result<Found> {
    let access = site.cluster.directory().join("access.json");
    std::fs::write(&access, serde_json::to_vec(&site.access)?)?;
    let mut child = Command::new(std::env::current_exe()?);
    child.arg("--adopt").arg(&access).arg(format!("--agents={agents}"));
    let output = child.stderr(std::process::Stdio::inherit()).output()?;
    if !output.status.success() {
        bail!("the process that was to adopt {agents} agents ended with {}", output.status);
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// What the child does.
pub async fn child(access: &Path, agents: u32) -> Result<()> {
    let access: Access = serde_json::from_slice(&std::fs::read(access)?)?;
    let desk = Desk::new(Conduct::Busy, Arc::new(SystemClock::start()));
    let instance = if agents == 0 { "nobody" } else { "many" };
    (1..=agents).for_each(|serial| desk.know(marks(instance, serial)));
    let engine = engine(instance, provider(instance, access.config())?, &desk)?;
    let handle = engine.handle();
    let mut found = None;
    let looking = async {
        let began = Instant::now();
        let look = async || {
            loop {
                let status = handle.status().await?;
                let known = status.systems.iter().all(|system| system.heard.is_some());
                let busy = status.agents.iter().filter(|agent| agent.state == "busy").count();
                if known && busy == agents as usize {
                    return anyhow::Ok(began.elapsed());
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let adopted = look().await?;
        tokio::time::sleep(SETTLE).await;
        let counters = handle.status().await?.counters;
        anyhow::Ok(Found {
            adopted,
            rss_kib: memory("VmRSS:")?,
            peak_kib: memory("VmHWM:")?,
            steps: counters.values().sum(),
        })
    };
    engine.run(async { found = Some(looking.await) }).await?;
    let found = found.context("the engine ended first")??;
    println!("{}", serde_json::to_string(&found)?);
    Ok(())
}

/// A line of `/proc/self/status`, in KiB.
fn memory(line: &str) -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let value = status.lines().find_map(|text| text.strip_prefix(line)).context("no such line in /proc")?;
    Ok(value.trim().trim_end_matches(" kB").parse()?)
}
