//! What people read of an agent.
#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used, clippy::indexing_slicing, reason = "tests")]

mod common;

use common::*;
use kubestack_core::cause::FailureCause;
use kubestack_core::provider::UnitPhase;
use kubestack_planner::{Fact, words};

/// What is said of an agent without a node whose unit is in that phase.
fn said(phase: UnitPhase) -> String {
    let a = who("a", 1).alone();
    let mut stage = Stage::new(masterless());
    stage.fact(1, Fact::Units("p".into(), at(1), vec![a.unit(phase)]));
    words::agent(kubestack_planner::agent::agents(&stage.world).first().unwrap(), &stage.world)
}

#[test]
fn an_agent_that_has_not_started_says_why_in_the_platforms_words() {
    let pending = |cause, text: &str| said(UnitPhase::Pending { cause, text: text.to_owned() });
    assert_eq!(pending(None, ""), "launching");
    assert_eq!(pending(None, "ContainerCreating"), "launching: ContainerCreating");
    let full = pending(Some(FailureCause::Unschedulable), "0/3 nodes are available");
    assert_eq!(full, "launching, no node has room for it: 0/3 nodes are available");
}

#[test]
fn a_failed_agent_says_why_with_its_last_words_and_one_that_succeeded_does_not() {
    let ended = |cause| said(UnitPhase::Ended { cause, text: "exited with 3:\nno disk\nbye".to_owned() });
    let failed = ended(Some(FailureCause::Config));
    assert_eq!(failed, "ended, failed: its label's configuration cannot work: exited with 3:\nno disk\nbye");
    assert_eq!(ended(None), "ended");
}
