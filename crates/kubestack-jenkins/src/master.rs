//! One Jenkins as a CI master.

use crate::board;
use crate::client::Client;
use crate::completion::JenkinsNews;
use crate::config::{Attach, JenkinsConfig};
use crate::demand::JenkinsQueue;
use crate::enrol;
use crate::nodes::{self, DRAINED, Node};
use crate::ours::Ours;
use kubestack_core::master::OneJob;
use kubestack_core::prelude::*;
use kubestack_core::secrecy::SecretString;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::watch;

/// The nodes as a read showed them.
pub type Look = Option<Arc<Vec<Node>>>;

/// What the master, its demand and its completion share.
pub struct Jenkins {
    pub client: Client,
    pub config: JenkinsConfig,
    /// For agents that log in by themselves.
    pub password: Option<SecretString>,
    pub ours: Ours,
    /// The last look at the nodes: completion follows from it, and demand knows names by it.
    pub look: watch::Sender<Look>,
    /// What only pages tell: marks by node, and whose word took it out.
    pages: Mutex<BTreeMap<String, Page>>,
}

/// What the page of a node told.
#[derive(Clone, Debug)]
struct Page {
    marks: Option<Marks>,
    /// Whether it had been taken out then.
    taken_out: bool,
    by_us: bool,
}

/// One Jenkins.
#[derive(Clone)]
pub struct JenkinsMaster(Arc<Jenkins>);

impl JenkinsMaster {
    /// For that server. `password` goes to agents that log in by themselves.
    pub(crate) fn new(
        instance: InstanceName,
        client: Client,
        config: JenkinsConfig,
        password: Option<SecretString>,
    ) -> Self {
        let ours = Ours::new(instance, config.attach == Attach::SwarmClient);
        let (look, pages) = (watch::Sender::new(None), Mutex::default());
        Self(Arc::new(Jenkins { client, config, password, ours, look, pages }))
    }
}

impl Jenkins {
    /// Reads the nodes, and lets the others know.
    pub async fn read(&self) -> Result<Arc<Vec<Node>>> {
        let nodes = Arc::new(nodes::all(&self.client).await?);
        self.look.send_replace(Some(nodes.clone()));
        Ok(nodes)
    }

    /// The name of an agent's node: its own, unless its client appended something.
    fn node_of(&self, agent: &AgentName) -> String {
        let look = self.look.borrow();
        let mut names = look.iter().flat_map(|nodes| nodes.iter()).map(|node| node.name.as_str());
        let found = names.find(|name| self.ours.agent(name) == agent.as_str());
        found.unwrap_or(agent.as_str()).to_owned()
    }

    async fn view(&self, node: &Node, tells: bool) -> Result<AgentView> {
        let mut view = AgentView::new(self.ours.agent(&node.name));
        view.online = !node.offline || (node.taken_out && node.busy > 0);
        view.activity = Activity::Slots { used: node.busy, total: node.executors };
        view.job = node.queue_id.map(|id| id.to_string());
        view.run.clone_from(&node.build);
        view.marks = node.description.as_deref().and_then(Marks::from_text);
        let mut by_us = node.reason.as_deref().is_some_and(|reason| reason.contains(DRAINED));
        if !tells && self.ours.is_ours(&view.name) {
            let page = self.page(node).await?;
            view.marks = page.marks;
            by_us = page.by_us;
        }
        view.drained = match (node.taken_out, by_us) {
            (false, _) => Drained::No,
            (true, true) => Drained::ByUs,
            (true, false) => Drained::ByOthers,
        };
        Ok(view)
    }

    /// What the node's page tells; read once for each node, and again whenever it was taken out or put back.
    async fn page(&self, node: &Node) -> Result<Page> {
        let known = self.pages().get(&node.name).cloned();
        if let Some(page) = known.filter(|page| page.taken_out == node.taken_out) {
            return Ok(page);
        }
        let text = match nodes::page_of(&self.client, &node.name).await {
            Ok(text) => text,
            Err(error) if error.kind == ErrorKind::NotFound => String::new(),
            Err(error) => return Err(error),
        };
        let by_us = text.contains(&format!(": {DRAINED}"));
        let page = Page { marks: Marks::from_text(&text), taken_out: node.taken_out, by_us };
        self.pages().insert(node.name.clone(), page.clone());
        Ok(page)
    }

    fn pages(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Page>> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl CiMaster for JenkinsMaster {
    fn capabilities(&self) -> MasterCapabilities {
        let by_themselves = self.0.config.attach == Attach::SwarmClient;
        let mut capabilities = MasterCapabilities::default();
        capabilities.one_job = OneJob::Observed;
        capabilities.agents_end_by_themselves = false;
        capabilities.lists_agents = !by_themselves;
        capabilities.drains = true;
        capabilities.re_enrols = !by_themselves;
        capabilities
    }

    async fn enrol(&self, request: &EnrolRequest) -> Result<EnrolOutcome> {
        enrol::enrol(&self.0, request).await
    }

    async fn agents(&self) -> Result<AgentsSnapshot> {
        let began = self.0.client.now();
        let tells = self.0.client.profile().await?.tells_nodes;
        let state =
            self.0.client.json("read whether it is about to shut down", "api/json?tree=quietingDown").await?;
        let nodes = self.0.read().await?;
        let mut agents = Vec::with_capacity(nodes.len());
        for node in nodes.iter().filter(|node| node.name != board::name(&self.0.ours)) {
            agents.push(self.0.view(node, tells).await?);
        }
        self.0.pages().retain(|name, _| nodes.iter().any(|node| node.name == *name));
        let mut snapshot = AgentsSnapshot::new(began, agents);
        snapshot.quiet = state.get("quietingDown").and_then(serde_json::Value::as_bool).unwrap_or_default();
        snapshot.session = self.0.client.session();
        Ok(snapshot)
    }

    async fn probe(&self) -> Vec<Probe> {
        let client = &self.0.client;
        let mut probes = vec![Probe::new("read all agents", self.agents().await.map(drop))];
        if probes.iter().any(|probe| probe.result.is_err()) {
            return probes;
        }
        let queue = client.api("read the queue", "queue/api/json?tree=items[why]").await;
        probes.push(Probe::new("read the queue", queue.map(drop)));
        probes
    }

    async fn drain(&self, agent: &AgentName) -> Result<()> {
        let (client, name) = (&self.0.client, self.0.node_of(agent));
        let read = || async {
            let node = nodes::one(client, &name).await?;
            node.ok_or_else(|| Error::not_found(format!("Jenkins has no node {name}")))
        };
        // Jenkins can only toggle: whoever does so without a look may put it back.
        if read().await?.taken_out {
            return Ok(());
        }
        let path = format!("{}/toggleOffline", nodes::place(&name));
        let reason = format!("{DRAINED}takes no more jobs");
        client.post(&format!("take {name} out"), &path, &[("offlineMessage", &reason)]).await?;
        if read().await?.taken_out {
            return Ok(());
        }
        Err(Error::unknown_outcome(format!(
            "{name} was taken out and is back; somebody else did that at the same time"
        )))
    }

    async fn remove(&self, agent: &AgentName, despite_busy: bool) -> Result<()> {
        let (client, name) = (&self.0.client, self.0.node_of(agent));
        let Some(node) = nodes::one(client, &name).await? else { return Ok(()) };
        if node.busy > 0 && !despite_busy {
            return Err(Error::conflict(format!("{name} has a job")));
        }
        let path = format!("{}/doDelete", nodes::place(&name));
        match client.post(&format!("remove node {name}"), &path, &[]).await {
            Ok(_) => Ok(()),
            Err(error) if error.kind == ErrorKind::NotFound => Ok(()),
            // Some versions answer so where nothing is left.
            Err(error) if error.kind == ErrorKind::UnknownOutcome => match nodes::one(client, &name).await {
                Ok(None) => Ok(()),
                _ => Err(error),
            },
            Err(error) => Err(error),
        }
    }

    async fn explain(&self, reasons: &[Explanation]) -> Result<()> {
        board::write(&self.0, reasons).await
    }

    fn demand(&self) -> Option<Box<dyn DemandSource>> {
        Some(Box::new(JenkinsQueue::new(self.0.clone())))
    }

    fn completion(&self) -> Option<Box<dyn CompletionSource>> {
        Some(Box::new(JenkinsNews::new(self.0.clone())))
    }
}
