//! The watch: a look at everything from time to time, and what this provider changes in between.

use crate::units::Units;
use kubestack_core::prelude::*;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::broadcast::{Receiver, error::RecvError};

/// How often to look at everything. Only what is done by hand waits for it: a removed directory, mostly.
const LOOK: Duration = Duration::from_secs(2);

/// One watch of a provider.
pub struct LocalWatch {
    units: Arc<Units>,
    /// `None` until the first look, and if the changes came faster than they were fetched.
    changes: Option<Receiver<WatchEvent>>,
    next_look: Moment,
}

impl LocalWatch {
    pub fn new(units: Arc<Units>) -> Self {
        Self { units, changes: None, next_look: Moment::default() }
    }
}

#[async_trait]
impl UnitWatch for LocalWatch {
    async fn next(&mut self) -> Result<WatchEvent> {
        let clock = Arc::clone(&self.units.context.clock);
        loop {
            let now = clock.now();
            let changes = match &mut self.changes {
                Some(changes) if now < self.next_look => changes,
                _ => {
                    // Changes from before the look are in it; told after it, they would be news of yesterday.
                    let (units, changes) = self.units.access(|access| {
                        let units = access.scan();
                        (units, access.changes())
                    });
                    let units = units?;
                    self.changes = Some(changes);
                    self.next_look = now + LOOK;
                    return Ok(WatchEvent::Complete { began: now, units });
                }
            };
            tokio::select! {
                biased;
                change = changes.recv() => match change {
                    Ok(event) => return Ok(event),
                    Err(RecvError::Lagged(_) | RecvError::Closed) => self.changes = None,
                },
                () = clock.sleep(self.next_look.since(now)) => {}
            }
        }
    }
}
