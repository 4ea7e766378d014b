//! The config of a master, and its place in the registry.

use crate::client::{Client, Credentials};
use crate::master::JenkinsMaster;
use crate::recorded::{Masks, recorded};
use crate::wire::connect;
use kubestack_core::inventory;
use kubestack_core::prelude::*;
use kubestack_core::registry::Build;
use kubestack_core::secrecy::ExposeSecret;
use kubestack_core::time::Span;
use std::path::PathBuf;
use std::time::Duration;

/// A Jenkins. Its queue is demand without a further word.
#[derive(Clone, Debug, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct JenkinsConfig {
    /// Its address for the daemon, with the path that it is under, such as `https://ci.example.org/jenkins`.
    pub external_url: String,
    /// Its address for agents. Default: `external_url`.
    pub internal_url: Option<String>,
    /// The daemon's user.
    pub user: Option<String>,
    /// That user's password: changes then take a crumb and a session.
    pub pass: Option<SecretRef>,
    /// That user's API token, in place of `pass`.
    pub token: Option<SecretRef>,
    /// How agents attach: `inbound`, `swarm` or `swarm-client`. A label's `attach` goes before it.
    #[serde(default)]
    pub attach: Attach,
    /// Inbound agents connect by WebSocket, so that Jenkins needs no port for agents.
    #[serde(default)]
    pub web_socket: bool,
    /// Where an agent works, on its own machine.
    #[serde(default = "default_work_dir")]
    pub work_dir: String,
    /// How often the queue is read.
    #[serde(default = "default_poll")]
    pub poll: Span,
    /// The authorities that may sign the server's certificate, as a PEM file. Default: those of the host.
    pub ca_file: Option<PathBuf>,
    /// An HTTP proxy before it, such as `http://proxy:3128`; it must allow CONNECT.
    pub proxy: Option<String>,
}

/// How an agent attaches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Attach {
    /// The daemon makes a permanent node, and the agent gets its name and secret.
    #[default]
    Inbound,
    /// The daemon makes the node over the Swarm plugin, and the agent gets its name and secret.
    Swarm,
    /// The agent makes its own node over the Swarm plugin, with the daemon's user: the images of 2015.
    SwarmClient,
}

impl Attach {
    /// As the config writes it.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "inbound" => Some(Self::Inbound),
            "swarm" => Some(Self::Swarm),
            "swarm-client" => Some(Self::SwarmClient),
            _ => None,
        }
    }
}

fn default_work_dir() -> String {
    "/home/jenkins/agent".to_owned()
}

fn default_poll() -> Span {
    Span(Duration::from_secs(1))
}

fn build(context: &BuildContext, fragment: &Fragment) -> Result<Box<dyn CiMaster>> {
    let config: JenkinsConfig = fragment.parse()?;
    check(&config).map_err(|(key, text)| fragment.error(key, text))?;
    let user = config.user.clone().unwrap_or_default();
    let secret = |key: &str, secret: &SecretRef| context.secret(fragment, key, secret);
    let credentials = match (&config.pass, &config.token) {
        (Some(pass), _) => Credentials::Password(user, secret("pass", pass)?),
        (None, Some(token)) => Credentials::Token(user, secret("token", token)?),
        (None, None) => Credentials::Anonymous,
    };
    let proxy = config.proxy.as_deref().and_then(|proxy| proxy.parse().ok());
    let wire = connect(config.ca_file.as_deref(), proxy).map_err(|text| fragment.error("ca_file", text))?;
    let password = config.pass.as_ref().or(config.token.as_ref());
    let password = password.map(|reference| context.secrets.resolve(reference)).transpose()?;
    let wire = match &context.transcript {
        Some(transcript) => {
            let secrets = password.iter().map(|secret| secret.expose_secret().to_owned()).collect();
            let (system, base) = (context.name.clone(), config.external_url.clone());
            recorded(wire, transcript.clone(), Masks { system, base, secrets })
        }
        None => wire,
    };
    let client = Client::new(wire, &config.external_url, credentials, context.clock.clone());
    Ok(Box::new(JenkinsMaster::new(context.instance.clone(), client, config, password)))
}

/// What is wrong with it, by its key.
fn check(config: &JenkinsConfig) -> Result<(), (&'static str, String)> {
    let wrong = |key, text: &str| Err((key, text.to_owned()));
    let web = |text: &str| {
        text.parse::<http::Uri>().is_ok_and(|uri| {
            let plain = uri.query().is_none() && uri.authority().is_some_and(|it| !it.as_str().contains('@'));
            matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some() && plain
        })
    };
    let urls = [("external_url", Some(&config.external_url)), ("internal_url", config.internal_url.as_ref())];
    for (key, text) in urls.into_iter().chain([("proxy", config.proxy.as_ref())]) {
        if text.is_some_and(|text| !web(text)) {
            return wrong(key, "is no address; write for example https://ci.example.org/jenkins");
        }
    }
    if config.pass.is_some() && config.token.is_some() {
        return wrong("token", "and `pass` are two ways to be the same user; use one of the two");
    }
    if config.user.is_some() != (config.pass.is_some() || config.token.is_some()) {
        return wrong("user", "goes with `pass` or `token`");
    }
    if config.user.as_ref().is_some_and(|user| user.contains([':', '\n', '\r'])) {
        return wrong("user", "has a character that no user of Jenkins has");
    }
    if config.attach == Attach::SwarmClient && config.user.is_none() {
        return wrong("attach", "`swarm-client` hands `user` and `pass` to agents, and they are not there");
    }
    if config.poll.0 < Duration::from_millis(100) {
        return wrong("poll", "must be at least 100ms");
    }
    Ok(())
}

inventory::submit! {
    Plugin {
        type_name: "jenkins",
        summary: "a Jenkins: nodes for agents, its queue as demand",
        schema: || schemars::schema_for!(JenkinsConfig),
        example: "{name: jenkins, type: jenkins, external_url: 'https://ci.example.org', user: kubestack, token: {file: /etc/kubestack/jenkins-token}}",
        build: Build::Master(build),
    }
}

inventory::submit! {
    Plugin {
        type_name: "jenkins_queue",
        summary: "the queue of a Jenkins, which its master reads anyway",
        schema: || schemars::json_schema!({"type": "object", "additionalProperties": false}),
        example: "{name: jenkins-queue, type: jenkins_queue}",
        build: Build::DemandOfMaster("jenkins"),
    }
}
