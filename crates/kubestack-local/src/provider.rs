//! The provider itself: what each call asks of the units.

use crate::config::LocalConfig;
use crate::fault::fault;
use crate::launch;
use crate::units::Units;
use crate::watch::LocalWatch;
use kubestack_core::prelude::*;
use std::sync::Arc;

/// Runs agents as processes of this host.
pub struct LocalProvider {
    units: Arc<Units>,
    command: Vec<String>,
}

impl LocalProvider {
    /// A provider with that config. Looks at nothing yet.
    ///
    /// # Errors
    /// [`Invalid`](ErrorKind::Invalid) if `dir` cannot be made absolute.
    pub fn new(context: &BuildContext, config: LocalConfig) -> Result<Self> {
        let dir = config.dir.unwrap_or_else(|| context.state_dir.join("local").join(&context.name));
        let root = std::path::absolute(&dir)
            .map_err(|error| Error::invalid(format!("`dir` {} is no path: {error}", dir.display())))?;
        let units = Units::new(context.clone(), root, config.term_grace.0);
        Ok(Self { units: Arc::new(units), command: config.command })
    }
}

#[async_trait]
impl SlaveProvider for LocalProvider {
    fn capabilities(&self) -> ProviderCapabilities {
        let mut capabilities = ProviderCapabilities::default();
        capabilities.marks = true;
        capabilities.conditional_destroy = true;
        capabilities
    }

    async fn watch(&self) -> Result<Box<dyn UnitWatch>> {
        Ok(Box::new(LocalWatch::new(Arc::clone(&self.units))))
    }

    async fn look(&self) -> Result<(Moment, Vec<Unit>)> {
        let began = self.units.context.clock.now();
        Ok((began, self.units.access(|access| access.look())?))
    }

    async fn launch(&self, request: &LaunchRequest) -> Result<Unit> {
        // Without an await, so that nobody can drop it half-way: what remains is a kill of the daemon.
        self.units.access(|access| launch::launch(&self.units, access, &self.command, request))
    }

    async fn destroy(&self, request: &DestroyRequest) -> Result<()> {
        let unit = &request.unit;
        let ended = self.units.access(|access| {
            access.open()?;
            let Some((home, mut record)) = self.units.record(unit)? else { return Ok(None) };
            if let Some(reason) = &record.marks.held {
                let text = format!("{} is held ({reason}); release it first", unit.name);
                return Err(Error::conflict(text));
            }
            let phase = access.settle(&home, &mut record)?.phase;
            if request.only_if_not_started && phase != UnitPhase::Remnant {
                return Err(Error::conflict(format!("{} has started", unit.name)));
            }
            if phase.holds_capacity() {
                access.end(&home, &mut record, request.grace)?;
                return Ok(None);
            }
            access.begin_removing(&unit.uid);
            Ok(Some(home))
        })?;
        match ended {
            Some(home) => self.units.remove(unit, &home).await,
            None => Ok(()),
        }
    }

    async fn mark(&self, unit: &UnitRef, patch: &MarkPatch) -> Result<Unit> {
        self.units.access(|access| {
            access.open()?;
            let gone = || Error::not_found(format!("there is no unit {} ({})", unit.name, unit.uid));
            let (home, mut record) = self.units.record(unit)?.ok_or_else(gone)?;
            let leaving = record.ending.is_some() || access.is_removing(&unit.uid);
            if leaving && matches!(patch, MarkPatch::Held(_)) {
                return Err(Error::conflict(format!("{} is already being taken away", unit.name)));
            }
            access.settle(&home, &mut record)?;
            patch.apply(&mut record.marks);
            access.put(&home, &mut record)
        })
    }

    async fn log_tail(&self, unit: &UnitRef, lines: usize) -> Result<String> {
        let Some((home, _)) = self.units.record(unit)? else { return Ok(String::new()) };
        home.log_tail(lines, u64::MAX)
            .map_err(|error| fault(format!("cannot read the log in {}", home.0.display()), &error))
    }
}
