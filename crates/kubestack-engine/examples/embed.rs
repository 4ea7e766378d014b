//! The engine inside another program: one platform, demand as a plain number, no CI system.
//!
//! ```console
//! $ cargo run -p kubestack-engine --example embed
//! ```
//!
//! The "platform" is a table in memory whose units take half a second for their work; the demand is five jobs.
#![expect(clippy::print_stdout, reason = "an example shows what happens")]

use kubestack_core::prelude::*;
use kubestack_engine::clock::SystemClock;
use kubestack_engine::{Engine, Setup};
use kubestack_planner::settings::{LabelSettings, Limit, SourceSettings};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How long a unit works.
const WORK: Duration = Duration::from_millis(500);

/// Waiting jobs and units.
#[derive(Default)]
struct Table {
    waiting: u32,
    units: BTreeMap<AgentName, Unit>,
}

#[derive(Clone)]
struct Host {
    table: Arc<Mutex<Table>>,
    clock: Arc<dyn Clock>,
}

impl Host {
    fn with<T>(&self, work: impl FnOnce(&mut Table) -> T) -> T {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        // What has worked for long enough has ended.
        let now = self.clock.now();
        for unit in table.units.values_mut() {
            if now.since(unit.created) >= WORK {
                unit.phase = UnitPhase::Ended { cause: None, text: "done".to_owned() };
            }
        }
        work(&mut table)
    }
}

/// Tells all units again and again: a poll is a watch, too.
struct Poll(Host);

#[async_trait]
impl UnitWatch for Poll {
    async fn next(&mut self) -> Result<WatchEvent> {
        self.0.clock.sleep(Duration::from_millis(100)).await;
        let began = self.0.clock.now();
        Ok(WatchEvent::Complete {
            began,
            units: self.0.with(|table| table.units.values().cloned().collect()),
        })
    }
}

#[async_trait]
impl SlaveProvider for Host {
    fn capabilities(&self) -> ProviderCapabilities {
        ProviderCapabilities::default()
    }

    async fn watch(&self) -> Result<Box<dyn UnitWatch>> {
        Ok(Box::new(Poll(self.clone())))
    }

    async fn launch(&self, request: &LaunchRequest) -> Result<Unit> {
        println!("launch  {}", request.name);
        let uid = Uid::new(format!("uid of {}", request.name));
        let unit = Unit::new(uid, request.marks.clone(), UnitPhase::Running, self.clock.now());
        self.with(|table| {
            table.waiting = table.waiting.saturating_sub(1);
            table.units.insert(request.name.clone(), unit.clone());
        });
        Ok(unit)
    }

    async fn destroy(&self, request: &DestroyRequest) -> Result<()> {
        println!("destroy {}", request.unit.name);
        self.with(|table| table.units.remove(&request.unit.name));
        Ok(())
    }

    async fn mark(&self, _: &UnitRef, _: &MarkPatch) -> Result<Unit> {
        Err(Error::invalid("this platform keeps no marks"))
    }
}

struct Waiting(Host);

#[async_trait]
impl DemandSource for Waiting {
    async fn next(&mut self, context: &SourceContext) -> Result<DemandSnapshot> {
        self.0.clock.sleep(Duration::from_millis(100)).await;
        let waiting = self.0.with(|table| table.waiting);
        let demand = Demand::count(waiting, context.labels.keys().cloned());
        Ok(DemandSnapshot::new(self.0.clock.now(), vec![demand]))
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::start());
    let host = Host { table: Arc::default(), clock: clock.clone() };
    host.with(|table| table.waiting = 5);

    let mut setup = Setup::new("embedded");
    setup.labels.insert("worker".into(), LabelSpec::new("worker"));
    let settings = LabelSettings {
        // Never more than two at once.
        limit: Limit { agents: Some(2), ..Limit::default() },
        providers: vec!["host".into()],
        ..LabelSettings::default()
    };
    setup.settings.labels.insert("worker".into(), settings);

    let engine = Engine::builder(setup)
        .clock(clock.clone())
        .provider("host", Arc::new(host.clone()))
        .demand("jobs", SourceSettings::default(), Box::new(Waiting(host.clone())))
        .build()?;
    let over = async {
        while host.with(|table| table.waiting > 0 || !table.units.is_empty()) {
            clock.sleep(Duration::from_millis(100)).await;
        }
    };
    engine.run(over).await.map(drop)
}
