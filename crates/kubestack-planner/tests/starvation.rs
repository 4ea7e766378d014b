//! Promise 10: no class of demand starves, whatever the others ask for, in a town where work never ends.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::expect_used,
    reason = "a test stops where its own set-up fails"
)]

mod common;

use common::*;
use kubestack_core::demand::Demand;
use kubestack_planner::settings::Settings;
use kubestack_planner::{Fact, Step};
use std::collections::VecDeque;

/// One master and provider, these labels, at most that many agents in all.
fn scarce(labels: &[&str], most: u32) -> Settings {
    let mut settings = settings(&["m"], &["p"], labels);
    settings.limit = agents(most);
    settings
}

/// A town where work never ends: each class always has so many jobs waiting, each job takes some rounds.
struct Town {
    stage: Stage,
    queues: Vec<Queue>,
    agents: Vec<Citizen>,
    round: u64,
}

struct Queue {
    needs: &'static [&'static str],
    length: usize,
    /// Whether its source knows the jobs one by one, or only how many there are.
    ids: bool,
    /// When those that wait came.
    jobs: VecDeque<u64>,
    served: u64,
}

struct Citizen {
    who: Who,
    state: Life,
}

#[derive(Clone, Copy, PartialEq)]
enum Life {
    Launching,
    Idle,
    Busy { until: u64 },
    Used,
    Drained,
    Detached,
    Gone,
}

impl Town {
    fn new(settings: Settings, classes: &[(&'static [&'static str], usize)], ids: bool) -> Self {
        let queue = |(needs, length): &(&'static [&'static str], usize)| Queue {
            needs,
            length: *length,
            ids,
            jobs: VecDeque::new(),
            served: 0,
        };
        let queues = classes.iter().map(queue).collect();
        Self { stage: Stage::new(settings), queues, agents: Vec::new(), round: 0 }
    }

    /// Jobs are handed out, looks are taken, the plan is carried out until it asks for nothing more.
    fn live(&mut self, told: impl Fn(&[Citizen]) -> Option<Fact>) {
        self.round += 1;
        let time = self.round * 5;
        for queue in &mut self.queues {
            queue.jobs.resize(queue.length, time);
        }
        for citizen in &mut self.agents {
            citizen.age(self.round, &mut self.queues);
        }
        self.agents.retain(|citizen| citizen.state != Life::Gone);
        let seen: Vec<(&Who, Seen)> = self.agents.iter().map(Citizen::seen).collect();
        self.stage.see(time, &seen);
        self.stage.demand(time, "m", self.queues.iter().flat_map(Queue::demand).collect());
        if let Some(fact) = told(&self.agents) {
            self.stage.fact(time, fact);
        }
        loop {
            let plan = self.stage.carry_out(time);
            if plan.steps.is_empty() {
                break;
            }
            for planned in &plan.steps {
                self.take_in(&planned.step, time);
            }
        }
    }

    fn take_in(&mut self, step: &Step, time: u64) {
        if let Step::Launch(launch) = step {
            let who = Who::launched(&self.stage, launch, time);
            self.agents.push(Citizen { who, state: Life::Launching });
            return;
        }
        let citizen = self.agents.iter_mut().find(|citizen| citizen.who.name() == *step.agent()).unwrap();
        citizen.state = match step {
            Step::Drain { .. } => Life::Drained,
            Step::RemoveNode { .. } => Life::Detached,
            Step::Destroy { .. } => Life::Gone,
            _ => citizen.state,
        };
    }

    fn served(&self) -> Vec<u64> {
        self.queues.iter().map(|queue| queue.served).collect()
    }

    fn assert_nobody_starves(&self) {
        assert!(self.served().iter().all(|served| *served > 0), "somebody starves: {:?}", self.served());
    }
}

impl Queue {
    fn demand(&self) -> Vec<Demand> {
        let job = |(index, came): (usize, &u64)| {
            let number = self.served + index as u64;
            job(&format!("{:?} {number}", self.needs), self.needs).since(at(*came))
        };
        if self.ids {
            self.jobs.iter().enumerate().map(job).collect()
        } else {
            vec![count(u32::try_from(self.jobs.len()).unwrap(), self.needs)]
        }
    }
}

impl Citizen {
    /// Its master hands the oldest job that fits to whoever is free.
    fn age(&mut self, round: u64, queues: &mut [Queue]) {
        self.state = match self.state {
            Life::Launching => Life::Idle,
            Life::Busy { until } if until <= round => Life::Used,
            other => other,
        };
        let label = self.who.marks.label.as_str();
        let fits = queues.iter_mut().filter(|queue| queue.needs.contains(&label) && !queue.jobs.is_empty());
        if self.state == Life::Idle
            && let Some(queue) = fits.min_by_key(|queue| (queue.jobs.front().copied(), queue.served))
        {
            queue.jobs.pop_front();
            queue.served += 1;
            // Jobs of unequal length: agents do not all leave at once.
            self.state = Life::Busy { until: round + 2 + queue.served % 4 };
        }
    }

    fn seen(&self) -> (&Who, Seen) {
        let seen = match self.state {
            Life::Launching => Seen::Launching,
            Life::Idle | Life::Used => Seen::Idle,
            Life::Busy { .. } => Seen::Busy,
            Life::Drained => Seen::Drained,
            Life::Detached => Seen::UnitOnly,
            Life::Gone => Seen::Terminating,
        };
        (&self.who, seen)
    }
}

/// After so many rounds each class was served at least once.
fn nobody_starves(settings: Settings, classes: &[(&'static [&'static str], usize)], ids: bool) {
    let mut town = Town::new(settings, classes, ids);
    for _ in 0..300 {
        town.live(|_| None);
    }
    town.assert_nobody_starves();
}

const CROWD: &[(&[&str], usize)] = &[(&["a"], 20), (&["b"], 10), (&["c"], 1), (&["d"], 1), (&["e"], 1)];

fn crowd() -> Settings {
    let mut settings = scarce(&["a", "b", "c", "d", "e"], 2);
    label(&mut settings, "a").weight = 50;
    settings
}

#[test]
fn no_class_of_jobs_starves_at_a_cap_smaller_than_the_number_of_classes() {
    nobody_starves(crowd(), CROWD, true);
}

#[test]
fn no_class_of_counts_starves_at_a_cap_smaller_than_the_number_of_classes() {
    nobody_starves(crowd(), CROWD, false);
}

const OVERLAP: &[(&[&str], usize)] = &[(&["a"], 20), (&["b"], 1), (&["a", "b"], 5)];

#[test]
fn no_class_of_jobs_starves_that_shares_its_label_with_others() {
    nobody_starves(scarce(&["a", "b"], 1), OVERLAP, true);
}

#[test]
fn no_class_of_counts_starves_that_shares_its_label_with_others() {
    nobody_starves(scarce(&["a", "b"], 1), OVERLAP, false);
}

/// Labels that need one, one and four of a resource.
fn sizes() -> Settings {
    let mut settings = settings(&["m"], &["p"], &["a", "b", "big"]);
    for (name, cpu) in [("a", "1"), ("b", "1"), ("big", "4")] {
        label(&mut settings, name).resources = resources(&[("cpu", cpu)]);
    }
    settings
}

const SIZES: &[(&[&str], usize)] = &[(&["a"], 20), (&["b"], 20), (&["big"], 2)];

#[test]
fn a_large_agent_is_not_kept_out_for_ever_by_small_ones() {
    let mut settings = sizes();
    settings.limit.resources = resources(&[("cpu", "5")]);
    nobody_starves(settings, SIZES, true);
}

#[test]
fn a_large_agent_is_not_kept_out_for_ever_by_counts_of_small_ones() {
    let mut settings = sizes();
    settings.limit.resources = resources(&[("cpu", "5")]);
    nobody_starves(settings, SIZES, false);
}

#[test]
fn a_large_agent_is_not_kept_out_by_small_ones_where_two_caps_bind_at_once() {
    let mut settings = sizes();
    settings.limit.resources = resources(&[("cpu", "5")]);
    settings.providers.get_mut("p").unwrap().limit.resources = resources(&[("cpu", "5")]);
    nobody_starves(settings, SIZES, true);
}

#[test]
fn a_large_agent_is_not_kept_out_by_small_ones_where_the_platform_tells_its_room() {
    let mut town = Town::new(sizes(), SIZES, true);
    for round in 1..300 {
        town.live(|agents| {
            let cpu = |citizen: &Citizen| if citizen.who.marks.label.as_str() == "big" { 4 } else { 1 };
            let used: u32 = agents.iter().map(cpu).sum();
            let free = resources(&[("cpu", &5_u32.saturating_sub(used).to_string())]);
            Some(Fact::Capacity("p".into(), at(round * 5), Some(free)))
        });
    }
    town.assert_nobody_starves();
}

#[test]
fn served_jobs_follow_the_weights_in_the_long_run() {
    let mut settings = scarce(&["a", "b"], 4);
    label(&mut settings, "a").weight = 3;
    let mut town = Town::new(settings, &[(&["a"], 20), (&["b"], 20)], true);
    for _ in 0..200 {
        town.live(|_| None);
    }
    let [a, b] = town.served()[..] else { panic!("two classes") };
    assert!(a >= 2 * b && a <= 4 * b, "three to one expected, {a} to {b} found");
}
