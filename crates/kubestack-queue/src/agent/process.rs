//! One command in a process group of its own.

use crate::model::Submission;
use kubestack_core::error::{Error, Result};
use rustix::process::{Pid, Signal, kill_process_group, test_kill_process_group};
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;
use std::time::Duration;
use tokio::net::unix::pipe;
use tokio::process::{Child, Command};
use tokio::signal::unix::{self, SignalKind};
use tokio::sync::{mpsc, watch};

/// How long processes that the job left behind may take to end once it has ended by itself.
const LEFT_BEHIND: Duration = Duration::from_millis(500);
/// How often to look whether they have: they are no children of ours, so nothing tells.
const LOOK: Duration = Duration::from_millis(20);
/// Bytes read at once: what a pipe holds by default.
const READ: usize = 64 * 1024;
/// The most that a pipe of an ordinary user can hold (`/proc/sys/fs/pipe-max-size`): a job wrote no more
/// than that unread before it ended.
const PIPE: usize = 1 << 20;

/// What the queue wants of the job.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Wish {
    GoOn,
    Cancel,
    /// It is not this agent's job any more.
    Drop,
}

/// How the job ended.
pub(super) enum End {
    Exit(i32),
    Signal(i32),
    /// The system does not tell.
    Unseen(std::io::Error),
    TimedOut,
    /// The queue wanted it to.
    Wished,
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
    group: Group,
    output: Output,
}

impl Running {
    /// Starts the command; otherwise says why it cannot be started.
    pub fn start(job: &Submission) -> std::result::Result<Self, String> {
        let (program, args) = job.command.split_first().ok_or("the command is empty")?;
        let failed = |error: std::io::Error| format!("{program} cannot be started: {error}");
        // One pipe for both keeps the order in which the job wrote.
        let (reader, writer) = std::io::pipe().map_err(failed)?;
        let mut command = Command::new(program);
        command
            .args(args)
            .stdin(Stdio::null())
            .stdout(writer.try_clone().map_err(failed)?)
            .stderr(writer)
            .process_group(0)
            .kill_on_drop(true);
        for name in super::ENROLMENT {
            command.env_remove(name);
        }
        command.envs(&job.env);
        let child = command.spawn().map_err(failed)?;
        // With it go our copies of the pipe's end, without which the end of the output would never be seen.
        drop(command);
        let group = Group(child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)));
        let pipe = pipe::Receiver::from_owned_fd(reader.into()).map_err(failed)?;
        Ok(Self { child, group, output: Output(Some(pipe)) })
    }

    /// Goes with the job to its end: passes its output on, and ends its whole group when its time is over, when
    /// the queue wishes so, or when the job itself has ended. Also tells the last signal that was passed on.
    pub async fn supervise(
        mut self,
        timeout: Option<Duration>,
        grace: Duration,
        signals: &mut Signals,
        mut wishes: watch::Receiver<Wish>,
        log: mpsc::Sender<Vec<u8>>,
    ) -> (End, Option<Signal>) {
        let mut status = None;
        let mut reason = None;
        let mut passed_on = None;
        let mut deadline = std::pin::pin!(after(timeout));
        let mut kill = std::pin::pin!(after(None));
        loop {
            let look = status.is_some().then_some(LOOK);
            tokio::select! {
                // The exit first: what ended by itself was not ended by its timeout.
                biased;
                exit = self.child.wait(), if status.is_none() => {
                    status = Some(exit);
                    if reason.is_none() {
                        self.group.signal(Signal::TERM);
                        kill.set(after(Some(LEFT_BEHIND)));
                    }
                }
                _ = wishes.wait_for(|wish| *wish != Wish::GoOn), if reason.is_none() && status.is_none() => {
                    reason = Some(End::Wished);
                    self.group.signal(Signal::TERM);
                    kill.set(after(Some(grace)));
                }
                () = &mut deadline, if reason.is_none() && status.is_none() => {
                    reason = Some(End::TimedOut);
                    self.group.signal(Signal::TERM);
                    kill.set(after(Some(grace)));
                }
                signal = signals.next() => {
                    self.group.signal(signal);
                    passed_on = Some(signal);
                }
                () = &mut kill => {
                    self.group.signal(Signal::KILL);
                    kill.set(after(None));
                    if status.is_some() {
                        break;
                    }
                    status = Some(self.child.wait().await);
                    break;
                }
                () = self.output.pass(&log) => {}
                () = after(look) => {}
            }
            if status.is_some() && !self.group.is_alive() {
                break;
            }
        }
        self.output.rest(&log).await;
        let end = reason.unwrap_or_else(|| match status {
            Some(Ok(status)) => match (status.code(), status.signal()) {
                (Some(code), _) => End::Exit(code),
                (None, Some(signal)) => End::Signal(signal),
                (None, None) => End::Unseen(ErrorKind::InvalidData.into()),
            },
            Some(Err(error)) => End::Unseen(error),
            None => End::Unseen(ErrorKind::NotFound.into()),
        });
        (end, passed_on)
    }
}

/// The job's process group, until it is known to be empty: from then on its number may become another's.
struct Group(Option<Pid>);

impl Group {
    fn signal(&self, signal: Signal) {
        if let Some(group) = self.0 {
            let _ = kill_process_group(group, signal);
        }
    }

    fn is_alive(&mut self) -> bool {
        self.0 = self.0.filter(|group| test_kill_process_group(*group).is_ok());
        self.0.is_some()
    }
}

/// What the job writes, until all who may write have closed it.
struct Output(Option<pipe::Receiver>);

impl Output {
    /// Waits for more and passes it on. Nothing is lost if this is given up half-way, and nothing is read that
    /// cannot be passed on at once: a job that writes faster than the queue takes waits, as at any pipe.
    async fn pass(&mut self, log: &mpsc::Sender<Vec<u8>>) {
        let Some(pipe) = &self.0 else { return std::future::pending().await };
        let permit = log.reserve().await;
        if pipe.readable().await.is_err() {
            self.0 = None;
            return;
        }
        // Without a permit nobody wants the output, but the job must not hang on it.
        if let Some(chunk) = self.read()
            && let Ok(permit) = permit
        {
            permit.send(chunk);
        }
    }

    /// Passes on what is written already. Whoever left the group may hold the pipe open for ever, so its end is
    /// not waited for.
    async fn rest(&mut self, log: &mpsc::Sender<Vec<u8>>) {
        // The pipe itself is asked: the runtime answers "nothing yet" until it has heard of what was written.
        let Some(Ok(pipe)) = self.0.take().map(pipe::Receiver::into_nonblocking_fd) else { return };
        let mut pipe = File::from(pipe);
        let mut passed = 0;
        while passed < PIPE {
            let mut buffer = vec![0; READ];
            match pipe.read(&mut buffer) {
                Ok(count @ 1..) => {
                    passed += count;
                    buffer.truncate(count);
                    if log.send(buffer).await.is_err() {
                        return;
                    }
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Ok(0) | Err(_) => return,
            }
        }
    }

    fn read(&mut self) -> Option<Vec<u8>> {
        let mut buffer = vec![0; READ];
        match self.0.as_ref()?.try_read(&mut buffer) {
            Ok(count @ 1..) => {
                buffer.truncate(count);
                Some(buffer)
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => None,
            Ok(0) | Err(_) => {
                self.0 = None;
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    /// The job may have written and ended before the runtime has heard of either.
    #[tokio::test]
    async fn what_was_written_at_the_last_moment_is_passed_on() {
        let (reader, mut writer) = std::io::pipe().unwrap();
        let mut output = Output(Some(pipe::Receiver::from_owned_fd(reader.into()).unwrap()));
        writer.write_all(b"last words").unwrap();
        let (log, mut chunks) = mpsc::channel(4);
        // The writer stays open, as with a process that was left behind: its end is not waited for.
        output.rest(&log).await;
        assert_eq!(chunks.try_recv().unwrap(), b"last words");
        assert!(chunks.try_recv().is_err());
    }
}
