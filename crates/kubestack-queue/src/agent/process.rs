//! One command in a process group of its own.

use crate::model::Submission;
use kubestack_core::error::{Error, Result};
use rustix::process::{Pid, Signal, kill_process_group, test_kill_process_group};
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};
use tokio::signal::unix::{self, SignalKind};
use tokio::sync::mpsc;

/// How the job ended.
pub(super) enum End {
    Exit(i32),
    Signal(i32),
    TimedOut,
    Cancelled,
}

/// Signals that are passed on to the job.
pub(super) struct Signals {
    terminate: unix::Signal,
    interrupt: unix::Signal,
    hangup: unix::Signal,
}

impl Signals {
    pub fn new() -> Result<Self> {
        let listen = |kind| {
            unix::signal(kind).map_err(|error| Error::bug(format!("cannot listen for signals: {error}")))
        };
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            hangup: listen(SignalKind::hangup())?,
        })
    }

    pub async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.terminate.recv() => Signal::TERM,
            _ = self.interrupt.recv() => Signal::INT,
            _ = self.hangup.recv() => Signal::HUP,
        }
    }
}

/// Waits; for ever without a duration.
#[expect(clippy::disallowed_methods, reason = "the agent is a process of its own, in real time")]
pub(super) async fn after(duration: Option<Duration>) {
    match duration {
        Some(duration) => tokio::time::sleep(duration).await,
        None => std::future::pending().await,
    }
}

/// The job's processes and their output.
pub(super) struct Running {
    child: Child,
    group: Option<Pid>,
    output: mpsc::Receiver<Vec<u8>>,
    pending: Vec<u8>,
    ended: Option<ExitStatus>,
}

impl Running {
    /// Starts the command; otherwise says why it cannot be started.
    pub fn start(job: &Submission) -> std::result::Result<Self, String> {
        let (program, args) = job.command.split_first().ok_or("the command is empty")?;
        let mut command = Command::new(program);
        command
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .env_remove(super::TOKEN)
            .env_remove(super::TOKEN_FILE)
            .env_remove(super::URL)
            .envs(&job.env);
        let mut child = command.spawn().map_err(|error| format!("{program} cannot be started: {error}"))?;
        let group = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        let (sender, output) = mpsc::channel(16);
        if let Some(stdout) = child.stdout.take() {
            pump(stdout, sender.clone());
        }
        if let Some(stderr) = child.stderr.take() {
            pump(stderr, sender);
        }
        Ok(Self { child, group, output, pending: Vec::new(), ended: None })
    }

    /// More output; `None` once the command has ended and what it wrote is read. Output of processes that it
    /// left behind is not waited for.
    pub async fn output(&mut self, most: usize) -> Option<Vec<u8>> {
        if let Some(chunk) = self.rest(most) {
            return Some(chunk);
        }
        if self.ended.is_some() {
            return None;
        }
        tokio::select! {
            biased;
            chunk = self.output.recv() => match chunk {
                Some(chunk) => self.pending.extend(chunk),
                None => self.ended = self.child.wait().await.ok(),
            },
            status = self.child.wait() => {
                self.ended = status.ok();
                // What is in the pipes already is read; a grandchild may hold them open for ever.
                let drain = async { while let Some(chunk) = self.output.recv().await { self.pending.extend(chunk); } };
                let _ = tokio::time::timeout(Duration::from_millis(200), drain).await;
            }
        }
        self.rest(most)
            .or_else(|| self.ended.is_none().then(Vec::new))
            .filter(|chunk| !chunk.is_empty() || self.ended.is_none())
    }

    /// Output that is read but not handed out yet.
    pub fn rest(&mut self, most: usize) -> Option<Vec<u8>> {
        while let Ok(chunk) = self.output.try_recv() {
            self.pending.extend(chunk);
        }
        if self.pending.is_empty() {
            return None;
        }
        let tail = self.pending.split_off(most.min(self.pending.len()));
        Some(std::mem::replace(&mut self.pending, tail))
    }

    /// How it ended. Takes down what it left behind.
    pub async fn wait(&mut self) -> End {
        let status = match self.ended {
            Some(status) => Some(status),
            None => self.child.wait().await.ok(),
        };
        self.ended = status;
        self.stop(Duration::from_millis(500)).await;
        match status {
            Some(status) => match (status.code(), status.signal()) {
                (Some(code), _) => End::Exit(code),
                (None, signal) => End::Signal(signal.unwrap_or(0)),
            },
            None => End::Signal(0),
        }
    }

    /// Passes a signal on to all processes of the job.
    pub fn forward(&self, signal: Signal) {
        if let Some(group) = self.group {
            let _ = kill_process_group(group, signal);
        }
    }

    /// Ends all processes of the job: asks, waits that long, then kills.
    pub async fn stop(&mut self, grace: Duration) {
        const STEP: Duration = Duration::from_millis(20);
        let Some(group) = self.group else { return };
        self.forward(Signal::TERM);
        let mut waited = Duration::ZERO;
        while waited < grace && self.is_alive(group) {
            after(Some(STEP)).await;
            waited += STEP;
        }
        self.forward(Signal::KILL);
        if self.ended.is_none() {
            self.ended = self.child.wait().await.ok();
        }
    }

    fn is_alive(&mut self, group: Pid) -> bool {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().ok().flatten();
        }
        test_kill_process_group(group).is_ok()
    }
}

/// Reads a pipe to its end in the background of this process.
#[expect(clippy::disallowed_methods, reason = "ends with its pipe, in a process of its own")]
fn pump(mut pipe: impl AsyncRead + Unpin + Send + 'static, sender: mpsc::Sender<Vec<u8>>) {
    tokio::spawn(async move {
        let mut buffer = vec![0; 16 * 1024];
        while let Ok(count @ 1..) = pipe.read(&mut buffer).await {
            let chunk = buffer.get(..count).unwrap_or_default().to_vec();
            if sender.send(chunk).await.is_err() {
                return;
            }
        }
    });
}
