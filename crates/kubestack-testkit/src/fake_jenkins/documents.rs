//! What the API tells of each thing (`@Exported` in Jenkins' sources). All fields; `tree` and `depth` cut them later.

use super::state::{BUILT_IN, Build, Cause, Controller, Node};
use super::words::Locale;
use serde_json::{Value, json};

/// Makes documents for one request.
pub(super) struct Documents<'a> {
    pub controller: &'a Controller,
    /// Ends with `/`.
    pub root: &'a str,
    pub locale: Locale,
    /// Whether whoever asks may see jobs.
    pub sees_jobs: bool,
}

/// Adds fields to a document.
pub(super) fn add(document: &mut Value, fields: Value) {
    if let (Value::Object(document), Value::Object(fields)) = (document, fields) {
        document.extend(fields);
    }
}

/// A name as part of an address.
pub(super) fn encode(text: &str) -> String {
    use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
    const KEPT: &AsciiSet =
        &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'(').remove(b')');
    utf8_percent_encode(text, KEPT).to_string()
}

impl Documents<'_> {
    /// Whether it is none of the ancestor.
    pub fn modern(&self) -> bool {
        !self.controller.version.is_hudson()
    }

    /// The root.
    pub fn root(&self, secured: bool, crumbs: bool) -> Value {
        let built_in = self.controller.nodes.get(BUILT_IN);
        let jobs: Vec<Value> = self
            .controller
            .jobs
            .keys()
            .filter(|_| self.sees_jobs)
            .filter_map(|name| self.job_line(name))
            .collect();
        let mut root = json!({
            "_class": "hudson.model.Hudson",
            "assignedLabels": [{}],
            "mode": mode(built_in),
            "nodeName": "",
            "numExecutors": built_in.map_or(0, |node| node.executors),
            "description": null,
            "jobs": jobs,
            "slaveAgentPort": 0,
            "useCrumbs": crumbs,
            "useSecurity": secured,
        });
        if self.modern() {
            let label = json!([{"name": self.controller.version.built_in().1}]);
            add(
                &mut root,
                json!({"quietingDown": self.controller.quieting, "url": self.root, "assignedLabels": label}),
            );
        }
        root
    }

    /// All nodes.
    pub fn computers(&self) -> Value {
        let controller = self.controller;
        let names = controller.nodes.keys();
        let busy: usize = names.clone().map(|name| controller.running_on(name).count()).sum();
        let online = controller.nodes.values().filter(|node| node.channel.is_some());
        json!({
            "_class": "hudson.model.ComputerSet",
            "busyExecutors": busy,
            "computer": names.filter_map(|name| self.computer(name)).collect::<Vec<_>>(),
            "displayName": if self.modern() { "Nodes" } else { "nodes" },
            "totalExecutors": online.map(|node| node.executors).sum::<u32>(),
        })
    }

    /// One node.
    pub fn computer(&self, name: &str) -> Option<Value> {
        let controller = self.controller;
        let node = controller.nodes.get(name)?;
        let running: Vec<&Build> = controller.running_on(name).collect();
        let executors = (0..node.executors).map(|index| {
            let build = running.iter().find(|build| build.executor == index);
            let progress = if build.is_some() { 50 } else { -1 };
            json!({
                "currentExecutable": build.filter(|_| self.sees_jobs).map(|build| self.executable(build)),
                "idle": build.is_none(), "likelyStuck": false, "number": index, "progress": progress,
            })
        });
        let inbound = name != BUILT_IN;
        let mut document = json!({
            "_class": if inbound { "hudson.slaves.SlaveComputer" } else { "hudson.model.Hudson$MasterComputer" },
            "actions": [],
            "displayName": controller.display_name(name),
            "executors": executors.collect::<Vec<_>>(),
            "idle": running.is_empty(),
            "jnlpAgent": inbound,
            "launchSupported": !inbound,
            "manualLaunchAllowed": true,
            "numExecutors": node.executors,
            "offline": !controller.is_online(name),
            "offlineCause": self.offline_cause(node),
            "oneOffExecutors": [],
            "temporarilyOffline": node.taken_out.is_some(),
        });
        if self.modern() {
            let cause = node.taken_out.as_ref().or(node.lost.as_ref());
            let reason = cause.map_or("", |cause| cause.reason.as_str());
            add(&mut document, json!({"description": node.description, "offlineCauseReason": reason}));
        }
        if controller.version.tells_labels() {
            let labels = controller.labels_of(name);
            let labels: Value = labels.iter().map(|name| json!({"name": name})).collect();
            add(&mut document, json!({"assignedLabels": labels}));
        }
        Some(document)
    }

    fn offline_cause(&self, node: &Node) -> Value {
        let Some(Cause { class, by, reason, at }) = node.taken_out.as_ref().or(node.lost.as_ref()) else {
            return Value::Null;
        };
        let text =
            by.as_ref().map_or_else(|| reason.clone(), |by| format!("Disconnected by {by} : {reason}"));
        let mut cause = json!({"_class": class, "description": text});
        if self.modern() {
            add(&mut cause, json!({"timestamp": at}));
        }
        cause
    }

    /// A label: its nodes, and the jobs that are tied to it.
    pub fn label(&self, name: &str) -> Value {
        let controller = self.controller;
        let label = super::label::Label::parse(name);
        let nodes = label.as_ref().map(|label| controller.nodes_of(label)).unwrap_or_default();
        let executors = nodes.iter().filter(|name| controller.is_online(name));
        let total: u32 =
            executors.filter_map(|name| controller.nodes.get(*name)).map(|node| node.executors).sum();
        let tied = controller.jobs.iter().filter(|(_, job)| {
            self.sees_jobs && job.label.as_deref().and_then(super::label::Label::parse) == label
        });
        json!({
            "_class": "hudson.model.labels.LabelAtom",
            "busyExecutors": nodes.iter().map(|name| controller.running_on(name).count()).sum::<usize>(),
            "clouds": [],
            "idleExecutors": nodes.iter().map(|name| controller.idle_executors(name)).sum::<u32>(),
            "name": label.as_ref().map(super::label::Label::name),
            "nodes": nodes.iter().map(|name| json!({"nodeName": name})).collect::<Vec<_>>(),
            "offline": total == 0,
            "tiedJobs": tied.filter_map(|(name, _)| self.job_line(name)).collect::<Vec<_>>(),
            "totalExecutors": total,
        })
    }
}

fn mode(node: Option<&Node>) -> &'static str {
    if node.is_some_and(|node| node.exclusive) { "EXCLUSIVE" } else { "NORMAL" }
}
