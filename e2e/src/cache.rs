//! Where things stay between runs, outside any checkout, and the locks on them.

use anyhow::{Context, Result};
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

/// `$XDG_CACHE_HOME/kubestack-testbed`, or the same below `~/.cache`. Made on first use.
///
/// # Errors
/// When neither XDG_CACHE_HOME nor HOME is set, or it cannot be made.
pub fn directory() -> Result<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME")
        .filter(|path| !path.is_empty())
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")))
        .context("neither XDG_CACHE_HOME nor HOME is set: the testbed has no place for its binaries")?;
    let path = std::path::absolute(cache)?.join("kubestack-testbed");
    std::fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
    Ok(path)
}

/// Waits until no other process holds the lock of this name; held until dropped.
pub(crate) fn lock(name: &str) -> Result<File> {
    let path = directory()?.join(name);
    let file = open(&path)?;
    file.lock().with_context(|| format!("cannot lock {}", path.display()))?;
    Ok(file)
}

/// Whether some process holds the lock on this file.
pub(crate) fn is_locked(path: &Path) -> Result<bool> {
    if !path.exists() {
        return Ok(false);
    }
    match open(path)?.try_lock() {
        Ok(()) => Ok(false),
        Err(TryLockError::WouldBlock) => Ok(true),
        Err(TryLockError::Error(error)) => Err(error).with_context(|| path.display().to_string()),
    }
}

fn open(path: &Path) -> Result<File> {
    File::options()
        .create(true)
        .append(true)
        .open(path)
        .with_context(|| format!("cannot open {}", path.display()))
}
