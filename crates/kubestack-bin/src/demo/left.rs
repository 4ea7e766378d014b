//! What a demo leaves behind: nothing, if all goes well.

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

/// What is still there although all should be gone.
pub(super) fn behind(root: &Path, address: SocketAddr) -> Vec<String> {
    let mut left = Vec::new();
    let agents = root.join("local").join("local");
    for entry in std::fs::read_dir(&agents).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            left.push(format!("directory {}", entry.path().display()));
        }
    }
    left.extend(processes(root).map(|pid| format!("process {pid}")));
    if std::net::TcpStream::connect_timeout(&address, Duration::from_millis(200)).is_ok() {
        left.push(format!("port {}", address.port()));
    }
    left
}

/// The processes that work below `root`, a directory that only the demo knows of.
fn processes(root: &Path) -> impl Iterator<Item = u32> {
    let all = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(move |pid| *pid != std::process::id() && works_below(root, *pid))
}

fn works_below(root: &Path, pid: u32) -> bool {
    std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd.starts_with(root))
}

/// Kills what still works below `root`.
pub(super) fn end_processes(root: &Path) {
    for pid in processes(root) {
        let raw = i32::try_from(pid).ok().and_then(Pid::from_raw);
        let Some(Ok(handle)) = raw.map(|raw| pidfd_open(raw, PidfdFlags::empty())) else { continue };
        // Looked at again once it cannot be mistaken: its number may have become another's.
        if works_below(root, pid) {
            let _ = pidfd_send_signal(&handle, Signal::KILL);
        }
    }
}
