//! What a kubelet would do for pods of fake nodes. KWOK only says that they run; here what they would run does run, as
//! a process of this host with exactly the environment and arguments that the pod and its Secret give it.

use k8s_openapi::api::core::v1::{Container, Pod, Secret};
use kube::api::{Api, ListParams, Patch, PatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kubestack_testbed::Cluster;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Runs pods until they end.
pub struct FakeNodes {
    pods: Api<Pod>,
    secrets: Api<Secret>,
    dir: PathBuf,
    running: BTreeMap<String, Child>,
    /// What it once ran is not run again.
    known: BTreeSet<String>,
}

impl FakeNodes {
    /// For that namespace; the processes work in `dir`.
    pub async fn new(cluster: &Cluster, namespace: &str, dir: &Path) -> Self {
        let file = Kubeconfig::read_from(cluster.kubeconfig()).unwrap();
        let config = kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.unwrap();
        let client = kube::Client::try_from(config).unwrap();
        Self {
            pods: Api::namespaced(client.clone(), namespace),
            secrets: Api::namespaced(client, namespace),
            dir: dir.to_owned(),
            running: BTreeMap::new(),
            known: BTreeSet::new(),
        }
    }

    /// How many pods have run.
    pub fn pods(&self) -> usize {
        self.known.len()
    }

    /// Whether nothing runs.
    pub fn are_quiet(&self) -> bool {
        self.running.is_empty()
    }

    /// Starts what pods are to run that KWOK says run, and tells of those that ended.
    pub async fn play(&mut self) {
        // While the server is down nothing happens.
        let Ok(pods) = self.pods.list(&ListParams::default()).await else { return };
        for pod in pods {
            let (name, phase) = (pod.metadata.name.unwrap(), pod.status.and_then(|status| status.phase));
            let runs = phase.as_deref() == Some("Running") && pod.metadata.deletion_timestamp.is_none();
            if runs && self.known.insert(name.clone()) {
                let spec = pod.spec.unwrap();
                let container = spec.containers.iter().find(|container| container.name == "agent").unwrap();
                let child = self.start(container).await;
                self.running.insert(name, child);
            }
        }
        let mut ended = Vec::new();
        self.running.retain(|name, child| {
            let status = child.try_wait().unwrap();
            ended.extend(status.map(|status| (name.clone(), status.code().unwrap_or(255))));
            status.is_none()
        });
        for (name, code) in ended {
            self.tell_end(&name, code).await;
        }
    }

    async fn start(&self, container: &Container) -> Child {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kubestack"));
        command.args(container.args.iter().flatten()).current_dir(&self.dir);
        for variable in container.env.iter().flatten() {
            let from = variable.value_from.as_ref().and_then(|from| from.secret_key_ref.as_ref());
            match from {
                Some(from) => {
                    let data = self.secrets.get(&from.name).await.unwrap().data.unwrap();
                    command.env(&variable.name, std::str::from_utf8(&data[&from.key].0).unwrap());
                }
                None => drop(command.env(&variable.name, variable.value.as_ref().unwrap())),
            }
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }

    async fn tell_end(&self, name: &str, code: i32) {
        let state = json!({"terminated": {"exitCode": code, "reason": if code == 0 { "Completed" } else { "Error" }}});
        let container = json!({"name": "agent", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": state});
        let phase = if code == 0 { "Succeeded" } else { "Failed" };
        let patch = json!({"status": {"phase": phase, "containerStatuses": [container]}});
        let told = self.pods.patch_status(name, &PatchParams::default(), &Patch::Merge(patch)).await;
        // A daemon may be faster, once the job's end is known.
        assert!(
            told.is_ok() || matches!(&told, Err(kube::Error::Api(status)) if status.code == 404),
            "{told:?}"
        );
    }
}
