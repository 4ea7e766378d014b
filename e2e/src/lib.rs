//! A real Kubernetes for one test or one developer: etcd, kube-apiserver, and on request scheduler,
//! controller-manager, KWOK with fake nodes, and a real node with kubelet and containerd. Built from Go modules, on
//! loopback or in namespaces of its own, gone with its owner.
//!
//! ```no_run
//! # fn test() -> anyhow::Result<()> {
//! use kubestack_testbed::{Options, cluster};
//! let Some(cluster) = cluster(&Options::control_plane().fake_nodes(3))? else { return Ok(()) };
//! cluster.kubectl(["get", "nodes"])?;
//! # Ok(())
//! # }
//! ```
//!
//! ```text
//!  owner (a test) ──stdin──► supervisor ──pdeathsig──► etcd, kube-apiserver, …, kwok
//!                                       └────────────► unshare ► pid 1 of a node ► kubelet, containerd ► pods
//! ```
//! The pipe closes with its owner, `kill -9` included; then the supervisor ends the others and removes what they
//! left. If the supervisor is killed, the kernel ends them, and the next start of a cluster removes the rest.
//!
//! [`hudson`] is a real server of the line that became Jenkins, owned in the same way; [`gearman`] and [`publisher`] are
//! smaller ones.
//!
//! It knows nothing of KubeStack, except how to make its agent image ([`image`]).
#![expect(clippy::disallowed_methods, reason = "waits for real processes in real time")]

mod binaries;
mod cache;
mod cluster;
mod components;
pub mod gearman;
pub mod hudson;
pub mod image;
mod needs;
mod node;
mod pki;
pub mod publisher;
mod slots;
mod supervisor;

pub use binaries::{build, directory as binaries, missing as missing_binaries, targets};
pub use cache::directory;
pub use cluster::{Cluster, ServiceAccount};
pub use components::{Component, Options, Stages};
pub use needs::{install_packages, missing};
pub use node::load_image;
pub use slots::{DEVELOPER, Slot, clean, slots};

use anyhow::{Result, bail};
use std::io::Write;
use std::net::TcpListener;
use std::time::{Duration, Instant};

/// The one way in which a test asks for a cluster: `None` when this machine lacks something, after one line on
/// stderr that says what; with `CI=true` that is an error.
///
/// # Errors
/// When the cluster does not start, or with `CI=true` when something is missing.
pub fn cluster(options: &Options) -> Result<Option<Cluster>> {
    if skip(options)? { Ok(None) } else { Cluster::start(options).map(Some) }
}

/// The first half of [`cluster`], for tests that start their clusters in other ways: whether to skip.
///
/// # Errors
/// With `CI=true` when something is missing.
pub fn skip(options: &Options) -> Result<bool> {
    excused(missing(options)?)
}

/// Whether to skip, because that is missing; with `CI=true` what is missing is an error.
fn excused(missing: Option<String>) -> Result<bool> {
    let Some(reason) = missing else { return Ok(false) };
    // Not `eprintln!`: the test harness would keep it to itself while the test passes.
    excuse(&reason, std::env::var("CI").is_ok_and(|ci| ci == "true"), std::io::stderr())?;
    Ok(true)
}

fn excuse(reason: &str, ci: bool, mut output: impl Write) -> Result<()> {
    if ci {
        bail!("CI=true, and the testbed needs {reason}");
    }
    Ok(writeln!(output, "SKIPPED: the testbed needs {reason}")?)
}

/// Asks again and again until there is an answer.
///
/// # Errors
/// When asking fails, or there is no answer within `limit`.
pub fn wait<T>(what: &str, limit: Duration, mut ask: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let began = Instant::now();
    loop {
        if let Some(answer) = ask()? {
            return Ok(answer);
        }
        if began.elapsed() > limit {
            bail!("no {what} within {} s", limit.as_secs());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A port of loopback that nobody listens on now.
fn free_port() -> Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_an_excuse_except_in_ci() {
        let mut output = Vec::new();
        let error = excuse("a reason", true, &mut output).unwrap_err().to_string();
        assert_eq!(error, "CI=true, and the testbed needs a reason");
        assert!(output.is_empty());
        excuse("a reason", false, &mut output).unwrap();
        assert_eq!(output, b"SKIPPED: the testbed needs a reason\n");
    }
}
