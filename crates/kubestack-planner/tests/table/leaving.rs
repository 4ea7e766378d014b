//! Design §6: how agents leave, row by row, and what is left behind.

use crate::common::*;
use kubestack_core::cause::FailureCause;
use kubestack_core::completion::CompletionEvent;
use kubestack_core::error::ErrorKind;
use kubestack_core::master::OneJob;
use kubestack_planner::Outcome;
use kubestack_planner::Step;

#[test]
fn a_done_agent_is_drained_seen_idle_detached_and_destroyed() {
    let a = who("a", 1);
    let mut stage = Stage::new(simple());
    stage.demand(1, "m", vec![]).see(1, &[(&a, Seen::Busy)]);
    same(&stage.perform(1), &["mark ci-a-1-1: job_began"]);
    assert!(stage.told(2).is_empty(), "a busy agent is left alone");
    stage.see(3, &[(&a, Seen::Idle)]);
    same(&stage.perform(3), &["drain ci-a-1-1: done"]);
    assert!(stage.told(3).is_empty(), "no read has begun after the drain was acknowledged");
    stage.see(4, &[(&a, Seen::Drained)]);
    same(&stage.perform(4), &["remove_node ci-a-1-1: done"]);
    same(&stage.perform(4), &["destroy ci-a-1-1: detached"]);
    assert!(stage.told(5).is_empty(), "what is being taken away is not asked for again");
    stage.see(6, &[]);
    assert!(stage.told(6).is_empty());
    assert_eq!(kubestack_planner::agent::agents(&stage.world).len(), 0);
}

#[test]
fn where_the_master_would_give_it_another_job_an_agent_is_drained_once_it_has_one() {
    let a = who("a", 1);
    let mut settings = simple();
    able_of(&mut settings, "m").one_job = OneJob::Observed;
    let mut stage = Stage::new(settings);
    stage.demand(1, "m", vec![]).see(1, &[(&a, Seen::Busy)]);
    same(&stage.perform(1), &["drain ci-a-1-1: job_began"]);
    stage.see(2, &[(&a, Seen::DrainedBusy)]);
    same(&stage.perform(2), &["mark ci-a-1-1: job_began"]);
    stage.see(3, &[(&a, Seen::DrainedBusy)]);
    assert!(stage.told(3).is_empty(), "a busy agent is not hurried");
    stage.see(4, &[(&a, Seen::Drained)]);
    same(&stage.perform(4), &["remove_node ci-a-1-1: done"]);
}

#[test]
fn an_idle_look_that_began_before_the_drain_was_acknowledged_proves_nothing() {
    let a = who("a", 1).used("j");
    let mut stage = Stage::new(simple());
    stage.demand(1, "m", vec![]).see(1, &[(&a, Seen::Idle)]);
    same(&stage.send(2), &["drain ci-a-1-1: done"]);
    stage.ended(5, &a.name(), Outcome::Done);
    // Arrives after the acknowledgement, but its read began before it.
    stage.see_nodes(4, &[(&a, Seen::Idle)]);
    assert!(stage.told(6).is_empty(), "neither drained again nor removed");
    stage.see_nodes(7, &[(&a, Seen::Drained)]);
    same(&stage.told(7), &["remove_node ci-a-1-1: done"]);
}

#[test]
fn a_drain_that_fails_does_not_keep_the_mark_of_the_job_from_being_written() {
    // The pause is the master's in the one case, and the agent's own in the other.
    for (kind, later) in [(ErrorKind::Unauthorized, 2), (ErrorKind::Invalid, 200)] {
        let a = who("a", 1);
        let mut settings = simple();
        able_of(&mut settings, "m").one_job = OneJob::Observed;
        let mut stage = Stage::new(settings);
        stage.demand(1, "m", vec![]).see(1, &[(&a, Seen::Busy)]);
        same(&stage.send(1), &["drain ci-a-1-1: job_began"]);
        stage.ended(1, &a.name(), failed(kind, None));
        stage.see(later, &[(&a, Seen::Busy)]);
        same(&stage.perform(later), &["mark ci-a-1-1: job_began"]);
        // And it is tried again.
        stage.see(later + 300, &[(&a.used("?"), Seen::Busy)]);
        same(&stage.perform(later + 300), &["drain ci-a-1-1: job_began"]);
    }
}

#[test]
fn an_idle_reap_that_finds_it_busy_after_the_drain_leaves_it_its_one_job() {
    let a = who("a", 1);
    let mut stage = Stage::new(simple());
    stage.demand(1, "m", vec![]).see(1, &[(&a, Seen::Idle)]);
    assert!(stage.told(1).is_empty());
    stage.demand(61, "m", vec![]).see(61, &[(&a, Seen::Idle)]);
    same(&stage.perform(61), &["drain ci-a-1-1: idle_timeout"]);
    stage.see(62, &[(&a, Seen::DrainedBusy)]);
    same(&stage.perform(62), &["mark ci-a-1-1: job_began"]);
    for time in [70, 100, 1000] {
        stage.see(time, &[(&a, Seen::DrainedBusy)]);
        assert!(stage.told(time).is_empty());
    }
    stage.see(1001, &[(&a, Seen::Drained)]);
    same(&stage.told(1001), &["remove_node ci-a-1-1: done"]);
}

#[test]
fn an_agent_drained_by_others_is_held_and_never_toggled_back() {
    let a = who("a", 1);
    let mut stage = Stage::new(simple());
    stage.demand(1, "m", vec![count(1, &["a"])]).see(1, &[(&a, Seen::DrainedByOthers)]);
    // It is no supply: another one is launched for the demand.
    same(&stage.told(1), &["launch a on p for m: demand"]);
    stage.demand(5000, "m", vec![]).see(5000, &[(&a, Seen::DrainedByOthers)]);
    assert!(stage.told(5000).is_empty(), "no time limit touches it");
    stage.demand(5001, "m", vec![]).see(5001, &[(&a, Seen::Idle)]);
    same(&stage.told(5100), &[]);
}

#[test]
fn our_own_drain_turned_into_somebody_elses_holds_the_agent() {
    let a = who("a", 1).used("j");
    let mut stage = Stage::new(simple());
    stage.demand(1, "m", vec![]).see(1, &[(&a, Seen::Idle)]);
    same(&stage.perform(1), &["drain ci-a-1-1: done"]);
    stage.see(2, &[(&a, Seen::DrainedByOthers)]);
    assert!(stage.told(2).is_empty());
}

#[test]
fn a_unit_that_ended_while_its_master_is_down_goes_and_its_node_is_owed() {
    let a = who("a", 1).used("j");
    let mut settings = simple();
    settings.limit = agents(1);
    let mut stage = Stage::new(settings);
    stage.demand(1, "m", vec![]).see(1, &[(&a, Seen::Busy)]);
    // The master has not answered for longer than `stale_after`; the provider goes on.
    stage.see_units(200, &[(&a, Seen::EndedBusy)]);
    same(&stage.perform(200), &["destroy ci-a-1-1: done"]);
    stage.see_units(201, &[]);
    assert!(stage.told(201).is_empty());
    // It is back. The job counts as lost only after the grace that the master gets to notice by itself.
    stage.see(210, &[(&a, Seen::NodeOnlyBusy)]);
    assert!(stage.told(210).is_empty());
    stage.see(211, &[(&a, Seen::NodeOnly)]);
    same(&stage.perform(211), &["remove_node ci-a-1-1: orphan_node"]);
    stage.see(212, &[]);
    assert!(stage.told(212).is_empty());
}

#[test]
fn an_ended_unit_holds_no_cap() {
    let a = who("a", 1).used("j");
    let mut settings = simple();
    settings.limit = agents(1);
    let mut stage = Stage::new(settings);
    stage.demand(1, "m", vec![count(1, &["a"])]).see(1, &[(&a, Seen::Ended(None))]);
    same(&stage.told(1), &["launch a on p for m: demand"]);
    stage.see(2, &[(&a, Seen::Ended(None))]);
    same(&stage.told(2), &["launch a on p for m: demand", "remove_node ci-a-1-1: done"]);
}

#[test]
fn a_unit_gone_with_a_busy_node_is_lost_while_busy_after_a_grace() {
    let a = who("a", 1);
    let mut stage = Stage::new(simple());
    stage.demand(1, "m", vec![]).see(1, &[(&a, Seen::Busy)]);
    stage.perform(1);
    stage.see(2, &[(&a, Seen::NodeOnlyBusy)]);
    assert!(stage.told(2).is_empty());
    // The grace is over, but the look is as old as before.
    assert!(stage.told(13).is_empty());
    stage.see(14, &[(&a, Seen::NodeOnlyBusy)]);
    let plan = stage.settle(14);
    same(&told(&plan), &["remove_node ci-a-1-1: failed"]);
    assert!(matches!(plan.steps[0].step, Step::RemoveNode { despite_busy: true, .. }));
    let memory = &stage.world.memory.agents[&a.name()];
    assert_eq!(memory.failure, Some(FailureCause::LostWhileBusy));
    assert!(stage.world.memory.breakers.is_empty(), "that says nothing about the label");
}

#[test]
fn a_finalized_hint_while_the_master_is_down_waits_for_a_look_up_to_its_lifetime() {
    let a = who("a", 1);
    let mut settings = simple();
    label(&mut settings, "a").max_lifetime = Some(seconds(1000));
    let mut stage = Stage::new(settings);
    stage.demand(1, "m", vec![]).see(1, &[(&a, Seen::Busy)]);
    stage.perform(1);
    stage.hint(100, &a, CompletionEvent::Finalized);
    for time in [100, 500, 999] {
        stage.see_units(time, &[(&a, Seen::UnitOnly)]);
        assert!(stage.told(time).is_empty());
    }
    stage.see_units(1000, &[(&a, Seen::UnitOnly)]);
    same(&stage.told(1000), &["destroy ci-a-1-1: failed"]);
}

#[test]
fn a_finalized_hint_makes_an_idle_agent_done_at_the_next_look() {
    let a = who("a", 1);
    let mut stage = Stage::new(simple());
    stage.demand(1, "m", vec![]).see(1, &[(&a, Seen::Idle)]);
    assert!(stage.told(1).is_empty());
    stage.hint(5, &a, CompletionEvent::Finalized);
    // The look is older than the news: the job may have begun after it. But it is remembered at once.
    same(&stage.perform(5), &["mark ci-a-1-1: job_began"]);
    stage.see(6, &[(&a, Seen::Idle)]);
    same(&stage.told(6), &["drain ci-a-1-1: done"]);
}

#[test]
fn a_restarted_master_that_forgot_a_living_agent_is_told_to_expect_it_again() {
    let a = who("a", 1);
    let mut stage = Stage::new(simple());
    stage.demand(1, "m", vec![]);
    session(&mut stage, 1, "one", &[(&a, Seen::Busy)]);
    stage.perform(1);
    session(&mut stage, 2, "two", &[(&a, Seen::UnitOnly)]);
    same(&stage.perform(2), &["re_enrol ci-a-1-1: forgotten"]);
    assert!(stage.told(3).is_empty(), "nobody has seen yet what it does");
    // Expected again, not back yet: that it shows no job is no evidence that it has none.
    session(&mut stage, 4, "two", &[(&a, Seen::Launching)]);
    assert!(stage.told(4).is_empty());
    session(&mut stage, 5, "two", &[(&a, Seen::Busy)]);
    assert!(stage.told(5).is_empty());
}

#[test]
fn re_enrolling_in_vain_ends_with_the_grace() {
    let a = who("a", 1);
    let mut stage = Stage::new(simple());
    stage.demand(1, "m", vec![]);
    session(&mut stage, 1, "one", &[(&a, Seen::Busy)]);
    stage.perform(1);
    for round in 0..200 {
        let time = 2 + round * 2;
        session(&mut stage, time, "two", &[(&a, Seen::UnitOnly)]);
        for planned in stage.settle(time).steps {
            if matches!(planned.step, Step::Destroy { .. }) {
                return;
            }
            stage.fact(time, kubestack_planner::Fact::Sent(planned.step));
            stage.ended(time, &a.name(), failed(ErrorKind::Invalid, None));
        }
    }
    panic!("a master that refuses it for ever keeps the unit for ever");
}

#[test]
fn a_master_that_cannot_take_it_back_loses_it_after_a_grace() {
    let a = who("a", 1);
    let mut settings = simple();
    able_of(&mut settings, "m").re_enrols = false;
    let mut stage = Stage::new(settings);
    stage.demand(1, "m", vec![]);
    session(&mut stage, 1, "one", &[(&a, Seen::Idle)]);
    session(&mut stage, 2, "two", &[(&a, Seen::UnitOnly)]);
    assert!(stage.told(2).is_empty());
    session(&mut stage, 62, "two", &[(&a, Seen::UnitOnly)]);
    same(&stage.told(62), &["destroy ci-a-1-1: failed"]);
}

#[test]
fn a_node_removed_by_hand_gets_the_same_grace_then_the_unit_goes_with_its_cause() {
    let (idle, used) = (who("a", 1), who("a", 2).used("j"));
    let mut stage = Stage::new(simple());
    stage.demand(1, "m", vec![]).see(1, &[(&idle, Seen::Idle), (&used, Seen::Busy)]);
    let gone = [(&idle, Seen::UnitOnly), (&used, Seen::UnitOnly)];
    stage.see(2, &gone);
    assert!(stage.told(2).is_empty());
    let plan = stage.settle(62);
    assert!(plan.steps.is_empty(), "they may be back since the last look");
    assert!(plan.looks.contains("m"));
    stage.see(63, &gone);
    same(&stage.told(63), &["destroy ci-a-1-1: failed", "destroy ci-a-1-2: done"]);
    let failure = stage.world.memory.agents[&idle.name()].failure;
    stage.settle(0);
    assert_eq!(failure.or(stage.world.memory.agents[&idle.name()].failure), Some(FailureCause::NodeRemoved));
}

#[test]
fn a_node_that_comes_back_within_the_grace_is_as_good_as_before() {
    let a = who("a", 1);
    let mut stage = Stage::new(simple());
    stage.demand(1, "m", vec![]).see(1, &[(&a, Seen::Busy)]);
    stage.perform(1);
    stage.see(2, &[(&a, Seen::UnitOnly)]);
    stage.settle(2);
    stage.see(40, &[(&a, Seen::Busy)]);
    stage.see(80, &[(&a, Seen::Busy)]);
    assert!(stage.told(80).is_empty());
}

#[test]
fn a_master_that_knows_that_it_had_its_job_is_believed() {
    let a = who("a", 1);
    let mut stage = Stage::new(simple());
    stage.demand(1, "m", vec![]).see(1, &[(&a, Seen::Used)]);
    // The evidence came in after this look began: another look, or the mark, must confirm that it is over.
    same(&stage.perform(2), &["mark ci-a-1-1: job_began"]);
    stage.see(3, &[(&a, Seen::Used)]);
    same(&stage.told(3), &["drain ci-a-1-1: done"]);
}

#[test]
fn a_job_that_started_and_ended_between_two_looks_is_known_by_its_mark_after_a_restart() {
    let a = who("a", 1).used("j");
    let mut stage = Stage::new(simple());
    stage.demand(1, "m", vec![count(1, &["a"])]).see(1, &[(&a, Seen::Idle)]);
    same(&stage.told(1), &["drain ci-a-1-1: done", "launch a on p for m: demand"]);
}

#[test]
fn an_agent_that_ends_by_itself_is_simply_done() {
    let a = who("a", 1);
    let mut settings = simple();
    *able_of(&mut settings, "m") = Default::default();
    able_of(&mut settings, "m").agents_end_by_themselves = true;
    let mut stage = Stage::new(settings);
    stage.demand(1, "m", vec![]).see(1, &[(&a, Seen::Busy)]);
    stage.perform(1);
    stage.see(2, &[(&a, Seen::EndedOnly)]);
    same(&stage.perform(2), &["destroy ci-a-1-1: done"]);
    assert!(stage.world.memory.breakers.is_empty());
}

#[test]
fn an_agent_that_ends_without_having_attached_failed() {
    let a = who("a", 1);
    let mut stage = Stage::new(simple());
    stage.demand(1, "m", vec![]).see(1, &[(&a, Seen::Ended(None))]);
    // A job may have come and gone between two looks: one that begins after the end must be waited for.
    let plan = stage.settle(1);
    assert!(plan.steps.is_empty() && plan.looks.contains("m"));
    stage.see(2, &[(&a, Seen::Ended(None))]);
    same(&stage.told(2), &["remove_node ci-a-1-1: failed"]);
    assert_eq!(stage.world.memory.agents[&a.name()].failure, Some(FailureCause::CrashLoop));
}

#[test]
fn a_node_without_a_unit_goes_once_a_later_complete_read_proves_it() {
    let a = who("a", 1);
    let mut stage = Stage::new(simple());
    stage.demand(1, "m", vec![]).see(1, &[(&a, Seen::NodeOnly)]);
    assert!(stage.told(1).is_empty());
    stage.see_nodes(61, &[(&a, Seen::NodeOnly)]);
    assert!(stage.told(61).is_empty(), "the provider was not read since the deadline");
    stage.see_units(62, &[]);
    same(&stage.told(62), &["remove_node ci-a-1-1: orphan_node"]);
}

#[test]
fn a_launch_that_failed_after_its_enrolment_leaves_a_node_that_goes_at_once() {
    let mut stage = Stage::new(simple());
    stage.demand(1, "m", vec![count(1, &["a"])]).see(1, &[]);
    let plan = stage.plan(1);
    let agent = launches(&plan)[0].agent.clone();
    same(&stage.send(1), &["launch a on p for m: demand"]);
    let outcome = Outcome::Failed {
        kind: ErrorKind::Transient,
        text: "no".to_owned(),
        cause: None,
        enrolled: true,
        at_master: false,
        pause: seconds(100),
    };
    stage.ended(2, &agent, outcome);
    same(&stage.told(2), &["remove_node ci-a-2-1: orphan_node"]);
}

#[test]
fn what_a_unit_left_behind_goes_after_two_deadlines() {
    let a = who("a", 1);
    let mut stage = Stage::new(simple());
    stage.demand(1, "m", vec![]).see(1, &[(&a, Seen::Remnant)]);
    assert!(stage.told(1).is_empty());
    same(&stage.wake_until_planned(3), &["destroy ci-a-1-1: remnant"]);
}

#[test]
fn of_two_units_of_one_name_the_younger_goes_by_its_uid() {
    let elder = who("a", 1).created(0);
    let younger = who("a", 1).created(5).uid("other");
    let mut stage = Stage::new(simple());
    stage.demand(6, "m", vec![]);
    stage.see(6, &[(&younger, Seen::UnitOnly), (&elder, Seen::Busy)]);
    let plan = stage.plan(6);
    same(&told(&plan), &["destroy ci-a-1-1: duplicate"]);
    assert!(matches!(&plan.steps[0].step, Step::Destroy { uid, .. } if uid.as_str() == "other"));
}

#[test]
fn of_two_units_of_one_name_on_two_providers_the_younger_goes() {
    let elder = who("a", 1).created(0).on("q");
    let younger = who("a", 1).created(5).uid("other").on("p");
    let mut stage = Stage::new(settings(&["m"], &["p", "q"], &["a"]));
    stage.demand(6, "m", vec![]);
    stage.see_units(6, &[(&younger, Seen::Launching), (&elder, Seen::Busy)]);
    stage.see_nodes(6, &[(&elder, Seen::Busy)]);
    let plan = stage.plan(6);
    same(&told(&plan), &["destroy ci-a-1-1: duplicate"]);
    assert!(matches!(&plan.steps[0].step, Step::Destroy { uid, .. } if uid.as_str() == "other"));
}

#[test]
fn an_agent_that_never_attaches_goes_even_where_the_master_lists_only_what_is_connected() {
    let (running, pending) = (who("a", 1), who("a", 2));
    for conditional in [true, false] {
        let mut settings = simple();
        able_of(&mut settings, "m").lists_agents = false;
        settings.providers.get_mut("p").unwrap().capabilities.conditional_destroy = conditional;
        let mut stage = Stage::new(settings);
        let both = [(&running, Seen::UnitOnly), (&pending, Seen::PendingOnly)];
        for time in [1, 290, 301] {
            stage.demand(time, "m", vec![count(2, &["a"])]).see(time, &both);
            stage.settle(time);
        }
        for time in 302..310 {
            stage.demand(time, "m", vec![]).see(time, &both);
            stage.perform(time);
        }
        let units = &stage.world.providers["p"].units;
        let going = |who: &Who| units[&who.name()][&who.uid].destroyed.is_some();
        assert!(going(&running) && going(&pending), "conditional: {conditional}");
    }
}

#[test]
fn a_masterless_agent_counts_as_busy_until_it_ends() {
    let a = who("a", 1).alone();
    let mut stage = Stage::new(masterless());
    stage.demand(1, "s", vec![]).see(1, &[(&a, Seen::UnitOnly)]);
    for time in [1, 1000, 100_000] {
        stage.demand(time, "s", vec![]).see(time, &[(&a, Seen::UnitOnly)]);
        assert!(stage.told(time).is_empty());
    }
    stage.see(100_001, &[(&a, Seen::EndedOnly)]);
    same(&stage.told(100_001), &["destroy ci-a-1-1: done"]);
}

/// A look at the units and, in that session, at the nodes of `m`.
fn session(stage: &mut Stage, time: u64, session: &str, agents: &[(&Who, Seen)]) {
    use kubestack_core::agent::AgentsSnapshot;
    stage.see_units(time, agents);
    let nodes = agents.iter().filter_map(|(who, seen)| who.node_seen(seen)).collect();
    let mut snapshot = AgentsSnapshot::new(at(time), nodes);
    snapshot.session = Some(session.to_owned());
    stage.fact(time, kubestack_planner::Fact::Agents("m".into(), snapshot));
}
