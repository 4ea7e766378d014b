//! The queue: what waits, why, and what starts where (`hudson/model/Queue.java`). Pure.

use super::label::Label;
use super::state::{BUILT_IN, Build, Controller, Fault, Task};
use super::words::Why;
use std::collections::{BTreeMap, BTreeSet};

/// What left can be asked for as long, in milliseconds.
const REMEMBERED: u64 = 5 * 60 * 1000;

/// The default quiet period, in milliseconds.
const QUIET: u64 = 5_000;

/// Where an item is on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// In its quiet period until then.
    Waiting {
        until: u64,
    },
    Blocked {
        since: u64,
    },
    Buildable {
        since: u64,
    },
    /// An executor of that node is its, and it has not begun.
    Pending {
        since: u64,
        node: String,
    },
}

/// One item.
#[derive(Clone, Debug)]
pub(super) struct Item {
    pub id: u64,
    pub task: Task,
    pub since: u64,
    pub stage: Stage,
    pub params: Vec<(String, String)>,
    /// Who asked for it, once for each time.
    pub causes: Vec<String>,
}

/// An item that is no longer in the queue.
#[derive(Clone, Debug)]
pub(super) struct Left {
    pub item: Item,
    pub at: u64,
    pub cancelled: bool,
}

/// The items, and those that left a short while ago.
pub(super) struct Queue {
    pub items: BTreeMap<u64, Item>,
    pub left: BTreeMap<u64, Left>,
    next: u64,
    /// Whether what gets an executor stays pending.
    pub holds_starts: bool,
}

impl Default for Queue {
    fn default() -> Self {
        Self { items: BTreeMap::new(), left: BTreeMap::new(), next: 1, holds_starts: false }
    }
}

impl Queue {
    /// Takes items of a job out.
    pub fn cancel_all(&mut self, job: &str, now: u64) {
        let task = Task::Job(job.to_owned());
        let of = self.items.values().filter(|item| item.task == task);
        for id in of.map(|item| item.id).collect::<Vec<_>>() {
            self.leave(id, now, true);
        }
    }

    /// Takes one out; whether it was there.
    pub fn leave(&mut self, id: u64, now: u64, cancelled: bool) -> bool {
        let Some(item) = self.items.remove(&id) else { return false };
        self.left.insert(id, Left { item, at: now, cancelled });
        true
    }
}

impl Controller {
    /// Puts a job into the queue; the same with the same parameters is one item. Its number.
    pub fn schedule(
        &mut self,
        job: &str,
        quiet: Option<u64>,
        params: Vec<(String, String)>,
        user: &str,
    ) -> Result<u64, Fault> {
        let known = self.jobs.get(job).ok_or(Fault::Missing)?;
        if known.disabled {
            return Err(Fault::Conflict(format!("{job} is not buildable")));
        }
        let until = self.now + quiet.unwrap_or(QUIET);
        Ok(self.enter(Task::Job(job.to_owned()), Stage::Waiting { until }, params, user))
    }

    /// A `node` step of a pipeline's run enters the queue; no quiet period there.
    pub fn schedule_part(&mut self, run: &str, label: Option<&str>) -> u64 {
        let task = Task::Part { run: run.to_owned(), label: label.map(str::to_owned) };
        self.enter(task, Stage::Buildable { since: self.now }, Vec::new(), "")
    }

    fn enter(&mut self, task: Task, stage: Stage, params: Vec<(String, String)>, user: &str) -> u64 {
        let job = matches!(task, Task::Job(_));
        // Looked for among the last only: what is merged is what was asked for twice in a row.
        let mut last = self.queue.items.values_mut().rev().take(100);
        if let Some(same) = last.find(|item| job && item.task == task && item.params == params) {
            same.causes.push(user.to_owned());
            return same.id;
        }
        let id = self.queue.next;
        self.queue.next += 1;
        let item = Item { id, task, since: self.now, stage, params, causes: vec![user.to_owned()] };
        self.queue.items.insert(id, item);
        id
    }

    /// Does all that would have happened by now: quiet periods end, what can start does.
    pub fn settle(&mut self) {
        let now = self.now;
        self.queue.left.retain(|_, left| now.saturating_sub(left.at) < REMEMBERED);
        let mut busy: BTreeSet<String> = self
            .builds
            .iter()
            .filter(|build| build.ended.is_none())
            .filter_map(|build| self.lone_job(&build.task))
            .collect();
        for id in self.queue.items.keys().copied().collect::<Vec<_>>() {
            let Some(item) = self.queue.items.get(&id) else { continue };
            let since = match &item.stage {
                Stage::Waiting { until } if *until > now => continue,
                Stage::Waiting { until } => *until,
                Stage::Blocked { since } | Stage::Buildable { since } | Stage::Pending { since, .. } => {
                    *since
                }
            };
            let lone = self.lone_job(&item.task);
            let node = match &item.stage {
                Stage::Pending { node, .. } if self.is_online(node) => Some(node.clone()),
                _ if lone.as_ref().is_some_and(|job| busy.contains(job)) => None,
                _ => self.node_for(&item.task),
            };
            let blocked = node.is_none() && lone.as_ref().is_some_and(|job| busy.contains(job));
            let held = self.queue.holds_starts;
            let stage = match (&node, blocked) {
                (_, true) => Stage::Blocked { since },
                (None, false) => Stage::Buildable { since },
                (Some(node), false) => Stage::Pending { since, node: node.clone() },
            };
            if let Some(item) = self.queue.items.get_mut(&id) {
                item.stage = stage;
            }
            if let Some(node) = node {
                busy.extend(lone);
                if !held {
                    self.start(id, &node);
                }
            }
        }
    }

    /// A job of which one build runs at a time.
    fn lone_job(&self, task: &Task) -> Option<String> {
        let Task::Job(name) = task else { return None };
        self.jobs.get(name).filter(|job| !job.concurrent).map(|_| name.clone())
    }

    fn start(&mut self, id: u64, node: &str) {
        let Some(item) = self.queue.items.get(&id) else { return };
        let task = item.task.clone();
        let number = match &task {
            Task::Job(name) => self.jobs.get_mut(name).map(|job| {
                job.next_number += 1;
                job.next_number - 1
            }),
            Task::Part { run, .. } => {
                run.trim_end_matches('/').rsplit('/').next().and_then(|it| it.parse().ok())
            }
        };
        let used: BTreeSet<u32> = self.running_on(node).map(|build| build.executor).collect();
        let executor = (0..).find(|index| !used.contains(index)).unwrap_or_default();
        self.builds.push(Build {
            task,
            number: number.unwrap_or(1),
            item: id,
            node: node.to_owned(),
            executor,
            started: self.now,
            ended: None,
        });
        self.queue.leave(id, self.now, false);
    }

    /// Whether an agent is connected and takes jobs.
    pub fn is_online(&self, name: &str) -> bool {
        self.nodes.get(name).is_some_and(|node| node.channel.is_some() && node.taken_out.is_none())
    }

    /// How many executors of a node have nothing, if it is online.
    pub fn idle_executors(&self, name: &str) -> u32 {
        let Some(node) = self.nodes.get(name).filter(|_| self.is_online(name)) else { return 0 };
        let pending = self.queue.items.values();
        let pending =
            pending.filter(|item| matches!(&item.stage, Stage::Pending { node, .. } if node == name));
        let used = self.running_on(name).count() + if self.queue.holds_starts { pending.count() } else { 0 };
        node.executors.saturating_sub(u32::try_from(used).unwrap_or(u32::MAX))
    }

    fn node_for(&self, task: &Task) -> Option<String> {
        if self.quieting {
            return None;
        }
        let free: Vec<&String> = self.nodes.keys().filter(|name| self.idle_executors(name) > 0).collect();
        // Of 50,000 items most wait; no need to read what they ask for.
        if free.is_empty() {
            return None;
        }
        let label = self.label_of(task);
        let fit = free.into_iter().filter(|name| self.cannot_take(name, label.as_ref()).is_none());
        // Agents before the built-in node.
        fit.min_by_key(|name| name.as_str() == BUILT_IN).cloned()
    }

    /// Why that node refuses such an item.
    fn cannot_take(&self, name: &str, label: Option<&Label>) -> Option<Why> {
        let node = self.display_name(name);
        match label {
            Some(label) if label.matches(&self.labels_of(name)) => None,
            Some(label) => Some(Why::Missing { node, label: label.name() }),
            None if self.nodes.get(name).is_some_and(|node| node.exclusive) => Some(Why::Reserved(node)),
            None => None,
        }
    }

    /// Nodes with that label.
    pub fn nodes_of(&self, label: &Label) -> Vec<&str> {
        let names = self.nodes.keys().filter(|name| label.matches(&self.labels_of(name)));
        names.map(String::as_str).collect()
    }

    /// Why an item waits (`getCauseOfBlockage`).
    pub fn why(&self, item: &Item) -> Why {
        match &item.stage {
            Stage::Waiting { until } if *until > self.now => return Why::Quiet(until - self.now),
            Stage::Waiting { .. } => return Why::Finished,
            Stage::Blocked { .. } => return Why::InProgress,
            Stage::Buildable { .. } | Stage::Pending { .. } => {}
        }
        if self.quieting {
            return Why::ShuttingDown;
        }
        let asked = self.label_of(&item.task);
        // Without any agent the label is dropped.
        let label = asked.as_ref().filter(|_| self.nodes.len() > 1);
        if let Some(label) = label {
            let nodes = self.nodes_of(label);
            let online = nodes.iter().any(|name| self.is_online(name));
            return match (nodes.as_slice(), online) {
                ([one], false) => Why::Offline(self.display_name(one)),
                ([one], true) => Why::NextOn(self.display_name(one)),
                ([], _) => Why::NoNodes(label.name()),
                (_, false) => Why::AllOffline(label.name()),
                (_, true) => Why::NextOn(label.name()),
            };
        }
        // The ancestor tells the reasons of no node.
        let idle =
            self.nodes.keys().filter(|name| self.idle_executors(name) > 0 && !self.version.is_hudson());
        let reasons: Vec<Why> = idle.filter_map(|name| self.cannot_take(name, asked.as_ref())).collect();
        if reasons.is_empty() { Why::Next } else { Why::Several(reasons) }
    }

    /// Whether nothing will become of it unless somebody does something.
    pub fn is_stuck(&self, item: &Item) -> bool {
        if !matches!(item.stage, Stage::Buildable { .. } | Stage::Pending { .. }) {
            return false;
        }
        match self.label_of(&item.task) {
            Some(label) => !self.nodes_of(&label).iter().any(|name| self.is_online(name)),
            None => self.now.saturating_sub(item.since) > 24 * 60 * 60 * 1000,
        }
    }
}
