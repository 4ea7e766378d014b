//! Looking at processes, for both test programs.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

pub const BOUND: Duration = Duration::from_secs(180);

/// All processes whose link of this name (`cwd`, `ns/pid`) is as wanted.
pub fn processes(link: &str, wanted: impl Fn(&Path) -> bool) -> Vec<PathBuf> {
    fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .map(|entry| entry.path())
        .filter(|process| fs::read_link(process.join(link)).is_ok_and(|target| wanted(&target)))
        .collect()
}

/// Processes whose working directory is in this one, which is so for all that the supervisor starts.
pub fn processes_in(directory: &Path) -> Vec<PathBuf> {
    processes("cwd", |cwd| cwd.starts_with(directory))
}

pub fn kill(process: &Path) {
    let pid = process.file_name().unwrap().to_str().unwrap().parse().unwrap();
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(pid).unwrap(),
        rustix::process::Signal::KILL,
    )
    .unwrap();
}

/// The supervisor of the cluster in this directory.
pub fn supervisor(directory: &Path) -> PathBuf {
    let is_bash = |process: &PathBuf| {
        let line = fs::read_to_string(process.join("cmdline")).unwrap_or_default();
        line.split('\0').nth(1).is_some_and(|script| script.ends_with("/supervisor.sh"))
    };
    processes_in(directory).into_iter().find(is_bash).unwrap()
}

/// A process that holds a cluster until it is killed, and the cluster's directory.
pub fn holder(flag: &str) -> (Child, PathBuf) {
    let mut holder = Command::new(env!("CARGO_BIN_EXE_kubestack-testbed"))
        .args(["hold", "--any-slot", flag])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut kubeconfig = String::new();
    BufReader::new(holder.stdout.take().unwrap()).read_line(&mut kubeconfig).unwrap();
    let directory = Path::new(kubeconfig.trim()).parent().unwrap().to_owned();
    (holder, directory)
}
