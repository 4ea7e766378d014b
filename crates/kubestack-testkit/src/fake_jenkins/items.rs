//! What the API tells of items of the queue, of jobs and of their builds.

use super::documents::{Documents, add, encode};
use super::queue::{Item, Left, Stage};
use super::state::{Build, Task};
use serde_json::{Value, json};

/// The class of a pipeline's part.
const PART: &str = "org.jenkinsci.plugins.workflow.support.steps.ExecutorStepExecution$PlaceholderTask";

impl Documents<'_> {
    /// A build, as an executor shows it.
    pub fn executable(&self, build: &Build) -> Value {
        let class = match &build.task {
            Task::Job(_) => "hudson.model.FreeStyleBuild".to_owned(),
            Task::Part { .. } => format!("{PART}$PlaceholderExecutable"),
        };
        let mut document = json!({"_class": class, "number": build.number, "url": self.build_url(build)});
        if self.modern() && matches!(build.task, Task::Job(_)) {
            add(&mut document, json!({"queueId": build.item}));
        }
        document
    }

    fn build_url(&self, build: &Build) -> String {
        match &build.task {
            Task::Job(name) => format!("{}job/{}/{}/", self.root, encode(name), build.number),
            Task::Part { run, .. } => format!("{}{run}", self.root),
        }
    }

    /// The queue.
    pub fn queue(&self) -> Value {
        // The waiting, the blocked, then what can start, youngest first.
        let rank = |item: &Item| match item.stage {
            Stage::Waiting { .. } => (0, item.id),
            Stage::Blocked { .. } => (1, item.id),
            Stage::Buildable { .. } => (2, u64::MAX - item.id),
            Stage::Pending { .. } => (3, u64::MAX - item.id),
        };
        let mut items: Vec<&Item> = self.controller.queue.items.values().filter(|_| self.sees_jobs).collect();
        items.sort_by_key(|item| rank(item));
        let items: Vec<Value> = items.into_iter().map(|item| self.item(item)).collect();
        let mut queue = json!({"_class": "hudson.model.Queue", "items": items});
        if self.modern() {
            add(&mut queue, json!({"discoverableItems": []}));
        }
        queue
    }

    /// One item of the queue.
    pub fn item(&self, item: &Item) -> Value {
        let (class, key, since) = match &item.stage {
            Stage::Waiting { until } => ("Waiting", "timestamp", *until),
            Stage::Blocked { since } => ("Blocked", "buildableStartMilliseconds", *since),
            Stage::Buildable { since } | Stage::Pending { since, .. } => {
                ("Buildable", "buildableStartMilliseconds", *since)
            }
        };
        let buildable = class == "Buildable";
        let mut document = self.common(item);
        let why = self.controller.why(item).text(self.controller.version, self.locale);
        add(
            &mut document,
            json!({
                "_class": format!("hudson.model.Queue${class}Item"),
                "blocked": class == "Blocked",
                "buildable": buildable,
                "stuck": self.controller.is_stuck(item),
                "why": why,
                key: since,
            }),
        );
        if buildable && self.modern() {
            add(&mut document, json!({"pending": matches!(item.stage, Stage::Pending { .. })}));
        }
        document
    }

    /// An item that left a short while ago.
    pub fn left(&self, left: &Left) -> Value {
        let mut document = self.common(&left.item);
        let build = self.controller.builds.iter().find(|build| build.item == left.item.id);
        add(
            &mut document,
            json!({
                "_class": "hudson.model.Queue$LeftItem",
                "blocked": false,
                "buildable": false,
                "stuck": false,
                "why": null,
                "cancelled": left.cancelled,
                "executable": build.map(|build| self.executable(build)),
            }),
        );
        document
    }

    fn common(&self, item: &Item) -> Value {
        let causes: Vec<Value> = item.causes.iter().map(|user| self.cause(user)).collect();
        let params: String = item
            .params
            .iter()
            .map(|(key, value)| format!("\n(StringParameterValue) {key}='{value}'"))
            .collect();
        let mut actions = vec![json!({"_class": "hudson.model.CauseAction", "causes": causes})];
        if !item.params.is_empty() {
            let class = "hudson.model.StringParameterValue";
            let all = item
                .params
                .iter()
                .map(|(name, value)| json!({"_class": class, "name": name, "value": value}));
            actions.insert(
                0,
                json!({"_class": "hudson.model.ParametersAction", "parameters": all.collect::<Vec<_>>()}),
            );
        }
        let mut document = json!({"actions": actions, "params": params, "task": self.task(&item.task)});
        if self.modern() {
            let url = format!("queue/item/{}/", item.id);
            add(&mut document, json!({"id": item.id, "inQueueSince": item.since, "url": url}));
        }
        document
    }

    fn cause(&self, user: &str) -> Value {
        let text = format!("Started by user {user}");
        let mut cause = json!({"shortDescription": text, "userName": user});
        if self.modern() {
            add(&mut cause, json!({"_class": "hudson.model.Cause$UserIdCause", "userId": user}));
        }
        cause
    }

    fn task(&self, task: &Task) -> Value {
        match task {
            Task::Job(name) => {
                let mut line = self.job_line(name).unwrap_or_else(|| json!({"name": name}));
                if self.controller.version.tells_labels() {
                    let label = self.controller.jobs.get(name).and_then(|job| job.label.clone());
                    add(&mut line, json!({"labelExpression": label}));
                }
                line
            }
            Task::Part { run, .. } => {
                let text = run.trim_start_matches("job/").trim_end_matches('/').replace('/', " #");
                let text = format!("part of {text}");
                json!({"_class": PART, "url": run, "name": text, "fullDisplayName": text})
            }
        }
    }

    /// A job in a list.
    pub fn job_line(&self, name: &str) -> Option<Value> {
        let url = format!("{}job/{}/", self.root, encode(name));
        let class = "hudson.model.FreeStyleProject";
        Some(json!({"_class": class, "name": name, "url": url, "color": self.color(name)?}))
    }

    fn color(&self, name: &str) -> Option<String> {
        let job = self.controller.jobs.get(name)?;
        let last = self.controller.builds_of(name).filter_map(|build| build.ended.as_ref()).next_back();
        let runs = self.controller.builds_of(name).any(|build| build.ended.is_none());
        let color = match last.map(|(_, result)| result.as_str()) {
            _ if job.disabled => "disabled",
            None if self.modern() => "notbuilt",
            None => "grey",
            Some("SUCCESS") => "blue",
            Some("UNSTABLE") => "yellow",
            Some("ABORTED") => "aborted",
            Some(_) => "red",
        };
        Some(if runs { format!("{color}_anime") } else { color.to_owned() })
    }

    /// A job.
    pub fn job(&self, name: &str) -> Option<Value> {
        let mut document = self.task(&Task::Job(name.to_owned()));
        let job = self.controller.jobs.get(name)?;
        let line = |build: &Build| json!({"_class": "hudson.model.FreeStyleBuild", "number": build.number, "url": self.build_url(build)});
        let of_job = |item: &&Item| item.task == Task::Job(name.to_owned());
        let waiting = self.controller.queue.items.values().find(of_job);
        let builds = || self.controller.builds_of(name);
        add(
            &mut document,
            json!({
                "actions": [],
                "displayName": name,
                "description": job.description,
                "buildable": !job.disabled,
                "concurrentBuild": job.concurrent,
                "inQueue": waiting.is_some(),
                "nextBuildNumber": job.next_number,
                "builds": builds().rev().map(line).collect::<Vec<_>>(),
                "firstBuild": builds().next().map(line),
                "lastBuild": builds().next_back().map(line),
                "lastCompletedBuild": builds().rfind(|build| build.ended.is_some()).map(line),
            }),
        );
        if self.modern() {
            add(&mut document, json!({"fullName": name, "queueItem": waiting.map(|item| self.item(item))}));
        }
        Some(document)
    }

    /// A build of a job.
    pub fn build(&self, build: &Build) -> Value {
        let result = build.ended.as_ref().map(|(_, result)| result.clone());
        let took = build.ended.as_ref().map_or(0, |(at, _)| at.saturating_sub(build.started));
        let Task::Job(job) = &build.task else { return self.executable(build) };
        let mut document = self.executable(build);
        add(
            &mut document,
            json!({
                "building": build.ended.is_none(),
                "builtOn": build.node,
                "duration": took,
                "fullDisplayName": format!("{job} #{}", build.number),
                "result": result,
                "timestamp": build.started,
            }),
        );
        if self.modern() {
            add(
                &mut document,
                json!({"displayName": format!("#{}", build.number), "id": build.number.to_string()}),
            );
        }
        document
    }
}
