//! The task set: everything that runs does so inside the engine's one future. Dropping that future is a
//! crash with nothing left behind; polling it is deterministic.

use futures_util::FutureExt;
use futures_util::stream::{FuturesUnordered, StreamExt};
use kubestack_core::context::Spawner;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use tokio::sync::mpsc;

type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Hands tasks to the set.
#[derive(Clone)]
pub(crate) struct TaskSpawner(mpsc::UnboundedSender<(String, Work)>);

impl Spawner for TaskSpawner {
    fn spawn(&self, name: &str, task: Work) {
        // The set is gone only when the engine is: then nothing is to run any more.
        let _ = self.0.send((name.to_owned(), task));
    }
}

/// All tasks of one engine.
pub(crate) struct TaskSet {
    incoming: mpsc::UnboundedReceiver<(String, Work)>,
    running: FuturesUnordered<Pin<Box<dyn Future<Output = Option<String>> + Send>>>,
}

impl TaskSet {
    /// An empty set, and what hands tasks to it.
    pub fn new() -> (Self, TaskSpawner) {
        let (sender, incoming) = mpsc::unbounded_channel();
        (Self { incoming, running: FuturesUnordered::new() }, TaskSpawner(sender))
    }

    /// Runs all tasks; returns the name of one that panicked.
    pub async fn run(&mut self) -> String {
        loop {
            tokio::select! {
                biased;
                Some((name, task)) = self.incoming.recv() => {
                    // A plugin that panics must take down neither the others nor the loop.
                    let task = AssertUnwindSafe(task).catch_unwind();
                    self.running.push(task.map(move |ended| ended.err().map(|_| name)).boxed());
                }
                Some(ended) = self.running.next(), if !self.running.is_empty() => {
                    if let Some(name) = ended {
                        return name;
                    }
                }
            }
        }
    }
}
