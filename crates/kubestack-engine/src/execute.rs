//! Executing: one step, without choices, within its deadline.

use crate::caught;
use crate::redact::Redactor;
use kubestack_core::context::Clock;
use kubestack_core::coordination::Coordination;
use kubestack_core::error::{Error, ErrorKind};
use kubestack_core::label::LabelSpec;
use kubestack_core::marks::Marks;
use kubestack_core::master::{CiMaster, EnrolOutcome, EnrolRequest};
use kubestack_core::name::{AgentName, InstanceName, LabelName, MasterName, ProviderName, Uid};
use kubestack_core::provider::{DestroyRequest, LaunchRequest, SlaveProvider, Unit, UnitRef};
use kubestack_planner::step::{Launch, Step};
use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

/// What executing needs: handles and limits, no state.
#[derive(Clone)]
pub(crate) struct Executor {
    pub clock: Arc<dyn Clock>,
    pub coordination: Arc<dyn Coordination>,
    pub instance: InstanceName,
    pub term: u64,
    pub deadline: Duration,
    pub destroy_grace: Duration,
    pub providers: Arc<BTreeMap<ProviderName, Arc<dyn SlaveProvider>>>,
    pub masters: Arc<BTreeMap<MasterName, Arc<dyn CiMaster>>>,
    pub labels: Arc<BTreeMap<LabelName, LabelSpec>>,
    pub redactor: Redactor,
}

/// So much of a failed agent's log is kept.
const WORDS_LINES: usize = 20;
const WORDS_BYTES: usize = 4096;
/// A platform that takes longer to tell it, such as one that has lost the agent's machine, is not waited for.
const WORDS_DEADLINE: Duration = Duration::from_secs(2);

/// How executing went, before the engine decided what to make of it.
pub(crate) enum Report {
    Done,
    Unit(Box<Unit>),
    Failed { error: Error, enrolled: bool, at_master: bool },
    Unknown(String),
}

impl Report {
    fn failed(error: Error) -> Self {
        Self::Failed { error, enrolled: false, at_master: false }
    }
}

/// The end of one call.
enum Call<T> {
    Answered(T),
    Refused(Error),
    Unknown(String),
}

impl Executor {
    /// Carries out one step. Never retries: whether and when to try again is planned anew.
    pub async fn execute(&self, step: &Step) -> Report {
        match step {
            Step::Launch(launch) => self.launch(launch).await,
            Step::ReEnrol { master, marks, .. } => self.re_enrol(master, marks).await,
            Step::Connect { agent, master } => {
                self.at_master(master, |master| async move { master.connect(agent).await }).await
            }
            Step::Drain { agent, master } => {
                self.at_master(master, |master| async move { master.drain(agent).await }).await
            }
            Step::RemoveNode { agent, master, despite_busy } => {
                self.at_master(master, |master| async move { master.remove(agent, *despite_busy).await })
                    .await
            }
            Step::Destroy { agent, provider, uid, version, only_if_not_started } => {
                self.destroy(agent, provider, uid, *version, *only_if_not_started).await
            }
            Step::Mark { agent, provider, uid, patch } => {
                let Some(provider) = self.providers.get(provider) else { return unknown_system(provider) };
                let unit = UnitRef::new(agent.clone(), uid.clone());
                match self.call(provider.mark(&unit, patch)).await {
                    Call::Answered(unit) => Report::Unit(Box::new(self.redactor.unit(unit))),
                    Call::Refused(error) => Report::failed(error),
                    Call::Unknown(text) => Report::Unknown(text),
                }
            }
        }
    }

    /// One call with an effect: sent only by the leader, given up after the deadline.
    async fn call<T>(&self, call: impl Future<Output = Result<T, Error>>) -> Call<T> {
        if !self.coordination.holds() {
            return Call::Refused(Error::conflict("this daemon does not lead any more; nothing was sent"));
        }
        tokio::select! {
            biased;
            answer = caught::write(call) => match answer {
                Ok(answer) => Call::Answered(answer),
                Err(error) if error.kind == ErrorKind::UnknownOutcome => Call::Unknown(error.message),
                Err(error) => Call::Refused(error),
            },
            () = self.clock.sleep(self.deadline) => {
                Call::Unknown(format!("no answer within {} s", self.deadline.as_secs_f32()))
            }
        }
    }

    async fn at_master<F, W>(&self, name: &MasterName, work: F) -> Report
    where
        F: FnOnce(Arc<dyn CiMaster>) -> W,
        W: Future<Output = Result<(), Error>>,
    {
        let Some(master) = self.masters.get(name) else { return unknown_system(name) };
        match self.call(work(master.clone())).await {
            Call::Answered(()) => Report::Done,
            Call::Refused(error) => Report::failed(error),
            Call::Unknown(text) => Report::Unknown(text),
        }
    }

    async fn launch(&self, launch: &Launch) -> Report {
        let Some(label) = self.labels.get(&launch.label) else { return unknown_system(&launch.label) };
        let Some(provider) = self.providers.get(&launch.provider) else {
            return unknown_system(&launch.provider);
        };
        let marks = launch.marks(&self.instance, self.term);
        let mut enrolment = None;
        if let Some(name) = &launch.master {
            let Some(master) = self.masters.get(name) else { return unknown_system(name) };
            let request = EnrolRequest::new(label.clone(), marks.clone());
            let (error, enrolled) = match self.call(master.enrol(&request)).await {
                Call::Answered(EnrolOutcome::Enrolled(with)) => {
                    enrolment = Some(with);
                    (None, true)
                }
                Call::Answered(EnrolOutcome::AlreadyExists) => {
                    let text = format!("{name} already knows an agent called {}", launch.agent);
                    (Some(Error::conflict(text)), true)
                }
                Call::Answered(EnrolOutcome::Refused(text)) => (Some(Error::conflict(text)), false),
                Call::Answered(_) => (Some(Error::bug("an enrolment that this version does not know")), true),
                Call::Refused(error) => (Some(error), false),
                // The node may be there, or come to be; without a unit it is found by its mark.
                Call::Unknown(text) => (Some(Error::transient(text)), true),
            };
            if let Some(error) = error {
                return Report::Failed { error, enrolled, at_master: true };
            }
        }
        let enrolled = enrolment.is_some();
        let secrets = enrolment.iter().flat_map(|enrolment| enrolment.secrets.values());
        self.redactor.agent(&launch.agent, label, secrets);
        let redact = |text| self.redactor.text(&launch.agent, Some(&launch.label), text);
        let request = LaunchRequest::new(label.clone(), marks, enrolment);
        match self.call(provider.launch(&request)).await {
            Call::Answered(unit) => Report::Unit(Box::new(self.redactor.unit(unit))),
            Call::Refused(mut error) => {
                error.message = redact(error.message);
                Report::Failed { error, enrolled, at_master: false }
            }
            Call::Unknown(text) => Report::Unknown(redact(text)),
        }
    }

    /// The last lines of the log of the agent whose unit that step is about; empty where there are none to be had.
    pub async fn last_words(&self, step: &Step) -> String {
        let (Step::Destroy { agent, provider, uid, .. } | Step::Mark { agent, provider, uid, .. }) = step
        else {
            return String::new();
        };
        let Some(provider) = self.providers.get(provider) else { return String::new() };
        let unit = UnitRef::new(agent.clone(), uid.clone());
        let read = tokio::select! {
            biased;
            read = caught::read(provider.log_tail(&unit, WORDS_LINES)) => read,
            () = self.clock.sleep(WORDS_DEADLINE.min(self.deadline)) => Ok(String::new()),
        };
        let log = read.unwrap_or_else(|error| {
            tracing::debug!(%agent, %error, "the log of a failed agent cannot be read");
            String::new()
        });
        let lines: Vec<&str> = log.trim_end().lines().collect();
        let last = lines.get(lines.len().saturating_sub(WORDS_LINES)..).unwrap_or_default().join("\n");
        // Masked before it is cut: half a secret would not be known any more.
        let last = self.redactor.text(agent, None, last);
        let from = (last.len().saturating_sub(WORDS_BYTES)..).find(|at| last.is_char_boundary(*at));
        last.get(from.unwrap_or_default()..).unwrap_or_default().to_owned()
    }

    async fn re_enrol(&self, master: &MasterName, marks: &Marks) -> Report {
        let Some(spec) = self.labels.get(&marks.label) else { return unknown_system(&marks.label) };
        let Some(plugin) = self.masters.get(master) else { return unknown_system(master) };
        let request = EnrolRequest::new(spec.clone(), marks.clone());
        match self.call(plugin.enrol(&request)).await {
            Call::Answered(EnrolOutcome::Refused(text)) => Report::failed(Error::conflict(text)),
            Call::Answered(_) => Report::Done,
            Call::Refused(error) => Report::failed(error),
            Call::Unknown(text) => Report::Unknown(text),
        }
    }

    async fn destroy(
        &self,
        agent: &AgentName,
        name: &ProviderName,
        uid: &Uid,
        version: u64,
        only_if_not_started: bool,
    ) -> Report {
        let Some(provider) = self.providers.get(name) else { return unknown_system(name) };
        let mut request = DestroyRequest::new(UnitRef::new(agent.clone(), uid.clone()), self.destroy_grace);
        request.only_if_not_started = only_if_not_started;
        request.version = version;
        match self.call(provider.destroy(&request)).await {
            Call::Answered(()) => Report::Done,
            Call::Refused(error) => Report::failed(error),
            Call::Unknown(text) => Report::Unknown(text),
        }
    }
}

/// The configuration changed between planning and sending.
fn unknown_system(name: &impl std::fmt::Display) -> Report {
    Report::failed(Error::conflict(format!("{name} is not configured any more; nothing was sent")))
}
