//! What a watch has told, kept as the engine keeps it.

use kubestack_core::prelude::*;
use std::collections::BTreeMap;
use std::task::Poll;
use std::time::Duration;

/// A watch and all that it has told.
pub(super) struct View<'a> {
    watch: Box<dyn UnitWatch>,
    clock: &'a dyn Clock,
    patience: Duration,
    units: BTreeMap<UnitRef, Unit>,
    /// Up to when it is complete; `None` before the first complete look.
    as_of: Option<Moment>,
}

impl<'a> View<'a> {
    pub async fn new(
        provider: &dyn SlaveProvider,
        clock: &'a dyn Clock,
        patience: Duration,
    ) -> Result<Self, String> {
        let watch = provider.watch().await.map_err(|error| format!("the watch: {error}"))?;
        Ok(Self { watch, clock, patience, units: BTreeMap::new(), as_of: None })
    }

    fn take(&mut self, event: WatchEvent) -> Result<(), String> {
        if self.as_of.is_none() && !matches!(event, WatchEvent::Complete { .. }) {
            return Err(format!("the first event of a watch was {event:?}"));
        }
        match event {
            WatchEvent::Complete { began, units } => {
                self.as_of = self.as_of.max(Some(began));
                self.units = units.into_iter().map(|unit| (unit.reference(), unit)).collect();
            }
            WatchEvent::Applied(unit) => drop(self.units.insert(unit.reference(), unit)),
            WatchEvent::Gone(unit) => drop(self.units.remove(&unit)),
            WatchEvent::Current { as_of } => self.as_of = self.as_of.max(Some(as_of)),
            other => return Err(format!("an event that this suite does not know: {other:?}")),
        }
        Ok(())
    }

    pub fn is_empty(&self) -> bool {
        self.units.is_empty()
    }

    /// The unit of that name; an error if there are two.
    pub fn unit(&self, name: &AgentName) -> Result<Option<&Unit>, String> {
        let mut units = self.units.values().filter(|unit| unit.name == *name);
        let unit = units.next();
        match units.next() {
            Some(other) => Err(format!("two units are called {name}: {unit:?} and {other:?}")),
            None => Ok(unit),
        }
    }

    /// Watches until that is told.
    pub async fn until(
        &mut self,
        what: &str,
        told: impl Fn(&Self) -> Result<bool, String>,
    ) -> Result<(), String> {
        let end = self.clock.now() + self.patience;
        while self.as_of.is_none() || !told(self)? {
            let rest = end.since(self.clock.now());
            tokio::select! {
                biased;
                event = self.watch.next() => {
                    let event = event.map_err(|error| format!("the watch ended: {error}"))?;
                    self.take(event)?;
                }
                () = self.clock.sleep(rest) => {
                    return Err(format!("{what} was not told within {} s", self.patience.as_secs()));
                }
            }
        }
        Ok(())
    }

    /// Watches until everything up to that moment has been told.
    pub async fn current(&mut self, moment: Moment) -> Result<(), String> {
        self.until("how things stand", |view| Ok(view.as_of.is_some_and(|as_of| as_of > moment))).await
    }

    /// Drops the next look at the watch half-way.
    pub async fn cancelled(&mut self) -> Result<(), String> {
        let event = futures_util::poll!(&mut self.watch.next());
        match event {
            Poll::Ready(event) => self.take(event.map_err(|error| error.to_string())?),
            Poll::Pending => Ok(()),
        }
    }
}
