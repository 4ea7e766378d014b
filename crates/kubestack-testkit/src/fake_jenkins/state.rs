//! What a Jenkins has: nodes, jobs, builds and agents; and what happens to them. Pure: the time is a field.

use super::label::{Label, of_node};
use super::queue::Queue;
use super::version::Version;
use super::words::Locale;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};

/// The name under which the built-in node is kept.
pub(super) const BUILT_IN: &str = "";

/// Characters that no name may have (`Jenkins.checkGoodName`).
const UNSAFE: &str = "?*/\\%!@#$^&|<>[]:;";

/// Why something was not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// There is no such thing: 404.
    Missing,
    /// Jenkins says no, in these words: 400.
    Refused(String),
    /// The same over Swarm: 409.
    Conflict(String),
}

/// An agent's connection.
pub(super) type Channel = u64;

/// Why a node is offline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Cause {
    /// Of `hudson.slaves.OfflineCause`.
    pub class: &'static str,
    /// Whose word it is, if anybody's.
    pub by: Option<String>,
    /// What `offlineCauseReason` says.
    pub reason: String,
    pub at: u64,
}

/// A node.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub description: String,
    pub labels: String,
    pub executors: u32,
    pub exclusive: bool,
    pub remote_fs: String,
    pub web_socket: bool,
    /// Made over the Swarm plugin: never on disk.
    pub swarm: bool,
    /// A swarm node that stays without its agent.
    pub keeps: bool,
    pub taken_out: Option<Cause>,
    pub lost: Option<Cause>,
    pub channel: Option<Channel>,
    /// What its agent showed, so that it may come back.
    pub cookie: String,
}

impl Default for Node {
    fn default() -> Self {
        Self {
            description: String::new(),
            labels: String::new(),
            executors: 1,
            exclusive: false,
            remote_fs: "/home/jenkins/agent".to_owned(),
            web_socket: false,
            swarm: false,
            keeps: false,
            taken_out: None,
            lost: None,
            channel: None,
            cookie: String::new(),
        }
    }
}

/// A job.
#[derive(Clone, Debug, Default)]
pub(super) struct Job {
    pub xml: String,
    /// As its user wrote it.
    pub label: Option<String>,
    pub description: Option<String>,
    pub concurrent: bool,
    pub disabled: bool,
    pub next_number: u64,
}

impl Job {
    fn read(xml: &str) -> Self {
        let label = element(xml, "assignedNode").filter(|label| !label.trim().is_empty());
        let is = |name: &str| element(xml, name).as_deref() == Some("true");
        Self {
            label,
            description: element(xml, "description"),
            concurrent: is("concurrentBuild"),
            disabled: is("disabled"),
            xml: xml.to_owned(),
            next_number: 1,
        }
    }
}

/// What waits or runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Task {
    Job(String),
    /// A `node` step of a pipeline's run (`job/p/12/`), which tells its label to nobody.
    Part {
        run: String,
        label: Option<String>,
    },
}

/// A build on a node.
#[derive(Clone, Debug)]
pub(super) struct Build {
    pub task: Task,
    pub number: u64,
    pub item: u64,
    pub node: String,
    pub executor: u32,
    pub started: u64,
    /// When, and its result.
    pub ended: Option<(u64, String)>,
}

/// All of it.
pub(super) struct Controller {
    pub version: Version,
    pub locale: Locale,
    /// Changes with each start.
    pub session: String,
    starts: u64,
    /// Milliseconds since 1970.
    pub now: u64,
    pub quieting: bool,
    /// By name; the built-in one is called [`BUILT_IN`].
    pub nodes: BTreeMap<String, Node>,
    pub jobs: BTreeMap<String, Job>,
    pub builds: Vec<Build>,
    pub queue: Queue,
    next_channel: Channel,
}

impl Controller {
    pub fn new(version: Version, now: u64) -> Self {
        let built_in = Node {
            description: "the built-in node".to_owned(),
            executors: 2,
            channel: Some(0),
            ..Node::default()
        };
        let mut controller = Self {
            version,
            locale: Locale::En,
            session: String::new(),
            starts: 0,
            now,
            quieting: false,
            nodes: [(BUILT_IN.to_owned(), built_in)].into(),
            jobs: BTreeMap::new(),
            builds: Vec::new(),
            queue: Queue::default(),
            next_channel: 1,
        };
        controller.restart();
        controller
    }

    /// It ends and starts: agents are gone, swarm nodes forgotten, what ran has failed; the queue is kept.
    pub fn restart(&mut self) {
        for name in self.names_of_agents() {
            self.disconnect(&name, None, "");
        }
        self.nodes.retain(|_, node| !node.swarm);
        self.end_builds_on(BUILT_IN, "ABORTED");
        self.quieting = false;
        self.starts += 1;
        self.session = hex(&format!("start {}", self.starts)).chars().take(8).collect();
    }

    fn names_of_agents(&self) -> Vec<String> {
        self.nodes.keys().filter(|name| *name != BUILT_IN).cloned().collect()
    }

    /// As people read it.
    pub fn display_name(&self, name: &str) -> String {
        if name == BUILT_IN { self.version.built_in().0.to_owned() } else { name.to_owned() }
    }

    /// All labels of a node: its own, and its name.
    pub fn labels_of(&self, name: &str) -> BTreeSet<String> {
        let mut labels = self.nodes.get(name).map(|node| of_node(&node.labels)).unwrap_or_default();
        labels.insert(if name == BUILT_IN { self.version.built_in().1.to_owned() } else { name.to_owned() });
        labels
    }

    /// What a task asks for.
    pub fn label_of(&self, task: &Task) -> Option<Label> {
        let text = match task {
            Task::Job(job) => self.jobs.get(job)?.label.as_ref()?,
            Task::Part { label, .. } => label.as_ref()?,
        };
        Label::parse(text)
    }

    /// The secret of an agent: a function of controller and name.
    pub fn secret(&self, name: &str) -> String {
        hex(&format!("key of this controller {name}"))
    }

    /// Makes a node.
    pub fn create(&mut self, name: &str, node: Node) -> Result<(), Fault> {
        good_name(name)?;
        if self.nodes.contains_key(name) {
            return Err(Fault::Refused(format!("Agent called ‘{name}’ already exists")));
        }
        if node.executors == 0 {
            let text = format!("Invalid agent configuration for {name}. Invalid number of executors.");
            return Err(Fault::Refused(text));
        }
        self.nodes.insert(name.to_owned(), node);
        Ok(())
    }

    /// Takes a node away; its agent is cut off and what runs there fails.
    pub fn delete(&mut self, name: &str) -> Result<(), Fault> {
        self.agent(name)?;
        self.end_builds_on(name, "FAILURE");
        self.nodes.remove(name);
        Ok(())
    }

    /// A node that is not the built-in one.
    pub fn agent(&mut self, name: &str) -> Result<&mut Node, Fault> {
        self.nodes.get_mut(name).filter(|_| name != BUILT_IN).ok_or(Fault::Missing)
    }

    /// Takes a node out, or puts it back.
    pub fn toggle(&mut self, name: &str, user: &str, message: &str) -> Result<(), Fault> {
        let cause = user_cause(user, message, self.now);
        let node = self.nodes.get_mut(name).ok_or(Fault::Missing)?;
        node.taken_out = if node.taken_out.is_some() { None } else { Some(cause) };
        Ok(())
    }

    /// Says another reason.
    pub fn change_cause(&mut self, name: &str, user: &str, message: &str) -> Result<(), Fault> {
        let cause = user_cause(user, message, self.now);
        let node = self.nodes.get_mut(name).ok_or(Fault::Missing)?;
        if node.taken_out.is_some() {
            node.taken_out = Some(cause);
        }
        Ok(())
    }

    /// Cuts an agent off; a swarm node goes with it.
    pub fn disconnect(&mut self, name: &str, by: Option<&str>, reason: &str) {
        let at = self.now;
        let Some(node) = self.nodes.get_mut(name).filter(|node| node.channel.is_some()) else { return };
        node.channel = None;
        let class = match by {
            Some(_) => "hudson.slaves.OfflineCause$ByCLI",
            None => "hudson.slaves.OfflineCause$ChannelTermination",
        };
        node.lost = Some(Cause { class, by: by.map(str::to_owned), reason: reason.to_owned(), at });
        let gone = node.swarm && !node.keeps;
        self.end_builds_on(name, "FAILURE");
        if gone {
            self.nodes.remove(name);
        }
    }

    /// An agent comes, and is let in or hears why not (status and text of `WebSocketAgents`).
    pub fn attach(&mut self, name: &str, secret: &str, cookie: &str) -> Result<Channel, (u16, String)> {
        if name == BUILT_IN || !self.nodes.contains_key(name) {
            return Err((400, "no such agent".to_owned()));
        }
        if secret != self.secret(name) {
            return Err((403, "Forbidden".to_owned()));
        }
        let channel = self.next_channel;
        let Some(node) = self.nodes.get_mut(name) else { return Err((400, "no such agent".to_owned())) };
        if node.channel.is_some() && node.cookie != cookie {
            return Err((
                400,
                format!("{name} is already connected to this controller. Rejecting this connection."),
            ));
        }
        (node.channel, node.lost, node.cookie) = (Some(channel), None, cookie.to_owned());
        self.next_channel += 1;
        self.settle();
        Ok(channel)
    }

    /// An agent's connection ended.
    pub fn detach(&mut self, channel: Channel) {
        let of = self.nodes.iter().find(|(_, node)| node.channel == Some(channel));
        if let Some(name) = of.map(|(name, _)| name.clone()) {
            self.disconnect(&name, None, "");
        }
    }

    /// Whether that connection is an agent's still.
    pub fn is_connected(&self, channel: Channel) -> bool {
        self.nodes.values().any(|node| node.channel == Some(channel))
    }

    /// Makes a job of that XML.
    pub fn create_job(&mut self, name: &str, xml: &str) -> Result<(), Fault> {
        good_name(name)?;
        if self.jobs.contains_key(name) {
            return Err(Fault::Refused(format!("A job already exists with the name ‘{name}’")));
        }
        self.jobs.insert(name.to_owned(), Job::read(xml));
        Ok(())
    }

    /// Replaces a job's XML.
    pub fn configure_job(&mut self, name: &str, xml: &str) -> Result<(), Fault> {
        let job = self.jobs.get_mut(name).ok_or(Fault::Missing)?;
        *job = Job { next_number: job.next_number, ..Job::read(xml) };
        Ok(())
    }

    /// Lets a job run, or not; then it leaves the queue.
    pub fn disable(&mut self, name: &str, disabled: bool) -> Result<(), Fault> {
        let job = self.jobs.get_mut(name).ok_or(Fault::Missing)?;
        job.disabled = disabled;
        let [on, off] = [true, false].map(|it| format!("<disabled>{it}</disabled>"));
        job.xml = if disabled { job.xml.replace(&off, &on) } else { job.xml.replace(&on, &off) };
        if disabled {
            self.queue.cancel_all(name, self.now);
        }
        Ok(())
    }

    /// Takes a job away, with all that it has.
    pub fn delete_job(&mut self, name: &str) -> Result<(), Fault> {
        self.jobs.remove(name).ok_or(Fault::Missing)?;
        self.queue.cancel_all(name, self.now);
        self.builds.retain(|build| build.task != Task::Job(name.to_owned()));
        Ok(())
    }

    /// Builds of that job, oldest first.
    pub fn builds_of<'a>(&'a self, job: &str) -> impl DoubleEndedIterator<Item = &'a Build> {
        let task = Task::Job(job.to_owned());
        self.builds.iter().filter(move |build| build.task == task)
    }

    /// What runs on a node.
    pub fn running_on<'a>(&'a self, node: &'a str) -> impl Iterator<Item = &'a Build> {
        self.builds.iter().filter(move |build| build.node == node && build.ended.is_none())
    }

    /// What runs on a node ends.
    pub fn end_builds_on(&mut self, node: &str, result: &str) -> usize {
        let now = self.now;
        let running = self.builds.iter_mut().filter(|build| build.node == node && build.ended.is_none());
        running.map(|build| build.ended = Some((now, result.to_owned()))).count()
    }
}

fn user_cause(user: &str, message: &str, at: u64) -> Cause {
    let class = "hudson.slaves.OfflineCause$UserCause";
    Cause { class, by: Some(user.to_owned()), reason: message.to_owned(), at }
}

fn good_name(name: &str) -> Result<(), Fault> {
    let refused = |text: String| Err(Fault::Refused(text));
    if name.trim().is_empty() {
        return refused("Query parameter 'name' is required".to_owned());
    }
    if matches!(name, "." | "..") {
        return refused(format!("“{name}” is not an allowed name"));
    }
    match name.chars().find(|it| UNSAFE.contains(*it) || it.is_control()) {
        Some(bad) => refused(format!("‘{bad}’ is an unsafe character")),
        None => Ok(()),
    }
}

/// The text of the first element of that name.
pub(super) fn element(xml: &str, name: &str) -> Option<String> {
    let (_, rest) = xml.split_once(&format!("<{name}>"))?;
    let (text, _) = rest.split_once(&format!("</{name}>"))?;
    let text = text.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"");
    Some(text.replace("&apos;", "'").replace("&amp;", "&"))
}

/// The SHA-256 of a text, in hex.
pub(super) fn hex(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}
