//! Telling the users of each CI system why their jobs wait.

use crate::caught;
use crate::retry::pause;
use kubestack_core::context::Clock;
use kubestack_core::error::Error;
use kubestack_core::master::{CiMaster, Explanation};
use kubestack_core::name::MasterName;
use kubestack_planner::{Blocker, ClassKey, ClassReport, Plan, World, words};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// The users of a CI system are told no more often than this.
const EXPLAIN_EVERY: Duration = Duration::from_secs(2);

/// Knows what the users of one master were told.
pub(crate) struct Explainer {
    reasons: watch::Sender<Vec<Explanation>>,
    /// Why which class waits, as it was told last; `None`: nothing by this leader.
    told: Option<Vec<(ClassKey, Option<Blocker>)>>,
}

impl Explainer {
    /// With the task that does the telling.
    pub fn new(
        clock: Arc<dyn Clock>,
        name: MasterName,
        master: Arc<dyn CiMaster>,
        deadline: Duration,
    ) -> (Self, impl Future<Output = ()>) {
        let (reasons, receive) = watch::channel(Vec::new());
        (Self { reasons, told: None }, speak(clock, name, master, deadline, receive))
    }

    /// Tells it where that has changed, and once after a start: what the leader before told may not hold any more.
    pub fn tell(&mut self, master: &MasterName, world: &World, plan: &Plan) {
        let mut own = world.settings.sources.iter().filter(|(_, source)| source.masters.contains(master));
        let unseen = |name| world.demand.get(name).is_none_or(|state| state.snapshot.is_none());
        if self.told.is_none() && own.any(|(name, _)| unseen(name)) {
            return;
        }
        let blocked: Vec<&ClassReport> = plan
            .classes
            .iter()
            .filter(|class| class.blocked.is_some() && class.class.masters.contains(master))
            .collect();
        let now = blocked.iter().map(|class| (class.class.clone(), class.blocked.clone())).collect();
        if self.told.as_ref() == Some(&now) {
            return;
        }
        self.told = Some(now);
        let told = blocked.into_iter().map(|class| {
            let labels = class.class.needs.iter().map(ToString::to_string).collect();
            Explanation::new(None, labels, words::class(class, world.now))
        });
        self.reasons.send_replace(told.collect());
    }
}

/// Tells one master's users why their jobs wait, whenever that changed, until it has heard.
async fn speak(
    clock: Arc<dyn Clock>,
    name: MasterName,
    master: Arc<dyn CiMaster>,
    deadline: Duration,
    mut reasons: watch::Receiver<Vec<Explanation>>,
) {
    let mut failures = 0;
    while reasons.changed().await.is_ok() {
        let told = reasons.borrow_and_update().clone();
        let heard = tokio::select! {
            biased;
            heard = caught::read(master.explain(&told)) => heard,
            () = clock.sleep(deadline) => Err(Error::transient("no answer")),
        };
        let rest = match heard {
            Ok(()) => {
                failures = 0;
                EXPLAIN_EVERY
            }
            Err(error) => {
                tracing::debug!(master = %name, %error, "cannot tell the users of the CI system why jobs wait");
                reasons.mark_changed();
                failures += 1;
                pause(error.kind, failures, name.as_str()).max(EXPLAIN_EVERY)
            }
        };
        clock.sleep(rest).await;
    }
}
