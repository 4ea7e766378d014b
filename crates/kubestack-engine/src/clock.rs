//! Real time.

use kubestack_core::async_trait;
use kubestack_core::context::Clock;
use kubestack_core::time::Moment;
use std::time::{Duration, Instant, SystemTime};

/// The clock of this host: wall time at its start, carried on by the monotonic clock, so that it never runs
/// backwards when somebody sets the host's time.
#[derive(Clone, Debug)]
pub struct SystemClock {
    start: Moment,
    anchor: Instant,
}

impl SystemClock {
    /// Starts now.
    #[expect(clippy::disallowed_methods, reason = "this is the one clock that reads the host's time")]
    pub fn start() -> Self {
        let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let micros = u64::try_from(wall.as_micros()).unwrap_or(u64::MAX);
        Self { start: Moment::from_micros(micros), anchor: Instant::now() }
    }
}

#[async_trait]
impl Clock for SystemClock {
    fn now(&self) -> Moment {
        self.start + self.anchor.elapsed()
    }

    #[expect(clippy::disallowed_methods, reason = "this is the one clock that sleeps in the host's time")]
    async fn sleep(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }
}
