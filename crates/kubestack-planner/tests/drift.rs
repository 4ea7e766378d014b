//! What changes without any job: the configuration, time, the operator's mind, demand that leaves.
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
use kubestack_core::provider::UnitPhase;
use kubestack_planner::agent::{AgentState, HeldReason, agents as agents_of};
use kubestack_planner::{Blocker, Fact, Hold, Step};

fn states(stage: &Stage) -> Vec<AgentState> {
    agents_of(&stage.world).into_iter().map(|agent| agent.state).collect()
}

// The configuration.

#[test]
fn a_changed_template_replaces_idle_and_launching_agents_and_lets_the_busy_finish() {
    let (idle, launching, busy) = (who("a", 1), who("a", 2), who("a", 3));
    let seen = [(&idle, Seen::Idle), (&launching, Seen::Launching), (&busy, Seen::Busy)];
    let mut stage = Stage::new(simple());
    stage.see(1, &seen);
    stage.perform(1);
    stage.demand(2, "m", vec![count(2, &["a"])]);
    assert!(stage.told(2).is_empty());
    stage.configure(3, |settings| label(settings, "a").template = "new".to_owned());
    let plan = stage.settle(3);
    let launch = "launch a on p for m: demand";
    let drains = ["drain ci-a-1-1: template_changed", "drain ci-a-1-2: template_changed"];
    same(&told(&plan), &[launch, launch, drains[0], drains[1]]);
    assert!(launches(&plan).iter().all(|launch| launch.template == "new"));
}

#[test]
fn agents_whose_label_left_the_config_finish_and_go() {
    let (idle, busy) = (who("a", 1), who("a", 2));
    let mut stage = Stage::new(simple());
    stage.demand(1, "m", vec![]).see(1, &[(&idle, Seen::Idle), (&busy, Seen::Busy)]);
    stage.perform(1);
    stage.configure(2, |settings| settings.labels.clear());
    same(&stage.perform(2), &["drain ci-a-1-1: label_gone"]);
    stage.see(3, &[(&idle, Seen::Drained), (&busy, Seen::Idle)]);
    same(&stage.perform(3), &["drain ci-a-1-2: done", "remove_node ci-a-1-1: draining"]);
}

#[test]
fn agents_whose_provider_left_the_config_are_held_and_reported() {
    let a = who("a", 1).used("j");
    let mut stage = Stage::new(settings(&["m"], &["p", "q"], &["a"]));
    stage.demand(1, "m", vec![]).see(1, &[(&a, Seen::Idle)]);
    stage.configure(2, |settings| drop(settings.providers.remove("p")));
    for time in [2, 100, 10_000] {
        stage.demand(time, "m", vec![]).see(time, &[(&a, Seen::Idle)]);
        assert!(stage.told(time).is_empty());
        assert_eq!(states(&stage), [AgentState::Held(HeldReason::ProviderUnknown)]);
    }
    let agents = agents_of(&stage.world);
    let words = kubestack_planner::words::agent(&agents[0], &stage.world);
    assert!(words.contains("its provider is not configured any more"), "{words}");
}

#[test]
fn agents_whose_master_left_the_config_are_held_reported_and_counted() {
    let a = who("a", 1).used("j");
    let mut settings = settings(&["m", "n"], &["p"], &["a"]);
    settings.limit = agents(1);
    let mut stage = Stage::new(settings);
    stage.demand(1, "m", vec![]).demand(1, "n", vec![]).see(1, &[(&a, Seen::Idle)]);
    stage.configure(2, |settings| {
        settings.masters.remove("m");
        settings.sources.remove("m");
    });
    for time in [2, 100, 10_000] {
        stage.demand(time, "n", vec![count(1, &["a"])]).see(time, &[(&a, Seen::Idle)]);
        assert!(stage.told(time).is_empty(), "it still takes the only place");
        assert_eq!(states(&stage), [AgentState::Held(HeldReason::MasterUnknown)]);
    }
}

#[test]
fn agents_whose_master_comes_back_are_as_before() {
    let a = who("a", 1).used("j");
    let mut stage = Stage::new(simple());
    let before = stage.world.settings.clone();
    stage.demand(1, "m", vec![]).see(1, &[(&a, Seen::Idle)]);
    stage.configure(2, |settings| settings.masters.clear());
    assert!(stage.told(2).is_empty());
    stage.configure(3, |settings| *settings = before);
    assert!(stage.told(3).is_empty(), "its master was not read since");
    stage.demand(4, "m", vec![]).see(4, &[(&a, Seen::Idle)]);
    same(&stage.told(4), &["drain ci-a-1-1: done"]);
}

// Time.

#[test]
fn an_agent_idle_for_its_timeout_without_demand_goes() {
    let a = who("a", 1);
    let mut stage = Stage::new(simple());
    stage.demand(1, "m", vec![]).see(1, &[(&a, Seen::Idle)]);
    same(&stage.wake(), &["drain ci-a-1-1: idle_timeout"]);
    assert_eq!(stage.world.now, at(61));
}

#[test]
fn demand_between_starts_the_idle_time_anew() {
    let a = who("a", 1);
    let mut stage = Stage::new(simple());
    stage.demand(1, "m", vec![]).see(1, &[(&a, Seen::Idle)]);
    stage.settle(1);
    stage.demand(60, "m", vec![count(1, &["a"])]).see(60, &[(&a, Seen::Idle)]);
    stage.settle(60);
    stage.demand(65, "m", vec![]).see(65, &[(&a, Seen::Idle)]);
    same(&stage.wake(), &["drain ci-a-1-1: idle_timeout"]);
    assert_eq!(stage.world.now, at(125));
}

#[test]
fn a_launching_agent_nobody_wants_any_more_waits_its_grace() {
    let a = who("a", 1);
    let mut stage = Stage::new(simple());
    stage.demand(1, "m", vec![count(1, &["a"])]).see(1, &[(&a, Seen::Launching)]);
    stage.settle(1);
    stage.demand(10, "m", vec![]);
    assert!(stage.told(10).is_empty());
    stage.demand(20, "m", vec![count(1, &["a"])]);
    assert!(stage.told(20).is_empty(), "back in time: it is supply again");
    stage.demand(25, "m", vec![]);
    same(&stage.wake(), &["drain ci-a-1-1: demand_left"]);
    assert_eq!(stage.world.now, at(55));
}

#[test]
fn an_agent_that_does_not_attach_in_time_fails_with_its_cause() {
    for (seen, cause) in [
        (Seen::Launching, FailureCause::NeverAttached),
        (Seen::Pending(None), FailureCause::NeverAttached),
        (Seen::Pending(Some(FailureCause::Unschedulable)), FailureCause::Unschedulable),
    ] {
        let a = who("a", 1);
        let mut stage = Stage::new(simple());
        for time in [1, 80, 160, 240, 299] {
            stage.demand(time, "m", vec![count(1, &["a"])]).see(time, &[(&a, seen.clone())]);
            assert!(stage.told(time).is_empty(), "{seen:?} at {time}");
        }
        let told = stage.wake();
        assert!(told.contains(&"drain ci-a-1-1: failed".to_owned()), "{seen:?}: {told:?}");
        assert_eq!(stage.world.now, at(300));
        stage.settle(0);
        assert_eq!(stage.world.memory.agents.get(&a.name()).unwrap().failure, Some(cause));
    }
}

#[test]
fn each_cause_has_its_own_patience() {
    for (cause, patience) in [
        (FailureCause::ImageWrong, 1),
        (FailureCause::BadTemplate, 1),
        (FailureCause::CrashLoop, 30),
        (FailureCause::ImageUnavailable, 120),
    ] {
        let a = who("a", 1);
        let mut stage = Stage::new(simple());
        let see = |stage: &mut Stage, time| {
            stage.demand(time, "m", vec![count(1, &["a"])]).see(time, &[(&a, Seen::Pending(Some(cause)))]);
        };
        if patience > 1 {
            see(&mut stage, patience - 1);
            assert!(stage.told(patience - 1).is_empty(), "{cause:?}");
        }
        see(&mut stage, patience);
        let told = stage.told(patience);
        assert!(told.contains(&"drain ci-a-1-1: failed".to_owned()), "{cause:?}: {told:?}");
    }
}

#[test]
fn time_alone_ends_no_busy_agent_but_its_max_lifetime_does() {
    let a = who("a", 1);
    for limit in [None, Some(seconds(5000))] {
        let mut settings = simple();
        label(&mut settings, "a").max_lifetime = limit;
        let mut stage = Stage::new(settings);
        stage.demand(1, "m", vec![]).see(1, &[(&a, Seen::Busy)]);
        stage.perform(1);
        for time in [100, 1000, 4999] {
            stage.demand(time, "m", vec![]).see(time, &[(&a, Seen::Busy)]);
            assert!(stage.told(time).is_empty());
        }
        stage.demand(5000, "m", vec![]).see(5000, &[(&a, Seen::Busy)]);
        if limit.is_none() {
            assert!(stage.told(5000).is_empty());
            continue;
        }
        let plan = stage.carry_out(5000);
        same(&told(&plan), &["remove_node ci-a-1-1: failed"]);
        assert!(matches!(plan.steps[0].step, Step::RemoveNode { despite_busy: true, .. }));
        let failure = stage.world.memory.agents.get(&a.name()).unwrap().failure;
        assert_eq!(failure, Some(FailureCause::LifetimeExceeded));
        assert!(stage.world.memory.breakers.is_empty(), "that says nothing about the label");
        same(&stage.told(5000), &["destroy ci-a-1-1: failed"]);
    }
}

#[test]
fn an_agent_offered_to_waiting_work_and_not_taken_fails() {
    let a = who("a", 1);
    let mut stage = Stage::new(simple());
    for time in [1, 60, 120] {
        stage.demand(time, "m", vec![count(1, &["a"])]).see(time, &[(&a, Seen::Idle)]);
        assert!(stage.told(time).is_empty());
    }
    let told = stage.wake();
    assert!(told.contains(&"drain ci-a-1-1: failed".to_owned()), "{told:?}");
    assert_eq!(stage.world.now, at(121));
    stage.settle(0);
    assert_eq!(
        stage.world.memory.agents.get(&a.name()).unwrap().failure,
        Some(FailureCause::OfferedNotTaken)
    );
}

#[test]
fn a_destroy_that_the_platform_took_and_forgot_is_asked_for_again_much_later() {
    let a = who("a", 1).alone();
    let mut stage = Stage::new(masterless());
    let see = |stage: &mut Stage, time| {
        stage.demand(time, "s", vec![]).see(time, &[(&a, Seen::EndedOnly)]);
    };
    see(&mut stage, 1);
    same(&stage.perform(1), &["destroy ci-a-1-1: done"]);
    see(&mut stage, 80);
    assert!(stage.told(80).is_empty());
    same(&stage.wake(), &["destroy ci-a-1-1: done"]);
    assert_eq!(stage.world.now, at(81));
}

// Failed agents that are kept.

#[test]
fn so_many_failed_agents_are_kept_for_inspection_and_no_more() {
    let all = [who("a", 1), who("a", 2), who("a", 3)];
    let mut settings = simple();
    label(&mut settings, "a").hold_on_failure = 2;
    let mut stage = Stage::new(settings);
    let wrong = Seen::Pending(Some(FailureCause::ImageWrong));
    let seen: Vec<(&Who, Seen)> = all.iter().map(|who| (who, wrong.clone())).collect();
    stage.demand(1, "m", vec![]).see(1, &seen);
    let keep = |n: u32| format!("mark ci-a-1-{n}: kept_for_inspection");
    same(&stage.perform(1), &[&keep(1), &keep(2), "drain ci-a-1-3: failed"]);
    assert_eq!(states(&stage).iter().filter(|state| matches!(state, AgentState::Held(_))).count(), 2);
    stage.demand(9000, "m", vec![]).see(9000, &seen[..2]);
    assert!(stage.told(9000).is_empty(), "nothing but a person lets them go");
    stage.intend(9001, |intent| drop(intent.holds.insert(all[0].name(), Hold::Release)));
    same(&stage.perform(9001), &["mark ci-a-1-1: operator"]);
    same(&stage.told(9001), &["drain ci-a-1-1: failed"]);
}

#[test]
fn a_failed_agent_is_kept_even_if_its_mark_does_not_get_through_at_first() {
    let a = who("a", 1);
    let mut settings = simple();
    label(&mut settings, "a").hold_on_failure = 1;
    let mut stage = Stage::new(settings);
    stage.demand(1, "m", vec![]).see(1, &[(&a, Seen::Pending(Some(FailureCause::ImageWrong)))]);
    same(&stage.send(1), &["mark ci-a-1-1: kept_for_inspection"]);
    stage.ended(1, &a.name(), failed(ErrorKind::Transient, None));
    same(&stage.told(2), &["mark ci-a-1-1: kept_for_inspection"]);
}

#[test]
fn a_failed_agent_that_is_kept_is_no_supply_and_takes_its_room() {
    let a = who("a", 1).held("failed: its image does not exist");
    let mut settings = simple();
    settings.limit = agents(1);
    let mut stage = Stage::new(settings);
    stage.demand(1, "m", vec![count(1, &["a"])]).see(1, &[(&a, Seen::Pending(None))]);
    let plan = stage.settle(1);
    assert!(plan.steps.is_empty());
    assert_eq!(plan.classes[0].served, 0);
}

// The operator.

fn idle_and_busy() -> (Stage, Who, Who) {
    let (idle, busy) = (who("a", 1), who("a", 2));
    let mut stage = Stage::new(simple());
    stage.demand(1, "m", vec![]).see(1, &[(&idle, Seen::Idle), (&busy, Seen::Busy)]);
    stage.perform(1);
    (stage, idle, busy)
}

#[test]
fn a_held_agent_stays_whatever_happens_until_it_is_released() {
    let (mut stage, idle, busy) = idle_and_busy();
    stage.intend(2, |intent| {
        for who in [&idle, &busy] {
            intent.holds.insert(who.name(), Hold::Hold("look at it".to_owned()));
        }
    });
    same(&stage.perform(2), &["mark ci-a-1-1: operator", "mark ci-a-1-2: operator"]);
    stage.configure(3, |settings| label(settings, "a").max_lifetime = Some(seconds(100)));
    for time in [3, 200, 9000] {
        stage.demand(time, "m", vec![]).see(time, &[(&idle, Seen::Idle), (&busy, Seen::Idle)]);
        assert!(stage.told(time).is_empty());
    }
    stage.configure(9001, |settings| label(settings, "a").max_lifetime = None);
    stage.intend(9001, |intent| drop(intent.holds.insert(busy.name(), Hold::Release)));
    same(&stage.perform(9001), &["mark ci-a-1-2: operator"]);
    same(&stage.told(9001), &["drain ci-a-1-2: done"]);
}

#[test]
fn an_agent_about_to_be_held_is_no_supply_already() {
    let (mut stage, idle, busy) = idle_and_busy();
    stage.intend(2, |intent| drop(intent.holds.insert(idle.name(), Hold::Hold("mine".to_owned()))));
    stage.demand(2, "m", vec![count(1, &["a"])]).see(2, &[(&idle, Seen::Idle), (&busy, Seen::Busy)]);
    same(&stage.told(2), &["launch a on p for m: demand", "mark ci-a-1-1: operator"]);
}

#[test]
fn a_delete_lets_the_busy_finish_unless_it_says_otherwise() {
    let (mut stage, idle, busy) = idle_and_busy();
    stage.intend(2, |intent| intent.deletes = [(idle.name(), false), (busy.name(), false)].into());
    same(&stage.told(2), &["drain ci-a-1-1: operator"]);
    stage.intend(3, |intent| intent.deletes = [(busy.name(), true)].into());
    let plan = stage.settle(3);
    same(&told(&plan), &["remove_node ci-a-1-2: operator"]);
    assert!(matches!(plan.steps[0].step, Step::RemoveNode { despite_busy: true, .. }));
}

#[test]
fn a_delete_goes_all_the_way() {
    let (mut stage, idle, busy) = idle_and_busy();
    stage.intend(2, |intent| intent.deletes = [(idle.name(), false)].into());
    same(&stage.perform(2), &["drain ci-a-1-1: operator"]);
    stage.see(3, &[(&idle, Seen::Drained), (&busy, Seen::Busy)]);
    assert_eq!(stage.perform(3).len(), 1);
    assert_eq!(stage.perform(3), ["destroy ci-a-1-1: detached"]);
    stage.see(4, &[(&busy, Seen::Busy)]).demand(5, "m", vec![]);
    assert!(stage.world.intent.deletes.is_empty(), "the wish is fulfilled");
}

#[test]
fn a_pause_launches_nothing_and_ends_nothing_else() {
    let (mut stage, idle, busy) = idle_and_busy();
    stage.configure(1, |settings| label(settings, "a").min_ready = 3);
    stage.intend(2, |intent| intent.paused = Some("upgrade".to_owned()));
    stage.demand(3, "m", vec![count(5, &["a"])]).see(3, &[(&idle, Seen::Idle), (&busy, Seen::Idle)]);
    let plan = stage.settle(3);
    same(&told(&plan), &["drain ci-a-1-2: done"]);
    assert_eq!(plan.classes[0].blocked, Some(Blocker::Paused { text: "upgrade".to_owned() }));
    stage.intend(4, |intent| intent.paused = None);
    assert_eq!(launches(&stage.settle(4)).len(), 4 + 3);
}

#[test]
fn drain_all_lets_the_busy_finish_and_everything_else_go() {
    let (idle, busy, launching) = (who("a", 1), who("a", 2), who("a", 3));
    let seen = [(&idle, Seen::Idle), (&busy, Seen::Busy), (&launching, Seen::Launching)];
    let mut settings = simple();
    label(&mut settings, "a").min_ready = 2;
    let mut stage = Stage::new(settings);
    stage.world.intent.paused = Some("not yet".to_owned());
    stage.demand(1, "m", vec![count(5, &["a"])]).see(1, &seen);
    stage.perform(1);
    stage.intend(2, |intent| {
        intent.paused = None;
        intent.drain_all = Some("closing".to_owned());
    });
    same(&stage.perform(2), &["drain ci-a-1-1: drain_all", "drain ci-a-1-3: drain_all"]);
    stage.intend(3, |intent| intent.drain_all = None);
    assert!(!launches(&stage.settle(3)).is_empty());
}

#[test]
fn what_the_operator_creates_is_launched_once_and_not_taken_back_while_it_starts() {
    let mut stage = Stage::new(simple());
    stage.demand(1, "m", vec![]).see(1, &[]);
    stage.intend(1, |intent| drop(intent.creates.insert(7, "a".into())));
    let plan = stage.carry_out(1);
    same(&told(&plan), &["launch a on p for m: operator"]);
    let created = Who::launched(&stage, launches(&plan)[0], 1);
    assert!(stage.told(1).is_empty());
    for time in [50, 100, 150] {
        stage.demand(time, "m", vec![]).see(time, &[(&created, Seen::Launching)]);
        assert!(stage.told(time).is_empty());
    }
}

// Bound demand.

#[test]
fn a_bound_agent_goes_with_its_demand_as_a_later_look_shows_and_serves_no_other() {
    let mut stage = Stage::new(simple());
    stage.demand(1, "m", vec![job("j", &["a"]).bound()]).see(1, &[]);
    let plan = stage.carry_out(5);
    same(&told(&plan), &["launch a on p for m (j): demand"]);
    let own = Who::launched(&stage, launches(&plan)[0], 5);
    assert_eq!(own.marks.demand.as_deref(), Some("j"));
    // A look that began before the launch was sent shows nothing yet.
    stage.demand(4, "m", vec![]).see(6, &[(&own, Seen::Launching)]);
    assert!(stage.told(6).is_empty());
    stage.demand(7, "m", vec![job("k", &["a"]).bound()]);
    same(&stage.told(7), &["drain ci-a-2-1: demand_left", "launch a on p for m (k): demand"]);
}

#[test]
fn a_bound_agent_at_work_is_not_cancelled() {
    let (busy, unknown) = (who("a", 1).bound("j"), who("a", 2).bound("k"));
    let mut stage = Stage::new(simple());
    stage.see(1, &[(&busy, Seen::Busy), (&unknown, Seen::Unknown)]);
    stage.perform(1);
    stage.demand(50, "m", vec![]).see(50, &[(&busy, Seen::Busy), (&unknown, Seen::Unknown)]);
    assert!(stage.told(50).is_empty());
}

#[test]
fn a_bound_agent_stays_while_its_source_is_stale() {
    let a = who("a", 1).bound("j");
    let mut stage = Stage::new(simple());
    stage.see(1, &[(&a, Seen::Idle)]).demand(2, "m", vec![job("j", &["a"]).bound()]);
    for time in [50, 100, 5000] {
        stage.see(time, &[(&a, Seen::Idle)]);
        assert!(stage.told(time).is_empty());
    }
}

#[test]
fn a_bound_job_has_one_agent() {
    let a = who("a", 1).bound("j");
    let mut stage = Stage::new(simple());
    let both = || vec![job("j", &["a"]).bound(), job("k", &["a"]).bound()];
    stage.demand(1, "m", both()).see(1, &[(&a, Seen::Launching)]);
    same(&stage.perform(1), &["launch a on p for m (k): demand"]);
    stage.demand(2, "m", both());
    assert!(stage.told(2).is_empty());
}

// Units that go without our word.

/// What is remembered as the cause of an agent's failure after its unit is seen so.
fn cause_after(before: Seen, facts: &[&Fact], ours: bool) -> Option<FailureCause> {
    let a = who("a", 1);
    let mut stage = Stage::new(simple());
    stage.demand(1, "m", vec![]).see(1, &[(&a, before)]);
    if ours {
        let step = Step::Destroy {
            agent: a.name(),
            provider: "p".into(),
            uid: a.uid.clone(),
            version: 0,
            only_if_not_started: false,
        };
        stage.fact(1, Fact::Sent(step));
    }
    for fact in facts {
        stage.fact(2, (*fact).clone());
    }
    stage.world.memory.agents.get(&a.name()).unwrap().failure
}

#[test]
fn whose_unit_is_taken_away_without_our_word_has_failed_for_the_cause_that_the_platform_gives() {
    let a = who("a", 1);
    let taken =
        |cause| Fact::UnitApplied("p".into(), a.unit(UnitPhase::Terminating { cause, text: String::new() }));
    let gone = Fact::UnitGone("p".into(), a.unit(UnitPhase::Running).reference());
    let absent = Fact::Units("p".into(), at(2), Vec::new());
    let (evicted, by_hand) = (Some(FailureCause::Evicted), Some(FailureCause::UnitRemoved));
    assert_eq!(cause_after(Seen::Idle, &[&taken(evicted)], false), evicted);
    assert_eq!(cause_after(Seen::Busy, &[&taken(evicted), &gone], false), evicted);
    assert_eq!(cause_after(Seen::Idle, &[&taken(None), &gone], false), by_hand);
    assert_eq!(cause_after(Seen::Launching, &[&gone], false), by_hand);
    assert_eq!(cause_after(Seen::Idle, &[&absent], false), by_hand);
    assert_eq!(cause_after(Seen::Busy, &[&gone], false), None, "its master tells of the job");
    assert_eq!(cause_after(Seen::Idle, &[&taken(None), &gone], true), None, "we asked for it");
    assert_eq!(cause_after(Seen::EndedOnly, &[&gone], false), None, "it had ended");
}
