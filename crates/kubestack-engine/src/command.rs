//! What an operator or an embedding program may ask of a running engine.

use crate::engine::Setup;
use crate::status::Status;
use kubestack_core::error::{Error, Result};
use kubestack_core::name::{AgentName, LabelName};
use kubestack_planner::{Hold, Intent};
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

/// A wish of the operator. Agents are named by name or uid.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "command")]
#[non_exhaustive]
pub enum Command {
    /// Launch nothing until resumed.
    Pause {
        /// Why.
        reason: String,
    },
    /// Launch again, and stop draining.
    Resume,
    /// Launch nothing and let all idle agents go.
    DrainAll {
        /// Why.
        reason: String,
    },
    /// Launch one agent, demand or not.
    Create {
        /// Of this label.
        label: LabelName,
    },
    /// Take one agent away once it has no job.
    Delete {
        /// Its name or uid.
        id: String,
        /// Even while it has a job.
        force: bool,
    },
    /// Keep one agent as it is.
    Hold {
        /// Its name or uid.
        id: String,
        /// Why.
        reason: String,
    },
    /// Let a held agent go on.
    Release {
        /// Its name or uid.
        id: String,
    },
}

/// Something for the loop to do between two plans.
pub(crate) enum Request {
    Status(oneshot::Sender<Result<Status>>),
    Command(Command, oneshot::Sender<Result<String>>),
    Reconfigure(Box<Setup>, oneshot::Sender<Result<()>>),
}

impl Request {
    /// Answers it with that.
    pub fn refuse(self, error: &Error) {
        // Whoever asked may be gone.
        match self {
            Self::Status(answer) => drop(answer.send(Err(error.clone()))),
            Self::Command(_, answer) => drop(answer.send(Err(error.clone()))),
            // That can be done later, and nobody need do anything for it.
            Self::Reconfigure(_, answer) => drop(answer.send(Err(Error::transient(&*error.message)))),
        }
    }
}

/// Talks to a running engine. Cheap to clone.
#[derive(Clone)]
pub struct Handle(pub(crate) mpsc::Sender<Request>);

impl Handle {
    /// One look at everything.
    ///
    /// # Errors
    /// If the engine does not lead (yet), or has stopped.
    pub async fn status(&self) -> Result<Status> {
        let (answer, receive) = oneshot::channel();
        self.ask(Request::Status(answer), receive).await?
    }

    /// Carries out a wish; it is kept before the answer comes. The answer says in words what happens now.
    ///
    /// # Errors
    /// If the wish makes no sense (an unknown label or agent), or the engine has stopped.
    pub async fn command(&self, command: Command) -> Result<String> {
        let (answer, receive) = oneshot::channel();
        self.ask(Request::Command(command, answer), receive).await?
    }

    /// Takes new labels, limits and policy into use.
    ///
    /// # Errors
    /// [`Conflict`](kubestack_core::error::ErrorKind::Conflict) if the new setup names other systems than the
    /// running ones, or another pace of looking at them: that takes a new engine.
    /// [`Transient`](kubestack_core::error::ErrorKind::Transient) while the engine waits for its lead.
    pub async fn reconfigure(&self, setup: Setup) -> Result<()> {
        let (answer, receive) = oneshot::channel();
        self.ask(Request::Reconfigure(Box::new(setup), answer), receive).await?
    }

    async fn ask<T>(&self, request: Request, receive: oneshot::Receiver<T>) -> Result<T> {
        let stopped = || Error::conflict("the engine has stopped");
        self.0.send(request).await.map_err(|_| stopped())?;
        receive.await.map_err(|_| stopped())
    }
}

/// What a wish makes of the operator's intent, and the answer.
pub(crate) fn apply(
    command: Command,
    intent: &mut Intent,
    find: impl Fn(&str) -> Result<AgentName>,
    labels: &[&str],
) -> Result<String> {
    Ok(match command {
        Command::Pause { reason } => {
            intent.paused = Some(reason);
            "nothing is launched any more; running jobs go on".to_owned()
        }
        Command::Resume => {
            intent.paused = None;
            intent.drain_all = None;
            "agents are launched as demand asks for them".to_owned()
        }
        Command::DrainAll { reason } => {
            intent.drain_all = Some(reason);
            "nothing is launched any more and idle agents go; running jobs go on".to_owned()
        }
        Command::Create { label } => {
            if !labels.contains(&label.as_str()) {
                let near = kubestack_core::registry::nearest(label.as_str(), labels.iter().copied());
                let hint = near.map_or(String::new(), |near| format!(", did you mean `{near}`?"));
                let known = labels.join(", ");
                return Err(Error::not_found(format!("there is no label `{label}`{hint} (known: {known})")));
            }
            let request = intent.next_request;
            intent.next_request += 1;
            intent.creates.insert(request, label.clone());
            format!("an agent of label {label} is launched as soon as the caps allow it")
        }
        Command::Delete { id, force } => {
            let name = find(&id)?;
            intent.deletes.insert(name.clone(), force);
            if force {
                format!("{name} is taken away now, whatever it does")
            } else {
                format!("{name} goes once it has no job")
            }
        }
        Command::Hold { id, reason } => {
            let name = find(&id)?;
            intent.holds.insert(name.clone(), Hold::Hold(reason));
            format!("{name} is held: nothing touches it until it is released")
        }
        Command::Release { id } => {
            let name = find(&id)?;
            intent.holds.insert(name.clone(), Hold::Release);
            format!("{name} goes on where it was")
        }
    })
}
