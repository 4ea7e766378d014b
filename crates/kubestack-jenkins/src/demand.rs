//! The queue of Jenkins as demand.

use crate::expression::Expression;
use crate::fault::page;
use crate::jobs::{Jobs, Tied};
use crate::json::{is, list, text};
use crate::master::Jenkins;
use crate::nodes::Node;
use crate::why::{Hint, hints};
use kubestack_core::prelude::*;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What is asked of each item; what a version does not know it leaves out.
const TREE: &str = "items[id,why,buildable,pending,inQueueSince,buildableStartMilliseconds,\
    task[_class,name,url,labelExpression]]";

/// No more items are looked at in one read; the rest has its turn when these are gone.
const MAX_ITEMS: usize = 50_000;

/// Tasks that run on Jenkins itself, and only begin others.
const FLYWEIGHT: [&str; 4] =
    ["WorkflowJob", "MatrixProject", "WorkflowMultiBranchProject", "OrganizationFolder"];

/// One item that waits for an executor.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Item {
    /// Where Jenkins numbers items.
    id: Option<u64>,
    why: String,
    since: Option<u64>,
    name: String,
    url: String,
    /// What its job asks for, where the API tells; `Some(None)`: nothing.
    label: Option<Option<String>>,
}

impl Item {
    /// Reads an item that waits for an executor; others are none of ours.
    fn read(value: &Value) -> Option<Self> {
        let task = value.get("task")?;
        let class = text(task, "_class").unwrap_or_default();
        let class = class.rsplit(['.', '$']).next().unwrap_or_default();
        if !is(value, "buildable") || is(value, "pending") || FLYWEIGHT.contains(&class) {
            return None;
        }
        let number = |key: &str| value.get(key).and_then(Value::as_u64);
        Some(Self {
            id: number("id"),
            why: text(value, "why").unwrap_or_default(),
            since: number("inQueueSince").or_else(|| number("buildableStartMilliseconds")),
            name: text(task, "name").unwrap_or_default(),
            url: text(task, "url").unwrap_or_default(),
            label: match task.get("labelExpression") {
                None => None,
                Some(Value::String(label)) if !label.trim().is_empty() => Some(Some(label.clone())),
                Some(_) => Some(None),
            },
        })
    }

    /// What it is called here: its number, or its job and since when it waits.
    fn key(&self) -> String {
        match self.id {
            Some(id) => id.to_string(),
            None => format!("{}@{}", self.url, self.since.unwrap_or_default()),
        }
    }
}

/// What an item asks of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Wants {
    /// This.
    Label(Expression),
    /// Nothing.
    Anything,
    /// What that label of ours has: one of its agents is the only node that will do.
    Like(LabelName),
    /// Nobody tells us.
    Unknown,
}

/// The queue of one Jenkins.
pub struct JenkinsQueue {
    jenkins: Arc<Jenkins>,
    jobs: Jobs,
    /// What each item was found to ask for: once a node of its label is there, Jenkins names that in its place.
    learned: BTreeMap<String, Wants>,
    looked: bool,
}

impl JenkinsQueue {
    pub(crate) fn new(jenkins: Arc<Jenkins>) -> Self {
        Self { jenkins, jobs: Jobs::default(), learned: BTreeMap::new(), looked: false }
    }

    async fn read(&mut self, context: &SourceContext) -> Result<DemandSnapshot> {
        let jenkins = self.jenkins.clone();
        let client = &jenkins.client;
        let nodes = jenkins.look.borrow().clone();
        let nodes = match nodes {
            Some(nodes) => nodes,
            None => jenkins.read().await?,
        };
        let began = client.now();
        let what = "read the queue";
        let body = client.api(what, &format!("queue/api/json?tree={TREE}")).await?;
        let mut items = list(&body, "items", Item::read).map_err(|error| page(what, &body, &error))?;
        drop(body);
        items.truncate(MAX_ITEMS);
        let provided = context.labels.values().flat_map(|label| label.provides.iter().cloned()).collect();
        self.jobs.begin();
        let mut learned = BTreeMap::new();
        let mut demands = Vec::with_capacity(items.len());
        for item in &items {
            let mut key = item.key();
            for again in 2.. {
                if !learned.contains_key(&key) {
                    break;
                }
                key = format!("{}#{again}", item.key());
            }
            let wants = self.wants(item, &key, &nodes, &provided).await?;
            learned.insert(key.clone(), wants.clone());
            demands.extend(demand(item, key, &wants, context, &nodes, &jenkins));
        }
        self.learned = learned;
        Ok(DemandSnapshot::new(began, demands))
    }

    async fn wants(
        &mut self,
        item: &Item,
        key: &str,
        nodes: &[Node],
        provided: &BTreeSet<String>,
    ) -> Result<Wants> {
        if let Some(label) = &item.label {
            return Ok(label
                .as_ref()
                .map_or(Wants::Anything, |label| Wants::Label(Expression::parse(label))));
        }
        let node = |name: &str| nodes.iter().find(|node| node.name == name);
        let hints = hints(&item.why);
        for hint in &hints {
            match hint {
                Hint::Label(label) => return Ok(Wants::Label(Expression::parse(label))),
                Hint::LabelOrNode(name) if node(name).is_none() => {
                    return Ok(Wants::Label(Expression::parse(name)));
                }
                _ => {}
            }
        }
        if let Some(known) =
            self.learned.get(key).filter(|known| !matches!(known, Wants::Unknown | Wants::Like(_)))
        {
            return Ok(known.clone());
        }
        match self.jobs.tied(&self.jenkins.client, &item.url, provided).await? {
            Tied::To(label) => return Ok(Wants::Label(Expression::parse(&label))),
            Tied::Free => return Ok(Wants::Anything),
            Tied::Unknown => {}
        }
        for hint in &hints {
            let (Hint::Node(name) | Hint::LabelOrNode(name)) = hint else { continue };
            let marks = node(name).and_then(|node| Marks::from_text(node.description.as_deref()?));
            if let Some(marks) = marks.filter(|marks| marks.instance == *self.jenkins.ours.instance()) {
                return Ok(Wants::Like(marks.label));
            }
        }
        // Without any agent Jenkins drops the label from its words; the built-in node is no agent.
        let plain = hints.contains(&Hint::Plain) && nodes.len() > 1;
        Ok(if plain { Wants::Anything } else { Wants::Unknown })
    }
}

/// What an item is as demand; nothing where it waits for one agent of ours that is there already.
fn demand(
    item: &Item,
    key: String,
    wants: &Wants,
    context: &SourceContext,
    nodes: &[Node],
    jenkins: &Jenkins,
) -> Option<Demand> {
    if let Wants::Label(expression) = wants
        && expression.atoms().into_iter().any(|atom| {
            let node = nodes.iter().any(|node| node.name == atom);
            node && jenkins.ours.is_ours(jenkins.ours.agent(atom))
        })
    {
        return None;
    }
    let serves = |label: &LabelSpec| match wants {
        Wants::Label(expression) => expression.matches(&label.provides),
        Wants::Anything => label.unlabelled,
        Wants::Like(name) => label.name == *name,
        Wants::Unknown => false,
    };
    let needs = context.labels.iter().filter(|(_, label)| serves(label)).map(|(name, _)| name.clone());
    let text = match wants {
        Wants::Label(expression) => format!("{} for {expression}", item.name),
        Wants::Anything => format!("{} for any node", item.name),
        Wants::Like(name) => format!("{} for a node like those of {name}", item.name),
        Wants::Unknown => format!("{}, for a label that Jenkins does not tell: {}", item.name, item.why),
    };
    let mut demand = Demand::job(key, needs).text(text);
    demand.since = item.since.map(Moment::from_millis);
    Some(demand)
}

#[async_trait]
impl DemandSource for JenkinsQueue {
    async fn next(&mut self, context: &SourceContext) -> Result<DemandSnapshot> {
        if self.looked {
            self.jenkins.client.sleep(self.jenkins.config.poll.0).await;
        }
        let snapshot = self.read(context).await?;
        self.looked = true;
        Ok(snapshot)
    }
}
