//! A daemon as far as it leads.

use kubestack_core::context::Spawner;
use kubestack_core::prelude::*;
use kubestack_k8s::KubeProvider;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::task::JoinSet;

/// The tasks of one daemon.
#[derive(Default)]
struct Tasks(Mutex<JoinSet<()>>);

impl Spawner for Tasks {
    fn spawn(&self, _: &str, task: Pin<Box<dyn Future<Output = ()> + Send>>) {
        self.0.lock().unwrap().spawn(task);
    }
}

/// One that wants to lead, or does. To drop it is to kill it.
pub struct Leader {
    pub lead: Arc<dyn Coordination>,
    tasks: Arc<Tasks>,
}

impl Leader {
    /// With the provider that is made so.
    pub fn new(
        mut context: BuildContext,
        lease: Duration,
        provider: impl FnOnce(&BuildContext) -> KubeProvider,
    ) -> Self {
        let tasks = Arc::new(Tasks::default());
        context.spawner = tasks.clone();
        Self { lead: provider(&context).coordination(lease).unwrap(), tasks }
    }
}

impl Drop for Leader {
    fn drop(&mut self) {
        self.tasks.0.lock().unwrap().abort_all();
    }
}
