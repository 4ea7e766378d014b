//! A Jenkins of today on a real socket, for what no real server in our tests offers. What it says follows Jenkins' sources;
//! where the ancestor (Hudson 1.395, which the testbed has for real) answers the same question, a test of
//! `kubestack-jenkins` compares the two, and python-jenkins drives it unmodified.
//!
//! ```text
//!  socket ─► server ─► trouble? ─► site: who, crumb, permission ─► state + queue (pure) ─► documents ─► tree ─► socket
//!                                                        ▲
//!                              agents, builds' ends, time: by the test
//! ```
//!
//! Nothing happens by itself: before each answer, what would have happened by now happens. Builds run until the test
//! ends them, and time passes for the quiet period when the test says so as well.
//!
//! What it deliberately lacks: folders, views, plugins but Swarm, remoting beyond the handshake, any web page.

mod agent;
mod answer;
mod documents;
mod items;
mod jobs;
mod label;
mod nodes;
mod queue;
mod security;
mod server;
mod site;
mod state;
mod swarm;
#[cfg(test)]
mod tests;
mod trouble;
mod version;
mod words;

pub use agent::{FakeAgent, WebSocketAgent};
pub use security::{Permission, Security};
pub use swarm::Swarm;
pub use trouble::Trouble;
pub use version::Version;
pub use words::Locale;

use crate::host::RuntimeClock;
use kubestack_core::context::Clock;
use security::Sessions;
use server::{Connected, Shared};
use site::Site;
use state::{BUILT_IN, Controller};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// What kind of Jenkins.
#[derive(Clone, Debug)]
pub struct Options {
    /// Its version. Default: today's.
    pub version: Version,
    /// The language of those who ask for none. Default: English.
    pub locale: Locale,
    /// Its users; without, everybody may do anything, and no crumb is wanted.
    pub security: Option<Security>,
    /// The path that it is under, such as `/jenkins`.
    pub context: String,
    /// The Swarm plugin.
    pub swarm: Swarm,
    /// Executors of the built-in node. Default: 0, so that nothing runs but on agents; a new Jenkins has 2.
    pub built_in_executors: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            version: Version::TODAY,
            locale: Locale::En,
            security: None,
            context: "/jenkins".to_owned(),
            swarm: Swarm::Today,
            built_in_executors: 0,
        }
    }
}

/// A fake Jenkins, gone with this value.
pub struct FakeJenkins {
    shared: Arc<Shared>,
    url: String,
    _server: JoinSet<()>,
}

impl FakeJenkins {
    /// Listens on a free port of loopback. Needs a runtime.
    ///
    /// # Errors
    /// If there is no port.
    pub async fn start(options: Options) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}{}", listener.local_addr()?, options.context);
        let clock = Arc::new(RuntimeClock::start());
        let mut controller = Controller::new(options.version, clock.now().as_millis());
        controller.locale = options.locale;
        if let Some(node) = controller.nodes.get_mut(BUILT_IN) {
            node.executors = options.built_in_executors;
        }
        let site = Site {
            controller,
            security: options.security,
            sessions: Sessions::default(),
            swarm: options.swarm,
            root: format!("{url}/"),
            starting: false,
        };
        let shared = Arc::new(Shared::new(site, options.context, clock));
        let mut server = JoinSet::new();
        server.spawn(server::serve(shared.clone(), listener));
        Ok(Self { shared, url, _server: server })
    }

    /// Its address, with the path that it is under.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Makes a job that asks for that label expression; one of that name is replaced.
    pub fn job(&self, name: &str, label: Option<&str>) {
        let label = label.map_or_else(String::new, |label| {
            format!("<assignedNode>{}</assignedNode>", nodes::escape(label))
        });
        let xml = format!(
            "<project>{label}<disabled>false</disabled><concurrentBuild>true</concurrentBuild></project>"
        );
        self.shared.with(|inner| {
            let controller = &mut inner.site.controller;
            controller.configure_job(name, &xml).or_else(|_| controller.create_job(name, &xml)).ok();
        });
    }

    /// Puts a job into the queue, with that quiet period: the number of its item; `None` if there is no such job.
    pub fn build(&self, job: &str, quiet: Duration) -> Option<u64> {
        let quiet = u64::try_from(quiet.as_millis()).ok();
        self.shared.with(|inner| inner.site.controller.schedule(job, quiet, Vec::new(), "anonymous").ok())
    }

    /// Puts a `node` step of a pipeline's run (`job/p/12/`) into the queue: the number of its item.
    pub fn part(&self, run: &str, label: Option<&str>) -> u64 {
        self.shared.with(|inner| inner.site.controller.schedule_part(run, label))
    }

    /// Puts so many items into the queue, each a build of the job `many` with another parameter, for that label.
    pub fn fill(&self, count: u32, label: &str) {
        self.job("many", Some(label));
        self.shared.with(|inner| {
            for index in 0..count {
                let params = vec![("N".to_owned(), index.to_string())];
                inner.site.controller.schedule("many", Some(0), params, "anonymous").ok();
            }
        });
    }

    /// Lets an agent in, other than over a socket.
    ///
    /// # Errors
    /// With Jenkins' words, if it is not let in.
    pub fn attach(&self, node: &str, secret: &str) -> Result<FakeAgent, String> {
        let attached = self.shared.with(|inner| match inner.site.starting {
            true => Err((503, "Service Unavailable".to_owned())),
            false => inner.site.controller.attach(node, secret, ""),
        });
        let channel = attached.map_err(|(status, text)| format!("{status} {text}"))?;
        Ok(FakeAgent(Connected { shared: self.shared.clone(), channel }))
    }

    /// Ends what runs on a node, with a result such as `SUCCESS`: how many builds that were.
    pub fn finish(&self, node: &str, result: &str) -> usize {
        self.shared.with(|inner| inner.site.controller.end_builds_on(node, result))
    }

    /// The nodes, but the built-in one.
    pub fn nodes(&self) -> Vec<String> {
        let names = self.shared.with(|inner| inner.site.controller.nodes.keys().cloned().collect::<Vec<_>>());
        names.into_iter().filter(|name| name != BUILT_IN).collect()
    }

    /// Moves its clock on.
    pub fn pass(&self, time: Duration) {
        self.shared.with(|inner| inner.ahead += time);
    }

    /// Whether what gets an executor stays pending.
    pub fn hold_starts(&self, hold: bool) {
        self.shared.with(|inner| inner.site.controller.queue.holds_starts = hold);
    }

    /// Says that it is about to shut down, or is not; nothing starts then.
    pub fn quiet(&self, quiet: bool) {
        self.shared.with(|inner| inner.site.controller.quieting = quiet);
    }

    /// The next so many requests in whose "METHOD /path" (below the context) that part stands are in for trouble.
    pub fn trouble(&self, part: &str, times: u32, trouble: Trouble) {
        self.shared.with(|inner| inner.troubles.add(part, times, trouble));
    }

    /// Lets one answer go that is [`Trouble::Held`].
    pub fn release(&self) {
        self.shared.released.add_permits(1);
    }

    /// Ends: connections, sessions and crumbs are gone, swarm nodes are forgotten, and all is 503 until [`Self::up`].
    pub fn down(&self) {
        self.shared.with(|inner| {
            inner.site.controller.restart();
            inner.site.sessions.end();
            inner.site.starting = true;
        });
        self.shared.cut.send_replace(());
    }

    /// Is ready again, as another session.
    pub fn up(&self) {
        self.shared.with(|inner| inner.site.starting = false);
    }

    /// The last requests, as "METHOD /path?query".
    pub fn heard(&self) -> Vec<String> {
        self.shared.with(|inner| inner.heard.iter().cloned().collect())
    }
}
