//! The provider itself: what each call asks of the cluster.

use crate::api::{Api, JSON, PARTIAL};
use crate::config::{Access, CapacityOf, KubeConfig};
use crate::coordination::KubeCoordination;
use crate::events::Events;
use crate::fault::{Answer, Effect, Fault};
use crate::manifest::Manifest;
use crate::object::{List, Partial, Pod, Quota};
use crate::watch::{KubeWatch, unit};
use crate::{AGENT_CONTAINER, capacity, marks, phase, probe};
use http::StatusCode;
use kube::Client;
use kubestack_core::prelude::*;
use kubestack_core::template::Templates;
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::OnceCell;

/// A log is told up to so many bytes (the API cuts at its beginning).
const LOG_BYTES: u32 = 256 << 10;

/// Runs agents as pods.
pub struct KubeProvider {
    pub(crate) instance: InstanceName,
    pub(crate) access: Access,
    api: OnceCell<Arc<Api>>,
    capacity_is_hidden: AtomicBool,
    events: Events,
}

impl KubeProvider {
    /// A provider with that config. Reads and connects to nothing yet.
    pub fn new(context: &BuildContext, config: KubeConfig) -> Self {
        Self::reached(Access { context: context.clone(), config, given: None })
    }

    fn reached(access: Access) -> Self {
        Self {
            instance: access.context.instance.clone(),
            access,
            api: OnceCell::new(),
            capacity_is_hidden: AtomicBool::new(false),
            events: Events::default(),
        }
    }

    /// A provider on a client of your own: with other credentials, or over any [`tower`](https://docs.rs/tower)
    /// service. The client should not retry by itself.
    pub fn with_client(context: &BuildContext, client: Client, namespace: impl Into<String>) -> Self {
        let given = Some((client, namespace.into()));
        Self::reached(Access { context: context.clone(), config: KubeConfig::default(), given })
    }

    /// What may not be read is told once, and lived without.
    fn hidden(&self, fault: Fault, doing: &str) -> Result<Option<Resources>> {
        if !fault.is(StatusCode::FORBIDDEN) {
            return Err(fault.error(doing, Effect::None));
        }
        if !self.capacity_is_hidden.swap(true, Ordering::Relaxed) {
            tracing::info!("it is not permitted to {doing}; what is full shows as refusals and waiting pods");
        }
        Ok(None)
    }

    /// Made by the first call that needs it, and again after one that could not.
    pub(crate) async fn api(&self) -> Result<&Arc<Api>> {
        self.api.get_or_try_init(async || Ok(Arc::new(self.access.open().await?))).await
    }

    /// The unit of that name if its pod exists and is the one that was asked for; an error if it is another.
    async fn existing(&self, api: &Api, request: &LaunchRequest) -> Result<Option<Unit>> {
        let name = &request.name;
        match api.get::<Pod>(&format!("pods/{name}"), JSON).await {
            Ok(pod) => match unit(&pod, &self.instance) {
                Some(unit) if same_agent(&unit.marks, &request.marks) => Ok(Some(unit)),
                _ => Err(foreign("pod", name, api)),
            },
            Err(fault) if fault.is(StatusCode::NOT_FOUND) => Ok(None),
            // Whether there is one is not known, so neither is whether the launch had its effect.
            Err(fault) => {
                Err(Error::unknown_outcome(fault.error(&format!("read pod {name}"), Effect::None).message))
            }
        }
    }

    /// The uid of the Secret for that agent; `Err(Ok(unit))` if its pod turns out to be there already.
    async fn make_secret(
        &self,
        api: &Api,
        request: &LaunchRequest,
        manifest: &Manifest,
    ) -> Result<std::result::Result<String, Unit>> {
        let name = &request.name;
        let secret = manifest.secret(&request.marks, &api.namespace);
        let mut replaced = false;
        loop {
            let fault = match api.create::<Partial>("secrets", &secret).await {
                Ok(made) => return Ok(Ok(made.metadata.uid)),
                Err(fault) => fault,
            };
            if replaced || !fault.already_exists() {
                return Err(before_the_pod(refused(fault, &format!("make Secret {name}"), api)));
            }
            if let Some(unit) = self.existing(api, request).await? {
                return Ok(Err(unit));
            }
            // What an earlier try left; what is in it need not be what this one wants.
            let left = self
                .secret_of(api, name)
                .await
                .map_err(|fault| fault.error("read a Secret", Effect::None))?;
            match left {
                Some((uid, Some(marks))) if same_agent(&marks, &request.marks) => {
                    delete(api, "secrets", name, &uid, json!({})).await.map_err(|fault| {
                        before_the_pod(fault.error(&format!("replace Secret {name}"), Effect::Write))
                    })?;
                }
                Some(_) => return Err(foreign("Secret", name, api)),
                None => {}
            }
            replaced = true;
        }
    }

    /// The Secret of that name: its uid, and its marks if it is ours.
    async fn secret_of(&self, api: &Api, name: &AgentName) -> Answer<Option<(String, Option<Marks>)>> {
        match api.get::<Partial>(&format!("secrets/{name}"), PARTIAL).await {
            Ok(secret) => {
                let marks = marks::read(&secret.metadata, &self.instance);
                Ok(Some((secret.metadata.uid, marks)))
            }
            Err(fault) if fault.is(StatusCode::NOT_FOUND) => Ok(None),
            Err(fault) => Err(fault),
        }
    }

    /// Takes away what is left of a unit that has no pod of its own.
    async fn destroy_remnant(&self, api: &Api, unit: &UnitRef, name_in_use: bool) -> Result<()> {
        let doing = format!("delete Secret {}", unit.name);
        let left =
            self.secret_of(api, &unit.name).await.map_err(|fault| fault.error(&doing, Effect::None))?;
        let Some((uid, marks)) = left else { return Ok(()) };
        if name_in_use {
            let text = format!("{} has a pod by now: it is no remnant", unit.name);
            return if uid == unit.uid.as_str() { Err(Error::conflict(text)) } else { Ok(()) };
        }
        // Without our marks it only has the name.
        let Some(marks) = marks else { return Ok(()) };
        refuse_held(&marks, unit)?;
        delete(api, "secrets", &unit.name, &uid, json!({}))
            .await
            .map_err(|fault| fault.error(&doing, Effect::Write))
    }
}

/// Whether both say the same of which agent it is; a template may have changed between two tries, and marks
/// are added later.
fn same_agent(one: &Marks, other: &Marks) -> bool {
    let identity = |marks: &Marks| (marks.agent(), marks.term, marks.serial, marks.label.clone());
    identity(one) == identity(other) && one.instance == other.instance
}

fn foreign(kind: &str, name: &AgentName, api: &Api) -> Error {
    Error::conflict(format!(
        "there is a {kind} {name} in namespace `{}` that is not this agent's; give each installation its own \
         `instance`, or delete it",
        api.namespace
    ))
}

fn refuse_held(marks: &Marks, unit: &UnitRef) -> Result<()> {
    match &marks.held {
        Some(reason) => Err(Error::conflict(format!("{} is held ({reason}); release it first", unit.name))),
        None => Ok(()),
    }
}

/// Without its Secret no pod is sent: a Secret in doubt is at worst a remnant, and there will be no unit.
fn before_the_pod(error: Error) -> Error {
    if error.kind == ErrorKind::UnknownOutcome { Error::transient(error.message) } else { error }
}

/// A refused creation: an object that cannot be found then is the namespace.
pub(crate) fn refused(fault: Fault, doing: &str, api: &Api) -> Error {
    let missing = fault.is(StatusCode::NOT_FOUND);
    let error = fault.error(doing, Effect::Write);
    if !missing {
        return error;
    }
    let text = format!("{error}; create namespace `{}`, or set `namespace`", api.namespace);
    Error::invalid(text).with_cause(FailureCause::Config)
}

/// Deletes exactly that object; not found is success.
async fn delete(
    api: &Api,
    kind: &str,
    name: &AgentName,
    uid: &str,
    mut options: serde_json::Value,
) -> Answer<()> {
    if let Some(options) = options.as_object_mut() {
        let preconditions = options.entry("preconditions").or_insert_with(|| json!({}));
        preconditions.as_object_mut().map(|preconditions| preconditions.insert("uid".to_owned(), uid.into()));
    }
    match api.delete(kind, name.as_str(), &options).await {
        Err(fault) if !fault.is(StatusCode::NOT_FOUND) => Err(fault),
        _ => Ok(()),
    }
}

#[async_trait]
impl SlaveProvider for KubeProvider {
    fn capabilities(&self) -> ProviderCapabilities {
        let mut capabilities = ProviderCapabilities::default();
        capabilities.marks = true;
        capabilities.conditional_destroy = true;
        capabilities
    }

    async fn watch(&self) -> Result<Box<dyn UnitWatch>> {
        Ok(Box::new(KubeWatch::new(self.api().await?.clone(), self.instance.clone())))
    }

    async fn probe(&self, labels: &[LabelSpec]) -> Vec<Probe> {
        match self.api().await {
            Ok(api) => {
                probe::probe(api, &self.instance, &*self.access.context.secrets, labels, self.look()).await
            }
            Err(error) => vec![Probe::new("the way to the cluster", Err(error))],
        }
    }

    async fn launch(&self, request: &LaunchRequest) -> Result<Unit> {
        let name = &request.name;
        if request.marks.agent() != *name || request.marks.instance != self.instance {
            return Err(Error::bug(format!(
                "the name and the marks of agent `{name}` do not belong together"
            )));
        }
        let api = self.api().await?;
        let mut manifest = Manifest::new(request, &api.namespace, &*self.access.context.secrets)?;
        let mut secret = None;
        if !manifest.secrets.is_empty() {
            match self.make_secret(api, request, &manifest).await? {
                Ok(uid) => {
                    marks::name_secret(&mut manifest.pod, &uid);
                    secret = Some(uid);
                }
                Err(unit) => return Ok(unit),
            }
        }
        let fault = match api.create::<Pod>("pods", &manifest.pod).await {
            Ok(pod) => {
                let marked = || Error::unknown_outcome(format!("pod {name} came back without its marks"));
                return unit(&pod, &self.instance).ok_or_else(marked);
            }
            Err(fault) => fault,
        };
        let error = if fault.already_exists() {
            match self.existing(api, request).await {
                Ok(Some(unit)) => return Ok(unit),
                Ok(None) => Error::transient(format!("pod {name} was there and is gone")),
                Err(error) => error,
            }
        } else {
            refused(fault, &format!("make pod {name}"), api)
        };
        if let Some(uid) = secret.filter(|_| error.kind != ErrorKind::UnknownOutcome) {
            // What cannot be taken back now is found later, by its mark.
            let undone = delete(api, "secrets", name, &uid, json!({})).await;
            if let Err(fault) = undone {
                tracing::debug!("{}", fault.error(&format!("delete Secret {name} at once"), Effect::None));
            }
        }
        Err(error)
    }

    async fn destroy(&self, request: &DestroyRequest) -> Result<()> {
        let (unit, api) = (&request.unit, self.api().await?);
        let doing = format!("delete pod {}", unit.name);
        let pod: Pod = match api.get(&format!("pods/{}", unit.name), JSON).await {
            Ok(pod) => pod,
            Err(fault) if fault.is(StatusCode::NOT_FOUND) => {
                return self.destroy_remnant(api, unit, false).await;
            }
            Err(fault) => return Err(fault.error(&doing, Effect::None)),
        };
        if pod.metadata.uid != unit.uid.as_str() {
            return self.destroy_remnant(api, unit, true).await;
        }
        let Some(marks) = marks::read(&pod.metadata, &self.instance) else {
            return Err(Error::conflict(format!("pod {} does not carry our marks (any more)", unit.name)));
        };
        refuse_held(&marks, unit)?;
        let mut preconditions = json!({});
        if request.only_if_not_started {
            if phase::has_started(&pod) {
                return Err(Error::conflict(format!("{} has started", unit.name)));
            }
            preconditions = json!({"resourceVersion": pod.metadata.resource_version});
        }
        // A second is the least that lets an agent end by itself; 0 would not wait for the kubelet at all.
        let grace = request.grace.as_secs().max(1);
        let options = json!({"gracePeriodSeconds": grace, "preconditions": preconditions});
        match delete(api, "pods", &unit.name, unit.uid.as_str(), options).await {
            Ok(()) => {}
            // By now another pod has the name, so this one is gone.
            Err(fault) if fault.is(StatusCode::CONFLICT) && !request.only_if_not_started => {}
            Err(fault) => return Err(fault.error(&doing, Effect::Write)),
        }
        match marks::secret_of(&pod.metadata) {
            Some(uid) => delete(api, "secrets", &unit.name, uid, json!({})).await.or_else(|fault| {
                // Another uid has the name: the one of this pod is gone.
                if fault.is(StatusCode::CONFLICT) { Ok(()) } else { Err(fault) }
            }),
            None => Ok(()),
        }
        .map_err(|fault| fault.error(&format!("delete Secret {}", unit.name), Effect::Write))
    }

    async fn mark(&self, unit: &UnitRef, patch: &MarkPatch) -> Result<Unit> {
        let api = self.api().await?;
        let change = marks::change(unit, patch)?;
        let gone = || Error::not_found(format!("there is no pod {} ({})", unit.name, unit.uid));
        let unmarked = || Error::conflict(format!("pod {} does not carry our marks (any more)", unit.name));
        // A patch can be bound to a uid, not to whose it is.
        match api.get::<Pod>(&format!("pods/{}", unit.name), JSON).await {
            Ok(pod) if pod.metadata.uid != unit.uid.as_str() => return Err(gone()),
            Ok(pod) if marks::read(&pod.metadata, &self.instance).is_none() => return Err(unmarked()),
            Ok(_) => {}
            Err(fault) if fault.is(StatusCode::NOT_FOUND) => return Err(gone()),
            Err(fault) => return Err(fault.error(&format!("mark pod {}", unit.name), Effect::None)),
        }
        let pod: Pod = match api.patch("pods", unit.name.as_str(), &change).await {
            Ok(pod) => pod,
            Err(fault) if fault.is(StatusCode::NOT_FOUND) => return Err(gone()),
            // The uid in the patch is a precondition: no other pod of the name can be meant.
            Err(fault) if names_uid(&fault) => return Err(gone()),
            Err(fault) => return Err(fault.error(&format!("mark pod {}", unit.name), Effect::Write)),
        };
        if matches!(patch, MarkPatch::Held(_)) && pod.metadata.deletion_timestamp.is_some() {
            return Err(Error::conflict(format!("{} is already being taken away", unit.name)));
        }
        crate::watch::unit(&pod, &self.instance).ok_or_else(unmarked)
    }

    async fn capacity(&self) -> Result<Option<Resources>> {
        let api = self.api().await?;
        let quotas = match api.get::<List<Quota>>("resourcequotas", JSON).await {
            Ok(list) => Some(capacity::free(&list.items.unwrap_or_default())),
            Err(fault) => self.hidden(fault, "read quotas")?,
        };
        if self.access.config.capacity != CapacityOf::Nodes {
            return Ok(quotas);
        }
        let nodes = match capacity::free_on_nodes(api).await {
            Ok(free) => Some(free),
            Err(fault) => self.hidden(fault, "read nodes and all pods on them (deploy/capacity.yaml)")?,
        };
        Ok(match (quotas, nodes) {
            (Some(quotas), Some(nodes)) => Some(capacity::both(quotas, nodes)),
            (quotas, nodes) => quotas.or(nodes),
        })
    }

    async fn report(&self, failure: &Failure) -> Result<()> {
        let api = self.api().await?;
        let event = self.events.event(failure, &self.instance, &api.namespace, api.now());
        let Some(event) = event else { return Ok(()) };
        let made = api.create::<Partial>("events", &event).await;
        made.map(drop).map_err(|fault| {
            fault.error(&format!("write an Event about agent {}", failure.agent), Effect::Write)
        })
    }

    fn templates(&self) -> Option<&dyn Templates> {
        Some(self)
    }

    fn coordination(&self, lease: Duration) -> Option<Arc<dyn Coordination>> {
        Some(Arc::new(KubeCoordination::new(self.access.clone(), lease)))
    }

    async fn log_tail(&self, unit: &UnitRef, lines: usize) -> Result<String> {
        let (name, api) = (&unit.name, self.api().await?);
        let query = format!("container={AGENT_CONTAINER}&tailLines={lines}&limitBytes={LOG_BYTES}");
        match api.text(&format!("pods/{name}/log?{query}")).await {
            // 400: it has not started.
            Err(fault) if fault.is(StatusCode::NOT_FOUND) || fault.is(StatusCode::BAD_REQUEST) => {
                Ok(String::new())
            }
            answer => {
                answer.map_err(|fault| fault.error(&format!("read the log of pod {name}"), Effect::None))
            }
        }
    }
}

/// Whether a patch was refused because the pod has another uid.
fn names_uid(fault: &Fault) -> bool {
    let invalid = StatusCode::UNPROCESSABLE_ENTITY;
    matches!(fault, Fault::Refused(status) if fault.is(invalid) && status.message.contains("metadata.uid"))
}
