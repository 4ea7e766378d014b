//! The cluster, who may do what in it, and what its audit log says.

use anyhow::{Context, Result, bail};
use kubestack_testbed::{Cluster, Options, wait};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

/// The namespace of `deploy/`.
pub const NAMESPACE: &str = "agents";

/// By it the audit log tells who wrote; the provider's own begins the same.
pub const USER_AGENT: &str = "kubestack/bench";

const PATIENCE: Duration = Duration::from_secs(600);

/// Each write in the agents' namespace, and each watch, once.
const POLICY: &str = "
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- {level: Metadata, namespaces: [agents], verbs: [create, update, patch, delete, watch]}
- {level: None}
";

/// How the daemon's account gets in.
#[derive(Clone, Serialize, Deserialize)]
pub struct Access {
    url: String,
    token: String,
    ca: PathBuf,
}

impl Access {
    /// A client without a memory of what failed.
    pub fn client(&self, user_agent: &'static str) -> Result<kube::Client> {
        let mut config = kube::Config::new(self.url.parse()?);
        config.auth_info.token = Some(self.token.clone().into());
        config.root_cert_file = Some(self.ca.clone());
        config.default_retry = false;
        config.headers.push((http::header::USER_AGENT, http::HeaderValue::from_static(user_agent)));
        Ok(kube::Client::try_from(config)?)
    }

    /// The same as the provider's config.
    pub fn config(&self) -> Value {
        serde_json::json!({"url": self.url, "api_key": self.token, "ca_file": self.ca, "namespace": NAMESPACE})
    }
}

/// A cluster with the namespaces and the role of `deploy/`.
pub struct Site {
    pub cluster: Cluster,
    pub access: Access,
    audit: PathBuf,
    _dir: tempfile::TempDir,
}

impl Site {
    /// With room for so many pods.
    pub fn start(pods: u32) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let (policy, audit) = (dir.path().join("policy.yaml"), dir.path().join("audit.log"));
        fs::write(&policy, POLICY)?;
        let options = Options::control_plane()
            .fake_nodes(pods / 100 + 2)
            .apiserver_flag(format!("--audit-policy-file={}", policy.display()))
            .apiserver_flag(format!("--audit-log-path={}", audit.display()));
        if let Some(reason) = kubestack_testbed::missing(&options)? {
            bail!("the testbed needs {reason}");
        }
        let cluster = Cluster::start(&options)?;
        cluster.namespace(NAMESPACE)?;
        let token = cluster.service_account("kubestack", "kubestack")?.token;
        for file in
            [include_str!("../../../deploy/namespace.yaml"), include_str!("../../../deploy/role.yaml")]
        {
            cluster.apply(file)?;
        }
        let access = Access { url: cluster.url(), token, ca: cluster.ca() };
        Ok(Self { cluster, access, audit, _dir: dir })
    }

    fn count(&self, kind: &str, selector: &str) -> Result<usize> {
        let names =
            self.cluster.kubectl(["get", kind, "--namespace", NAMESPACE, "--output=name", selector])?;
        Ok(names.lines().count())
    }

    /// Waits until so many pods run: then nobody is busy with them any more.
    pub fn until_running(&self, pods: u32) -> Result<()> {
        wait("running pods", PATIENCE, || {
            let running = self.count("pods", "--field-selector=status.phase=Running")?;
            Ok((running >= pods as usize).then_some(()))
        })
    }

    /// Takes everything away once it runs, so that the next round finds what this one found.
    pub fn clear(&self, pods: u32) -> Result<()> {
        self.until_running(pods)?;
        self.empty()
    }

    /// Takes everything away.
    pub fn empty(&self) -> Result<()> {
        // One request for each kind: kubectl would take the objects one by one.
        for kind in ["pods", "secrets"] {
            let path = format!("/api/v1/namespaces/{NAMESPACE}/{kind}?gracePeriodSeconds=0");
            self.cluster.kubectl(["delete", "--raw", &path])?;
        }
        wait("empty namespace", PATIENCE, || {
            Ok((self.count("pods,secrets", "--selector=")? == 0).then_some(()))
        })
    }

    /// What the apiserver has noted of us up to now.
    pub fn audit(&self) -> Result<Noted> {
        let mut noted = Noted::default();
        let log = fs::read_to_string(&self.audit).context("the apiserver keeps no audit log")?;
        for line in log.lines() {
            // Its last line may be half written.
            let Ok(event) = serde_json::from_str::<Value>(line) else { continue };
            let text = |pointer: &str| event.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
            if !text("/userAgent").starts_with("kubestack/") {
                continue;
            }
            let verb = text("/verb");
            if verb == "watch" {
                let begun = u32::from(text("/stage") == "ResponseStarted");
                *noted.watches.entry(text("/objectRef/resource").to_owned()).or_insert(0) += begun;
            } else {
                *noted.writes.entry(format!("{verb} {}", text("/objectRef/resource"))).or_insert(0) += 1;
            }
        }
        Ok(noted)
    }
}

/// What the audit log says.
#[derive(Default)]
pub struct Noted {
    writes: BTreeMap<String, u32>,
    watches: BTreeMap<String, u32>,
}

/// What is new of one sort.
pub struct News {
    pub count: u32,
    /// How many of each kind.
    pub kinds: String,
}

impl Noted {
    /// Writes that came after that.
    pub fn writes_since(&self, before: &Self) -> News {
        News::between(&before.writes, &self.writes)
    }

    /// Watches that were opened after that.
    pub fn watches_since(&self, before: &Self) -> News {
        News::between(&before.watches, &self.watches)
    }
}

impl News {
    fn between(before: &BTreeMap<String, u32>, after: &BTreeMap<String, u32>) -> Self {
        let new = |kind: &String, count: &u32| count - before.get(kind).copied().unwrap_or_default();
        let kinds: Vec<(&String, u32)> =
            after.iter().map(|(kind, count)| (kind, new(kind, count))).filter(|(_, new)| *new > 0).collect();
        let words: Vec<String> = kinds.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
        Self { count: kinds.iter().map(|(_, count)| count).sum(), kinds: words.join(", ") }
    }
}
