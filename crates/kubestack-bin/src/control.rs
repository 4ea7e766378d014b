//! How the command line talks to a running daemon: one JSON line there and one back, over a socket that only
//! the daemon's own user can open.

use crate::Exit;
use anyhow::{Context, Result, anyhow, bail};
use kubestack_core::context::Spawner;
use kubestack_core::error::{Error, ErrorKind};
use kubestack_engine::{Command, Handle, Status};
use serde::{Deserialize, Serialize};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};

/// Longer requests are not read: none of ours comes near it.
const MAX_REQUEST: u64 = 64 * 1024;

/// Whoever asks nothing for so long is let go.
const PATIENCE: Duration = Duration::from_secs(10);
/// What the address of a socket holds, with the zero byte at its end (unix(7)).
const MAX_PATH: usize = 108;

/// A question.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Question {
    Status,
    Do(Command),
}

/// An answer.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Answer {
    Status(Box<Status>),
    Done(String),
    /// What went wrong, and the exit code that the command line is to end with.
    Error(String, u8),
}

/// Where the daemon of that state directory listens.
pub(crate) fn socket(state_dir: &Path) -> PathBuf {
    state_dir.join("control.sock")
}

/// What is wrong with that state directory's socket.
pub(crate) fn problem(state_dir: &Path) -> Option<String> {
    let over = (socket(state_dir).as_os_str().len() + 1).checked_sub(MAX_PATH).filter(|over| *over > 0)?;
    Some(format!("state_dir: {} is too long for the control socket by {over} bytes", state_dir.display()))
}

/// The daemon's end of the socket; removed with it.
pub(crate) struct Server {
    listener: UnixListener,
    path: PathBuf,
}

impl Server {
    /// Opens the socket. The lead of the instance is held already, so whatever stands at the path is a
    /// left-over of a daemon that is gone.
    pub fn open(path: &Path) -> Result<Self> {
        let _ = std::fs::remove_file(path);
        let listener = UnixListener::bind(path).with_context(|| {
            format!("cannot open the control socket {}; check the directory's permissions", path.display())
        })?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        Ok(Self { listener, path: path.to_owned() })
    }

    /// Answers until dropped.
    pub async fn serve(self, handle: Handle, spawner: Arc<dyn Spawner>) {
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let handle = handle.clone();
                    let task = async move {
                        if let Err(error) = answer(stream, handle).await {
                            tracing::debug!(%error, "a control connection broke");
                        }
                    };
                    spawner.spawn("control connection", Box::pin(task));
                }
                Err(error) => {
                    tracing::warn!(%error, "the control socket fails; it is tried again");
                    pause().await;
                }
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Most likely no file can be opened: to ask again at once would only burn time.
#[expect(clippy::disallowed_methods, reason = "the daemon's own process, in real time")]
async fn pause() {
    tokio::time::sleep(Duration::from_secs(1)).await;
}

async fn answer(mut stream: UnixStream, handle: Handle) -> Result<()> {
    let (read, mut write) = stream.split();
    let mut line = String::new();
    tokio::time::timeout(PATIENCE, BufReader::new(read.take(MAX_REQUEST)).read_line(&mut line)).await??;
    let answer = match serde_json::from_str(&line) {
        Ok(Question::Status) => handle.status().await.map(|status| Answer::Status(Box::new(status))),
        Ok(Question::Do(command)) => handle.command(command).await.map(Answer::Done),
        Err(error) => Err(Error::bug(format!("not understood ({error}); use a client of this version"))),
    };
    let answer = answer.unwrap_or_else(|error| {
        Answer::Error(error.message, if error.kind == ErrorKind::NotFound { crate::NO_SUCH_THING } else { 1 })
    });
    let mut line = serde_json::to_vec(&answer)?;
    line.push(b'\n');
    write.write_all(&line).await?;
    Ok(())
}

/// The command line's end.
pub(crate) struct Client {
    path: PathBuf,
}

impl Client {
    pub fn new(state_dir: &Path) -> Self {
        Self { path: socket(state_dir) }
    }

    /// One look at everything.
    pub async fn status(&self) -> Result<Status> {
        match self.ask(&Question::Status).await? {
            Answer::Status(status) => Ok(*status),
            Answer::Error(text, code) => Err(Exit { code, text }.into()),
            Answer::Done(text) => Err(anyhow!(text)),
        }
    }

    /// Carries out a wish.
    pub async fn command(&self, command: Command) -> Result<String> {
        match self.ask(&Question::Do(command)).await? {
            Answer::Done(text) => Ok(text),
            Answer::Error(text, code) => Err(Exit { code, text }.into()),
            Answer::Status(_) => bail!("the daemon answered something else; use a client of its version"),
        }
    }

    async fn ask(&self, question: &Question) -> Result<Answer> {
        let mut stream = UnixStream::connect(&self.path).await.with_context(|| {
            format!(
                "no daemon listens at {}; start one with `kubestack run -c FILE`, or name its config with -c",
                self.path.display()
            )
        })?;
        let mut line = serde_json::to_vec(question)?;
        line.push(b'\n');
        stream.write_all(&line).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        serde_json::from_str(&answer)
            .context("the daemon's answer is not understood; use a client of its version")
    }
}
