//! What can be found out beside a daemon or before there is one: the plan that a leader would make of one look at
//! every system, and whether each system gives what a daemon will need. Nothing is sent, led or kept.

use crate::caught;
use crate::engine::Engine;
use crate::redact::Redactor;
use crate::status::{Status, status};
use futures_util::future::{BoxFuture, join_all};
use kubestack_core::context::Clock;
use kubestack_core::coordination::Leadership;
use kubestack_core::error::{Error, Result};
use kubestack_core::name::{AgentName, LabelName, MasterName, ProviderName};
use kubestack_core::probe::Probe;
use kubestack_core::time::{Moment, Span};
use kubestack_planner::agent::agents;
use kubestack_planner::{Fact, PlannedStep, Step, World, check, plan, words};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::future::Future;
use std::time::Duration;

/// What a leader would do now, and why.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Outlook {
    /// What was seen, and what becomes of each class of demand.
    pub status: Status,
    /// What a leader would send, in this order.
    pub steps: Vec<StepStatus>,
    /// Steps that the planner's checker would keep from being sent: each is a defect.
    pub violations: Vec<String>,
}

/// A step and why it would be taken.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[non_exhaustive]
pub struct StepStatus {
    /// What would be done: `launch`, `drain`, `destroy` and so on.
    pub step: String,
    /// To which agent; of a launch nothing yet, for only a leader gives names.
    pub agent: Option<AgentName>,
    /// Its label.
    pub label: Option<LabelName>,
    /// The provider that would be asked.
    pub provider: Option<ProviderName>,
    /// The master that would be asked.
    pub master: Option<MasterName>,
    /// Why, in words.
    pub reason: String,
}

impl Engine {
    /// Looks at each system once and plans. No task of a plugin runs meanwhile, and no system is told anything, so
    /// this may run beside the daemon of the same installation. A system that has not answered within `bound`
    /// stands in [`Status::systems`] with its error, and the plan is made without it.
    ///
    /// # Errors
    /// If what coordination keeps (the operator's intent, what is remembered) cannot be read.
    pub async fn look(self, bound: Duration) -> Result<Outlook> {
        let Self { setup, systems, clock, coordination, .. } = self;
        let Leadership { term, memory, intent, .. } = coordination.peek().await?;
        let mut world = World::new(setup.instance.clone(), term, setup.settings.clone(), clock.now());
        world.intent = serde_json::from_value(intent).unwrap_or_default();
        world.memory = memory
            .and_then(|memory| serde_json::from_value(memory).ok())
            .unwrap_or_else(|| world.memory.clone());
        let redactor = Redactor::default();
        redactor.labels(&setup.labels);
        let redactor = &redactor;
        let mut looks: Vec<BoxFuture<'_, (Moment, Fact)>> = Vec::new();
        let clock = &*clock;
        for (name, provider) in &systems.providers {
            looks.push(Box::pin(async move {
                let fact = match bounded(clock, bound, provider.look()).await {
                    Ok((began, units)) => {
                        let units = units.into_iter().map(|unit| redactor.unit(unit)).collect();
                        Fact::Units(name.clone(), began, units)
                    }
                    Err(error) => Fact::ProviderFailed(name.clone(), error.message),
                };
                (clock.now(), fact)
            }));
            looks.push(Box::pin(async move {
                let began = clock.now();
                // Without it there is only less to know.
                let free = bounded(clock, bound, provider.capacity()).await.unwrap_or_default();
                (clock.now(), Fact::Capacity(name.clone(), began, free))
            }));
        }
        for (name, master) in &systems.masters {
            looks.push(Box::pin(async move {
                let fact = match bounded(clock, bound, master.agents()).await {
                    Ok(agents) => Fact::Agents(name.clone(), agents),
                    Err(error) => Fact::MasterFailed(name.clone(), error.message),
                };
                (clock.now(), fact)
            }));
        }
        for (name, mut source) in systems.demand {
            let mut context = setup.context(&name);
            context.only_look = true;
            looks.push(Box::pin(async move {
                let fact = match bounded(clock, bound, source.next(&context)).await {
                    Ok(demand) => Fact::Demand(name, demand),
                    Err(error) => Fact::DemandFailed(name, error.message),
                };
                (clock.now(), fact)
            }));
        }
        for (at, fact) in join_all(looks).await {
            world.apply(at, fact);
        }
        world.apply(clock.now(), Fact::Now);
        Ok(outlook(&world))
    }
}

/// What was tried of one system.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SystemProbe {
    /// `provider`, `master`, `source` or `coordination`.
    pub kind: &'static str,
    /// Its name.
    pub name: String,
    /// Each thing that was tried.
    pub probes: Vec<Probe>,
}

impl Engine {
    /// Tries of each system what a daemon will need, without a change to anything; like [`Engine::look`] it may
    /// run beside one. A system that takes longer than `bound` is given up.
    pub async fn probe(self, bound: Duration) -> Vec<SystemProbe> {
        let Self { setup, systems, clock, coordination, .. } = self;
        let (clock, coordination) = (&*clock, &*coordination);
        let mut all: Vec<BoxFuture<'_, SystemProbe>> = Vec::new();
        for (name, provider) in &systems.providers {
            let used = setup.settings.labels.iter().filter(|(_, label)| label.providers.contains(name));
            let labels: Vec<_> = used.filter_map(|(label, _)| setup.labels.get(label).cloned()).collect();
            all.push(Box::pin(async move {
                let probes =
                    answered(bounded(clock, bound, async { Ok(provider.probe(&labels).await) }).await);
                SystemProbe { kind: "provider", name: name.to_string(), probes }
            }));
        }
        for (name, master) in &systems.masters {
            all.push(Box::pin(async move {
                let probes = answered(bounded(clock, bound, async { Ok(master.probe().await) }).await);
                SystemProbe { kind: "master", name: name.to_string(), probes }
            }));
        }
        for (name, mut source) in systems.demand {
            let mut context = setup.context(&name);
            context.only_look = true;
            all.push(Box::pin(async move {
                let demand = bounded(clock, bound, source.next(&context)).await;
                let probes = vec![Probe::new("read the demand", demand.map(drop))];
                SystemProbe { kind: "source", name: name.to_string(), probes }
            }));
        }
        all.push(Box::pin(async move {
            let probes = answered(bounded(clock, bound, async { Ok(coordination.probe().await) }).await);
            SystemProbe { kind: "coordination", name: String::new(), probes }
        }));
        join_all(all).await
    }
}

fn answered(probes: Result<Vec<Probe>>) -> Vec<Probe> {
    probes.unwrap_or_else(|error| vec![Probe::new("an answer", Err(error))])
}

pub(crate) async fn bounded<T>(
    clock: &dyn Clock,
    bound: Duration,
    look: impl Future<Output = Result<T>>,
) -> Result<T> {
    tokio::select! {
        biased;
        seen = caught::read(look) => seen,
        () = clock.sleep(bound) => Err(Error::transient(format!("no answer within {}", Span(bound)))),
    }
}

fn outlook(world: &World) -> Outlook {
    let plan = plan(world);
    let violations = check(world, &plan);
    let labels: BTreeMap<AgentName, LabelName> =
        agents(world).iter().map(|agent| (agent.name.clone(), agent.label.clone())).collect();
    let sent = |planned: &&PlannedStep| !violations.iter().any(|one| one.agent == *planned.step.agent());
    let steps = plan.steps.iter().filter(sent).map(|PlannedStep { step, reason }| {
        let (provider, master) = step.systems();
        let (agent, label) = match step {
            Step::Launch(launch) => (None, Some(launch.label.clone())),
            step => (Some(step.agent().clone()), labels.get(step.agent()).cloned()),
        };
        StepStatus {
            step: step.kind().to_owned(),
            agent,
            label,
            provider: provider.cloned(),
            master: master.cloned(),
            reason: words::reason(reason),
        }
    });
    Outlook {
        steps: steps.collect(),
        status: status(world, &plan, &BTreeMap::new(), Vec::new()),
        violations: violations.iter().map(ToString::to_string).collect(),
    }
}
