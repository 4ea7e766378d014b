//! The engine's clock on tokio's paused time.

use kubestack_core::async_trait;
use kubestack_core::context::Clock;
use kubestack_core::time::Moment;
use std::time::Duration;
use tokio::time::Instant;

/// The moment at which each simulation starts.
pub const START: Moment = Moment::from_millis(1_700_000_000_000);

/// Virtual time: it stands still while anything can run, and then jumps to the next moment that somebody
/// sleeps for. Needs a tokio runtime with paused time around it.
#[derive(Clone, Copy, Debug)]
pub struct SimClock(Instant);

impl SimClock {
    /// It is [`START`] now.
    pub fn start() -> Self {
        Self(Instant::now())
    }
}

#[async_trait]
impl Clock for SimClock {
    fn now(&self) -> Moment {
        START + self.0.elapsed()
    }

    #[expect(clippy::disallowed_methods, reason = "this is the one clock that sleeps in virtual time")]
    async fn sleep(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }
}
