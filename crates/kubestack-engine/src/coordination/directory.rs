//! A directory that belongs to one daemon at a time.

use super::local::fault;
use kubestack_core::error::{Error, Result};
use rustix::fs::{FlockOperation, flock};
use std::fs::{File, Metadata, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Keeps a directory for this process. The lock lives as long as this does; the system releases it when the process
/// dies.
pub struct DirectoryLock {
    file: File,
    path: PathBuf,
}

impl DirectoryLock {
    /// Of that directory; made if it is not there.
    ///
    /// # Errors
    /// [`Conflict`](kubestack_core::error::ErrorKind::Conflict) if another process has it; the text names it.
    pub fn take(dir: &Path) -> Result<Self> {
        let path = dir.join("lock");
        std::fs::create_dir_all(dir)
            .map_err(|error| fault("cannot make", dir, &error, "name another directory under `state_dir`"))?;
        let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let mut file = open.map_err(|error| fault("cannot open", &path, &error, "check its permissions"))?;
        let locked = flock(&file, FlockOperation::NonBlockingLockExclusive);
        if let Err(error) = locked
            && error != rustix::io::Errno::WOULDBLOCK
        {
            return Err(fault("cannot lock", &path, &error.into(), "keep it on a local disk"));
        }
        if locked.is_err() {
            let mut holder = String::new();
            let _ = (&file).take(64).read_to_string(&mut holder);
            let holder = holder.trim();
            let text = format!(
                "another daemon (pid {holder}) runs this installation ({}); stop it first, or give this one another `state_dir` and `instance`",
                dir.display()
            );
            return Err(Error::conflict(text));
        }
        // Only for the message above: the lock itself is what counts.
        let mut note = || -> std::io::Result<()> {
            file.set_len(0)?;
            file.rewind()?;
            writeln!(file, "{}", std::process::id())
        };
        note().map_err(|error| fault("cannot write", &path, &error, "free some space"))?;
        Ok(Self { file, path })
    }

    /// Whether it is still the directory's: where somebody removed that, another daemon can lock a new file of the same
    /// name.
    pub fn holds(&self) -> bool {
        let id = |metadata: Metadata| (metadata.dev(), metadata.ino());
        let named = std::fs::metadata(&self.path).map(id);
        matches!((self.file.metadata().map(id), named), (Ok(ours), Ok(named)) if ours == named)
    }
}
