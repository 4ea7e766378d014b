//! Failures: kept for a while after their agents are gone, and told to the platform's own users.

use crate::caught;
use kubestack_core::cause::FailureCause;
use kubestack_core::context::Clock;
use kubestack_core::name::{AgentName, LabelName, ProviderName};
use kubestack_core::provider::{Failure, SlaveProvider, UnitPhase};
use kubestack_core::time::{Moment, Span};
use kubestack_planner::World;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// So many are kept of each label, so that a broken one does not push out the others'.
const OF_ONE_LABEL: usize = 5;
/// And so many of all labels.
const OF_ALL: usize = 200;
/// What is told a platform may wait for its turn up to that number; what is more is not told.
const QUEUE: usize = 64;

/// One failure of an agent, or failures alike to launch agents of one label.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct FailureStatus {
    /// When it was first known, the last time.
    pub at: Moment,
    /// The agent, the last one.
    pub agent: AgentName,
    /// Its label.
    pub label: LabelName,
    /// Its provider.
    pub provider: ProviderName,
    /// Why.
    pub cause: FailureCause,
    /// What the platform, or the master, said; known secrets are masked.
    pub text: String,
    /// The last lines of the agent's log, where it had one; known secrets are masked.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub log: String,
    /// Refused launches for the same cause one after the other count as one failure.
    pub times: u32,
}

impl FailureStatus {
    /// What there is to say: a sentence, and the lines of its log indented below it.
    pub(crate) fn lines(&self, now: Moment) -> Vec<String> {
        let (agent, cause) = (&self.agent, self.cause);
        let ago = Span(Duration::from_secs(now.since(self.at).as_secs()));
        let times = if self.times > 1 { format!(", {} times in a row", self.times) } else { String::new() };
        let mut text = self.text.lines();
        let first = text.next().map(|first| format!(": {first}")).unwrap_or_default();
        let mut lines = vec![format!("{agent} failed {ago} ago{times}: {cause}{first}")];
        lines.extend(text.map(|line| format!("  {line}")));
        if !self.log.is_empty() {
            lines.push("  the last lines of its log:".to_owned());
            lines.extend(self.log.lines().map(|line| format!("  {line}")));
        }
        lines
    }
}

/// What is kept of failures.
#[derive(Default)]
pub(crate) struct Failures {
    /// Agents whose failure was noticed.
    noticed: BTreeSet<AgentName>,
    kept: VecDeque<FailureStatus>,
    reporters: BTreeMap<ProviderName, mpsc::Sender<Failure>>,
}

impl Failures {
    /// Those that a leader before us noticed are no news.
    pub fn known(world: &World) -> Self {
        let failed = world.memory.agents.iter().filter(|(_, memory)| memory.failure.is_some());
        Self { noticed: failed.map(|(name, _)| name.clone()).collect(), ..Self::default() }
    }

    /// Failures on that provider are reported to it from now on, by the task that is returned.
    pub fn report_to(
        &mut self,
        clock: Arc<dyn Clock>,
        name: ProviderName,
        provider: Arc<dyn SlaveProvider>,
        deadline: Duration,
    ) -> impl Future<Output = ()> + use<> {
        let (sender, mut failures) = mpsc::channel::<Failure>(QUEUE);
        self.reporters.insert(name.clone(), sender);
        async move {
            while let Some(failure) = failures.recv().await {
                let error = tokio::select! {
                    biased;
                    reported = caught::read(provider.report(&failure)) => reported.err().map(|error| error.message),
                    () = clock.sleep(deadline) => Some("no answer".to_owned()),
                };
                if let Some(error) = error {
                    tracing::debug!(provider = %name, error, "the platform was not told of a failure");
                }
            }
        }
    }

    /// Takes in what has failed since the last call; what is new.
    pub fn notice(&mut self, world: &World) -> Vec<FailureStatus> {
        let mut new = Vec::new();
        for (name, memory) in &world.memory.agents {
            let Some(cause) = memory.failure.filter(|_| !self.noticed.contains(name)) else { continue };
            self.noticed.insert(name.clone());
            let units = world.providers.get(&memory.provider).and_then(|state| state.units.get(name));
            let unit = units.and_then(|units| units.values().next()).map(|known| &known.unit);
            let removal = memory.removal.as_ref();
            let text = match unit.map(|unit| &unit.phase) {
                Some(
                    UnitPhase::Pending { text, .. }
                    | UnitPhase::Ended { text, .. }
                    | UnitPhase::Terminating { text, .. },
                ) => text.clone(),
                _ => removal.map(|removal| removal.text.clone()).unwrap_or_default(),
            };
            let failure = FailureStatus {
                at: world.now,
                agent: name.clone(),
                label: memory.label.clone(),
                provider: memory.provider.clone(),
                cause,
                text,
                log: String::new(),
                times: 1,
            };
            let uid = unit.map(|unit| &unit.uid).or(removal.map(|removal| &removal.uid)).cloned();
            let failed = Failure::new(name.clone(), failure.label.clone(), uid, cause, failure.text.as_str());
            self.report(&failure.provider, failed);
            self.keep(failure.clone());
            new.push(failure);
        }
        new
    }

    /// A launch was refused for that cause.
    pub fn refused(&mut self, at: Moment, failure: Failure, provider: &ProviderName) {
        let Failure { agent, label, cause, text, .. } = failure.clone();
        self.report(provider, failure);
        // Refused launches alike one after the other are one failure, with the words of the last.
        let last = self.kept.iter().rposition(|known| known.label == label);
        let alike = last.and_then(|index| self.kept.get(index)).filter(|known| {
            known.cause == cause && known.provider == *provider && !self.noticed.contains(&known.agent)
        });
        let times = alike.map_or(1, |known| known.times.saturating_add(1));
        if let (Some(index), true) = (last, times > 1) {
            self.kept.remove(index);
        }
        let (provider, log) = (provider.clone(), String::new());
        self.keep(FailureStatus { at, agent, label, provider, cause, text, log, times });
    }

    /// The last lines of a failed agent's log; whether they say anything new.
    pub fn last_words(&mut self, agent: &AgentName, log: String) -> bool {
        let known = self.kept.iter_mut().find(|failure| failure.agent == *agent);
        let known = known.filter(|failure| failure.log != log && !failure.text.contains(log.trim_end()));
        known.map(|failure| failure.log = log).is_some()
    }

    /// Forgets whom the planner has forgotten.
    pub fn retain(&mut self, world: &World) {
        self.noticed.retain(|name| world.memory.agents.contains_key(name));
    }

    /// Those kept, the oldest first.
    pub fn list(&self) -> Vec<FailureStatus> {
        self.kept.iter().cloned().collect()
    }

    fn keep(&mut self, failure: FailureStatus) {
        let label = failure.label.clone();
        self.kept.push_back(failure);
        if self.kept.iter().filter(|known| known.label == label).count() > OF_ONE_LABEL
            && let Some(index) = self.kept.iter().position(|known| known.label == label)
        {
            self.kept.remove(index);
        }
        if self.kept.len() > OF_ALL {
            self.kept.pop_front();
        }
    }

    fn report(&self, provider: &ProviderName, failure: Failure) {
        // A platform that is slow to be told is told less.
        let _ = self.reporters.get(provider).map(|reporter| reporter.try_send(failure));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refuse(failures: &mut Failures, number: u64, label: &str, cause: FailureCause) {
        let agent = format!("{label}-{number}").as_str().into();
        let failure = Failure::new(agent, label.into(), None, cause, format!("no {number}"));
        failures.refused(Moment::from_millis(number), failure, &"p".into());
    }

    #[test]
    fn refusals_alike_are_one_and_a_broken_label_pushes_out_only_its_own() {
        let mut failures = Failures::default();
        refuse(&mut failures, 0, "a", FailureCause::Config);
        for number in 1..=50 {
            refuse(&mut failures, number, "b", FailureCause::Quota);
        }
        let told: Vec<_> = failures.list().into_iter().map(|failure| (failure.text, failure.times)).collect();
        assert_eq!(told, [("no 0".to_owned(), 1), ("no 50".to_owned(), 50)]);
        for number in 0..50 {
            let causes = [FailureCause::Quota, FailureCause::BadTemplate];
            refuse(&mut failures, number, "b", causes[usize::try_from(number % 2).unwrap()]);
        }
        assert_eq!(failures.list().len(), 1 + OF_ONE_LABEL);
        assert_eq!(failures.list()[0].label, "a".into());
        for number in 0..500 {
            refuse(&mut failures, number, &format!("l{number}"), FailureCause::Quota);
        }
        assert_eq!(failures.list().len(), OF_ALL);
    }

    #[test]
    fn words_that_the_platform_has_told_already_are_not_told_twice() {
        let mut failures = Failures::default();
        refuse(&mut failures, 1, "a", FailureCause::CrashLoop);
        assert!(!failures.last_words(&"a-1".into(), "no 1\n".into()));
        assert!(failures.last_words(&"a-1".into(), "more\n".into()));
        assert!(!failures.last_words(&"a-1".into(), "more\n".into()));
        assert!(!failures.last_words(&"a-2".into(), "more\n".into()));
        assert_eq!(failures.list()[0].log, "more\n");
    }
}
