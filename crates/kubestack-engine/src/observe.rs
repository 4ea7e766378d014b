//! Observing: one task per system that turns what it shows into facts, and tells when it fails.

use crate::caught;
use crate::redact::Redactor;
use crate::retry::pause;
use kubestack_core::completion::CompletionSource;
use kubestack_core::context::{Clock, SourceContext};
use kubestack_core::demand::DemandSource;
use kubestack_core::error::{Error, ErrorKind};
use kubestack_core::master::CiMaster;
use kubestack_core::name::{MasterName, ProviderName, SourceName};
use kubestack_core::provider::{SlaveProvider, WatchEvent};
use kubestack_core::time::Moment;
use kubestack_planner::Fact;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, mpsc, watch};

/// What every observer has.
#[derive(Clone)]
pub(crate) struct Observer {
    pub clock: Arc<dyn Clock>,
    pub inbox: mpsc::Sender<(Moment, Fact)>,
    pub redactor: Redactor,
    /// A call that takes longer than this is given up and started again.
    pub patience: Duration,
}

impl Observer {
    async fn tell(&self, fact: Fact) {
        // The inbox closes only when the engine is gone.
        let _ = self.inbox.send((self.clock.now(), fact)).await;
    }

    /// The answer, or an error once patience is over.
    async fn bounded<T>(&self, call: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        tokio::select! {
            biased;
            answer = caught::read(call) => answer,
            () = self.clock.sleep(self.patience) => {
                let seconds = self.patience.as_secs();
                Err(Error::transient(format!("no answer for {seconds} s; the call was given up and is tried again")))
            }
        }
    }

    async fn rest(&self, kind: ErrorKind, failures: &mut u32, name: &str) {
        let duration = pause(kind, *failures, name);
        *failures = failures.saturating_add(1);
        self.clock.sleep(duration).await;
    }
}

/// Reads one demand source for ever.
pub(crate) async fn demand(
    observer: Observer,
    name: SourceName,
    mut source: Box<dyn DemandSource>,
    mut labels: watch::Receiver<Arc<SourceContext>>,
) {
    let mut failures = 0;
    loop {
        let context = labels.borrow_and_update().clone();
        let answer = tokio::select! {
            biased;
            changed = labels.changed() => match changed {
                Ok(()) => continue,
                Err(_) => return,
            },
            answer = observer.bounded(source.next(&context)) => answer,
        };
        match answer {
            Ok(snapshot) => {
                failures = 0;
                observer.tell(Fact::Demand(name.clone(), snapshot)).await;
            }
            Err(error) => {
                observer.tell(Fact::DemandFailed(name.clone(), error.message.clone())).await;
                observer.rest(error.kind, &mut failures, name.as_str()).await;
            }
        }
    }
}

/// Reads one completion source for ever. News pokes those who can tell what is really the case.
pub(crate) async fn completion(
    observer: Observer,
    name: SourceName,
    mut source: Box<dyn CompletionSource>,
    pokes: Vec<Arc<Notify>>,
) {
    let mut failures = 0;
    loop {
        // Silence is no failure here: nothing may happen for hours.
        match caught::read(source.next()).await {
            Ok(news) => {
                failures = 0;
                for hint in news {
                    tracing::debug!(source = %name, agent = hint.agent, event = ?hint.event, "heard");
                    observer.tell(Fact::Hint(hint)).await;
                }
            }
            Err(error) => {
                // Once an outage: who restarts a CI system knows.
                if failures == 0 {
                    tracing::warn!(source = %name, error = %error, "completion source failed; looks go on");
                } else {
                    tracing::debug!(source = %name, error = %error, "completion source still fails");
                }
                observer.rest(error.kind, &mut failures, name.as_str()).await;
            }
        }
        for poke in &pokes {
            poke.notify_one();
        }
    }
}

/// Watches one provider for ever. A watch that runs at `launch_from` is started anew: what the leader before us
/// sent may have landed since the list that it began with.
pub(crate) async fn provider(
    observer: Observer,
    name: ProviderName,
    provider: Arc<dyn SlaveProvider>,
    launch_from: Moment,
) {
    let mut failures = 0;
    loop {
        let early = observer.clock.now() < launch_from;
        let error = match observer.bounded(provider.watch()).await {
            Ok(mut watch) => loop {
                let event = tokio::select! {
                    biased;
                    () = observer.clock.sleep(launch_from.since(observer.clock.now())), if early => break None,
                    event = observer.bounded(watch.next()) => event,
                };
                match event {
                    Ok(event) => {
                        failures = 0;
                        let name = name.clone();
                        let redact = |unit| observer.redactor.unit(unit);
                        observer
                            .tell(match event {
                                WatchEvent::Complete { began, units } => {
                                    Fact::Units(name, began, units.into_iter().map(redact).collect())
                                }
                                WatchEvent::Applied(unit) => Fact::UnitApplied(name, redact(unit)),
                                WatchEvent::Gone(reference) => Fact::UnitGone(name, reference),
                                WatchEvent::Current { as_of } => Fact::UnitsCurrent(name, as_of),
                                _ => continue,
                            })
                            .await;
                    }
                    Err(error) => break Some(error),
                }
            },
            Err(error) => Some(error),
        };
        let Some(error) = error else { continue };
        observer.tell(Fact::ProviderFailed(name.clone(), error.message.clone())).await;
        observer.rest(error.kind, &mut failures, name.as_str()).await;
    }
}

/// Asks one provider for its free capacity, until it says that it cannot tell.
pub(crate) async fn capacity(
    observer: Observer,
    name: ProviderName,
    provider: Arc<dyn SlaveProvider>,
    every: Duration,
) {
    loop {
        let began = observer.clock.now();
        match observer.bounded(provider.capacity()).await {
            Ok(None) => return,
            Ok(free) => observer.tell(Fact::Capacity(name.clone(), began, free)).await,
            Err(error) => tracing::debug!(provider = %name, error = %error, "cannot read the free capacity"),
        }
        observer.clock.sleep(every).await;
    }
}

/// Reads all agents of one master again and again: at its interval, and whenever somebody pokes.
pub(crate) async fn master(
    observer: Observer,
    name: MasterName,
    master: Arc<dyn CiMaster>,
    every: Duration,
    poke: Arc<Notify>,
) {
    /// Pokes come in bursts; one look answers all that came before it began.
    const GATHER: Duration = Duration::from_millis(10);
    let mut failures = 0;
    loop {
        match observer.bounded(master.agents()).await {
            Ok(snapshot) => {
                failures = 0;
                observer.tell(Fact::Agents(name.clone(), snapshot)).await;
                tokio::select! {
                    biased;
                    () = poke.notified() => observer.clock.sleep(GATHER).await,
                    () = observer.clock.sleep(every) => {}
                }
            }
            Err(error) => {
                observer.tell(Fact::MasterFailed(name.clone(), error.message.clone())).await;
                observer.rest(error.kind, &mut failures, name.as_str()).await;
            }
        }
    }
}
