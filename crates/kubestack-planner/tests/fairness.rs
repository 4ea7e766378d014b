//! Design §8 and the promises 2, 4 and 10: who gets what is scarce, what counts against it, who gives way.
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
use kubestack_planner::settings::Settings;
use kubestack_planner::{Blocker, Fact, Outcome, Plan, Scope};
use std::collections::BTreeMap;

/// How many agents the plan launches, by label.
fn granted(plan: &Plan) -> BTreeMap<String, usize> {
    let mut granted = BTreeMap::new();
    for launch in launches(plan) {
        *granted.entry(launch.label.to_string()).or_insert(0) += 1;
    }
    granted
}

fn by_label(expected: &[(&str, usize)]) -> BTreeMap<String, usize> {
    expected.iter().map(|(label, count)| ((*label).to_owned(), *count)).collect()
}

/// One master and provider, these labels, at most that many agents in all.
fn scarce(labels: &[&str], most: u32) -> Settings {
    let mut settings = settings(&["m"], &["p"], labels);
    settings.limit = agents(most);
    settings
}

fn caps(full: &[Scope]) -> Option<Blocker> {
    Some(Blocker::Caps { full: full.to_vec() })
}

// Shares.

#[test]
fn classes_of_one_weight_share_evenly_whatever_they_ask_for() {
    let mut stage = Stage::new(scarce(&["a", "b", "c"], 6));
    stage.demand(1, "m", vec![count(100, &["a"]), count(3, &["b"]), count(50, &["c"])]).see(1, &[]);
    assert_eq!(granted(&stage.plan(1)), by_label(&[("a", 2), ("b", 2), ("c", 2)]));
}

#[test]
fn what_a_class_does_not_want_goes_to_the_others() {
    let mut stage = Stage::new(scarce(&["a", "b", "c"], 7));
    stage.demand(1, "m", vec![count(100, &["a"]), count(1, &["b"]), count(100, &["c"])]).see(1, &[]);
    assert_eq!(granted(&stage.plan(1)), by_label(&[("a", 3), ("b", 1), ("c", 3)]));
}

#[test]
fn shares_follow_the_weights() {
    let mut settings = scarce(&["a", "b"], 8);
    label(&mut settings, "a").weight = 3;
    let mut stage = Stage::new(settings);
    stage.demand(1, "m", vec![count(100, &["a"]), count(100, &["b"])]).see(1, &[]);
    assert_eq!(granted(&stage.plan(1)), by_label(&[("a", 6), ("b", 2)]));
}

#[test]
fn what_a_class_has_already_counts_for_its_share() {
    let (one, two) = (who("a", 1), who("a", 2));
    let mut stage = Stage::new(scarce(&["a", "b"], 4));
    stage.see(1, &[(&one, Seen::Busy), (&two, Seen::Launching)]);
    // The one that launches serves the first of the waiting jobs of `a`.
    stage.demand(2, "m", vec![count(9, &["a"]), count(9, &["b"])]);
    assert_eq!(granted(&stage.plan(2)), by_label(&[("b", 2)]));
}

#[test]
fn agents_on_their_way_out_are_live_until_they_are_gone() {
    let gone = [who("a", 1), who("a", 2)];
    let mut stage = Stage::new(scarce(&["a", "b"], 4));
    stage.see(1, &[(&gone[0], Seen::Terminating), (&gone[1], Seen::Terminating)]);
    stage.demand(1, "m", vec![count(9, &["a"]), count(9, &["b"])]);
    assert_eq!(granted(&stage.plan(1)), by_label(&[("b", 2)]));
}

#[test]
fn of_two_with_the_same_share_the_older_demand_is_first() {
    for (first, a, b) in [("a", 10, 20), ("b", 20, 10)] {
        let mut stage = Stage::new(scarce(&["a", "b"], 1));
        let demands = vec![count(5, &["a"]).since(at(a)), count(5, &["b"]).since(at(b))];
        stage.demand(30, "m", demands).see(30, &[]);
        assert_eq!(granted(&stage.plan(30)), by_label(&[(first, 1)]));
    }
}

#[test]
fn the_age_of_a_count_is_its_first_sight() {
    let mut stage = Stage::new(scarce(&["a", "b"], 1));
    stage.demand(1, "m", vec![count(5, &["b"])]);
    stage.demand(9, "m", vec![count(5, &["a"]), count(5, &["b"])]).see(9, &[]);
    assert_eq!(granted(&stage.plan(9)), by_label(&[("b", 1)]));
    let plan = stage.plan(9);
    assert_eq!(plan.classes.iter().map(|class| class.since).collect::<Vec<_>>(), [Some(at(9)), Some(at(1))]);
}

#[test]
fn the_same_needs_at_two_masters_are_two_classes() {
    let mut settings = settings(&["m", "n"], &["p"], &["a"]);
    settings.limit = agents(4);
    let mut stage = Stage::new(settings);
    stage.demand(1, "m", vec![count(9, &["a"])]).demand(1, "n", vec![count(9, &["a"])]).see(1, &[]);
    let plan = stage.plan(1);
    let of = |master: &str| {
        launches(&plan).iter().filter(|l| l.master.as_ref().is_some_and(|m| m.as_str() == master)).count()
    };
    assert_eq!((of("m"), of("n")), (2, 2));
}

// Places.

#[test]
fn a_class_is_served_by_its_first_label_with_room() {
    let mut settings = settings(&["m"], &["p"], &["a", "b"]);
    label(&mut settings, "a").limit = agents(2);
    let mut stage = Stage::new(settings);
    stage.demand(1, "m", vec![count(3, &["a", "b"])]).see(1, &[]);
    assert_eq!(granted(&stage.plan(1)), by_label(&[("a", 2), ("b", 1)]));
}

#[test]
fn providers_are_used_in_their_order_and_spill_over() {
    let mut settings = settings(&["m"], &["p", "q", "r"], &["a"]);
    label(&mut settings, "a").providers = vec!["r".into(), "p".into(), "q".into()];
    settings.providers.get_mut("r").unwrap().limit = agents(2);
    settings.providers.get_mut("p").unwrap().limit = agents(1);
    let mut stage = Stage::new(settings);
    stage.demand(1, "m", vec![count(4, &["a"])]).see(1, &[]);
    let plan = stage.plan(1);
    let providers: Vec<&str> = launches(&plan).iter().map(|launch| launch.provider.as_str()).collect();
    assert_eq!(providers, ["r", "r", "p", "q"]);
}

#[test]
fn a_platform_that_reports_itself_full_spills_over() {
    let mut settings = settings(&["m"], &["p", "q"], &["a"]);
    label(&mut settings, "a").resources = resources(&[("cpu", "1")]);
    let mut stage = Stage::new(settings);
    stage.demand(1, "m", vec![count(3, &["a"])]).see(1, &[]);
    stage.fact(1, Fact::Capacity("p".into(), at(1), Some(resources(&[("cpu", "2500m")]))));
    let plan = stage.plan(1);
    let providers: Vec<&str> = launches(&plan).iter().map(|launch| launch.provider.as_str()).collect();
    assert_eq!(providers, ["p", "p", "q"]);
}

#[test]
fn what_was_launched_since_the_platform_told_its_room_is_taken_off_it() {
    let mut settings = simple();
    label(&mut settings, "a").resources = resources(&[("cpu", "1")]);
    let mut stage = Stage::new(settings);
    stage.demand(1, "m", vec![count(1, &["a"])]).see(1, &[]);
    stage.fact(1, Fact::Capacity("p".into(), at(1), Some(resources(&[("cpu", "2")]))));
    stage.perform(1);
    stage.demand(2, "m", vec![count(9, &["a"])]);
    let plan = stage.plan(2);
    assert_eq!(launches(&plan).len(), 1);
    assert_eq!(plan.classes[0].blocked, Some(Blocker::PlatformFull { provider: "p".into() }));
}

// Caps.

#[test]
fn each_cap_holds_and_is_named() {
    type Limited = fn(&mut Settings);
    let cases: [(Limited, Scope); 4] = [
        (|s| s.limit = agents(3), Scope::Global),
        (|s| label(s, "a").limit = agents(3), Scope::Label("a".into())),
        (|s| s.masters.get_mut("m").unwrap().limit = agents(3), Scope::Master("m".into())),
        (|s| s.providers.get_mut("p").unwrap().limit = agents(3), Scope::Provider("p".into())),
    ];
    for (limited, scope) in cases {
        let mut settings = simple();
        limited(&mut settings);
        let a = who("a", 1);
        let mut stage = Stage::new(settings);
        stage.see(1, &[(&a, Seen::Busy)]).demand(2, "m", vec![count(9, &["a"])]);
        let plan = stage.plan(2);
        assert_eq!(launches(&plan).len(), 2, "{scope:?}");
        assert_eq!(plan.classes[0].blocked, caps(&[scope]));
    }
}

#[test]
fn a_cap_on_one_of_several_resources_binds() {
    let mut settings = simple();
    label(&mut settings, "a").resources = resources(&[("cpu", "500m"), ("memory", "1Gi")]);
    settings.limit.resources = resources(&[("cpu", "100"), ("memory", "2500Mi")]);
    let mut stage = Stage::new(settings);
    stage.demand(1, "m", vec![count(9, &["a"])]).see(1, &[]);
    assert_eq!(launches(&stage.plan(1)).len(), 2);
}

#[test]
fn labels_take_their_own_size_from_a_shared_cap() {
    let mut settings = settings(&["m"], &["p"], &["a", "b"]);
    label(&mut settings, "a").resources = resources(&[("cpu", "3")]);
    label(&mut settings, "b").resources = resources(&[("cpu", "1")]);
    settings.providers.get_mut("p").unwrap().limit.resources = resources(&[("cpu", "8")]);
    let mut stage = Stage::new(settings);
    stage.demand(1, "m", vec![count(9, &["a"]), count(9, &["b"])]).see(1, &[]);
    assert_eq!(granted(&stage.plan(1)), by_label(&[("a", 2), ("b", 2)]));
}

#[test]
fn launches_under_way_and_in_doubt_take_their_room() {
    let mut settings = simple();
    settings.limit = agents(2);
    let mut stage = Stage::new(settings);
    stage.demand(1, "m", vec![count(9, &["a"])]).see(1, &[]);
    let sent = stage.plan(1).steps;
    assert_eq!(stage.send(1).len(), 2);
    assert!(stage.told(1).is_empty());
    stage.ended(2, sent[0].step.agent(), Outcome::Unknown);
    assert!(stage.told(2).is_empty());
}

#[test]
fn terminating_units_take_their_room_until_they_are_gone() {
    let a = who("a", 1);
    let mut stage = Stage::new(scarce(&["a"], 1));
    stage.demand(1, "m", vec![count(1, &["a"])]).see(1, &[(&a, Seen::Terminating)]);
    assert!(stage.told(1).is_empty());
    stage.see(2, &[]);
    same(&stage.told(2), &["launch a on p for m: demand"]);
}

#[test]
fn a_lowered_cap_takes_nothing_away_from_who_works_and_adds_nothing() {
    let (one, two) = (who("a", 1), who("a", 2));
    let mut stage = Stage::new(scarce(&["a"], 2));
    stage.see(1, &[(&one, Seen::Busy), (&two, Seen::Busy)]);
    stage.perform(1);
    stage.configure(2, |settings| settings.limit = agents(1)).demand(2, "m", vec![count(5, &["a"])]);
    assert!(stage.told(2).is_empty());
}

#[test]
fn a_node_without_a_unit_keeps_its_place_on_its_master() {
    let a = who("a", 1);
    let mut settings = simple();
    settings.masters.get_mut("m").unwrap().limit = agents(1);
    let mut stage = Stage::new(settings);
    stage.demand(1, "m", vec![count(1, &["a"])]).see(1, &[(&a, Seen::NodeOnly)]);
    assert!(stage.told(1).is_empty());
}

// Supply.

#[test]
fn agents_at_hand_that_match_are_supply_and_stay() {
    let all = [who("a", 1), who("a", 2), who("a", 3)];
    let mut stage = Stage::new(simple());
    for time in [1, 50, 100] {
        stage.demand(time, "m", vec![count(3, &["a"])]);
        stage.see(time, &[(&all[0], Seen::Idle), (&all[1], Seen::Launching), (&all[2], Seen::Pending(None))]);
        let plan = stage.settle(time);
        assert!(plan.steps.is_empty(), "{:?}", told(&plan));
        assert_eq!((plan.classes[0].served, plan.classes[0].granted), (3, 0));
    }
}

#[test]
fn what_is_no_supply_is_replaced() {
    let cases = [
        (who("a", 1), Seen::Busy),
        (who("a", 1), Seen::Unknown),
        (who("a", 1), Seen::Drained),
        (who("a", 1), Seen::Terminating),
        (who("a", 1), Seen::DrainedByOthers),
        (who("a", 1).held("by hand"), Seen::Idle),
        (who("a", 1).used("j"), Seen::Idle),
        (who("a", 1).template("old"), Seen::Idle),
        (who("a", 1).bound("j"), Seen::Launching),
        (who("b", 1), Seen::Idle),
    ];
    for (who, seen) in cases {
        let mut stage = Stage::new(settings(&["m"], &["p"], &["a", "b"]));
        stage.see(1, &[(&who, seen.clone())]).demand(2, "m", vec![count(1, &["a"])]);
        assert_eq!(launches(&stage.settle(2)).len(), 1, "{seen:?}");
    }
}

#[test]
fn a_failed_agent_is_no_supply() {
    let a = who("a", 1);
    let mut stage = Stage::new(simple());
    let wrong = Seen::Pending(Some(FailureCause::ImageUnavailable));
    stage.demand(1, "m", vec![count(1, &["a"])]).see(1, &[(&a, wrong.clone())]);
    assert!(stage.told(1).is_empty(), "the registry may come back");
    stage.demand(121, "m", vec![count(1, &["a"])]).see(121, &[(&a, wrong)]);
    let plan = stage.settle(121);
    assert_eq!(plan.classes[0].served, 0);
    assert!(matches!(plan.classes[0].blocked, Some(Blocker::Breaker { .. })), "{:?}", plan.classes[0]);
}

#[test]
fn several_labels_serve_one_demand_as_well_as_can_be() {
    // `wide` could take either agent; taking the `a` would leave `narrow` with nothing.
    let (a, b) = (who("a", 1), who("b", 1));
    let mut stage = Stage::new(settings(&["m"], &["p"], &["a", "b"]));
    stage.demand(1, "m", vec![count(1, &["a", "b"]), count(1, &["a"])]);
    stage.see(1, &[(&a, Seen::Idle), (&b, Seen::Idle)]);
    let plan = stage.settle(1);
    assert!(plan.steps.is_empty(), "{:?}", told(&plan));
    assert_eq!(plan.classes.iter().map(|class| class.served).collect::<Vec<_>>(), [1, 1]);
}

#[test]
fn a_chain_of_classes_gives_way_for_the_last_one() {
    let all = [who("a", 1), who("b", 1), who("c", 1)];
    let mut stage = Stage::new(settings(&["m"], &["p"], &["a", "b", "c"]));
    stage.demand(1, "m", vec![count(1, &["a", "b"]), count(1, &["b", "c"]), count(1, &["a", "c"])]);
    stage.see(1, &[(&all[0], Seen::Idle), (&all[1], Seen::Idle), (&all[2], Seen::Idle)]);
    assert!(stage.told(1).is_empty());
    stage.demand(2, "m", vec![count(1, &["a", "b"]), count(1, &["a", "c"]), count(1, &["a"])]);
    assert!(stage.told(2).is_empty());
}

// Demand.

#[test]
fn views_of_one_queue_hold_the_larger_count_and_others_add_up() {
    for (group, expected) in [(Some("queue"), 3), (None, 5)] {
        let mut settings = simple();
        let mut view = settings.sources["m"].clone();
        view.merge_group = group.map(str::to_owned);
        settings.sources.insert("m".into(), view.clone());
        settings.sources.insert("other".into(), view);
        let mut stage = Stage::new(settings);
        stage.demand(1, "m", vec![count(3, &["a"])]).demand(1, "other", vec![count(2, &["a"])]).see(1, &[]);
        let plan = stage.plan(1);
        assert_eq!(launches(&plan).len(), expected, "{group:?}");
        assert_eq!(plan.classes[0].waiting, u32::try_from(expected).unwrap());
    }
}

#[test]
fn a_bound_job_in_two_views_of_one_queue_is_one_job() {
    let mut settings = simple();
    let mut view = settings.sources["m"].clone();
    view.merge_group = Some("queue".to_owned());
    settings.sources.insert("m".into(), view.clone());
    settings.sources.insert("other".into(), view);
    let mut stage = Stage::new(settings);
    let bound = || vec![job("j", &["a"]).bound()];
    stage.demand(1, "m", bound()).demand(1, "other", bound()).see(1, &[]);
    same(&stage.told(1), &["launch a on p for m (j): demand"]);
}

#[test]
fn demand_that_nobody_can_serve_is_reported_and_launches_nothing() {
    let mut stage = Stage::new(simple());
    stage.demand(1, "m", vec![count(7, &[]), count(2, &["unknown"])]).see(1, &[]);
    let plan = stage.plan(1);
    assert!(plan.steps.is_empty());
    assert_eq!(plan.foreign, 7);
    let class = &plan.classes[0];
    assert_eq!((class.waiting, class.granted, &class.blocked), (2, 0, &Some(Blocker::Nowhere)));
    let words = kubestack_planner::words::class(class, at(1));
    assert!(words.contains("its labels name no provider and master that fit"), "{words}");
}

#[test]
fn every_class_that_waits_says_why() {
    type Case = (fn(&mut Stage), fn(&Blocker) -> bool);
    fn configured(stage: &mut Stage, change: fn(&mut Settings)) {
        stage.configure(2, change);
    }
    let failed = |kind| failed(kind, None);
    let cases: [Case; 6] = [
        (|s| s.world.intent.paused = Some("why".to_owned()), |b| matches!(b, Blocker::Paused { .. })),
        (|s| s.world.launch_from = at(30), |b| matches!(b, Blocker::Settling { .. })),
        (|s| configured(s, |s| s.policy.concurrency = 1), |b| matches!(b, Blocker::InFlight)),
        (|s| configured(s, |s| s.limit = agents(1)), |b| matches!(b, Blocker::Caps { .. })),
        (
            |s| s.world.masters.get_mut("m").unwrap().quiet = true,
            |b| matches!(b, Blocker::MasterQuiet { .. }),
        ),
        (
            |s| configured(s, |s| drop(s.providers.insert("q".into(), Default::default()))),
            |b| matches!(b, Blocker::ProviderStale { .. }),
        ),
    ];
    for (index, (prepare, fits)) in cases.into_iter().enumerate() {
        let mut settings = simple();
        settings.limit = agents(99);
        let mut stage = Stage::new(settings);
        stage.see(1, &[]);
        prepare(&mut stage);
        stage.demand(2, "m", vec![count(2, &["a"])]);
        let plan = stage.plan(2);
        let class = &plan.classes[0];
        assert!(class.granted < 2, "case {index}");
        assert!(class.blocked.as_ref().is_some_and(fits), "case {index}: {:?}", class.blocked);
    }
    let mut stage = Stage::new(simple());
    stage.demand(1, "m", vec![count(1, &["a"])]).see(1, &[]);
    let agent = launches(&stage.plan(1))[0].agent.clone();
    stage.send(1);
    stage.ended(2, &agent, failed(ErrorKind::Transient));
    let expected = Blocker::Backoff { until: at(3), error: "it did not work".to_owned() };
    assert_eq!(stage.plan(2).classes[0].blocked, Some(expected));
}

// Agents that are ready before demand.

#[test]
fn min_ready_gets_only_what_demand_leaves() {
    let mut settings = scarce(&["a", "b"], 3);
    label(&mut settings, "a").min_ready = 5;
    let mut stage = Stage::new(settings);
    stage.demand(1, "m", vec![count(2, &["b"])]).see(1, &[]);
    same(
        &stage.told(1),
        &["launch a on p for m: min_ready", "launch b on p for m: demand", "launch b on p for m: demand"],
    );
}

#[test]
fn min_ready_is_on_top_of_demand_and_for_each_master() {
    let mut settings = settings(&["m", "n"], &["p"], &["a"]);
    label(&mut settings, "a").min_ready = 1;
    let (a, b) = (who("a", 1), who("a", 2).of("n"));
    let mut stage = Stage::new(settings);
    stage.demand(1, "m", vec![count(1, &["a"])]).demand(1, "n", vec![]);
    stage.see(1, &[(&a, Seen::Idle), (&b, Seen::Idle)]);
    same(&stage.told(1), &["launch a on p for m: min_ready"]);
    // Ready agents are not reaped while nobody needs their room.
    stage.demand(90, "m", vec![]).demand(90, "n", vec![]).see(90, &[(&a, Seen::Idle), (&b, Seen::Idle)]);
    assert!(stage.told(90).is_empty());
}

#[test]
fn a_label_without_masters_keeps_agents_ready_as_well() {
    let mut settings = masterless();
    label(&mut settings, "a").min_ready = 2;
    let a = who("a", 1).alone();
    let mut stage = Stage::new(settings);
    stage.demand(1, "s", vec![]).see(1, &[(&a, Seen::PendingOnly)]);
    same(&stage.told(1), &["launch a on p for nobody: min_ready"]);
}

// Who gives way.

/// A world at its cap with these agents of `a`, `b` waiting, two ready agents of `a` wanted at least.
fn full_of(seen: &[(&Who, Seen)], min_ready: u32) -> Stage {
    let mut settings = scarce(&["a", "b"], u32::try_from(seen.len()).unwrap());
    label(&mut settings, "a").min_ready = min_ready;
    let mut stage = Stage::new(settings);
    stage.demand(1, "m", vec![]).see(1, seen);
    stage.settle(1);
    stage.demand(2, "m", vec![count(1, &["b"])]);
    stage
}

#[test]
fn idle_above_min_ready_gives_way_first() {
    let (pending, warm, above) = (who("a", 1), who("a", 2).created(0), who("a", 3).created(1));
    let all = [(&pending, Seen::Launching), (&warm, Seen::Idle), (&above, Seen::Idle)];
    let mut stage = full_of(&all, 1);
    let plan = stage.settle(2);
    same(&told(&plan), &["drain ci-a-1-3: reclaimed"]);
    assert_eq!(plan.classes[0].waits_for.iter().collect::<Vec<_>>(), [&above.name()]);
}

#[test]
fn then_what_launches_for_demand_that_left() {
    let (pending, warm) = (who("a", 1), who("a", 2));
    let mut stage = full_of(&[(&pending, Seen::Launching), (&warm, Seen::Idle)], 1);
    same(&stage.told(2), &["drain ci-a-1-1: reclaimed"]);
}

#[test]
fn then_idle_that_was_kept_warm() {
    let warm = who("a", 2);
    let mut stage = full_of(&[(&warm, Seen::Idle)], 1);
    same(&stage.told(2), &["drain ci-a-1-2: reclaimed"]);
}

#[test]
fn bound_busy_held_and_unknown_agents_never_give_way() {
    let all = [
        (who("a", 1).bound("j"), Seen::Idle),
        (who("a", 2), Seen::Busy),
        (who("a", 3).held("by hand"), Seen::Idle),
        (who("a", 4), Seen::DrainedByOthers),
        (who("a", 5), Seen::Unknown),
    ];
    let seen: Vec<(&Who, Seen)> = all.iter().map(|(who, seen)| (who, seen.clone())).collect();
    let mut settings = scarce(&["a", "b"], 5);
    label(&mut settings, "a").idle_timeout = seconds(1);
    let mut stage = Stage::new(settings);
    let bound = || job("j", &["a"]).bound();
    stage.demand(1, "m", vec![bound()]).see(1, &seen);
    stage.perform(1);
    stage.demand(50, "m", vec![bound(), count(5, &["b"])]).see(50, &seen);
    let plan = stage.settle(50);
    assert!(plan.steps.is_empty(), "{:?}", told(&plan));
    let b = plan.classes.iter().find(|report| report.class.needs.contains("b")).unwrap();
    assert_eq!(b.blocked, caps(&[Scope::Global]));
    assert!(b.waits_for.is_empty());
}

#[test]
fn supply_of_another_class_does_not_give_way() {
    let a = who("a", 1);
    let mut stage = full_of(&[(&a, Seen::Idle)], 0);
    stage.demand(3, "m", vec![count(1, &["a"]), count(1, &["b"])]);
    assert!(stage.told(3).is_empty());
}

#[test]
fn one_agent_gives_way_per_missing_grant() {
    let all = [who("a", 1), who("a", 2), who("a", 3)];
    let seen: Vec<(&Who, Seen)> = all.iter().map(|who| (who, Seen::Idle)).collect();
    let mut stage = full_of(&seen, 0);
    stage.demand(3, "m", vec![count(2, &["b"])]);
    assert_eq!(stage.perform(3).len(), 2);
    assert!(stage.told(3).is_empty(), "those that leave already are enough");
    let plan = stage.plan(3);
    assert_eq!(plan.classes[0].waits_for.len(), 2);
}

#[test]
fn nobody_gives_way_to_work_that_can_never_have_room() {
    let mut settings = settings(&["m"], &["p"], &["a", "big"]);
    label(&mut settings, "a").min_ready = 1;
    label(&mut settings, "a").resources = resources(&[("cpu", "1")]);
    label(&mut settings, "big").resources = resources(&[("cpu", "3")]);
    settings.limit.resources = resources(&[("cpu", "2")]);
    let mut stage = Stage::new(settings);
    stage.demand(1, "m", vec![count(1, &["big"])]).see(1, &[]);
    same(&stage.perform(1), &["launch a on p for m: min_ready"]);
    assert!(stage.told(1).is_empty(), "launched a moment ago");
}

#[test]
fn an_agent_whose_room_does_not_help_does_not_give_way() {
    // The full cap is that of provider `q`; an idle agent on `p` frees nothing there.
    let (idle, busy) = (who("a", 1), who("b", 1).on("q"));
    let mut settings = settings(&["m"], &["p", "q"], &["a", "b"]);
    label(&mut settings, "b").providers = vec!["q".into()];
    settings.providers.get_mut("q").unwrap().limit = agents(1);
    let mut stage = Stage::new(settings);
    stage.see(1, &[(&idle, Seen::Idle), (&busy, Seen::Busy)]).demand(2, "m", vec![count(1, &["b"])]);
    stage.perform(2);
    assert!(stage.told(3).is_empty());
}

#[test]
fn what_gave_way_is_launched_into_once_it_is_gone() {
    let a = who("a", 1);
    let mut stage = full_of(&[(&a, Seen::Idle)], 0);
    same(&stage.perform(2), &["drain ci-a-1-1: reclaimed"]);
    stage.see(3, &[(&a, Seen::Drained)]);
    same(&stage.perform(3), &["remove_node ci-a-1-1: draining"]);
    same(&stage.perform(3), &["destroy ci-a-1-1: detached"]);
    assert!(stage.told(4).is_empty(), "it is terminating and still takes its room");
    stage.see(5, &[]);
    same(&stage.told(5), &["launch b on p for m: demand"]);
}

#[test]
fn a_unit_that_ended_gives_its_room_to_the_class_with_the_lowest_share() {
    let (ended, busy) = (who("a", 1).used("j"), who("a", 2));
    let mut stage = Stage::new(scarce(&["a", "b"], 2));
    stage.see(1, &[(&ended, Seen::Ended(None)), (&busy, Seen::Busy)]);
    stage.demand(2, "m", vec![count(9, &["a"]).since(at(0)), count(1, &["b"]).since(at(1))]);
    assert_eq!(granted(&stage.settle(2)), by_label(&[("b", 1)]));
}

#[test]
fn stale_demand_launches_nothing_by_way_of_min_ready_either() {
    let idle = who("a", 1);
    let mut settings = simple();
    label(&mut settings, "a").min_ready = 1;
    let mut stage = Stage::new(settings);
    stage.demand(1, "m", vec![count(5, &["a"])]).see(200, &[(&idle, Seen::Idle)]);
    assert!(stage.told(200).is_empty(), "the look at the demand is old");
}

#[test]
fn so_many_failed_agents_are_held_while_the_mark_of_one_is_under_way() {
    let (a, b) = (who("a", 1), who("a", 2));
    let mut settings = simple();
    label(&mut settings, "a").hold_on_failure = 1;
    let mut stage = Stage::new(settings);
    let wrong = || Seen::Pending(Some(FailureCause::ImageWrong));
    stage.demand(1, "m", vec![]).see(1, &[(&a, wrong()), (&b, Seen::Launching)]);
    same(&stage.send(1), &["mark ci-a-1-1: kept_for_inspection"]);
    stage.see(2, &[(&a, wrong()), (&b, wrong())]);
    same(&stage.told(2), &["drain ci-a-1-2: failed"]);
}

#[test]
fn a_platform_that_limits_the_number_of_its_units_gets_no_more() {
    let mut stage = Stage::new(simple());
    stage.see(1, &[]).demand(2, "m", vec![count(5, &["a"])]);
    stage.fact(2, Fact::Capacity("p".into(), at(2), Some(resources(&[("agents", "2")]))));
    assert_eq!(stage.perform(2).len(), 2);
    let plan = stage.settle(3);
    assert_eq!(plan.classes[0].blocked, Some(Blocker::PlatformFull { provider: "p".into() }));
}
