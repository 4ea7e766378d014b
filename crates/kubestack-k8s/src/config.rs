//! The config of the provider, how the client is made from it, and its place in the registry.

use crate::api::Api;
use crate::provider::KubeProvider;
use http::header::AUTHORIZATION;
use http::{HeaderValue, Request};
use kube::client::{Body, ClientBuilder};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use kubestack_core::context::Secrets;
use kubestack_core::error::chain;
use kubestack_core::inventory;
use kubestack_core::prelude::*;
use kubestack_core::registry::Build;
use kubestack_core::secrecy::ExposeSecret;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tower::util::MapRequestLayer;

/// A cluster that takes longer to accept a connection is taken to be down.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Agents as pods of one namespace. The cluster is the one of `url`, or of `kubeconfig`, or else the one that
/// the daemon itself runs in.
#[derive(Clone, Debug, Default, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct KubeConfig {
    /// The address of the API server, such as `https://10.0.0.1:6443`.
    pub url: Option<String>,
    /// The bearer token for `url`. From a file it is read again when it changes.
    pub api_key: Option<SecretRef>,
    /// A kubeconfig file.
    pub kubeconfig: Option<PathBuf>,
    /// The context of the kubeconfig. Default: its current one.
    pub context: Option<String>,
    /// The authorities that may sign the API server's certificate, as a PEM file. Default: those of the
    /// kubeconfig, or of the host. Read again when it changes.
    pub ca_file: Option<PathBuf>,
    /// Do not check the API server's certificate: whoever stands between can then read every secret.
    pub insecure_skip_tls_verify: bool,
    /// An HTTP proxy before the API server, such as `http://proxy:3128`.
    pub proxy: Option<String>,
    /// What is known of free capacity, so that no more agents are launched than fit.
    pub capacity: CapacityOf,
    /// Where the pods are made. Default: the kubeconfig's or the daemon's own, else `default`.
    pub namespace: Option<String>,
}

/// Where free capacity is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum CapacityOf {
    /// The namespace's ResourceQuotas. Pods beyond what the nodes have wait for room, as a cluster that grows with its
    /// pods wants it.
    #[default]
    Quota,
    /// The nodes as well: what they have less what all pods on them ask for. For clusters that do not grow; takes
    /// `deploy/capacity.yaml`.
    Nodes,
}

fn build(context: &BuildContext, fragment: &Fragment) -> Result<Box<dyn SlaveProvider>> {
    let config: KubeConfig = fragment.parse()?;
    check(&config).map_err(|(key, text)| fragment.error(key, text))?;
    Ok(Box::new(KubeProvider::new(context, config)))
}

/// What is wrong with it, by its key.
fn check(config: &KubeConfig) -> Result<(), (&'static str, String)> {
    let wrong = |key, text: &str| Err((key, text.to_owned()));
    if config.url.is_some() && config.kubeconfig.is_some() {
        return wrong("kubeconfig", "and `url` both name a cluster; use one of the two");
    }
    if config.api_key.is_some() && config.url.is_none() {
        return wrong("api_key", "is for `url`, which is not there");
    }
    if config.context.is_some() && config.kubeconfig.is_none() {
        return wrong("context", "is for `kubeconfig`, which is not there");
    }
    if config.insecure_skip_tls_verify && config.ca_file.is_some() {
        return wrong("insecure_skip_tls_verify", "and `ca_file` contradict each other");
    }
    let web = |uri: &http::Uri| matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some();
    for (key, text) in [("url", &config.url), ("proxy", &config.proxy)] {
        if text.as_ref().is_some_and(|text| !text.parse::<http::Uri>().is_ok_and(|uri| web(&uri))) {
            return wrong(key, "is no address; write for example https://10.0.0.1:6443");
        }
    }
    let legal = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let label =
        |name: &str| (1..=63).contains(&name.len()) && name.bytes().all(legal) && !name.starts_with('-');
    if config.namespace.as_ref().is_some_and(|name| !label(name) || name.ends_with('-')) {
        return wrong("namespace", "is no name of a namespace (lower-case letters, digits and `-`)");
    }
    Ok(())
}

/// How a cluster is reached. Each user of it has connections and a limiter of its own.
#[derive(Clone)]
pub(crate) struct Access {
    pub context: BuildContext,
    pub config: KubeConfig,
    /// A client that was made elsewhere, and its namespace.
    pub given: Option<(Client, String)>,
}

impl Access {
    /// Reads files, and connects to nothing yet.
    pub async fn open(&self) -> Result<Api> {
        let (client, namespace) = match &self.given {
            Some(given) => given.clone(),
            None => self.config.client(self.context.secrets.clone()).await?,
        };
        Ok(Api::new(client, namespace, self.context.clock.clone()))
    }
}

impl KubeConfig {
    /// The client and its namespace. Reads files, and connects to nothing yet.
    pub(crate) async fn client(&self, secrets: Arc<dyn Secrets>) -> Result<(Client, String)> {
        let mut config = self.cluster(&*secrets).await?;
        config.connect_timeout = Some(CONNECT_TIMEOUT);
        // The engine alone decides what is sent again: the client would repeat even a create whose answer
        // was lost (504).
        config.default_retry = false;
        config.headers.push((http::header::USER_AGENT, HeaderValue::from_static(USER_AGENT)));
        if let Some(file) = &self.ca_file {
            config.root_cert_file = Some(file.clone());
        }
        if self.insecure_skip_tls_verify {
            config.accept_invalid_certs = true;
            tracing::warn!(
                "the certificate of {} is not checked (insecure_skip_tls_verify): whoever stands between can read \
                 every secret",
                config.cluster_url
            );
        }
        if let Some(proxy) = &self.proxy {
            config.proxy_url = Some(proxy.parse().map_err(|_| Error::invalid("`proxy` is no address"))?);
        }
        if config.cluster_url.scheme_str() == Some("http") && self.api_key.is_some() {
            tracing::warn!("the token for {} is sent in the clear; use https", config.cluster_url);
        }
        let namespace = self.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
        let builder = ClientBuilder::try_from(config).map_err(|error| {
            Error::invalid(format!("cannot make a client for the cluster: {}", chain(&error)))
        })?;
        let client = match &self.api_key {
            Some(key @ SecretRef::File(_)) => {
                builder.with_layer(&MapRequestLayer::new(key_of_file(secrets, key.clone())?)).build()
            }
            _ => builder.build(),
        };
        Ok((client, namespace))
    }

    async fn cluster(&self, secrets: &dyn Secrets) -> Result<Config> {
        if let Some(url) = &self.url {
            let url = url.parse().map_err(|_| Error::invalid("`url` is no address"))?;
            let mut config = Config::new(url);
            match &self.api_key {
                // Read for each request.
                None | Some(SecretRef::File(_)) => {}
                Some(key) => {
                    let token = secrets.resolve(key)?.expose_secret().to_owned();
                    config.auth_info.token = Some(token.into());
                }
            }
            return Ok(config);
        }
        if let Some(path) = &self.kubeconfig {
            let wrong = |error: &dyn std::error::Error| {
                Error::invalid(format!("`kubeconfig` {}: {}", path.display(), chain(error)))
            };
            let file = Kubeconfig::read_from(path).map_err(|error| wrong(&error))?;
            let options = KubeConfigOptions { context: self.context.clone(), ..KubeConfigOptions::default() };
            return Config::from_custom_kubeconfig(file, &options).await.map_err(|error| wrong(&error));
        }
        Config::incluster().map_err(|error| {
            Error::invalid(format!(
                "neither `url` nor `kubeconfig` is set, and this is no pod of a cluster ({})",
                chain(&error)
            ))
        })
    }
}

/// Adds the key of a file to each request, read again each time: a rotated one holds from the next request on. The client's
/// own way would send the line break at its end as well. While the file cannot be read, the last key stays.
fn key_of_file(
    secrets: Arc<dyn Secrets>,
    key: SecretRef,
) -> Result<impl Fn(Request<Body>) -> Request<Body> + Clone + Send + 'static> {
    let read = move || {
        let text = format!("Bearer {}", secrets.resolve(&key)?.expose_secret());
        let value = HeaderValue::try_from(text);
        let mut value =
            value.map_err(|_| Error::invalid("`api_key`: the file holds more than one line of text"))?;
        value.set_sensitive(true);
        Ok::<_, Error>(value)
    };
    let last = Arc::new(Mutex::new(read()?));
    Ok(move |mut request: Request<Body>| {
        let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Ok(now) = read() {
            *last = now;
        }
        request.headers_mut().insert(AUTHORIZATION, last.clone());
        request
    })
}

/// By it the API server's metrics and audit log tell our requests from others'.
const USER_AGENT: &str = concat!("kubestack/", env!("CARGO_PKG_VERSION"));

inventory::submit! {
    Plugin {
        type_name: "kubernetes",
        summary: "agents as Kubernetes pods",
        schema: || schemars::schema_for!(KubeConfig),
        example: "{name: cluster, type: kubernetes, kubeconfig: /etc/kubestack/kubeconfig, namespace: agents}",
        build: Build::Provider(build),
    }
}
