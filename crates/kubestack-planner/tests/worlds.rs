//! Properties of any plan, in random worlds: what is seen follows no story, so that nothing can rely on one.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test stops where its own set-up fails"
)]

mod common;

use common::*;
use kubestack_core::cause::FailureCause;
use kubestack_core::demand::Demand;
use kubestack_core::error::ErrorKind;
use kubestack_core::master::OneJob;
use kubestack_core::time::Moment;
use kubestack_planner::settings::Settings;
use kubestack_planner::{Fact, Outcome, PlannedStep, Reason, Step, World};
use proptest::prelude::*;
use std::time::Duration;

const LABELS: [&str; 3] = ["a", "b", "c"];
const MASTERS: [&str; 2] = ["m", "n"];
const PROVIDERS: [&str; 2] = ["p", "q"];

/// One thing that happens; the seconds are those since the one before.
#[derive(Clone, Debug)]
enum Happens {
    Look(u64, Vec<(usize, usize)>),
    Demand(u64, usize, Vec<(u32, usize, usize)>),
    /// The plan is sent, and its steps end so.
    Steps(u64, Vec<usize>),
    Fails(u64, usize),
    Time(u64),
}

fn any_settings() -> impl Strategy<Value = Settings> {
    let cap = || prop_oneof![Just(None), (0_u32..6).prop_map(Some)];
    let caps = (cap(), cap(), cap(), cap());
    (caps, 0_u32..3, 1_u32..4, any::<bool>(), any::<bool>(), any::<bool>(), 0_u32..2).prop_map(
        |((global, label, master, provider), ready, weight, sized, drains, enforced, hold)| {
            let mut settings = settings(&MASTERS, &PROVIDERS, &LABELS);
            settings.limit.agents = global;
            settings.masters.get_mut("m").unwrap().limit.agents = master;
            settings.providers.get_mut("p").unwrap().limit.agents = provider;
            able_of(&mut settings, "n").drains = drains;
            for master in MASTERS.iter().filter(|_| !enforced) {
                able_of(&mut settings, master).one_job = OneJob::Observed;
            }
            let a = common::label(&mut settings, "a");
            (a.limit.agents, a.min_ready, a.hold_on_failure) = (label, ready, hold);
            a.max_lifetime = Some(seconds(300));
            common::label(&mut settings, "b").weight = weight;
            if sized {
                settings.limit.resources = resources(&[("cpu", "3")]);
                for (name, cpu) in LABELS.iter().zip(["500m", "1", "4"]) {
                    common::label(&mut settings, name).resources = resources(&[("cpu", cpu)]);
                }
            }
            settings
        },
    )
}

fn any_story() -> impl Strategy<Value = Vec<Happens>> {
    let time = || 0_u64..50;
    let happens = prop_oneof![
        3 => (time(), prop::collection::vec((0_usize..12, 0..SEEN), 0..8)).prop_map(|(t, seen)| Happens::Look(t, seen)),
        2 => (time(), 0_usize..2, prop::collection::vec((0_u32..4, 0_usize..7, 0_usize..3), 0..5))
            .prop_map(|(t, source, demands)| Happens::Demand(t, source, demands)),
        3 => (time(), prop::collection::vec(0_usize..4, 1..6)).prop_map(|(t, ends)| Happens::Steps(t, ends)),
        1 => (time(), 0_usize..4).prop_map(|(t, which)| Happens::Fails(t, which)),
        1 => (0_u64..400).prop_map(Happens::Time),
    ];
    prop::collection::vec(happens, 1..12)
}

/// As many as [`seen`] tells apart.
const SEEN: usize = 16;

fn seen(which: usize) -> Seen {
    match which {
        0 => Seen::Pending(None),
        1 => Seen::Pending(Some(FailureCause::ImageUnavailable)),
        2 => Seen::Launching,
        3 => Seen::Idle,
        4 => Seen::Busy,
        5 => Seen::BusyWith("j0"),
        6 => Seen::Unknown,
        7 => Seen::Used,
        8 => Seen::Drained,
        9 => Seen::DrainedBusy,
        10 => Seen::DrainedByOthers,
        11 => Seen::Ended(Some(FailureCause::OutOfMemory)),
        12 => Seen::EndedBusy,
        13 => Seen::Terminating,
        14 => Seen::UnitOnly,
        _ => Seen::NodeOnly,
    }
}

/// The agent of that number: always the same one.
fn someone(number: usize) -> Who {
    let who = who(LABELS[number % 3], number as u64).of(MASTERS[number % 2]).on(PROVIDERS[number / 2 % 2]);
    match number % 5 {
        0 => who.bound("j1"),
        1 => who.template("old"),
        _ => who,
    }
}

fn demands(drawn: &[(u32, usize, usize)]) -> Vec<Demand> {
    let needs: [&[&str]; 7] = [&["a"], &["b"], &["c"], &["a", "b"], &["b", "c"], &["a", "b", "c"], &[]];
    let drawn = drawn.iter().enumerate();
    drawn
        .map(|(index, (waiting, class, kind))| match kind {
            0 => count(*waiting, needs[*class]),
            1 => job(&format!("j{index}"), needs[*class]),
            _ => job(&format!("j{index}"), needs[*class]).bound(),
        })
        .collect()
}

fn outcome(stage: &Stage, which: usize, step: &Step, time: u64) -> Outcome {
    match (which, step) {
        (0, Step::Launch(launch)) => Outcome::Unit(stage.unit_of(launch, time)),
        (0, Step::Mark { .. }) => Outcome::Unit(stage.marked(step)),
        (0, _) => Outcome::Done,
        (1, _) => Outcome::Unknown,
        (2, _) => failed(ErrorKind::Transient, None),
        _ => failed(ErrorKind::Invalid, Some(FailureCause::BadTemplate)),
    }
}

/// Lets it all happen. Each plan on the way holds no fault (see [`sound`]). Returns the world and its time.
fn lived(settings: Settings, story: &[Happens]) -> (Stage, u64) {
    let mut stage = Stage::new(settings);
    let mut now = 1;
    for happens in story {
        match happens {
            Happens::Look(after, agents) => {
                now += after;
                let mut agents = agents.clone();
                agents.sort_unstable();
                agents.dedup_by_key(|(number, _)| *number);
                let agents: Vec<_> =
                    agents.iter().map(|(number, how)| (someone(*number), seen(*how))).collect();
                let agents: Vec<_> = agents.iter().map(|(who, seen)| (who, seen.clone())).collect();
                stage.see(now, &agents);
            }
            Happens::Demand(after, source, drawn) => {
                now += after;
                stage.demand(now, MASTERS[*source], demands(drawn));
            }
            Happens::Steps(after, ends) => {
                now += after;
                let plan = stage.send_plan(now);
                for (planned, which) in plan.steps.iter().zip(ends.iter().cycle()) {
                    let outcome = outcome(&stage, *which, &planned.step, now);
                    stage.ended(now, planned.step.agent(), outcome);
                }
            }
            Happens::Fails(after, which) => {
                now += after;
                let error = "simulated".to_owned();
                stage.fact(
                    now,
                    match which {
                        0 => Fact::ProviderFailed("p".into(), error),
                        1 => Fact::MasterFailed("m".into(), error),
                        2 => Fact::DemandFailed("n".into(), error),
                        _ => Fact::Now,
                    },
                );
            }
            Happens::Time(after) => now += after,
        }
        stage.settle(now);
    }
    (stage, now)
}

fn planned_at(world: &World, moment: Moment) -> Vec<String> {
    let mut later = world.clone();
    later.apply(moment, Fact::Now);
    told(&sound(&later))
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: ProptestConfig::default().cases.max(2_000), ..ProptestConfig::default() })]

    #[test]
    fn no_plan_holds_a_fault_and_each_class_that_waits_says_why(settings in any_settings(), story in any_story()) {
        let (mut stage, now) = lived(settings, &story);
        for class in stage.settle(now).classes {
            let rest = class.waiting.saturating_sub(class.served).saturating_sub(class.granted);
            prop_assert!(rest == 0 || class.blocked.is_some(), "{class:?}");
        }
    }

    #[test]
    fn time_alone_changes_no_plan_before_its_wake(settings in any_settings(), story in any_story()) {
        let (mut stage, now) = lived(settings, &story);
        // What is planned is sent at once; what comes after that is a matter of time, or of news.
        let mut plan = stage.settle(now);
        for _ in 0..20 {
            for planned in &plan.steps {
                stage.fact(now, Fact::Sent(planned.step.clone()));
            }
            plan = stage.settle(now);
        }
        prop_assert_eq!(told(&plan), Vec::<String>::new(), "steps without end");
        let far = at(now) + Duration::from_secs(86_400);
        let until = plan.next_wake.map_or(far, |wake| wake - Duration::from_micros(1));
        if until > stage.world.now {
            prop_assert_eq!(planned_at(&stage.world, until), Vec::<String>::new());
        }
    }

    #[test]
    fn a_plan_sent_in_part_leaves_the_rest_to_the_next(settings in any_settings(), story in any_story(), skip in 0_usize..5) {
        let (mut stage, now) = lived(settings, &story);
        let plan = stage.settle(now);
        let (sent, kept): (Vec<_>, Vec<_>) = plan.steps.iter().enumerate().partition(|(index, _)| index % 5 != skip);
        for (_, planned) in &sent {
            stage.fact(now, Fact::Sent(planned.step.clone()));
        }
        let next = stage.plan(now);
        for (_, planned) in &sent {
            prop_assert!(next.steps.iter().all(|step| step.step.agent() != planned.step.agent()));
        }
        // What depends on nobody's room is planned again as it was.
        let depends = |planned: &PlannedStep| {
            matches!(planned.step, Step::Launch(_)) || matches!(planned.reason, Reason::Reclaimed { .. })
        };
        for (_, planned) in kept.iter().filter(|(_, planned)| !depends(planned)) {
            prop_assert!(next.steps.iter().any(|step| step.step == planned.step), "{:?} is lost", planned);
        }
    }
}
