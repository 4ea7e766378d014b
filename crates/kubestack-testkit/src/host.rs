//! What the engine hands to a plugin, for tests of one plugin alone.

use kubestack_core::async_trait;
use kubestack_core::context::{BuildContext, Clock, Spawner};
use kubestack_core::name::InstanceName;
use kubestack_core::time::Moment;
use kubestack_engine::clock::SystemClock;
use kubestack_engine::secrets::HostSecrets;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

/// The runtime's own time: real, or virtual where a test pauses it.
#[derive(Clone, Debug)]
pub struct RuntimeClock {
    wall: Moment,
    start: tokio::time::Instant,
}

impl RuntimeClock {
    /// Begins with the host's wall clock. Needs a runtime.
    pub fn start() -> Self {
        Self { wall: SystemClock::start().now(), start: tokio::time::Instant::now() }
    }
}

#[async_trait]
impl Clock for RuntimeClock {
    fn now(&self) -> Moment {
        self.wall + self.start.elapsed()
    }

    #[expect(clippy::disallowed_methods, reason = "this is the clock")]
    async fn sleep(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }
}

/// Panics where a plugin that needs no task starts one.
#[derive(Clone, Copy, Debug)]
struct NoTasks;

impl Spawner for NoTasks {
    #[expect(clippy::panic, reason = "the test is to fail")]
    fn spawn(&self, name: &str, _: Pin<Box<dyn Future<Output = ()> + Send>>) {
        panic!("a plugin that was to need no task started {name}");
    }
}

/// For the entry of that name in the config of that instance: the runtime's time, no tasks, the host's secrets, and no
/// directory of its own. All of it may be replaced.
pub fn context(name: &str, instance: &str) -> BuildContext {
    let clock = Arc::new(RuntimeClock::start());
    let instance = InstanceName::new(instance);
    BuildContext::new(name, instance, clock, Arc::new(NoTasks), Arc::new(HostSecrets), "/nonexistent".into())
}
