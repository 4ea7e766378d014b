//! The oracle: knows the truth, and judges by it what the engine did.

use super::scenario::Archetype;
use super::truth::{Event, JobState, SimUnit, Truth};
use kubestack_core::marks::Marks;
use kubestack_core::provider::UnitPhase;
use kubestack_core::resources::Resources;
use kubestack_core::time::Moment;
use kubestack_planner::settings::Limit;
use std::collections::BTreeMap;
use std::time::Duration;

/// How long a job may wait before its users must have been told why.
pub(super) const TOLD_WITHIN: Duration = Duration::from_secs(60);

/// How long a launch, or the telling of a reason, may be under way.
const UNDER_WAY: Duration = Duration::from_secs(5);

impl Truth {
    /// Promise 2, after that launch: no cap on its way is exceeded. One that was lowered may be exceeded before; what
    /// matters is that nothing is added.
    pub fn judge_caps(&mut self, launched: &Marks) {
        if self.now < self.handover {
            return;
        }
        let settings = &self.scenario.setup.settings;
        let nothing = Limit::default();
        let label = settings.labels.get(&launched.label).map_or(&nothing, |label| &label.limit);
        let provider = settings.providers.get(&launched.provider).map_or(&nothing, |its| &its.limit);
        let master = launched.master.as_ref().and_then(|master| settings.masters.get(master));
        let master = master.map_or(&nothing, |its| &its.limit);
        type Within<'a> = &'a dyn Fn(&Marks) -> bool;
        let scopes: [(&str, &Limit, Within<'_>); 4] = [
            ("everything", &settings.limit, &|_| true),
            ("its label", label, &|marks| marks.label == launched.label),
            ("its provider", provider, &|marks| marks.provider == launched.provider),
            ("its master", master, &|marks| marks.master == launched.master),
        ];
        let mut beyond = Vec::new();
        for (scope, limit, within) in scopes {
            let mut agents = 0;
            let mut sum = Resources::default();
            for unit in self.units.values().filter(|unit| unit.unit.phase.holds_capacity()) {
                let marks = &unit.unit.marks;
                if marks.instance == launched.instance && within(marks) {
                    agents += 1;
                    settings.labels.get(&marks.label).into_iter().for_each(|label| sum.add(&label.resources));
                }
            }
            let many = limit.agents.is_some_and(|max| agents > max);
            let much =
                sum.0.iter().any(|(name, sum)| limit.resources.0.get(name).is_some_and(|max| sum > max));
            if many || much {
                let agent = launched.agent();
                beyond.push(format!("{agent} exceeds the cap of {scope}: {agents} agents, {sum:?}"));
            }
        }
        for text in beyond {
            self.broken(2, text);
        }
    }

    /// Promise 7: one agent per bound job.
    pub fn judge_bound(&mut self, marks: &Marks) {
        let Some(demand) = &marks.demand else { return };
        let same = |unit: &&SimUnit| {
            let own =
                unit.unit.marks.demand.as_ref() == Some(demand) && unit.unit.marks.master == marks.master;
            own && unit.unit.phase.holds_capacity() && unit.unit.phase != UnitPhase::TERMINATING
        };
        if self.units.values().filter(same).count() > 1 && self.now >= self.handover {
            self.broken(7, format!("two agents for bound demand {demand}"));
        }
    }

    /// Promise 4: a job that waits has an agent that comes for it, or its users know why it has none.
    pub fn judge_wait(&mut self, job: usize, suspected: bool) {
        let Some(spec) = self.scenario.jobs.get(job).cloned() else { return };
        let Some(queue) = self.scenario.queues.get(spec.queue).map(|queue| queue.name.clone()) else {
            return;
        };
        let waits =
            self.jobs.get(job) == Some(&JobState::Queued) && self.archetype(&queue) != Archetype::Masterless;
        if !waits {
            return;
        }
        let asked = self.queued.get(&job).copied().unwrap_or(self.now).max(self.calm());
        if self.now < asked + TOLD_WITHIN {
            self.after((asked + TOLD_WITHIN).since(self.now), Event::WaitIsJudged(job, false));
            return;
        }
        let comes = |unit: &SimUnit| {
            let marks = &unit.unit.marks;
            let ours = marks.master.as_ref().is_some_and(|master| master.as_str() == queue);
            ours && spec.needs.contains(&marks.label) && unit.unit.phase.holds_capacity()
        };
        let labels: Vec<String> = spec.needs.iter().map(ToString::to_string).collect();
        let told =
            self.told.get(&queue).is_some_and(|reasons| reasons.iter().any(|reason| reason.labels == labels));
        let wrong = !told && !self.units.values().any(comes);
        if wrong && suspected {
            self.broken(
                4,
                format!("job {job} waits for {labels:?}, no agent comes, and nobody was told why"),
            );
        }
        // A launch may be under way just now.
        let next = if wrong { UNDER_WAY } else { TOLD_WITHIN };
        self.after(next, Event::WaitIsJudged(job, wrong));
    }

    /// Since when nothing goes wrong and one engine runs: only from then on can anything be asked in time.
    fn calm(&self) -> Moment {
        (self.start + self.scenario.quiet).max(self.handover)
    }

    /// Whether everything that is to come to rest has.
    pub fn is_at_rest(&self) -> bool {
        self.leftovers().is_empty()
    }

    /// What keeps things from being at rest.
    pub fn leftovers(&self) -> Vec<(u8, String)> {
        let mut left = Vec::new();
        let warm = |label: &str| {
            self.scenario.setup.settings.labels.get(label).is_some_and(|label| label.min_ready > 0)
        };
        for (job, state) in self.jobs.iter().enumerate() {
            if !matches!(state, JobState::Done | JobState::Cancelled) {
                left.push((4, format!("job {job} is {state:?}")));
            }
        }
        for (queue, reasons) in self.told.iter().filter(|(_, reasons)| !reasons.is_empty()) {
            left.push((4, format!("the users of {queue} are still told why jobs wait: {reasons:?}")));
        }
        for unit in self.units.values().filter(|unit| unit.unit.marks.instance.as_str() == "sim") {
            if !warm(unit.unit.marks.label.as_str()) {
                left.push((3, format!("unit {} is {:?}", unit.unit.name, unit.unit.phase)));
            }
        }
        for node in self.nodes.values().flat_map(BTreeMap::values) {
            if let Some(marks) = &node.view.marks
                && !warm(marks.label.as_str())
            {
                left.push((3, format!("node {} is there", node.view.name)));
            }
        }
        left
    }
}
