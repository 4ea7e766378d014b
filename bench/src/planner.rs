//! How long a full plan takes, and how that grows.
//!
//! ```console
//! $ cargo run --release -p kubestack-bench --bin planner [N…]
//! ```
//!
//! N agents (half idle, half busy) and N waiting jobs over 200 labels, 4 masters and 4 providers. Budget: 5 ms at 10,000,
//! growing linearly.
#![expect(clippy::print_stdout, reason = "prints its table")]
#![expect(clippy::disallowed_methods, reason = "measures real time")]

use kubestack_core::agent::{Activity, AgentView, AgentsSnapshot};
use kubestack_core::demand::{Demand, DemandSnapshot};
use kubestack_core::marks::Marks;
use kubestack_core::name::{LabelName, MasterName, ProviderName, SourceName, Uid};
use kubestack_core::provider::{Unit, UnitPhase};
use kubestack_core::time::Moment;
use kubestack_planner::settings::{LabelSettings, Limit, Settings, SourceSettings};
use kubestack_planner::{Fact, World, plan};
use std::time::{Duration, Instant};

const LABELS: usize = 200;
const SYSTEMS: usize = 4;
const ROUNDS: usize = 11;

fn label(index: usize) -> LabelName {
    LabelName::new(format!("label-{}", index % LABELS))
}

fn master(index: usize) -> MasterName {
    MasterName::new(format!("master-{}", index % LABELS % SYSTEMS))
}

fn settings(agents: usize) -> Settings {
    let mut settings = Settings {
        limit: Limit { agents: u32::try_from(agents * 2).ok(), ..Limit::default() },
        ..Settings::default()
    };
    let providers: Vec<ProviderName> =
        (0..SYSTEMS).map(|index| ProviderName::new(format!("provider-{index}"))).collect();
    for provider in &providers {
        settings.providers.entry(provider.clone()).or_default();
    }
    for index in 0..LABELS {
        let label_settings = LabelSettings {
            template: "t".to_owned(),
            providers: providers.clone(),
            masters: [master(index)].into(),
            ..LabelSettings::default()
        };
        settings.labels.insert(label(index), label_settings);
        let capabilities = &mut settings.masters.entry(master(index)).or_default().capabilities;
        capabilities.lists_agents = true;
        capabilities.drains = true;
        let source = SourceSettings { masters: [master(index)].into(), merge_group: None };
        settings.sources.insert(SourceName::new(master(index).as_str()), source);
    }
    settings
}

/// A world with that many agents and jobs.
fn world(agents: usize, jobs: usize) -> World {
    let now = Moment::from_millis(1_000_000);
    let later = now + Duration::from_secs(1);
    let mut world = World::new("bench".into(), 1, settings(agents.max(jobs)), now);
    let marks = |index: usize| {
        let provider = ProviderName::new(format!("provider-{}", index % SYSTEMS));
        let serial = u64::try_from(index).unwrap_or(0) + 1;
        Marks::new("bench".into(), label(index), provider, Some(master(index)), (1, serial), "t".into())
    };
    for provider in 0..SYSTEMS {
        let own = (0..agents).filter(|index| index % SYSTEMS == provider);
        let units = own.map(|index| {
            let uid = Uid::new(format!("uid-{index}"));
            Unit::new(uid, marks(index), UnitPhase::Running, now)
        });
        let name = ProviderName::new(format!("provider-{provider}"));
        world.apply(now, Fact::Units(name, now, units.collect()));
    }
    for which in 0..SYSTEMS {
        let name = MasterName::new(format!("master-{which}"));
        let own = (0..agents).filter(|index| master(*index) == name);
        let views = own.map(|index| {
            let mut view = AgentView::new(marks(index).agent().as_str());
            view.online = true;
            view.activity = Activity::Slots { used: u32::from((index / LABELS).is_multiple_of(2)), total: 1 };
            view.marks = Some(marks(index));
            view
        });
        world.apply(later, Fact::Agents(name.clone(), AgentsSnapshot::new(later, views.collect())));
        let own = (0..jobs).filter(|index| master(*index) == name);
        let demands = own.map(|index| Demand::job(index.to_string(), [label(index)]));
        let snapshot = DemandSnapshot::new(later, demands.collect());
        world.apply(later, Fact::Demand(SourceName::new(name.as_str()), snapshot));
    }
    world.apply(later + Duration::from_secs(1), Fact::Now);
    world
}

fn main() {
    println!("{:>8} {:>8} {:>12} {:>14}", "agents", "jobs", "plan", "per agent+job");
    let mut sizes: Vec<(usize, usize)> =
        std::env::args().skip(1).filter_map(|size| size.parse().ok()).map(|size| (size, size)).collect();
    if sizes.is_empty() {
        sizes = vec![(100, 100), (1_000, 1_000), (10_000, 10_000), (0, 10_000), (100_000, 100_000)];
    }
    for (agents, jobs) in sizes {
        let world = world(agents, jobs);
        let mut times: Vec<Duration> = (0..ROUNDS)
            .map(|_| {
                let began = Instant::now();
                std::hint::black_box(plan(&world));
                began.elapsed()
            })
            .collect();
        times.sort();
        let median = times.get(ROUNDS / 2).copied().unwrap_or_default();
        let each = median.as_nanos() as f64 / (agents + jobs) as f64;
        println!("{agents:>8} {jobs:>8} {:>9.2} ms {each:>11.0} ns", median.as_secs_f64() * 1e3);
    }
}
