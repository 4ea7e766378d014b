//! The queue as a CI master.

use crate::client::QueueClient;
use crate::model::Enrol;
use crate::server::{Queue, QueueOptions, serve};
use crate::store::Store;
use kubestack_core::inventory;
use kubestack_core::master::OneJob;
use kubestack_core::prelude::*;
use kubestack_core::registry::Build;
use kubestack_core::time::Span;
use secrecy::{ExposeSecret, SecretString};
use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, watch};

/// A look is taken at least this often, so that what is known does not count as stale.
const LOOK: Duration = Duration::from_secs(20);

/// Labels that nothing can serve and whose jobs are told so: enough for every mistake, and a bound for malice.
const FOREIGN: usize = 1_000;

/// A server that cannot begin, for want of its port or its disk, tries again after that time.
const RETRY: Duration = Duration::from_secs(5);

/// The config of a queue.
#[derive(Clone, Debug, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct QueueConfig {
    /// Where the queue answers, such as `http://127.0.0.1:4740`. Agents use the same address.
    pub url: String,
    /// The operator's token.
    pub token: SecretRef,
    /// Run the queue's server inside the daemon.
    #[serde(default)]
    pub embedded: Option<EmbeddedConfig>,
}

/// The config of a server inside the daemon.
#[derive(Clone, Debug, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct EmbeddedConfig {
    /// The address to listen on, such as `127.0.0.1:4740`.
    pub listen: String,
    /// Where jobs are kept. Default: `queue/<name of this entry>` in the state directory.
    #[serde(default)]
    pub data_dir: Option<PathBuf>,
    /// An agent that is silent for so long is dead.
    #[serde(default = "default_lease")]
    pub lease: Span,
    /// A job whose agents died that often fails.
    #[serde(default = "default_attempts")]
    pub attempts: u32,
}

impl EmbeddedConfig {
    fn check(&self, fragment: &Fragment) -> Result<()> {
        let port = self.listen.rsplit_once(':').map(|(_, port)| port.parse::<u16>());
        if !matches!(port, Some(Ok(_))) {
            return Err(
                fragment.error("embedded.listen", "must be an address and a port such as 127.0.0.1:4740")
            );
        }
        if self.lease.0 < Duration::from_secs(1) {
            return Err(
                fragment.error("embedded.lease", "must be at least 1s, or live agents would look dead")
            );
        }
        if self.attempts == 0 {
            return Err(fragment.error("embedded.attempts", "must be at least 1"));
        }
        Ok(())
    }
}

fn default_lease() -> Span {
    Span(QueueOptions::default().lease)
}

fn default_attempts() -> u32 {
    QueueOptions::default().attempts
}

/// One queue.
#[derive(Clone)]
pub struct QueueMaster {
    client: QueueClient,
    url: String,
    clock: Arc<dyn Clock>,
    broken: watch::Receiver<Option<String>>,
    reasons: Arc<Mutex<Reasons>>,
}

/// Why jobs wait, by label.
#[derive(Default)]
struct Reasons {
    /// Labels that nothing here can serve.
    foreign: BTreeMap<String, String>,
    explained: BTreeMap<String, String>,
    /// What the queue was last told.
    told: Option<BTreeMap<String, String>>,
}

fn build(context: &BuildContext, fragment: &Fragment) -> Result<Box<dyn CiMaster>> {
    let config: QueueConfig = fragment.parse()?;
    if !config.url.starts_with("http://") {
        return Err(fragment
            .error("url", "must begin with http://; put a TLS proxy on the same host in front of others"));
    }
    reqwest::Url::parse(&config.url).map_err(|error| fragment.error("url", error))?;
    if let Some(embedded) = &config.embedded {
        embedded.check(fragment)?;
    }
    let token = context.secret(fragment, "token", &config.token)?;
    let text = token.expose_secret();
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        let text = "must be of letters, digits and signs of ASCII, without spaces: it is sent in a header";
        return Err(fragment.error("token", text));
    }
    let client = QueueClient::new(&config.url, token.clone())?;
    let (tell, broken) = watch::channel(None);
    if let Some(embedded) = config.embedded {
        let name = &context.name;
        let dir = embedded.data_dir.clone().unwrap_or_else(|| context.state_dir.join("queue").join(name));
        let clock = context.clock.clone();
        let task = async move {
            loop {
                let Err(error) = run_embedded(&embedded, &dir, token.clone(), clock.clone(), &tell).await;
                // Said once; whatever is in the way may go.
                if tell.borrow().as_ref() != Some(&error.message) {
                    tracing::error!("{}", error.message);
                }
                tell.send_replace(Some(error.message));
                clock.sleep(RETRY).await;
            }
        };
        context.spawner.spawn(&format!("queue {name}"), Box::pin(task));
    }
    Ok(Box::new(QueueMaster {
        client,
        url: config.url,
        clock: context.clock.clone(),
        broken,
        reasons: Arc::default(),
    }))
}

/// Serves for ever, unless it cannot begin.
async fn run_embedded(
    config: &EmbeddedConfig,
    dir: &Path,
    token: SecretString,
    clock: Arc<dyn Clock>,
    broken: &watch::Sender<Option<String>>,
) -> Result<Infallible> {
    let listen = &config.listen;
    let listener = tokio::net::TcpListener::bind(listen).await.map_err(|error| {
        Error::invalid(format!(
            "the queue cannot listen on {listen}: {error}; choose another address under `embedded.listen`"
        ))
    })?;
    let store = Store::open(&dir.join("queue.redb"))?;
    let options =
        QueueOptions { lease: config.lease.0, attempts: config.attempts, ..QueueOptions::default() };
    let queue = Queue::new(store, clock.clone(), token, options)?;
    broken.send_replace(None);
    let expire = {
        let queue = queue.clone();
        async move {
            loop {
                let rest = queue.expire();
                clock.sleep(rest).await;
            }
        }
    };
    tokio::select! {
        never = serve(queue, listener) => match never {},
        never = expire => never,
    }
}

inventory::submit! {
    Plugin {
        type_name: "queue",
        summary: "a small durable job queue, for people without a CI system",
        schema: || schemars::schema_for!(QueueConfig),
        example: "{name: queue, type: queue, url: 'http://127.0.0.1:4740', token: {file: /etc/kubestack/queue.token}, embedded: {listen: '127.0.0.1:4740'}}",
        build: Build::Master(build),
    }
}

impl QueueMaster {
    /// The reason why the embedded server does not run, rather than that nobody answers.
    fn told(&self, error: Error) -> Error {
        self.broken.borrow().clone().map_or(error, Error::transient)
    }

    /// Tells why jobs wait, where a change makes a difference.
    async fn tell(&self, change: impl FnOnce(&mut Reasons)) -> Result<()> {
        let mut reasons = self.reasons.lock().await;
        change(&mut reasons);
        let mut all = reasons.foreign.clone();
        all.extend(reasons.explained.clone());
        if reasons.told.as_ref() != Some(&all) {
            self.client.reasons(&all).await?;
            reasons.told = Some(all);
        }
        Ok(())
    }
}

#[async_trait]
impl CiMaster for QueueMaster {
    fn capabilities(&self) -> MasterCapabilities {
        let mut capabilities = MasterCapabilities::default();
        capabilities.one_job = OneJob::Enforced;
        capabilities.agents_end_by_themselves = true;
        capabilities.lists_agents = true;
        capabilities.drains = true;
        capabilities
    }

    async fn enrol(&self, request: &EnrolRequest) -> Result<EnrolOutcome> {
        let enrol = Enrol { provides: request.label.provides.clone(), marks: Some(request.marks.clone()) };
        let name = request.agent.as_str();
        let enrolled = match self.client.enrol(name, &enrol).await {
            Ok(enrolled) => enrolled,
            Err(error) if error.kind == ErrorKind::Conflict => return Ok(EnrolOutcome::AlreadyExists),
            Err(error) => return Err(self.told(error)),
        };
        let mut enrolment = Enrolment::default();
        enrolment.env.insert(crate::agent::URL.to_owned(), self.url.clone());
        enrolment.env.insert(crate::agent::NAME.to_owned(), name.to_owned());
        enrolment.secrets.insert(crate::agent::TOKEN.to_owned(), enrolled.token.into());
        enrolment.args.push("agent".to_owned());
        Ok(EnrolOutcome::Enrolled(enrolment))
    }

    async fn agents(&self) -> Result<AgentsSnapshot> {
        let began = self.clock.now();
        let agents = self.client.agents().await.map_err(|error| self.told(error))?;
        let agents = agents.into_iter().map(|agent| {
            let mut view = AgentView::new(agent.name);
            view.online = agent.online;
            view.activity = Activity::Slots { used: u32::from(agent.job.is_some()), total: 1 };
            view.job = agent.job.map(|job| job.to_string());
            view.used = agent.used;
            view.drained = if agent.drained { Drained::ByUs } else { Drained::No };
            view.marks = agent.marks;
            view
        });
        Ok(AgentsSnapshot::new(began, agents.collect()))
    }

    async fn drain(&self, agent: &AgentName) -> Result<()> {
        self.client.drain(agent.as_str()).await
    }

    async fn remove(&self, agent: &AgentName, despite_busy: bool) -> Result<()> {
        self.client.remove(agent.as_str(), despite_busy).await
    }

    async fn explain(&self, reasons: &[Explanation]) -> Result<()> {
        let mut by_label = BTreeMap::new();
        for reason in reasons {
            for label in &reason.labels {
                by_label.insert(label.clone(), reason.text.clone());
            }
        }
        self.tell(|reasons| reasons.explained = by_label).await
    }

    fn demand(&self) -> Option<Box<dyn DemandSource>> {
        Some(Box::new(QueueDemand { master: self.clone(), known: None }))
    }

    fn completion(&self) -> Option<Box<dyn CompletionSource>> {
        Some(Box::new(QueueNews { master: self.clone(), known: None }))
    }
}

/// The queue's waiting jobs.
struct QueueDemand {
    master: QueueMaster,
    known: Option<u64>,
}

#[async_trait]
impl DemandSource for QueueDemand {
    async fn next(&mut self, context: &SourceContext) -> Result<DemandSnapshot> {
        let client = &self.master.client;
        let wait = if self.known.is_some() { LOOK } else { Duration::ZERO };
        let revision =
            client.changes(self.known, None, wait).await.map_err(|error| self.master.told(error))?;
        // Wait first, then read: the snapshot's beginning is that of the read.
        let began = self.master.clock.now();
        let waiting = client.waiting().await?;
        self.known = Some(revision.demand);
        let served = |label: &String| context.labels.values().any(|known| known.provides.contains(label));
        let foreign: BTreeSet<&String> =
            waiting.iter().map(|job| &job.label).filter(|label| !served(label)).collect();
        let why = |label: &String| (label.clone(), format!("no label here can serve `{label}`"));
        let foreign = foreign.into_iter().take(FOREIGN).map(why).collect();
        if !context.only_look
            && let Err(error) = self.master.tell(|reasons| reasons.foreign = foreign).await
        {
            tracing::debug!(%error, "cannot tell why jobs wait; it is tried again at the next look");
        }
        let demands = waiting.into_iter().map(|job| {
            let serves = context.labels.iter().filter(|(_, label)| label.provides.contains(&job.label));
            let needs = serves.map(|(name, _)| name.clone());
            Demand::job(job.id.to_string(), needs)
                .since(job.since)
                .text(format!("job {} for {}", job.id, job.label))
        });
        Ok(DemandSnapshot::new(began, demands.collect()))
    }
}

/// Hints that something changed about the agents.
struct QueueNews {
    master: QueueMaster,
    known: Option<u64>,
}

#[async_trait]
impl CompletionSource for QueueNews {
    async fn next(&mut self) -> Result<Vec<Completion>> {
        loop {
            let revision = self.master.client.changes(None, self.known, LOOK).await?;
            let news = self.known != Some(revision.agents);
            self.known = Some(revision.agents);
            if news {
                return Ok(Vec::new());
            }
        }
    }
}
