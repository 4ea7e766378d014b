//! What must wait: breakers (promise 11), back-off, and the moment at which time alone changes the plan.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::expect_used,
    reason = "a test stops where its own set-up fails"
)]

mod common;

use common::*;
use kubestack_core::cause::FailureCause;
use kubestack_core::error::ErrorKind;
use kubestack_core::resources::Resources;
use kubestack_planner::{Blocker, Fact, Outcome, Plan};

/// All launches of the plan of that time fail with that cause, and nothing else happens.
fn fail(stage: &mut Stage, time: u64, cause: FailureCause) -> usize {
    let plan = stage.send_plan(time);
    for launch in launches(&plan) {
        stage.ended(time, &launch.agent, failed(ErrorKind::Invalid, Some(cause)));
    }
    launches(&plan).len()
}

/// Fresh looks: that many jobs of `a` and `b` each, and these agents.
fn look(stage: &mut Stage, time: u64, waiting: u32, seen: &[(&Who, Seen)]) {
    stage.demand(time, "m", vec![count(waiting, &["a"])]).see(time, seen);
}

fn breaker(plan: &Plan) -> Option<Blocker> {
    plan.classes.first()?.blocked.clone()
}

/// The breaker of `a` on `p` is open until 31.
fn open() -> Stage {
    let mut stage = Stage::new(settings(&["m"], &["p"], &["a", "b"]));
    look(&mut stage, 1, 3, &[]);
    assert_eq!(fail(&mut stage, 1, FailureCause::ImageWrong), 3);
    stage
}

#[test]
fn an_open_breaker_launches_nothing_until_its_pause_is_over() {
    let mut stage = open();
    look(&mut stage, 30, 3, &[]);
    let plan = stage.settle(30);
    assert!(plan.steps.is_empty(), "{:?}", told(&plan));
    assert_eq!(
        breaker(&plan),
        Some(Blocker::Breaker { cause: FailureCause::ImageWrong, until: Some(at(31)) })
    );
    assert_eq!(plan.next_wake, Some(at(31)));
}

#[test]
fn a_half_open_breaker_lets_one_probe_through() {
    let mut stage = open();
    look(&mut stage, 31, 3, &[]);
    let plan = stage.carry_out(31);
    assert_eq!(launches(&plan).len(), 1);
    let probe = Who::launched(&stage, launches(&plan)[0], 31);
    for seen in [Seen::Pending(None), Seen::Launching] {
        look(&mut stage, 32, 3, &[(&probe, seen)]);
        let plan = stage.settle(32);
        assert!(launches(&plan).is_empty());
        assert_eq!(breaker(&plan), Some(Blocker::Breaker { cause: FailureCause::ImageWrong, until: None }));
    }
}

#[test]
fn a_probe_that_attaches_closes_the_breaker() {
    let mut stage = open();
    look(&mut stage, 31, 3, &[]);
    let plan = stage.carry_out(31);
    let probe = Who::launched(&stage, launches(&plan)[0], 31);
    look(&mut stage, 33, 3, &[(&probe, Seen::Idle)]);
    assert_eq!(launches(&stage.settle(33)).len(), 2);
    assert!(stage.world.memory.breakers.is_empty());
}

#[test]
fn a_probe_that_fails_opens_it_for_twice_as_long_up_to_a_limit() {
    let mut stage = open();
    let (mut time, mut pauses) = (31, Vec::new());
    for _ in 0..7 {
        look(&mut stage, time, 3, &[]);
        assert_eq!(fail(&mut stage, time, FailureCause::ImageWrong), 1, "one probe at {time}");
        let Some(Blocker::Breaker { until: Some(until), .. }) = breaker(&stage.settle(time + 1)) else {
            panic!("open again")
        };
        pauses.push(until.since(at(time)).as_secs());
        time += until.since(at(time)).as_secs();
    }
    assert_eq!(pauses, [60, 120, 240, 480, 900, 900, 900]);
}

#[test]
fn a_breaker_hurts_its_own_label_and_provider_only() {
    let mut stage = Stage::new(settings(&["m"], &["p", "q"], &["a", "b"]));
    let both = || vec![count(1, &["a"]), count(1, &["b"])];
    stage.demand(1, "m", both()).see(1, &[]);
    let plan = stage.send_plan(1);
    for launch in launches(&plan) {
        let a = launch.label.as_str() == "a";
        let outcome =
            if a { failed(ErrorKind::Invalid, Some(FailureCause::ImageWrong)) } else { Outcome::Unknown };
        stage.ended(1, &launch.agent, outcome);
    }
    stage.demand(3, "m", vec![count(1, &["a"]), count(2, &["b"])]).see(3, &[]);
    same(&stage.told(3), &["launch a on q for m: demand", "launch b on p for m: demand"]);
}

#[test]
fn where_chance_plays_a_part_one_failure_is_forgiven() {
    for (cause, tolerated) in [
        (FailureCause::Quota, 1),
        (FailureCause::NeverAttached, 2),
        (FailureCause::EnrolmentRefused, 2),
        (FailureCause::CrashLoop, 3),
    ] {
        let mut stage = Stage::new(simple());
        for round in 0..tolerated {
            look(&mut stage, 1 + round * 2, 1, &[]);
            assert_eq!(fail(&mut stage, 1 + round * 2, cause), 1, "{cause:?} {round}");
        }
        look(&mut stage, 9, 1, &[]);
        assert_eq!(launches(&stage.settle(9)).len(), 0, "{cause:?}");
    }
}

#[test]
fn failures_of_different_causes_are_not_added_up() {
    let mut stage = Stage::new(simple());
    for (time, cause) in [(1, FailureCause::NeverAttached), (3, FailureCause::EnrolmentRefused)] {
        look(&mut stage, time, 1, &[]);
        assert_eq!(fail(&mut stage, time, cause), 1);
    }
    look(&mut stage, 5, 1, &[]);
    assert_eq!(launches(&stage.settle(5)).len(), 1);
}

#[test]
fn a_passing_error_makes_wait_but_opens_no_breaker() {
    let mut stage = Stage::new(simple());
    for time in [1, 3, 5, 7, 9] {
        look(&mut stage, time, 1, &[]);
        let plan = stage.send_plan(time);
        assert_eq!(launches(&plan).len(), 1);
        stage.ended(time, &launches(&plan)[0].agent, failed(ErrorKind::Transient, None));
        let plan = stage.settle(time);
        assert!(matches!(breaker(&plan), Some(Blocker::Backoff { .. })));
        assert_eq!(plan.next_wake, Some(at(time + 1)));
    }
    assert!(stage.world.memory.breakers.is_empty());
}

#[test]
fn another_template_is_tried_at_once() {
    let mut stage = open();
    look(&mut stage, 5, 3, &[]);
    stage.configure(5, |settings| label(settings, "b").template = "new".to_owned());
    assert!(stage.told(5).is_empty(), "that was another label");
    stage.configure(5, |settings| label(settings, "a").template = "new".to_owned());
    assert_eq!(stage.told(5).len(), 3);
}

#[test]
fn a_leader_without_memory_begins_with_one_probe() {
    let mut stage = Stage::new(simple());
    let policy = stage.world.settings.policy.clone();
    stage.world.memory.half_open(&"a".into(), &"p".into(), at(0), &policy);
    look(&mut stage, 1, 5, &[]);
    assert_eq!(stage.told(1).len(), 1);
}

// Back-off.

#[test]
fn an_agent_whose_step_failed_waits() {
    let a = who("a", 1).used("j");
    let mut stage = Stage::new(simple());
    look(&mut stage, 1, 0, &[(&a, Seen::Idle)]);
    same(&stage.send(1), &["drain ci-a-1-1: done"]);
    stage.ended(1, &a.name(), failed(ErrorKind::Transient, None));
    assert!(stage.told(1).is_empty());
    same(&stage.wake(), &["drain ci-a-1-1: done"]);
    assert_eq!(stage.world.now, at(2));
}

#[test]
fn surplus_whose_drain_failed_waits_as_well() {
    let a = who("a", 1);
    let mut stage = Stage::new(simple());
    look(&mut stage, 1, 0, &[(&a, Seen::Idle)]);
    stage.settle(1);
    look(&mut stage, 61, 0, &[(&a, Seen::Idle)]);
    same(&stage.send(61), &["drain ci-a-1-1: idle_timeout"]);
    stage.ended(61, &a.name(), failed(ErrorKind::Transient, None));
    assert!(stage.told(61).is_empty(), "asked again at once, and again, as fast as the master refuses");
}

#[test]
fn a_duplicate_whose_destroy_failed_waits_as_well() {
    let elder = who("a", 1);
    let younger = elder.clone().created(5).uid("other");
    let mut stage = Stage::new(simple());
    stage.demand(6, "m", vec![]).see_units(6, &[(&younger, Seen::UnitOnly), (&elder, Seen::Busy)]);
    stage.see_nodes(6, &[(&elder, Seen::Busy)]);
    same(&stage.send(6), &["destroy ci-a-1-1: duplicate"]);
    stage.ended(6, &elder.name(), failed(ErrorKind::Transient, None));
    let told = stage.told(6);
    assert!(!told.contains(&"destroy ci-a-1-1: duplicate".to_owned()), "{told:?}");
}

#[test]
fn a_system_that_asks_to_wait_is_left_alone() {
    let (one, two) = (who("a", 1).used("j"), who("a", 2).used("k"));
    let mut stage = Stage::new(simple());
    stage.configure(0, |settings| settings.policy.concurrency = 1);
    look(&mut stage, 1, 0, &[(&one, Seen::Idle), (&two, Seen::Idle)]);
    same(&stage.send(1), &["drain ci-a-1-1: done"]);
    stage.ended(1, &one.name(), failed(ErrorKind::RateLimited { after: seconds(1) }, None));
    assert!(stage.told(1).is_empty(), "it asked everybody to wait");
    assert_eq!(stage.wake().len(), 1);
}

#[test]
fn a_master_that_asks_to_wait_gets_no_launches() {
    let mut stage = Stage::new(settings(&["m"], &["p"], &["a", "b"]));
    look(&mut stage, 1, 1, &[]);
    let plan = stage.send_plan(1);
    let outcome = Outcome::Failed {
        kind: ErrorKind::Unauthorized,
        text: "who are you?".to_owned(),
        cause: None,
        enrolled: false,
        at_master: true,
        pause: seconds(10),
    };
    stage.ended(1, &launches(&plan)[0].agent, outcome);
    stage.demand(2, "m", vec![count(1, &["b"])]);
    assert!(stage.told(2).is_empty(), "another label, the same master");
    assert_eq!(stage.wake().len(), 1);
    assert_eq!(stage.world.now, at(11));
}

// When to wake.

#[test]
fn a_place_that_opens_by_time_sets_the_wake_though_another_is_at_its_cap() {
    let mut settings = settings(&["m"], &["p", "q"], &["a"]);
    settings.providers.get_mut("p").unwrap().limit = agents(0);
    let mut stage = Stage::new(settings);
    look(&mut stage, 1, 1, &[]);
    let plan = stage.send_plan(1);
    stage.ended(1, &launches(&plan)[0].agent, failed(ErrorKind::Transient, None));
    assert_eq!(stage.settle(1).next_wake, Some(at(2)));
    same(&stage.wake(), &["launch a on q for m: demand"]);
}

#[test]
fn a_request_that_waits_for_time_sets_the_wake() {
    let mut stage = Stage::new(simple());
    look(&mut stage, 1, 0, &[]);
    stage.intend(1, |intent| drop(intent.creates.insert(1, "a".into())));
    let plan = stage.send_plan(1);
    stage.ended(1, &launches(&plan)[0].agent, failed(ErrorKind::Transient, None));
    stage.intend(1, |intent| drop(intent.creates.insert(2, "a".into())));
    same(&stage.wake(), &["launch a on p for m: operator"]);
}

#[test]
fn a_provider_never_seen_counts_as_down_after_a_while() {
    let mut stage = Stage::new(settings(&["m"], &["p", "q"], &["a"]));
    stage.demand(80, "m", vec![count(1, &["a"])]).see_nodes(80, &[]);
    stage.fact(80, Fact::Units("p".into(), at(80), vec![]));
    assert!(stage.told(80).is_empty(), "it may hold agents that serve the job");
    same(&stage.wake(), &["launch a on p for m: demand"]);
}

#[test]
fn the_wake_for_a_look_that_grows_stale_is_the_moment_at_which_it_is_stale() {
    let mut stage = Stage::new(simple());
    stage.configure(0, |settings| settings.limit = agents(0));
    look(&mut stage, 1, 1, &[]);
    let fresh = stage.settle(1);
    let wake = fresh.next_wake.unwrap();
    let mut early = stage.world.clone();
    early.apply(wake - std::time::Duration::from_micros(1), Fact::Now);
    assert_eq!(sound(&early).classes, fresh.classes);
}

#[test]
fn nothing_to_wait_for_sets_no_wake_but_the_staleness_of_the_looks() {
    let a = who("a", 1);
    let mut stage = Stage::new(simple());
    look(&mut stage, 1, 0, &[(&a, Seen::Busy)]);
    stage.perform(1);
    let wake = stage.settle(1).next_wake.unwrap();
    assert_eq!(wake.since(at(1)).as_secs(), 90);
    stage.fact(500, Fact::Now);
    assert_eq!(stage.settle(500).next_wake, None);
}

#[test]
fn room_that_the_platform_frees_is_used_when_it_says_so() {
    let mut settings = simple();
    label(&mut settings, "a").resources = resources(&[("cpu", "1")]);
    let mut stage = Stage::new(settings);
    look(&mut stage, 1, 1, &[]);
    stage.fact(1, Fact::Capacity("p".into(), at(1), Some(resources(&[("cpu", "0")]))));
    assert!(stage.told(1).is_empty());
    stage.fact(2, Fact::Capacity("p".into(), at(2), Some(Resources::default())));
    assert_eq!(stage.told(2).len(), 1);
}

/// A server that starts anew refuses everything for a moment: that is one failure, however many steps were under way.
#[test]
fn steps_that_fail_together_are_one_failed_try() {
    let mut stage = Stage::new(simple());
    look(&mut stage, 1, 8, &[]);
    let plan = stage.send_plan(1);
    let launches = launches(&plan);
    assert_eq!(launches.len(), 8);
    for launch in &launches {
        stage.ended(1, &launch.agent, failed(ErrorKind::Unauthorized, None));
    }
    let backoff = stage.world.backoff.values().next().unwrap().clone();
    assert_eq!((stage.world.backoff.len(), backoff.attempts, backoff.until), (1, 1, at(2)));
}
