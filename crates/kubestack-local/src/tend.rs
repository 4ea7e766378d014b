//! The task that goes with a unit's processes: waits for their end or brings it about.

use crate::disk::{Exit, Leader};
use crate::fault::fault;
use crate::process::{Handle, ProcessId};
use crate::units::{Finished, Units, processes};
use kubestack_core::prelude::*;
use rustix::process::Signal;
use std::collections::BTreeSet;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// How long to wait after the host refused to be looked at (too many open files, a full disk).
const PAUSE: Duration = Duration::from_secs(2);
/// How often to look for processes that appeared while others are being killed, or while a unit is held.
const LOOK: Duration = Duration::from_secs(1);

/// What the task knows of its unit.
pub struct Tending {
    /// `None` if only processes are left of it.
    pub name: Option<AgentName>,
    pub uid: Uid,
    pub leader: Option<Leader>,
    /// To end it, within that grace.
    pub order: watch::Receiver<Option<Duration>>,
    /// How its leader ended, once that is known: a status can be fetched only once.
    pub exit: Option<Exit>,
}

/// Tends one unit until no process of it is left.
pub async fn tend(units: Arc<Units>, mut tending: Tending) {
    /// If the task is dropped before its time, the next look starts another.
    struct Forget(Arc<Units>, Uid);
    impl Drop for Forget {
        fn drop(&mut self) {
            self.0.access(|access| access.forget(&self.1));
        }
    }
    let _forget = Forget(Arc::clone(&units), tending.uid.clone());
    while let Err(error) = attempt(&units, &mut tending).await {
        tracing::warn!(unit = %tending.uid, %error, "cannot tend a unit; trying again");
        units.context.clock.sleep(PAUSE).await;
    }
}

async fn attempt(units: &Arc<Units>, tending: &mut Tending) -> Result<()> {
    let failed = |error| fault("cannot wait for a process", &error);
    let handle = match &tending.leader {
        Some(leader) => leader.open().map_err(failed)?,
        None => None,
    };
    if let Some(handle) = &handle {
        tokio::select! {
            biased;
            ended = handle.ended() => ended.map_err(failed)?,
            () = ordered(&mut tending.order) => {}
        }
    }
    end(units, tending).await?;
    // Not before: until then its pid, which is also the number of its group, cannot become another's.
    tending.exit = handle.and_then(|handle| handle.reap()).or(tending.exit);
    let Some(name) = tending.name.clone() else { return Ok(()) };
    let unit = UnitRef::new(name, tending.uid.clone());
    match units.access(|access| access.finish(&unit, tending.exit))? {
        Finished::Told => Ok(()),
        Finished::Remove(home) => match units.remove(&unit, &home).await {
            Ok(()) => Ok(()),
            Err(error) => {
                tracing::warn!(unit = %unit.name, %error, "a unit's directory stays");
                units.access(|access| access.not_removed(&unit, tending.exit))
            }
        },
    }
}

/// Ends all processes of the unit: asks, waits for the grace, kills, and returns when none is left.
async fn end(units: &Arc<Units>, tending: &mut Tending) -> Result<()> {
    let clock = &units.context.clock;
    let failed = |error| fault("cannot end a process", &error);
    let mut began = clock.now();
    // What was seen once stays known, even if the group is then without its leader.
    let mut known: BTreeSet<ProcessId> = BTreeSet::new();
    let mut asked: BTreeSet<ProcessId> = BTreeSet::new();
    loop {
        let members = processes()?.members(tending.uid.as_str(), tending.leader.as_ref(), &known);
        if members.is_empty() {
            return Ok(());
        }
        known.extend(members.iter().map(|member| member.id));
        let order = *tending.order.borrow_and_update();
        if order.is_none() && is_held(units, tending)? {
            tokio::select! {
                biased;
                () = changed(&mut tending.order) => {}
                () = clock.sleep(LOOK) => {}
            }
            began = clock.now();
            continue;
        }
        let grace = order.unwrap_or(units.term_grace);
        let passed = clock.now().since(began);
        let killing = passed >= grace;
        let leader = tending.leader.as_ref().map(|leader| (leader.pid, leader.start));
        let leader = members.iter().find(|member| Some(member.id) == leader).copied();
        let mut handles = Vec::new();
        for member in &members {
            let Some(handle) = Handle::open(member.id).map_err(failed)? else { continue };
            // An agent that runs its job in a group of its own passes the word on in its own way; asked
            // twice, many programs take that for "at once". Once the agent is gone, all are asked.
            let to_ask = leader.is_none_or(|leader| member.group == leader.group);
            if killing {
                handle.signal(Signal::KILL).map_err(failed)?;
            } else if to_ask && asked.insert(member.id) {
                handle.signal(Signal::TERM).map_err(failed)?;
            }
            if killing || leader.is_none_or(|leader| leader.id == member.id) {
                handles.push(handle);
            }
        }
        let patience = if killing { LOOK } else { grace.saturating_sub(passed) };
        tokio::select! {
            biased;
            ended = all_ended(&handles) => ended.map_err(failed)?,
            () = changed(&mut tending.order) => {}
            () = clock.sleep(patience) => {}
        }
    }
}

fn is_held(units: &Units, tending: &Tending) -> Result<bool> {
    let Some(name) = tending.name.clone() else { return Ok(false) };
    let record = units.record(&UnitRef::new(name, tending.uid.clone()))?;
    Ok(record.is_some_and(|(_, record)| record.marks.held.is_some()))
}

async fn all_ended(handles: &[Handle]) -> std::io::Result<()> {
    for handle in handles {
        handle.ended().await?;
    }
    Ok(())
}

/// Waits for the order to end it.
async fn ordered(order: &mut watch::Receiver<Option<Duration>>) {
    if order.wait_for(Option::is_some).await.is_err() {
        pending().await
    }
}

/// Waits for another order.
async fn changed(order: &mut watch::Receiver<Option<Duration>>) {
    if order.changed().await.is_err() {
        pending().await
    }
}
