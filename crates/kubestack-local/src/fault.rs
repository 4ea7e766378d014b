//! From an error of the operating system to one that says what to do.

use kubestack_core::prelude::*;
use std::fmt::Display;
use std::io;

/// `what` failed: fit for everything but starting the program.
pub fn fault(what: impl Display, error: &io::Error) -> Error {
    use io::ErrorKind as K;
    match error.kind() {
        K::StorageFull | K::QuotaExceeded => {
            Error::transient(format!("{what}: {error}; free some space there, or set `dir` to another disk"))
        }
        K::PermissionDenied | K::ReadOnlyFilesystem => {
            let text = format!("{what}: {error}; make it writable for the daemon, or set `dir`");
            Error::invalid(text).with_cause(FailureCause::Config)
        }
        _ => Error::transient(format!("{what}: {error}")),
    }
}

/// `program` could not be started.
pub fn spawn_fault(program: &str, error: &io::Error) -> Error {
    use rustix::io::Errno;
    let passing = |advice: &str| {
        Error::transient(format!("cannot start `{program}`: {error}; {advice}"))
            .with_cause(FailureCause::LaunchFailed)
    };
    let lasting = |advice: &str| {
        Error::invalid(format!("cannot start `{program}`: {error}; {advice}"))
            .with_cause(FailureCause::Config)
    };
    match Errno::from_io_error(error) {
        Some(Errno::NOENT | Errno::NOTDIR) => {
            lasting("name an existing program in `command`, and check the `#!` line if it is a script")
        }
        Some(Errno::ACCESS | Errno::PERM) => lasting("make it executable for the daemon's user"),
        Some(Errno::NOEXEC | Errno::ISDIR | Errno::LOOP) => lasting("it is not a program for this host"),
        Some(Errno::TOOBIG) => lasting("its arguments and environment are too long"),
        Some(Errno::AGAIN) => passing("the limit of processes is reached (`ulimit -u`, pids cgroup)"),
        Some(Errno::NOMEM) => passing("the host has no memory left for it"),
        Some(Errno::MFILE | Errno::NFILE) => passing("too many files are open (`ulimit -n`)"),
        None if error.kind() == io::ErrorKind::InvalidInput => {
            lasting("a NUL character stands in its arguments or environment")
        }
        _ => passing("it will be tried again"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passes_is_told_apart_from_what_lasts() {
        let kind = |errno: i32| spawn_fault("x", &io::Error::from_raw_os_error(errno)).kind;
        assert_eq!(kind(rustix::io::Errno::AGAIN.raw_os_error()), ErrorKind::Transient);
        assert_eq!(kind(rustix::io::Errno::NOMEM.raw_os_error()), ErrorKind::Transient);
        assert_eq!(kind(rustix::io::Errno::NOENT.raw_os_error()), ErrorKind::Invalid);
        assert_eq!(kind(rustix::io::Errno::ACCESS.raw_os_error()), ErrorKind::Invalid);
        let full = fault("x", &io::Error::from_raw_os_error(rustix::io::Errno::NOSPC.raw_os_error()));
        assert_eq!(full.kind, ErrorKind::Transient);
        assert!(full.message.contains("free some space"), "{full}");
        let denied = fault("x", &io::Error::from_raw_os_error(rustix::io::Errno::ACCESS.raw_os_error()));
        assert_eq!(denied.kind, ErrorKind::Invalid);
    }
}
