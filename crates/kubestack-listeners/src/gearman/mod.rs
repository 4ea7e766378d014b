//! Gearman's queue as demand, as the Gearman plugin of Jenkins and its clients (Zuul) use it.
//!
//! ```text
//!  build:JOB:LABEL   jobs for a node with that label         waiting = total − running
//!  build:JOB         for any node that may run that job
//! ```
//!
//! Read by the admin command `status` alone: there are servers that answer no other. Each look asks all servers, on
//! connections of its own; if one does not answer, the look has failed, for fewer jobs would be a wrong answer.

mod demand;
mod status;
mod wire;

use crate::is_host;
use futures_util::future::try_join_all;
use kubestack_core::inventory;
use kubestack_core::prelude::*;
use kubestack_core::registry::Build;
use kubestack_core::time::Span;
use status::{Queued, add};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// The port that servers listen on unless told otherwise.
const PORT: u16 = 4730;

/// A Gearman queue, on one server or several.
#[derive(Clone, Debug, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct GearmanConfig {
    /// The host of the one server.
    pub host: Option<String>,
    /// Its port. Default: 4730.
    pub port: Option<u16>,
    /// Several servers, in place of `host`: each `HOST` or `HOST:PORT`. Their jobs add up.
    #[serde(default)]
    pub servers: Vec<String>,
    /// What jobs need that are queued without a label, by the name of the job: one of the things that labels provide.
    #[serde(default)]
    pub jobs: BTreeMap<String, String>,
    /// How often the servers are asked.
    #[serde(default = "default_poll")]
    pub poll: Span,
    /// How long a server may take to answer.
    #[serde(default = "default_timeout")]
    pub timeout: Span,
}

fn default_poll() -> Span {
    Span(Duration::from_secs(1))
}

fn default_timeout() -> Span {
    Span(Duration::from_secs(5))
}

/// Where one server is.
type Address = (String, u16);

impl GearmanConfig {
    /// The servers, or what is wrong under which key.
    fn addresses(&self) -> Result<Vec<Address>, (&'static str, String)> {
        let wrong = |key, text: &str| Err((key, text.to_owned()));
        match (&self.host, self.servers.is_empty()) {
            (Some(_), false) => {
                return wrong("servers", "and `host` are two ways to say the same; use one of the two");
            }
            (None, true) => return wrong("host", "is missing: the server that has the queue"),
            (None, false) if self.port.is_some() => {
                return wrong(
                    "port",
                    "goes with `host`; in `servers` it follows each host, as in `gear1:4730`",
                );
            }
            (Some(host), true) if !is_host(host) => {
                return wrong("host", "is no name and no address of a host");
            }
            _ => {}
        }
        if self.poll.0 < Duration::from_millis(100) {
            return wrong("poll", "must be at least 100ms");
        }
        if self.timeout.0.is_zero() || self.timeout.0 > Duration::from_secs(60) {
            return wrong("timeout", "must be more than 0s and at most 60s");
        }
        if let Some(host) = &self.host {
            return Ok(vec![(host.clone(), self.port.unwrap_or(PORT))]);
        }
        let parsed = self.servers.iter().map(|text| {
            address(text)
                .ok_or_else(|| ("servers", format!("`{text}` is no server; write for example `gear1:4730`")))
        });
        let mut addresses = parsed.collect::<Result<Vec<_>, _>>()?;
        let all = addresses.len();
        addresses.sort();
        addresses.dedup();
        if addresses.len() < all {
            return wrong("servers", "names one server twice, whose jobs would count twice");
        }
        Ok(addresses)
    }
}

/// `HOST`, `HOST:PORT`, or `[IPV6]:PORT`.
fn address(text: &str) -> Option<Address> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => match rest.split_once(']')? {
            (host, "") => (host, None),
            (host, port) => (host, Some(port.strip_prefix(':')?)),
        },
        None => match text.split_once(':') {
            // More than one colon is an address of version 6 that has no port.
            Some((_, port)) if port.contains(':') => (text, None),
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let port = port.map_or(Some(PORT), |port| port.parse().ok())?;
    is_host(host).then(|| (host.to_owned(), port))
}

/// Reads the queue of its servers.
struct Gearman {
    servers: Vec<Address>,
    jobs: BTreeMap<String, String>,
    poll: Duration,
    timeout: Duration,
    instance: InstanceName,
    clock: Arc<dyn Clock>,
    looked: bool,
}

impl Gearman {
    async fn ask(&self, (host, port): &Address) -> Result<Queued> {
        tokio::select! {
            answer = wire::status(host, *port) => answer,
            () = self.clock.sleep(self.timeout) => {
                let within = self.timeout;
                let text = format!("no whole answer to `status` from gearman at {host}:{port} within {within:?}");
                Err(Error::transient(text))
            }
        }
    }
}

#[async_trait]
impl DemandSource for Gearman {
    async fn next(&mut self, context: &SourceContext) -> Result<DemandSnapshot> {
        if std::mem::replace(&mut self.looked, true) {
            self.clock.sleep(self.poll).await;
        }
        let began = self.clock.now();
        let asked = self.servers.iter().map(|server| self.ask(server));
        let mut queued = Queued::default();
        for (function, jobs) in try_join_all(asked).await?.into_iter().flatten() {
            add(&mut queued, &function, jobs);
        }
        Ok(DemandSnapshot::new(began, demand::demands(&queued, &self.jobs, &context.labels, &self.instance)))
    }
}

fn build(context: &BuildContext, fragment: &Fragment) -> Result<Box<dyn DemandSource>> {
    let config: GearmanConfig = fragment.parse()?;
    let servers = config.addresses().map_err(|(key, text)| fragment.error(key, text))?;
    Ok(Box::new(Gearman {
        servers,
        jobs: config.jobs,
        poll: config.poll.0,
        timeout: config.timeout.0,
        instance: context.instance.clone(),
        clock: context.clock.clone(),
        looked: false,
    }))
}

inventory::submit! {
    Plugin {
        type_name: "gearman",
        summary: "the queue of Gearman servers, as the Gearman plugin of Jenkins uses it",
        schema: || schemars::schema_for!(GearmanConfig),
        example: "{name: gearman-server, type: gearman, host: gearman.example.org, port: 4730}",
        build: Build::DemandSource(build),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(value: serde_json::Value) -> GearmanConfig {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn servers_are_named_in_one_of_two_ways() {
        let addresses = |value| config(value).addresses().map_err(|(key, text)| format!("{key} {text}"));
        let four = |host: &str| (host.to_owned(), 4730);
        assert_eq!(addresses(serde_json::json!({"host": "a"})), Ok(vec![four("a")]));
        assert_eq!(addresses(serde_json::json!({"host": "a", "port": 1})), Ok(vec![("a".to_owned(), 1)]));
        let several = serde_json::json!({"servers": ["b:1", "a", "[::1]:2", "::2"]});
        let expected = vec![four("::2"), ("::1".to_owned(), 2), four("a"), ("b".to_owned(), 1)];
        let mut sorted = addresses(several).unwrap();
        sorted.sort_by_key(|(host, _)| expected.iter().position(|(known, _)| known == host));
        assert_eq!(sorted, expected);
        for (value, said) in [
            (serde_json::json!({}), "host is missing"),
            (serde_json::json!({"host": "a", "servers": ["b"]}), "servers and `host`"),
            (serde_json::json!({"port": 1, "servers": ["b"]}), "port goes with `host`"),
            (serde_json::json!({"servers": ["b", "b:4730"]}), "servers names one server twice"),
            (serde_json::json!({"servers": ["b:99999"]}), "servers `b:99999` is no server"),
            (serde_json::json!({"host": "http://a"}), "host is no name"),
            (serde_json::json!({"host": "a", "poll": "1ms"}), "poll must be"),
            (serde_json::json!({"host": "a", "timeout": "2m"}), "timeout must be"),
        ] {
            let error = addresses(value).unwrap_err();
            assert!(error.starts_with(said), "{error}");
        }
    }
}
