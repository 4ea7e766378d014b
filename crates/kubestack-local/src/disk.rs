//! What a unit leaves on disk: its directory, and the one record in it.

use kubestack_core::prelude::*;
use kubestack_core::time::Span;
use serde::{Deserialize, Serialize};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// The record's file.
const RECORD: &str = "unit.json";
/// Most of a log that is ever read: enough for any tail that is shown, and a bound for a log of gigabytes.
const LOG_READ: u64 = 64 * 1024;

/// The first process of a unit. All three together name one process for good.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leader {
    pub pid: i32,
    /// Start time in clock ticks since boot: field 22 of `/proc/<pid>/stat`, proc(5).
    pub start: u64,
    /// `/proc/sys/kernel/random/boot_id` at that time.
    pub boot: String,
}

/// How a unit ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Exit {
    /// It returned this status.
    Code(i32),
    /// This signal ended it.
    Signal(i32),
    /// It ended while nobody could ask for its status.
    Unknown,
    /// The host was restarted under it.
    HostRestarted,
}

/// All that must be known of a unit after a restart. Each change of phase is a change of this file, so that
/// its version orders all views of the unit.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Record {
    pub uid: Uid,
    pub version: u64,
    pub created: Moment,
    pub marks: Marks,
    /// Absent only between the making of the directory and the start of the process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader: Option<Leader>,
    /// It is to be taken away; its processes may take so long to end by themselves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ending: Option<Span>,
    /// Written once no process of it is left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit: Option<Exit>,
}

/// The directory of one unit.
#[derive(Clone, Debug)]
pub struct Home(pub PathBuf);

impl Home {
    /// Makes the directory with what belongs into it. What stood there is removed: callers pass a path that
    /// only they use.
    pub fn create(&self, record: &Record) -> io::Result<()> {
        match fs::remove_dir_all(&self.0) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        private_dir(&self.0)?;
        private_dir(&self.work())?;
        self.log(OpenOptions::new().create(true).append(true))?;
        self.write(record)
    }

    pub fn work(&self) -> PathBuf {
        self.0.join("work")
    }

    /// Opens the log.
    pub fn log(&self, how: &mut OpenOptions) -> io::Result<File> {
        how.mode(0o600).open(self.0.join("log"))
    }

    /// The record; `None` if there is none that can be understood, so that nobody may claim the directory.
    pub fn read(&self) -> io::Result<Option<Record>> {
        match fs::read(self.0.join(RECORD)) {
            Ok(bytes) => Ok(serde_json::from_slice(&bytes).ok()),
            // What we wrote we can read; what is closed to us is somebody else's.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::PermissionDenied
                ) =>
            {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Replaces the record. Readers, and whoever comes after a crash, see the old one or the new one.
    pub fn write(&self, record: &Record) -> io::Result<()> {
        let new = self.0.join(format!("{RECORD}.new"));
        let mut file = OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(&serde_json::to_vec_pretty(record)?)?;
        // Without it a power cut may leave an empty file under the final name: a directory of nobody.
        file.sync_all()?;
        fs::rename(new, self.0.join(RECORD))
    }

    /// The last lines of the log, at most that many and at most that many bytes.
    pub fn log_tail(&self, lines: usize, bytes: u64) -> io::Result<String> {
        let mut file = match self.log(OpenOptions::new().read(true)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(String::new()),
            opened => opened?,
        };
        let length = file.metadata()?.len();
        let skipped = length.saturating_sub(bytes.min(LOG_READ));
        file.seek(SeekFrom::Start(skipped))?;
        let mut tail = Vec::new();
        file.take(bytes.min(LOG_READ)).read_to_end(&mut tail)?;
        let text = String::from_utf8_lossy(&tail);
        let mut all: Vec<&str> = text.lines().collect();
        if skipped > 0 && all.len() > 1 {
            all.remove(0); // Most likely cut in the middle.
        }
        let first = all.len().saturating_sub(lines);
        Ok(all.split_off(first).join("\n"))
    }

    /// Removes the directory. The record goes last, by way of `trash`, a path that is swept at the next
    /// start: a crash or an error in between leaves a unit that can be found and removed again.
    pub async fn remove(&self, trash: &Path) -> io::Result<()> {
        clear(&self.0, true).await?;
        match fs::rename(&self.0, trash) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            renamed => renamed?,
        }
        fs::remove_dir_all(trash)
    }
}

/// Makes a directory that only our user may enter, with those above it where they are missing.
pub fn private_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Empties a directory, but for the record at its top if that is to be kept. Symbolic links are removed,
/// never followed. Gives way to other tasks between directories: jobs leave trees of any size.
async fn clear(top: &Path, keep_record: bool) -> io::Result<()> {
    let gone = |error: &io::Error| error.kind() == io::ErrorKind::NotFound;
    let mut open = vec![top.to_owned()];
    while let Some(directory) = open.last().cloned() {
        let mut deeper = false;
        let entries = match list(&directory) {
            Err(error) if gone(&error) => Vec::new(),
            listed => listed?,
        };
        for (path, is_dir) in entries {
            if is_dir {
                deeper = true;
                open.push(path);
            } else if !(keep_record && directory == top && path.ends_with(RECORD)) {
                match fs::remove_file(&path) {
                    Err(error) if !gone(&error) => return Err(named(&path, &error)),
                    _ => {}
                }
            }
        }
        if !deeper {
            open.pop();
            if directory != top {
                match fs::remove_dir(&directory) {
                    Err(error) if !gone(&error) => return Err(named(&directory, &error)),
                    _ => {}
                }
            }
        }
        tokio::task::yield_now().await;
    }
    Ok(())
}

/// The entries of a directory and whether each is one itself. Makes the directory ours to change first:
/// tools leave read-only trees behind (module caches do).
fn list(directory: &Path) -> io::Result<Vec<(PathBuf, bool)>> {
    let mode = fs::symlink_metadata(directory)?.permissions().mode();
    if mode & 0o700 != 0o700 {
        fs::set_permissions(directory, fs::Permissions::from_mode(0o700))?;
    }
    let entry = |entry: io::Result<fs::DirEntry>| entry.and_then(|e| Ok((e.path(), e.file_type()?.is_dir())));
    fs::read_dir(directory)
        .and_then(|entries| entries.map(entry).collect())
        .map_err(|error| named(directory, &error))
}

fn named(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn record() -> Record {
        let marks = Marks::new("ci".into(), "a".into(), "p".into(), None, (1, 2), "h".into());
        let created = Moment::from_millis(1);
        Record { uid: "u".into(), version: 1, created, marks, leader: None, ending: None, exit: None }
    }

    #[test]
    fn a_record_reads_back_and_what_is_no_record_is_nobodys() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home(dir.path().join("unit"));
        assert!(home.read().unwrap().is_none());
        let mut record = record();
        record.exit = Some(Exit::Signal(9));
        home.create(&record).unwrap();
        let read = home.read().unwrap().unwrap();
        assert_eq!((read.uid, read.exit), (record.uid, record.exit));
        for path in [home.0.clone(), home.work()] {
            assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o700);
        }
        fs::write(home.0.join(RECORD), "{\"uid\": ").unwrap();
        assert!(home.read().unwrap().is_none());
    }

    #[test]
    fn the_tail_is_bounded_in_lines_and_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home(dir.path().join("unit"));
        home.create(&record()).unwrap();
        assert_eq!(home.log_tail(5, 100).unwrap(), "");
        let log: String = (0..50_000).map(|line| format!("line {line}\n")).collect();
        fs::write(home.0.join("log"), log).unwrap();
        assert_eq!(home.log_tail(2, 1000).unwrap(), "line 49998\nline 49999");
        assert!(home.log_tail(usize::MAX, u64::MAX).unwrap().len() <= 64 * 1024);
        assert_eq!(home.log_tail(9, 20).unwrap(), "line 49999");
    }

    #[tokio::test]
    async fn read_only_trees_go_and_links_are_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let kept = dir.path().join("kept");
        fs::write(&kept, "x").unwrap();
        let home = Home(dir.path().join("unit"));
        home.create(&record()).unwrap();
        let deep = home.work().join("a/b");
        fs::create_dir_all(&deep).unwrap();
        fs::write(deep.join("file"), "x").unwrap();
        symlink(dir.path(), home.work().join("link")).unwrap();
        fs::set_permissions(&deep, fs::Permissions::from_mode(0o500)).unwrap();
        clear(&home.0, true).await.unwrap();
        assert!(home.read().unwrap().is_some(), "the record goes last");
        home.remove(&dir.path().join("trash")).await.unwrap();
        home.remove(&dir.path().join("trash")).await.unwrap();
        let left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().path()).collect();
        assert_eq!(left, [kept]);
    }
}
