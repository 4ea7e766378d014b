//! News of builds from the ZMQ Event Publisher of Jenkins: a hint that an agent began or ended its job, sooner than a
//! look at the nodes tells it.
//!
//! ```text
//!  onStarted JSON, onCompleted JSON, onFinalized JSON ──► completion, if it names what may be an agent of ours
//! ```
//!
//! A publisher forgets what it said while nobody listened. So each connection begins with the advice to look again, and
//! nothing rests on news alone.

mod codec;
mod connection;
mod event;

use connection::Connection;
use kubestack_core::inventory;
use kubestack_core::prelude::*;
use kubestack_core::registry::Build;
use kubestack_core::time::Span;
use std::sync::Arc;
use std::time::Duration;

/// A publisher of builds.
#[derive(Clone, Debug, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct ZmqConfig {
    /// The host of the publisher: the one that Jenkins runs on.
    pub host: String,
    /// Its port. Default: 8888, that of the plugin.
    #[serde(default = "default_port")]
    pub port: u16,
    /// How long it may take to connect and to be greeted.
    #[serde(default = "default_timeout")]
    pub timeout: Span,
}

fn default_port() -> u16 {
    8888
}

fn default_timeout() -> Span {
    Span(Duration::from_secs(10))
}

impl ZmqConfig {
    /// What is wrong under which key.
    fn problem(&self) -> Option<(&'static str, &'static str)> {
        if !crate::is_host(&self.host) {
            return Some(("host", "is no name and no address of a host; the port goes under `port`"));
        }
        if self.port == 0 {
            return Some(("port", "must be from 1 to 65535"));
        }
        if self.timeout.0.is_zero() || self.timeout.0 > Duration::from_secs(60) {
            return Some(("timeout", "must be more than 0s and at most 60s"));
        }
        None
    }
}

/// Hears one publisher.
struct Zmq {
    config: ZmqConfig,
    instance: InstanceName,
    clock: Arc<dyn Clock>,
    connection: Option<Connection>,
    greeted: bool,
}

impl Zmq {
    /// The next message; `None` when a connection is new. Its errors end the connection.
    async fn hear(&mut self) -> Result<Option<Vec<u8>>> {
        let connection = match &mut self.connection {
            Some(connection) => connection,
            None => {
                let opened = Connection::open(&self.config.host, self.config.port).await;
                self.greeted = false;
                self.connection.insert(opened.map_err(|error| Error::transient(error.to_string()))?)
            }
        };
        let said = connection.next().await?;
        self.greeted = true;
        Ok(said)
    }

    /// As [`Zmq::hear`], with an end to waiting for as long as the publisher has not greeted.
    async fn hear_in_time(&mut self) -> Result<Option<Vec<u8>>> {
        if self.connection.is_some() && self.greeted {
            return self.hear().await;
        }
        let (clock, timeout) = (self.clock.clone(), self.config.timeout.0);
        tokio::select! {
            biased;
            said = self.hear() => said,
            () = clock.sleep(timeout) => Err(Error::transient(format!("it does not greet within {timeout:?}"))),
        }
    }

    /// What a message tells of agents of ours.
    fn news(&self, message: &[u8], at: Moment) -> Vec<Completion> {
        let event = match event::parse(message) {
            Some(Ok(event)) => event,
            Some(Err(error)) => {
                tracing::debug!(host = %self.config.host, %error, "an event cannot be read");
                return Vec::new();
            }
            None => return Vec::new(),
        };
        let node = event.node.unwrap_or_default();
        // Where both have the form of an agent's name, which of them is one is known where hints are taken: others are
        // ignored there.
        let whole = Some(node.as_str()).filter(|name| AgentName::may_be_of(&self.instance, name));
        let names = [whole, AgentName::before_appended(&self.instance, &node)];
        names
            .into_iter()
            .flatten()
            .map(|name| {
                let news = Completion::new(name, event.event, at);
                match event.queue_id {
                    Some(id) => news.job(id.to_string()),
                    None => news,
                }
            })
            .collect()
    }
}

#[async_trait]
impl CompletionSource for Zmq {
    async fn next(&mut self) -> Result<Vec<Completion>> {
        loop {
            match self.hear_in_time().await {
                Ok(None) => {
                    tracing::info!(host = %self.config.host, port = self.config.port, "hears the publisher");
                    return Ok(Vec::new());
                }
                Ok(Some(message)) => {
                    let news = self.news(&message, self.clock.now());
                    if !news.is_empty() {
                        return Ok(news);
                    }
                }
                Err(error) => {
                    self.connection = None;
                    let (host, port) = (&self.config.host, self.config.port);
                    let message =
                        format!("the publisher at {host}:{port} cannot be heard: {}", error.message);
                    return Err(Error::new(error.kind, message));
                }
            }
        }
    }
}

fn build(context: &BuildContext, fragment: &Fragment) -> Result<Box<dyn CompletionSource>> {
    let config: ZmqConfig = fragment.parse()?;
    if let Some((key, text)) = config.problem() {
        return Err(fragment.error(key, text));
    }
    Ok(Box::new(Zmq {
        config,
        instance: context.instance.clone(),
        clock: context.clock.clone(),
        connection: None,
        greeted: false,
    }))
}

inventory::submit! {
    Plugin {
        type_name: "zmq",
        summary: "news of builds from the ZMQ Event Publisher of Jenkins",
        schema: || schemars::schema_for!(ZmqConfig),
        example: "{name: zmq, type: zmq, host: jenkins.example.org, port: 8888}",
        build: Build::CompletionSource(build),
    }
}
