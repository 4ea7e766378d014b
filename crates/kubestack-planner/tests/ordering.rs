//! Design §4: observations are ordered by when their read began, a failed source is not an empty one, steps
//! under way are part of the world.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::expect_used,
    reason = "a test stops where its own set-up fails"
)]

mod common;

use common::*;
use kubestack_core::agent::AgentsSnapshot;
use kubestack_core::completion::CompletionEvent;
use kubestack_core::name::AgentName;
use kubestack_core::provider::UnitPhase;
use kubestack_planner::agent::{AgentState, agents as agents_of};
use kubestack_planner::{Fact, Hold, Outcome, Plan, Step};

/// One job waits, a launch for it was sent at 1.
fn launching() -> (Stage, Step) {
    let mut stage = Stage::new(simple());
    stage.demand(1, "m", vec![count(1, &["a"])]).see(1, &[]);
    let step = stage.plan(1).steps.remove(0).step;
    assert_eq!(stage.send(1).len(), 1);
    (stage, step)
}

fn unit_of(stage: &Stage, step: &Step, time: u64) -> Outcome {
    let Step::Launch(launch) = step else { panic!("a launch") };
    Outcome::Unit(stage.unit_of(launch, time))
}

fn units(stage: &mut Stage, arrives: u64, began: u64, seen: &[(&Who, Seen)]) {
    let units = seen.iter().filter_map(|(who, seen)| who.unit_seen(seen)).collect();
    stage.fact(arrives, Fact::Units("p".into(), at(began), units));
}

fn nodes(stage: &mut Stage, arrives: u64, began: u64, seen: &[(&Who, Seen)]) {
    let nodes = seen.iter().filter_map(|(who, seen)| who.node_seen(seen)).collect();
    stage.fact(arrives, Fact::Agents("m".into(), AgentsSnapshot::new(at(began), nodes)));
}

fn waiting(plan: &Plan) -> Vec<u32> {
    plan.classes.iter().map(|class| class.waiting).collect()
}

fn state(stage: &Stage, name: &AgentName) -> Option<AgentState> {
    agents_of(&stage.world).into_iter().find(|agent| agent.name == name).map(|agent| agent.state)
}

// What was acknowledged.

#[test]
fn an_acknowledged_launch_is_believed_until_a_later_read_contradicts_it() {
    let (mut stage, step) = launching();
    let outcome = unit_of(&stage, &step, 5);
    stage.ended(5, step.agent(), outcome);
    units(&mut stage, 6, 4, &[]);
    nodes(&mut stage, 6, 4, &[]);
    assert!(stage.told(6).is_empty(), "both reads began before the acknowledgement");
    units(&mut stage, 8, 7, &[]);
    same(&stage.told(8), &["launch a on p for m: demand", "remove_node ci-a-2-1: orphan_node"]);
}

#[test]
fn an_acknowledged_removal_is_believed_until_a_later_read_contradicts_it() {
    let a = who("a", 1).used("j");
    let mut stage = Stage::new(simple());
    stage.demand(1, "m", vec![]).see(1, &[(&a, Seen::Drained)]).see(2, &[(&a, Seen::Drained)]);
    same(&stage.send(3), &["remove_node ci-a-1-1: done"]);
    stage.ended(5, &a.name(), Outcome::Done);
    nodes(&mut stage, 6, 4, &[(&a, Seen::Drained)]);
    same(&stage.told(6), &["destroy ci-a-1-1: detached"]);
    // It really is there again.
    nodes(&mut stage, 8, 7, &[(&a, Seen::Idle)]);
    same(&stage.told(8), &["drain ci-a-1-1: done"]);
}

#[test]
fn an_acknowledged_destroy_is_believed_until_a_later_read_contradicts_it() {
    let a = who("a", 1).alone();
    let mut settings = masterless();
    settings.limit = agents(1);
    let mut stage = Stage::new(settings);
    stage.demand(1, "s", vec![]).see(1, &[(&a, Seen::PendingOnly)]);
    stage.world.intent.deletes.insert(a.name(), true);
    same(&stage.send(2), &["destroy ci-a-1-1: operator"]);
    stage.ended(5, &a.name(), Outcome::Done);
    units(&mut stage, 6, 4, &[(&a, Seen::UnitOnly)]);
    stage.demand(6, "s", vec![count(1, &["a"])]);
    assert!(stage.told(6).is_empty(), "not asked again, and still in the way");
    units(&mut stage, 8, 7, &[]);
    same(&stage.told(8), &["launch a on p for nobody: demand"]);
}

#[test]
fn an_acknowledged_mark_is_believed_until_a_later_read_contradicts_it() {
    let a = who("a", 1);
    let mut stage = Stage::new(simple());
    stage.demand(1, "m", vec![]).see(1, &[(&a, Seen::Idle)]);
    stage.intend(2, |intent| {
        intent.holds.insert(a.name(), Hold::Hold("look at it".to_owned()));
    });
    let step = stage.plan(2).steps.remove(0).step;
    same(&stage.send(2), &["mark ci-a-1-1: operator"]);
    let marked = stage.marked(&step);
    stage.ended(5, &a.name(), Outcome::Unit(marked));
    units(&mut stage, 6, 4, &[(&a, Seen::Idle)]);
    assert!(matches!(state(&stage, &a.name()), Some(AgentState::Held(_))), "{:?}", state(&stage, &a.name()));
}

#[test]
fn an_older_read_that_arrives_later_changes_nothing() {
    let (a, b) = (who("a", 1), who("a", 2));
    let mut stage = Stage::new(simple());
    stage.demand(9, "m", vec![count(2, &["a"])]).see(9, &[(&a, Seen::Idle), (&b, Seen::Idle)]);
    units(&mut stage, 10, 5, &[]);
    nodes(&mut stage, 10, 5, &[]);
    stage.fact(10, Fact::Demand("m".into(), kubestack_core::demand::DemandSnapshot::new(at(5), vec![])));
    let plan = stage.settle(10);
    assert!(plan.steps.is_empty());
    assert_eq!((waiting(&plan), agents_of(&stage.world).len()), (vec![2], 2));
}

#[test]
fn of_two_views_of_a_unit_the_larger_version_is_the_newer() {
    let a = who("a", 1);
    let mut stage = Stage::new(simple());
    stage.demand(1, "m", vec![]).see(1, &[]);
    let ended = UnitPhase::Ended { cause: None, text: String::new() };
    stage.fact(2, Fact::UnitApplied("p".into(), a.clone().version(7).unit(ended)));
    stage.fact(3, Fact::UnitApplied("p".into(), a.clone().version(6).unit(UnitPhase::Running)));
    assert_eq!(state(&stage, &a.name()), Some(AgentState::Ended));
}

#[test]
fn a_unit_reported_gone_is_not_brought_back_by_an_older_read() {
    let a = who("a", 1);
    let mut stage = Stage::new(simple());
    stage.demand(1, "m", vec![]).see(1, &[(&a, Seen::UnitOnly)]);
    stage.fact(5, Fact::UnitGone("p".into(), a.unit(UnitPhase::Running).reference()));
    units(&mut stage, 6, 4, &[(&a, Seen::UnitOnly)]);
    assert_eq!(state(&stage, &a.name()), None);
    // Another unit of that name is another thing.
    let again = a.clone().uid("another");
    units(&mut stage, 8, 7, &[(&again, Seen::UnitOnly)]);
    assert!(state(&stage, &a.name()).is_some());
}

// Who began a job after a look.

#[test]
fn an_agent_seen_busy_after_a_look_began_takes_one_job_of_that_look_and_none_of_a_later_one() {
    let a = who("a", 1);
    let mut stage = Stage::new(simple());
    stage.see(9, &[(&a, Seen::Idle)]).demand(10, "m", vec![count(2, &["a"])]);
    assert_eq!(waiting(&stage.settle(10)), [2]);
    stage.see(12, &[(&a, Seen::Busy)]);
    assert_eq!(waiting(&stage.settle(12)), [1]);
    stage.see(14, &[(&a, Seen::Busy)]);
    assert_eq!(waiting(&stage.settle(14)), [1], "one agent, one job");
    stage.demand(15, "m", vec![count(2, &["a"])]);
    assert_eq!(waiting(&stage.settle(15)), [2]);
}

#[test]
fn an_agent_busy_since_before_the_look_takes_nothing_of_it() {
    let a = who("a", 1);
    let mut stage = Stage::new(simple());
    stage.see(9, &[(&a, Seen::Busy)]).demand(10, "m", vec![count(2, &["a"])]).see(12, &[(&a, Seen::Busy)]);
    assert_eq!(waiting(&stage.settle(12)), [2]);
}

#[test]
fn a_hint_that_a_job_began_takes_one_job_of_the_look_before() {
    let a = who("a", 1);
    let mut stage = Stage::new(simple());
    stage.see(9, &[(&a, Seen::Idle)]).demand(10, "m", vec![count(2, &["a"])]);
    stage.hint(11, &a, CompletionEvent::Started);
    assert_eq!(waiting(&stage.settle(11)), [1]);
}

#[test]
fn an_agent_takes_only_what_it_can_serve() {
    for (of_label, of_master, left) in [("b", "m", 1), ("a", "n", 1), ("a", "m", 0)] {
        let busy = who(of_label, 1).of(of_master);
        let mut stage = Stage::new(settings(&["m", "n"], &["p"], &["a", "b"]));
        stage.see(9, &[]).demand(10, "n", vec![]).demand(10, "m", vec![count(1, &["a"])]);
        stage.see(12, &[(&busy, Seen::Busy)]);
        let sum: u32 = waiting(&stage.settle(12)).iter().sum();
        assert_eq!(sum, left, "{of_label} {of_master}");
    }
}

#[test]
fn an_agent_that_fits_two_classes_takes_one_job_of_one_of_them() {
    let a = who("a", 1);
    let mut stage = Stage::new(settings(&["m"], &["p"], &["a", "b"]));
    stage.see(9, &[]).demand(10, "m", vec![count(1, &["a"]), count(1, &["a", "b"])]);
    stage.see(12, &[(&a, Seen::Busy)]);
    let plan = stage.settle(12);
    assert_eq!(waiting(&plan).iter().sum::<u32>(), 1);
}

#[test]
fn a_job_known_by_its_id_is_taken_by_its_id() {
    let a = who("a", 1);
    let mut stage = Stage::new(settings(&["m"], &["p"], &["a", "b"]));
    let demands = vec![job("first", &["a"]), job("second", &["a", "b"])];
    stage.see(9, &[]).demand(10, "m", demands).see(12, &[(&a, Seen::BusyWith("second"))]);
    let plan = stage.settle(12);
    let left: Vec<_> = plan.classes.iter().filter(|class| class.waiting > 0).collect();
    assert_eq!(left.len(), 1);
    assert_eq!(left[0].class.needs.len(), 1, "the job that needs `a` is the one that waits");
}

#[test]
fn the_first_evidence_of_a_start_counts_though_the_unit_is_told_later() {
    let a = who("a", 1);
    let bare = |seen| {
        let mut node = a.node_seen(&seen).unwrap();
        node.marks = None;
        vec![node]
    };
    let mut stage = Stage::new(simple());
    stage.demand(1, "m", vec![]);
    stage.fact(1, Fact::Agents("m".into(), AgentsSnapshot::new(at(1), bare(Seen::Busy))));
    stage.see_units(2, &[(&a, Seen::UnitOnly)]);
    assert_eq!(state(&stage, &a.name()), Some(AgentState::Busy));
    stage.settle(2);
    stage.fact(3, Fact::Agents("m".into(), AgentsSnapshot::new(at(3), bare(Seen::Idle))));
    assert_eq!(state(&stage, &a.name()), Some(AgentState::Done), "it had its one job");
}

#[test]
fn an_agent_gone_meanwhile_has_still_taken_its_job() {
    let a = who("a", 1);
    let mut stage = Stage::new(simple());
    stage.see(9, &[(&a, Seen::Idle)]).demand(10, "m", vec![count(1, &["a"])]);
    stage.see(12, &[(&a, Seen::Busy)]).see(14, &[]);
    assert!(stage.told(14).is_empty(), "its job would be served twice");
    stage.demand(15, "m", vec![count(1, &["a"])]);
    same(&stage.told(15), &["launch a on p for m: demand"]);
}

#[test]
fn without_a_master_an_agent_takes_its_job_as_it_starts() {
    let a = who("a", 1).alone();
    let mut stage = Stage::new(masterless());
    stage.see(9, &[(&a, Seen::PendingOnly)]).demand(10, "s", vec![count(2, &["a"])]);
    same(&stage.told(10), &["launch a on p for nobody: demand"]);
    stage.see(12, &[(&a, Seen::UnitOnly)]);
    same(&stage.told(12), &["launch a on p for nobody: demand"]);
    stage.demand(13, "s", vec![count(2, &["a"])]);
    assert_eq!(stage.told(13).len(), 2);
}

// What is absent.

#[test]
fn a_node_whose_provider_was_not_read_has_its_unit() {
    let a = who("a", 1);
    let mut stage = Stage::new(settings(&["m"], &["p", "q"], &["a"]));
    stage.demand(1, "m", vec![]);
    for time in [1, 50, 100] {
        stage.see_nodes(time, &[(&a, Seen::NodeOnly)]).fact(time, Fact::Units("q".into(), at(time), vec![]));
        assert!(stage.told(time).is_empty());
    }
    stage.fact(101, Fact::Units("p".into(), at(101), vec![]));
    same(&stage.told(101), &["remove_node ci-a-1-1: orphan_node"]);
}

#[test]
fn a_watch_that_is_current_proves_absence_as_a_complete_read_does() {
    let a = who("a", 1);
    let mut stage = Stage::new(simple());
    stage.demand(1, "m", vec![]).see(1, &[(&a, Seen::NodeOnly)]).see_nodes(60, &[(&a, Seen::NodeOnly)]);
    stage.fact(70, Fact::UnitsCurrent("p".into(), at(60)));
    assert!(stage.told(70).is_empty(), "current up to a moment too early");
    stage.fact(71, Fact::UnitsCurrent("p".into(), at(61)));
    same(&stage.told(71), &["remove_node ci-a-1-1: orphan_node"]);
}

#[test]
fn a_stale_provider_makes_nothing_absent() {
    let a = who("a", 1);
    let mut stage = Stage::new(simple());
    stage.see(1, &[(&a, Seen::NodeOnly)]).see_units(61, &[]);
    stage.fact(62, Fact::ProviderFailed("p".into(), "down".to_owned()));
    for time in [152, 1000] {
        stage.demand(time, "m", vec![]).see_nodes(time, &[(&a, Seen::NodeOnly)]);
        assert!(stage.told(time).is_empty());
    }
}

#[test]
fn a_stale_master_makes_nothing_absent() {
    let a = who("a", 1);
    let mut stage = Stage::new(simple());
    stage.demand(1, "m", vec![]).see(1, &[(&a, Seen::Busy)]);
    stage.perform(1);
    stage.see(2, &[(&a, Seen::UnitOnly)]).fact(3, Fact::MasterFailed("m".into(), "down".to_owned()));
    for time in [93, 1000] {
        stage.demand(time, "m", vec![]).see_units(time, &[(&a, Seen::UnitOnly)]);
        assert!(stage.told(time).is_empty());
    }
}

#[test]
fn a_failed_read_takes_no_agent_away() {
    let a = who("a", 1);
    let mut stage = Stage::new(simple());
    stage.demand(1, "m", vec![count(1, &["a"])]).see(1, &[(&a, Seen::Idle)]);
    stage.fact(2, Fact::ProviderFailed("p".into(), "down".to_owned()));
    stage.fact(2, Fact::MasterFailed("m".into(), "down".to_owned()));
    stage.fact(2, Fact::DemandFailed("m".into(), "down".to_owned()));
    assert!(stage.told(2).is_empty());
    assert_eq!(state(&stage, &a.name()), Some(AgentState::Idle));
    assert_eq!(stage.world.demand["m"].health.error.as_deref(), Some("down"));
}

// Sources that fail.

#[test]
fn stale_demand_keeps_its_agents_and_launches_nothing_new() {
    let a = who("a", 1);
    let mut stage = Stage::new(simple());
    stage.demand(1, "m", vec![count(2, &["a"])]).fact(2, Fact::DemandFailed("m".into(), "down".to_owned()));
    stage.see(91, &[(&a, Seen::Idle)]);
    assert_eq!(stage.told(91).len(), 1, "not stale yet: the last look stands");
    stage.see(92, &[(&a, Seen::Idle)]);
    let plan = stage.settle(92);
    assert!(plan.steps.is_empty(), "{:?}", told(&plan));
    assert_eq!(plan.classes[0].stale, 2);
    for time in [150, 5000] {
        stage.see(time, &[(&a, Seen::Idle)]);
        assert!(stage.told(time).is_empty());
    }
    stage.demand(5001, "m", vec![count(2, &["a"])]).see(5001, &[(&a, Seen::Idle)]);
    same(&stage.told(5001), &["launch a on p for m: demand"]);
}

#[test]
fn what_nobody_wants_stays_while_demand_is_not_known() {
    let a = who("a", 1);
    for never_read in [true, false] {
        let mut stage = Stage::new(simple());
        if !never_read {
            stage.demand(1, "m", vec![]);
        }
        for time in [100, 200, 3000] {
            stage.see(time, &[(&a, Seen::Idle)]);
            assert!(stage.told(time).is_empty(), "never read: {never_read}");
        }
        // The time in which nothing was known does not count as idle without demand.
        stage.demand(3001, "m", vec![]).see(3001, &[(&a, Seen::Idle)]);
        assert!(stage.told(3001).is_empty(), "never read: {never_read}");
    }
}

#[test]
fn a_stale_source_does_not_stop_the_others() {
    let mut stage = Stage::new(settings(&["m", "n"], &["p"], &["a"]));
    stage.demand(1, "m", vec![count(1, &["a"])]).demand(100, "n", vec![count(1, &["a"])]).see(100, &[]);
    same(&stage.told(100), &["launch a on p for n: demand"]);
}

#[test]
fn a_stale_provider_or_master_gets_nothing_new() {
    for (provider, master) in [(true, false), (false, true)] {
        let mut stage = Stage::new(simple());
        stage.see(1, &[]).demand(100, "m", vec![count(1, &["a"])]);
        if provider {
            stage.see_nodes(100, &[]);
        }
        if master {
            stage.see_units(100, &[]);
        }
        assert!(stage.told(100).is_empty());
        stage.see(101, &[]);
        assert_eq!(stage.told(101).len(), 1);
    }
}

#[test]
fn a_stale_provider_spills_over_to_the_next() {
    let mut stage = Stage::new(settings(&["m"], &["p", "q"], &["a"]));
    stage.see(1, &[]).demand(100, "m", vec![count(1, &["a"])]).see_nodes(100, &[]);
    stage.fact(100, Fact::Units("q".into(), at(100), vec![]));
    same(&stage.told(100), &["launch a on q for m: demand"]);
}

// Steps in doubt.

#[test]
fn a_launch_in_doubt_is_supply_and_never_repeated_until_a_read_late_enough_settles_it() {
    let (mut stage, step) = launching();
    stage.ended(31, step.agent(), Outcome::Unknown);
    // The effect may land up to one deadline after we gave up on it: a read begun before that proves nothing.
    for time in [32, 45, 60] {
        stage.see(time, &[]).demand(time, "m", vec![count(1, &["a"])]);
        let plan = stage.settle(time);
        assert!(plan.steps.is_empty(), "at {time}: {:?}", told(&plan));
        assert_eq!(plan.classes[0].served, 1);
    }
    stage.see(61, &[]);
    let plan = stage.settle(61);
    same(&told(&plan), &["launch a on p for m: demand"]);
    assert_ne!(launches(&plan)[0].agent, *step.agent(), "a name is never used twice");
}

#[test]
fn a_launch_in_doubt_that_shows_up_is_settled() {
    let (mut stage, step) = launching();
    stage.ended(31, step.agent(), Outcome::Unknown);
    let Outcome::Unit(unit) = unit_of(&stage, &step, 33) else { panic!("a unit") };
    stage.fact(33, Fact::UnitApplied("p".into(), unit));
    assert!(stage.told(33).is_empty());
    assert!(stage.world.flights.is_empty());
}

#[test]
fn a_unit_told_before_its_launch_came_to_doubt_settles_it_at_once() {
    let (mut stage, step) = launching();
    let Outcome::Unit(unit) = unit_of(&stage, &step, 2) else { panic!("a unit") };
    stage.fact(2, Fact::UnitApplied("p".into(), unit));
    stage.ended(31, step.agent(), Outcome::Unknown);
    assert!(stage.world.flights.is_empty());
    assert!(stage.told(31).is_empty());
}

#[test]
fn another_providers_read_settles_no_launch() {
    let mut stage = Stage::new(settings(&["m"], &["p", "q"], &["a"]));
    stage.demand(1, "m", vec![count(1, &["a"])]).see(1, &[]);
    let name = launches(&stage.plan(1))[0].agent.clone();
    stage.send(1);
    stage.ended(31, &name, Outcome::Unknown);
    stage.fact(80, Fact::Units("q".into(), at(80), vec![])).see_nodes(80, &[]);
    stage.demand(80, "m", vec![count(1, &["a"])]);
    assert!(stage.told(80).is_empty());
}

#[test]
fn an_effect_that_lands_after_it_was_given_up_is_taken_in() {
    let (mut stage, step) = launching();
    let Step::Launch(launch) = &step else { panic!("a launch") };
    let late = Who::launched(&stage, launch, 62);
    stage.ended(31, step.agent(), Outcome::Unknown);
    stage.demand(61, "m", vec![count(1, &["a"])]).see(61, &[(&late, Seen::NodeOnly)]);
    same(&stage.told(61), &["launch a on p for m: demand", "remove_node ci-a-2-1: orphan_node"]);
    stage.see_units(62, &[(&late, Seen::Launching)]);
    assert!(stage.told(62).is_empty(), "it serves the job, no other is needed");
}

/// An agent whose next step is the one of that name, in doubt since 5.
fn doubtful(kind: &str) -> (Stage, Who) {
    let a = if kind == "mark" { who("a", 1) } else { who("a", 1).used("j") };
    let mut stage = Stage::new(simple());
    let seen = match kind {
        "drain" => Seen::Idle,
        "mark" => Seen::Busy,
        _ => Seen::Drained,
    };
    stage.demand(1, "m", vec![]).see(1, &[(&a, seen.clone())]).see(2, &[(&a, seen)]);
    if kind == "destroy" {
        stage.perform(2);
    }
    let steps = stage.send(3);
    assert!(steps.iter().all(|step| step.starts_with(kind)) && steps.len() == 1, "{kind}: {steps:?}");
    stage.ended(5, &a.name(), Outcome::Unknown);
    (stage, a)
}

#[test]
fn a_step_in_doubt_is_not_repeated_before_a_later_read() {
    let seen = [
        ("drain", Seen::Idle),
        ("mark", Seen::Busy),
        ("remove_node", Seen::Drained),
        ("destroy", Seen::UnitOnly),
    ];
    for (kind, seen) in seen {
        let (mut stage, a) = doubtful(kind);
        stage.see(4, &[(&a, seen.clone())]);
        assert!(stage.told(6).is_empty(), "{kind}: the read began before the doubt");
        stage.see(7, &[(&a, seen)]);
        let told = stage.told(7);
        assert!(told.len() == 1 && told[0].starts_with(kind), "{kind}: it had no effect: {told:?}");
    }
}

#[test]
fn a_drain_in_doubt_that_had_its_effect_is_settled_by_a_look() {
    let (mut stage, a) = doubtful("drain");
    stage.see(7, &[(&a, Seen::Drained)]);
    assert!(stage.told(7).is_empty(), "idle must be seen by a read begun after the drain is known");
    stage.see(8, &[(&a, Seen::Drained)]);
    same(&stage.told(8), &["remove_node ci-a-1-1: done"]);
}

#[test]
fn a_mark_in_doubt_that_had_its_effect_is_settled_by_a_look() {
    let (mut stage, a) = doubtful("mark");
    stage.see(7, &[(&a.used("?"), Seen::Busy)]);
    assert!(stage.told(7).is_empty());
}

#[test]
fn a_destroy_in_doubt_that_had_its_effect_is_settled_by_a_read() {
    let (mut stage, a) = doubtful("destroy");
    stage.see(7, &[]);
    assert!(stage.told(7).is_empty());
    assert_eq!(state(&stage, &a.name()), None);
}

#[test]
fn a_removal_in_doubt_that_had_its_effect_is_our_own() {
    let (mut stage, a) = doubtful("remove_node");
    stage.see(7, &[(&a, Seen::UnitOnly)]);
    same(&stage.told(7), &["destroy ci-a-1-1: detached"]);
}

#[test]
fn steps_under_way_are_supply() {
    let mut stage = Stage::new(simple());
    stage.demand(1, "m", vec![count(3, &["a"])]).see(1, &[]);
    assert_eq!(stage.send(1).len(), 3);
    stage.demand(2, "m", vec![count(4, &["a"])]).see(2, &[]);
    let plan = stage.settle(2);
    assert_eq!((plan.classes[0].served, launches(&plan).len()), (3, 1));
}

#[test]
fn an_agent_with_a_step_under_way_gets_no_other() {
    let a = who("a", 1).used("j");
    let mut stage = Stage::new(simple());
    stage.demand(1, "m", vec![]).see(1, &[(&a, Seen::Idle)]);
    assert_eq!(stage.send(1).len(), 1);
    stage.world.intent.deletes.insert(a.name(), true);
    assert!(stage.told(2).is_empty());
    stage.see(3, &[(&a, Seen::EndedBusy)]);
    assert!(stage.told(3).is_empty());
}

// A new leader.

#[test]
fn a_new_leader_launches_nothing_before_the_sends_of_the_one_before_have_landed() {
    let done = who("a", 1).used("j");
    let mut stage = Stage::new(simple());
    stage.world.launch_from = at(30);
    stage.demand(1, "m", vec![count(1, &["a"])]).see(1, &[(&done, Seen::Idle)]);
    let plan = stage.plan(1);
    same(&told(&plan), &["drain ci-a-1-1: done"]);
    assert_eq!(plan.next_wake, Some(at(30)));
    stage.see(30, &[(&done, Seen::Idle)]);
    same(&stage.told(30), &["drain ci-a-1-1: done", "launch a on p for m: demand"]);
}

#[test]
fn a_new_leader_lists_after_its_wait_before_it_launches() {
    let mut stage = Stage::new(simple());
    stage.world.launch_from = at(30);
    stage.demand(1, "m", vec![count(1, &["a"])]).see(1, &[]);
    assert!(stage.told(30).is_empty(), "what landed since the list is not known");
    stage.see_units(31, &[]);
    same(&stage.told(31), &["launch a on p for m: demand"]);
}

#[test]
fn a_new_leader_that_has_not_seen_all_providers_launches_and_removes_nothing() {
    let a = who("a", 1);
    let mut settings = settings(&["m"], &["p", "q"], &["a"]);
    settings.limit = agents(1);
    let mut stage = Stage::new(settings);
    stage.demand(70, "m", vec![count(1, &["a"])]).see_nodes(70, &[]);
    stage.fact(70, Fact::Units("p".into(), at(70), vec![]));
    assert!(stage.told(70).is_empty(), "an agent on `q` may take the only place");
    stage.fact(71, Fact::Units("q".into(), at(71), vec![a.clone().on("q").unit(UnitPhase::Running)]));
    assert!(stage.told(71).is_empty());
}

#[test]
fn agents_of_the_leader_before_are_supply() {
    let (pending, idle) = (who("a", 1), who("a", 2));
    let mut stage = Stage::new(simple());
    stage.demand(1, "m", vec![count(2, &["a"])]);
    stage.see(1, &[(&pending, Seen::Pending(None)), (&idle, Seen::Idle)]);
    assert!(stage.told(1).is_empty());
}

#[test]
fn what_the_operator_asked_for_outlasts_a_restart_that_sees_demand_first() {
    let a = who("a", 1);
    let mut before = Stage::new(simple());
    before.demand(1, "m", vec![]).see(1, &[(&a, Seen::Busy)]);
    before.world.intent.deletes.insert(a.name(), false);
    let mut stage = Stage::new(simple());
    stage.world.memory = before.world.memory;
    stage.world.intent = before.world.intent;
    stage.demand(10, "m", vec![]).demand(11, "m", vec![]).demand(12, "m", vec![]);
    stage.see(13, &[(&a, Seen::Idle)]);
    assert!(stage.world.intent.deletes.contains_key(&a.name()));
    assert_eq!(state(&stage, &a.name()), Some(AgentState::Done), "it was busy before the restart");
}

#[test]
fn a_look_that_began_before_the_agent_was_enrolled_does_not_miss_it() {
    let mut stage = Stage::new(simple());
    stage.see(1, &[]).demand(2, "m", vec![count(1, &["a"])]);
    let plan = stage.plan(2);
    let Step::Launch(launch) = plan.steps[0].step.clone() else { panic!("a launch") };
    let a = Who::launched(&stage, &launch, 3);
    stage.fact(2, Fact::Sent(plan.steps[0].step.clone()));
    // It begins after the launch was sent, but the node is made only later; the answer of the launch is lost.
    stage.see_nodes(3, &[]);
    stage.fact(4, Fact::UnitApplied("p".into(), a.unit(UnitPhase::Running)));
    stage.fact(5, Fact::Ended(a.name(), Outcome::Unknown));
    assert_eq!(state(&stage, &a.name()), Some(AgentState::Launching));
    stage.see_nodes(6, &[]);
    assert_eq!(state(&stage, &a.name()), Some(AgentState::Forgotten));
}

#[test]
fn a_node_that_is_left_of_an_agent_serves_no_bound_job() {
    let left = who("a", 1).bound("j");
    let mut stage = Stage::new(simple());
    stage.demand(1, "m", vec![job("j", &["a"]).bound()]).see(1, &[(&left, Seen::NodeOnly)]);
    same(&stage.told(1), &["launch a on p for m (j): demand"]);
}

#[test]
fn what_a_launch_in_doubt_has_left_so_far_does_not_settle_it() {
    // Its Secret is there, its unit may still come: another one beside it would be one too many.
    let mut settings = simple();
    settings.limit = agents(1);
    let mut stage = Stage::new(settings);
    stage.see(1, &[]).demand(2, "m", vec![count(2, &["a"])]);
    let plan = stage.send_plan(2);
    let Step::Launch(launch) = plan.steps[0].step.clone() else { panic!("a launch") };
    let a = Who::launched(&stage, &launch, 2);
    stage.fact(3, Fact::UnitApplied("p".into(), a.unit(UnitPhase::Remnant)));
    assert_eq!(state(&stage, &a.name()), Some(AgentState::Requested));
    stage.ended(32, &a.name(), Outcome::Unknown);
    stage.fact(33, Fact::UnitApplied("p".into(), a.unit(UnitPhase::Remnant)));
    stage.fact(34, Fact::Units("p".into(), at(34), vec![a.unit(UnitPhase::Remnant)]));
    stage.see_nodes(34, &[]).demand(34, "m", vec![count(2, &["a"])]);
    assert_eq!(stage.told(34), Vec::<String>::new(), "it is in doubt and takes the only place");
    assert_eq!(state(&stage, &a.name()), Some(AgentState::Requested));
    // A read as late as an effect can be: no unit has come, so what is left is a remnant.
    stage.fact(63, Fact::Units("p".into(), at(63), vec![a.unit(UnitPhase::Remnant)]));
    assert_eq!(state(&stage, &a.name()), Some(AgentState::Ended));
}
