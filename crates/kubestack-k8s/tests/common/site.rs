//! A namespace of a real cluster, and a provider with exactly the rights of `deploy/role.yaml` in it.

use super::{View, context, marks};
use kubestack_core::prelude::*;
use kubestack_k8s::KubeProvider;
use kubestack_testbed::{Cluster, Options, cluster, wait};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

const BOUND: Duration = Duration::from_secs(60);

/// The cluster that the tests of one binary share; it ends with their process.
pub fn shared() -> Option<&'static Cluster> {
    static SHARED: OnceLock<Option<Cluster>> = OnceLock::new();
    SHARED.get_or_init(|| cluster(&Options::control_plane().fake_nodes(4)).unwrap()).as_ref()
}

/// A namespace, and a daemon that may use it.
pub struct Site<'a> {
    pub cluster: &'a Cluster,
    pub namespace: String,
    pub instance: String,
    pub provider: KubeProvider,
    pub token: String,
}

/// A file of `deploy/`, for another namespace of agents.
pub fn deployed(file: &str, namespace: &str) -> String {
    let path = format!("{}/../../deploy/{file}", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(path).unwrap();
    text.replace("namespace: agents", &format!("namespace: {namespace}"))
        .replace("name: agents", &format!("name: {namespace}"))
}

impl<'a> Site<'a> {
    /// A namespace of that name, as `deploy/` makes it.
    pub fn new(cluster: &'a Cluster, namespace: &str) -> Self {
        // All sites share the daemon's own namespace, and `apply` looks before it makes.
        static MAKING: Mutex<()> = Mutex::new(());
        let making = MAKING.lock().unwrap_or_else(PoisonError::into_inner);
        cluster.apply(&deployed("namespace.yaml", namespace)).unwrap();
        cluster.apply(&deployed("role.yaml", namespace)).unwrap();
        drop(making);
        let token = cluster.service_account("kubestack", "kubestack").unwrap().token;
        let namespaced = format!("--namespace={namespace}");
        wait("service account", BOUND, || {
            Ok(cluster.kubectl(["get", "serviceaccount", "default", &namespaced]).ok())
        })
        .unwrap();
        wait("role", BOUND, || {
            let account = "--as=system:serviceaccount:kubestack:kubestack";
            Ok(cluster.kubectl(["auth", "can-i", "create", "pods", &namespaced, account]).ok())
        })
        .unwrap();
        let instance = format!("ci-{namespace}");
        let provider = provider(&instance, &config(cluster, namespace, &token)).unwrap();
        Self { cluster, namespace: namespace.to_owned(), instance, provider, token }
    }

    pub fn kubectl(&self, args: &[&str]) -> anyhow::Result<String> {
        let namespaced = format!("--namespace={}", self.namespace);
        self.cluster.kubectl(args.iter().copied().chain([namespaced.as_str()]))
    }

    pub fn apply(&self, object: &str) {
        self.cluster.apply(object).unwrap();
    }

    /// Names of all objects of that kind.
    pub fn names(&self, kind: &str) -> Vec<String> {
        let names = self.kubectl(&["get", kind, "--output=jsonpath={.items[*].metadata.name}"]).unwrap();
        names.split_whitespace().map(str::to_owned).collect()
    }

    pub fn request(&self, serial: u64, label: LabelSpec, enrolment: Option<Enrolment>) -> LaunchRequest {
        LaunchRequest::new(label, marks(&self.instance, serial), enrolment)
    }

    pub async fn launch(&self, serial: u64, label: LabelSpec, enrolment: Option<Enrolment>) -> Result<Unit> {
        self.provider.launch(&self.request(serial, label, enrolment)).await
    }

    pub async fn destroy(&self, unit: &Unit) -> Result<()> {
        self.provider.destroy(&DestroyRequest::new(unit.reference(), Duration::from_secs(1))).await
    }

    /// What a probe with these labels finds missing, and its words.
    pub async fn missing(&self, labels: &[LabelSpec]) -> Vec<(String, String)> {
        let probes = self.provider.probe(labels).await.into_iter();
        probes.filter_map(|probe| Some((probe.what, probe.result.err()?.message))).collect()
    }

    pub fn view(&self) -> View<'_> {
        View::new(&self.provider)
    }
}

/// The config of a provider for that namespace.
pub fn config(cluster: &Cluster, namespace: &str, token: &str) -> serde_json::Value {
    serde_json::json!({
        "url": cluster.url(), "api_key": token, "ca_file": cluster.ca(), "namespace": namespace,
    })
}

/// A provider from a config.
pub fn provider(instance: &str, config: &serde_json::Value) -> Result<KubeProvider> {
    Ok(KubeProvider::new(&context(instance), Fragment::from_value(config.clone()).parse()?))
}
