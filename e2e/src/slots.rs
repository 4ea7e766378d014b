//! Clusters side by side. A slot is a number, from which directory, ports, addresses and names follow; so whoever
//! finds a slot whose owner is gone knows all that may be left of it.

use crate::{cache, node, supervisor};
use anyhow::{Context, Result, bail};
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// The slot of the cluster that `cargo xtask testbed up` starts.
pub const DEVELOPER: u8 = 0;

/// As many clusters at a time.
const SLOTS: u8 = 100;

/// Below the range from which the system takes the ports of outgoing connections: a component that is stopped for a
/// while finds its port again.
const FIRST_PORT: u16 = 21_000;

/// What listens.
#[derive(Clone, Copy)]
pub(crate) enum Port {
    Etcd,
    EtcdPeer,
    ApiServer,
    Kwok,
}

const PORTS: u16 = 4;

/// Room for one cluster.
#[derive(Debug)]
pub struct Slot {
    number: u8,
    directory: PathBuf,
}

impl Slot {
    /// Its directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The kubeconfig of its administrator.
    pub fn kubeconfig(&self) -> PathBuf {
        self.directory.join("kubeconfig")
    }

    /// Whether the cluster in it has a real node.
    pub fn has_real_node(&self) -> bool {
        node::socket(self).exists()
    }

    /// Its number.
    pub fn number(&self) -> u8 {
        self.number
    }

    /// The process that owns it; `None` when that one is gone and only leftovers remain.
    ///
    /// # Errors
    /// When its directory cannot be read.
    pub fn owner(&self) -> Result<Option<i32>> {
        if !cache::is_locked(&self.directory.join("lock"))? {
            return Ok(None);
        }
        let owner = fs::read_to_string(self.directory.join("owner")).unwrap_or_default();
        Ok(owner.trim().parse().ok())
    }

    pub(crate) fn port(&self, port: Port) -> u16 {
        FIRST_PORT + u16::from(self.number) * PORTS + port as u16
    }

    /// The name of the bridge that a real node hangs on, and of its cgroup.
    pub(crate) fn bridge(&self) -> String {
        format!("kubestack-{}", self.number)
    }

    /// This machine, as a real node sees it.
    pub(crate) fn gateway(&self) -> String {
        format!("10.254.{}.1", self.number)
    }

    /// The real node, as this machine sees it.
    pub(crate) fn node_address(&self) -> String {
        format!("10.254.{}.2", self.number)
    }

    /// The network of the pods on the real node; it is seen by that node only.
    pub(crate) fn pod_network(&self) -> String {
        format!("10.253.{}.0/24", self.number)
    }

    fn is_free(&self) -> bool {
        !self.directory.exists()
            && [Port::Etcd, Port::EtcdPeer, Port::ApiServer, Port::Kwok]
                .into_iter()
                .all(|port| TcpListener::bind(("127.0.0.1", self.port(port))).is_ok())
    }
}

/// All slots that something is in.
///
/// # Errors
/// When the cache directory cannot be read.
pub fn slots() -> Result<Vec<Slot>> {
    Ok(all()?.filter(|slot| slot.directory.exists()).collect())
}

/// Cleans up slots whose owner is gone, takes a free one (or the wanted one) and starts its supervisor.
pub(crate) fn take(wanted: Option<u8>) -> Result<(Slot, supervisor::Supervisor)> {
    // Held until the supervisor has the slot's own lock: a slot without one counts as left behind.
    let _lock = cache::lock("slots.lock")?;
    sweep()?;
    let slot = match wanted {
        Some(number) => all()?
            .find(|slot| slot.number == number && slot.is_free())
            .with_context(|| format!("slot {number} is taken, or one of its ports is in use"))?,
        None => next()?,
    };
    // A socket's path has 107 characters at most, and the node's are the longest.
    if slot.directory.as_os_str().len() > 80 {
        bail!(
            "{} is too long a path for sockets; set XDG_CACHE_HOME to a shorter one",
            slot.directory.display()
        );
    }
    // Tokens lie in there.
    let mut private = fs::DirBuilder::new();
    private.recursive(true).mode(0o700);
    for part in ["run", "log"] {
        private.create(slot.directory.join(part))?;
    }
    fs::write(slot.directory.join("owner"), std::process::id().to_string())?;
    let supervisor = supervisor::Supervisor::start(&slot.directory)?;
    Ok((slot, supervisor))
}

/// The free slot after the one that was taken last: whoever waits for the end of a cluster is not to find the next one
/// in its place.
fn next() -> Result<Slot> {
    let memory = cache::directory()?.join("last-slot");
    let last: u8 = fs::read_to_string(&memory).ok().and_then(|text| text.parse().ok()).unwrap_or(DEVELOPER);
    let (before, after): (Vec<Slot>, Vec<Slot>) =
        all()?.filter(|slot| slot.number != DEVELOPER).partition(|slot| slot.number <= last);
    let slot = after
        .into_iter()
        .chain(before)
        .find(Slot::is_free)
        .with_context(|| format!("{} clusters run already", SLOTS - 1))?;
    fs::write(memory, slot.number.to_string())?;
    Ok(slot)
}

/// Cleans up slots whose owner is gone.
///
/// # Errors
/// When something cannot be removed.
pub fn clean() -> Result<()> {
    let _lock = cache::lock("slots.lock")?;
    sweep()
}

fn sweep() -> Result<()> {
    for slot in slots()? {
        if cache::is_locked(&slot.directory.join("lock"))? {
            continue;
        }
        if let Err(error) = supervisor::clean(&slot.directory)
            // Its own supervisor may have been about to remove it.
            && slot.directory.exists()
        {
            return Err(error);
        }
    }
    Ok(())
}

fn all() -> Result<impl Iterator<Item = Slot>> {
    let run = cache::directory()?.join("run");
    Ok((0..SLOTS).map(move |number| Slot { number, directory: run.join(number.to_string()) }))
}
