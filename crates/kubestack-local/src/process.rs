//! The processes of this host: who belongs to a unit, and signals that cannot hit anybody else.

use crate::UNIT_ENV;
use crate::disk::{Exit, Leader};
use rustix::fd::{AsFd, OwnedFd};
use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, geteuid, getpid, pidfd_open, pidfd_send_signal, waitid,
};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use tokio::net::unix::pipe::Receiver;

/// Most of an environment that is read: the kernel allows a quarter of the stack limit, 2 MiB by default.
const ENVIRON_READ: u64 = 4 * 1024 * 1024;

/// One process for as long as the host is up: pid and start time. Within one clock tick no pid is reused.
pub type ProcessId = (i32, u64);

/// Names this boot of the host.
pub fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

/// What `/proc/<pid>/stat` says of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stat {
    pub start: u64,
    pub group: i32,
    parent: i32,
    /// It ended, and only its status is still there to be fetched.
    zombie: bool,
}

/// Looks at one process; `None` if there is none of that pid. Where that cannot be told, as with too many
/// open files, it is an error: whoever took it for "gone" would give up, or end, what lives.
pub fn stat(pid: i32) -> io::Result<Option<Stat>> {
    let Some(bytes) = there(fs::read(format!("/proc/{pid}/stat")))? else { return Ok(None) };
    // The name of a process may hold anything, so bytes, and fields counted from its last parenthesis.
    Ok(parse_stat(&String::from_utf8_lossy(&bytes)))
}

/// What was read of a process; `None` if it has gone meanwhile.
fn there<T>(read: io::Result<T>) -> io::Result<Option<T>> {
    match read {
        Ok(read) => Ok(Some(read)),
        Err(error) if matches!(Errno::from_io_error(&error), Some(Errno::NOENT | Errno::SRCH)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Fields by number as in proc(5): 3 state, 4 ppid, 5 pgrp, 22 starttime.
fn parse_stat(text: &str) -> Option<Stat> {
    let (_, rest) = text.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    let field = |number: usize| fields.get(number.checked_sub(3)?).copied();
    Some(Stat {
        start: field(22)?.parse().ok()?,
        group: field(5)?.parse().ok()?,
        parent: field(4)?.parse().ok()?,
        zombie: matches!(field(3)?, "Z" | "X" | "x"),
    })
}

impl Leader {
    /// The process of that pid, which must be a child of ours that nobody has waited for.
    pub fn of_child(pid: i32) -> io::Result<Self> {
        let stat = stat(pid)?.ok_or_else(|| io::Error::other(format!("/proc shows no process {pid}")))?;
        Ok(Self { pid, start: stat.start, boot: boot_id()? })
    }

    fn id(&self) -> ProcessId {
        (self.pid, self.start)
    }

    /// Whether it still runs.
    pub fn is_alive(&self, boot: &str) -> io::Result<bool> {
        let lives = |stat: Stat| stat.start == self.start && !stat.zombie;
        Ok(self.boot == boot && stat(self.pid)?.is_some_and(lives))
    }

    /// A handle, also if it only waits to be reaped.
    pub fn open(&self) -> io::Result<Option<Handle>> {
        if self.boot == boot_id()? { Handle::open(self.id()) } else { Ok(None) }
    }
}

/// A hold on one process that no reuse of its pid can move to another.
#[derive(Debug)]
pub struct Handle {
    fd: OwnedFd,
    id: ProcessId,
}

impl Handle {
    /// A handle on that process; `None` if it is gone.
    ///
    /// First opened, then checked: what has the recorded start time now cannot have begun after the handle
    /// was opened, so it is what the handle holds.
    pub fn open(id: ProcessId) -> io::Result<Option<Self>> {
        let (pid, start) = id;
        let Some(raw) = Pid::from_raw(pid).filter(|raw| *raw != getpid() && *raw != Pid::INIT) else {
            return Ok(None);
        };
        let fd = match pidfd_open(raw, PidfdFlags::empty()) {
            // Not the id of a process, but that of a thread: no process of ours any more.
            Err(Errno::SRCH | Errno::INVAL | Errno::NOENT) => return Ok(None),
            opened => opened?,
        };
        Ok(stat(pid)?.is_some_and(|stat| stat.start == start).then_some(Self { fd, id }))
    }

    /// Sends a signal; that it ended meanwhile, or became another user's, is no error.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        match pidfd_send_signal(&self.fd, signal) {
            Ok(()) | Err(Errno::SRCH | Errno::PERM) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Waits until it has ended. Cancel-safe.
    ///
    /// A pidfd becomes readable at the end of its process. tokio's `AsyncFd` would be the name for it, but
    /// its constructors are unsafe, since they take what does not own its descriptor. A pipe's receiver
    /// owns it, waits for the same readiness, and is never read from.
    pub async fn ended(&self) -> io::Result<()> {
        let (pid, start) = self.id;
        loop {
            Receiver::from_owned_fd_unchecked(self.fd.try_clone()?)?.readable().await?;
            // tokio allows itself to say "readable" of what is not; to believe it would end a busy agent.
            if stat(pid)?.is_none_or(|stat| stat.start != start || stat.zombie) {
                return Ok(());
            }
        }
    }

    /// Fetches the exit status, which only its parent can, and only once.
    pub fn reap(&self) -> Option<Exit> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        let status = waitid(WaitId::PidFd(self.fd.as_fd()), options).ok()??;
        let code = status.exit_status().map(Exit::Code);
        code.or_else(|| status.terminating_signal().map(Exit::Signal))
    }
}

#[derive(Debug)]
struct Process {
    stat: Stat,
    /// The uid of the unit that its environment names.
    unit: Option<String>,
}

/// All processes of this host at one look.
#[derive(Debug)]
pub struct Table {
    processes: BTreeMap<i32, Process>,
    boot: String,
}

/// One process of a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Member {
    pub id: ProcessId,
    pub group: i32,
}

impl Table {
    /// Looks at all processes. Environments are read of those of our own user only.
    pub fn read() -> io::Result<Self> {
        let own = geteuid().as_raw();
        let mut processes = BTreeMap::new();
        for entry in fs::read_dir("/proc")? {
            let entry = entry?;
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
                continue;
            };
            // Gone since the listing: then it is not there.
            let Some(stat) = stat(pid)? else { continue };
            let ours = entry.metadata().is_ok_and(|metadata| metadata.uid() == own);
            let unit = if ours && !stat.zombie { unit_of(pid)? } else { None };
            processes.insert(pid, Process { stat, unit });
        }
        Ok(Self { processes, boot: boot_id()? })
    }

    /// The living processes of a unit: what carries its uid, the group of its leader while that one is
    /// there, alive or not yet reaped (else the number may be another's by now), those `known` from an
    /// earlier look, and all their descendants.
    pub fn members(&self, uid: &str, leader: Option<&Leader>, known: &BTreeSet<ProcessId>) -> Vec<Member> {
        let group = leader
            .filter(|leader| leader.boot == self.boot)
            .filter(|leader| self.processes.get(&leader.pid).is_some_and(|p| p.stat.start == leader.start))
            .map(|leader| leader.pid);
        let me = getpid().as_raw_nonzero().get();
        let mut found: BTreeSet<i32> = BTreeSet::new();
        loop {
            let before = found.len();
            for (pid, process) in &self.processes {
                let stat = &process.stat;
                let belongs = process.unit.as_deref() == Some(uid)
                    || group.is_some_and(|group| stat.group == group || *pid == group)
                    || known.contains(&(*pid, stat.start))
                    || found.contains(&stat.parent);
                if belongs && *pid != me && *pid > 1 {
                    found.insert(*pid);
                }
            }
            if found.len() == before {
                break;
            }
        }
        let member = |pid: i32| {
            let stat = &self.processes.get(&pid)?.stat;
            (!stat.zombie).then_some(Member { id: (pid, stat.start), group: stat.group })
        };
        found.into_iter().filter_map(member).collect()
    }

    /// The first process of a unit whose record does not name it: the eldest that leads a group and carries
    /// the uid.
    pub fn leader(&self, uid: &str) -> Option<Leader> {
        let (pid, process) = self
            .processes
            .iter()
            .filter(|(pid, process)| process.unit.as_deref() == Some(uid) && process.stat.group == **pid)
            .min_by_key(|(pid, process)| (process.stat.start, **pid))?;
        Some(Leader { pid: *pid, start: process.stat.start, boot: self.boot.clone() })
    }

    /// The uids of all units that any process names.
    pub fn units(&self) -> BTreeSet<&str> {
        self.processes.values().filter_map(|process| process.unit.as_deref()).collect()
    }
}

/// The unit that the environment of a process names.
fn unit_of(pid: i32) -> io::Result<Option<String>> {
    let read = fs::File::open(format!("/proc/{pid}/environ")).and_then(|file| {
        let mut environ = Vec::new();
        file.take(ENVIRON_READ).read_to_end(&mut environ).map(|_| environ)
    });
    let environ = match read {
        // One of our user that is closed even to us, as a setuid program is: none that we started.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Ok(None),
        read => there(read)?.unwrap_or_default(),
    };
    Ok(environ.split(|byte| *byte == 0).find_map(|variable| {
        let value = variable.strip_prefix(UNIT_ENV.as_bytes())?.strip_prefix(b"=")?;
        Some(String::from_utf8_lossy(value).into_owned())
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    use std::os::fd::AsRawFd;

    #[test]
    fn a_name_with_parentheses_does_not_move_the_fields() {
        let text = "77 (a) b (c)) Z 7 70 60 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 1 0 45328 0 0 1 1";
        assert_eq!(parse_stat(text), Some(Stat { start: 45328, group: 70, parent: 7, zombie: true }));
        assert_eq!(parse_stat("77 (a) S 1"), None);
    }

    #[test]
    fn no_handle_on_ourselves_on_init_or_on_another_start_time() {
        let me = getpid().as_raw_nonzero().get();
        let start = stat(me).unwrap().unwrap().start;
        assert!(Handle::open((me, start)).unwrap().is_none());
        assert!(Handle::open((1, stat(1).unwrap().unwrap().start)).unwrap().is_none());
        let parent = stat(me).unwrap().unwrap().parent;
        let start = stat(parent).unwrap().unwrap().start;
        assert!(Handle::open((parent, start + 1)).unwrap().is_none());
    }

    /// Not a test of its own: it takes the files that others would open.
    #[test]
    #[ignore = "a part of the test below"]
    fn in_a_process_of_its_own_with_few_files() {
        let me = getpid().as_raw_nonzero().get();
        let id = (stat(me).unwrap().unwrap().parent, 0);
        let free = u64::try_from(fs::File::open("/dev/null").unwrap().as_raw_fd()).unwrap();
        let limit = |files| {
            let maximum = getrlimit(Resource::Nofile).maximum;
            setrlimit(Resource::Nofile, Rlimit { current: Some(files), maximum }).unwrap();
        };
        // One more for the listing or the handle, and none for the look at the process.
        limit(free + 1);
        let (table, handle) = (Table::read(), Handle::open(id));
        limit(free);
        let (stat, unit) = (stat(me), unit_of(me));
        limit(free + 100);
        assert!(table.is_err(), "an empty table is not what is there");
        assert!(handle.is_err() && stat.is_err() && unit.is_err());
        assert!(Table::read().is_ok());
    }

    #[test]
    fn a_host_that_cannot_be_looked_at_is_not_an_empty_one() {
        let status = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "process::tests::in_a_process_of_its_own_with_few_files", "--ignored"])
            .arg("--test-threads=1")
            .status()
            .unwrap();
        assert!(status.success());
    }

    fn table(rows: &[(i32, i32, i32, Option<&str>)]) -> Table {
        let process = |&(pid, parent, group, unit): &(i32, i32, i32, Option<&str>)| {
            let stat = Stat { start: 1000 + u64::try_from(pid).unwrap(), group, parent, zombie: false };
            (pid, Process { stat, unit: unit.map(str::to_owned) })
        };
        Table { processes: rows.iter().map(process).collect(), boot: "b".into() }
    }

    fn pids(members: &[Member]) -> Vec<i32> {
        members.iter().map(|member| member.id.0).collect()
    }

    /// Pids no real process has, so that this test's own pid is not among them.
    const BASE: i32 = 100_000_000;

    #[test]
    fn members_are_the_marked_the_group_and_their_descendants_and_nobody_else() {
        let pid = |n: i32| BASE + n;
        let table = table(&[
            (pid(10), 1, pid(10), Some("u")),
            (pid(11), pid(10), pid(10), None),
            (pid(9), pid(11), pid(9), None),
            (pid(12), 1, pid(12), Some("u")),
            (pid(13), 1, pid(13), Some("other")),
            (pid(14), 1, pid(14), None),
        ]);
        let leader = Leader { pid: pid(10), start: 1000 + u64::try_from(pid(10)).unwrap(), boot: "b".into() };
        let none = BTreeSet::new();
        let members = table.members("u", Some(&leader), &none);
        assert_eq!(pids(&members), [pid(9), pid(10), pid(11), pid(12)]);
        assert_eq!(table.leader("u"), Some(leader));
        assert_eq!(table.units().into_iter().collect::<Vec<_>>(), ["other", "u"]);
        let known = BTreeSet::from([(pid(14), 1000 + u64::try_from(pid(14)).unwrap())]);
        assert_eq!(pids(&table.members("none", None, &known)), [pid(14)]);
    }

    #[test]
    fn the_group_of_a_number_that_was_used_again_is_a_strangers() {
        let table = table(&[(BASE + 10, 1, BASE + 10, None), (BASE + 11, 1, BASE + 10, None)]);
        let none = BTreeSet::new();
        for (start, boot) in [(1, "b"), (1000 + u64::try_from(BASE + 10).unwrap(), "another")] {
            let leader = Leader { pid: BASE + 10, start, boot: boot.into() };
            assert!(table.members("u", Some(&leader), &none).is_empty());
        }
        let gone = Leader { pid: BASE + 10, start: 1, boot: "b".into() };
        let orphans = self::table(&[(BASE + 11, 1, BASE + 10, None)]);
        assert!(orphans.members("u", Some(&gone), &none).is_empty());
    }
}
