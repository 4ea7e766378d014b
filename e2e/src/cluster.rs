//! One cluster, from start to end.

use crate::components::{Component, Options};
use crate::slots::{Port, Slot};
use crate::supervisor::Supervisor;
use crate::{binaries, node, pki, slots, wait};
use anyhow::{Context, Result, bail};
use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How long a component may take to serve. Seconds when idle; the rest is for a machine that builds meanwhile.
const START: Duration = Duration::from_secs(90);

/// A running cluster. Dropping it ends it and removes its directory, except with `KUBESTACK_TESTBED_KEEP` set.
#[derive(Debug)]
pub struct Cluster {
    options: Options,
    binaries: PathBuf,
    slot: Slot,
    supervisor: Mutex<Supervisor>,
}

/// A service account with its token. Not `Debug`, so that no test's output has it.
pub struct ServiceAccount {
    /// What it shows to the server; valid for a day.
    pub token: String,
    /// A kubeconfig with this token.
    pub kubeconfig: PathBuf,
}

impl Cluster {
    /// Starts one and waits until it is of use: the server is ready, nodes are Ready, and if there is a
    /// controller-manager, the namespace `default` has its service account.
    ///
    /// # Errors
    /// When a program is not built, or a component does not start; with the last lines of its log.
    pub fn start(options: &Options) -> Result<Self> {
        let missing = binaries::missing(&options.programs())?;
        if !missing.is_empty() {
            bail!("not built yet: {}; run `cargo xtask testbed build`", missing.join(", "));
        }
        let (slot, supervisor) = slots::take(options.slot)?;
        let cluster = Self {
            options: options.clone(),
            binaries: binaries::directory()?,
            slot,
            supervisor: Mutex::new(supervisor),
        };
        cluster.prepare()?;
        for component in Component::ALL.into_iter().filter(|component| options.has(*component)) {
            cluster.start_component(component)?;
        }
        cluster.namespace("default")?;
        Ok(cluster)
    }

    fn prepare(&self) -> Result<()> {
        let (directory, address) = (self.directory(), self.options.address(&self.slot));
        if self.options.real_node {
            node::prepare(&self.slot)?;
        }
        pki::make(directory, &address)?;
        for user in pki::USERS {
            let path = directory.join("pki").join(format!("{}.kubeconfig", user.name));
            pki::write_kubeconfig(directory, &path, &self.url(), &pki::token(directory, user.name)?)?;
        }
        fs::rename(directory.join("pki/admin.kubeconfig"), self.kubeconfig())?;
        let stages = self.options.stages.text().with_context(|| format!("{:?}", self.options.stages))?;
        Ok(fs::write(directory.join("stages.yaml"), stages)?)
    }

    /// Where everything of this cluster is; logs are in `log/NAME.log`.
    pub fn directory(&self) -> &Path {
        self.slot.directory()
    }

    /// The kubeconfig of an administrator.
    pub fn kubeconfig(&self) -> PathBuf {
        self.slot.kubeconfig()
    }

    /// The server, such as `https://127.0.0.1:21006`.
    pub fn url(&self) -> String {
        format!("https://{}:{}", self.options.address(&self.slot), self.slot.port(Port::ApiServer))
    }

    /// The certificate of the CA that signed the server's, as PEM.
    pub fn ca(&self) -> PathBuf {
        self.directory().join("pki/ca.crt")
    }

    /// The address to listen on for whatever pods are to reach: a bridge that only this machine and the real node
    /// are on; without a real node, loopback.
    pub fn host(&self) -> String {
        self.options.address(&self.slot)
    }

    /// Runs kubectl as administrator; its output.
    ///
    /// # Errors
    /// When it fails; with what it said.
    pub fn kubectl<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Result<String> {
        self.kubectl_with(args, "")
    }

    /// Creates or changes objects from YAML.
    ///
    /// # Errors
    /// When the server does not take one.
    pub fn apply(&self, objects: &str) -> Result<String> {
        self.kubectl_with(["apply", "--filename=-"], objects)
    }

    fn kubectl_with<S: AsRef<OsStr>>(
        &self,
        args: impl IntoIterator<Item = S>,
        input: &str,
    ) -> Result<String> {
        let mut kubectl = Command::new(self.binaries.join("kubectl"));
        kubectl
            .arg("--kubeconfig")
            .arg(self.kubeconfig())
            .arg("--cache-dir")
            .arg(self.directory().join("kubectl"));
        let mut child = kubectl
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot run kubectl")?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(input.as_bytes())?;
        }
        let output = child.wait_with_output()?;
        if !output.status.success() {
            bail!("kubectl: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Makes a namespace if there is none, and waits until pods can be made in it: a controller-manager makes the
    /// service account `default`.
    ///
    /// # Errors
    /// When the server refuses.
    pub fn namespace(&self, name: &str) -> Result<()> {
        self.apply(&format!("{{apiVersion: v1, kind: Namespace, metadata: {{name: {name}}}}}"))?;
        if self.options.controller_manager {
            wait(&format!("service account `default` in the namespace `{name}`"), START, || {
                Ok(self.kubectl(["get", "serviceaccount", "default", "--namespace", name]).ok())
            })?;
        }
        Ok(())
    }

    /// Makes a service account (and its namespace, if there is none) with a token. It may do nothing until a
    /// RoleBinding says otherwise.
    ///
    /// # Errors
    /// When the server refuses.
    pub fn service_account(&self, namespace: &str, name: &str) -> Result<ServiceAccount> {
        self.namespace(namespace)?;
        self.apply(&format!(
            "{{apiVersion: v1, kind: ServiceAccount, metadata: {{name: {name}, namespace: {namespace}}}}}"
        ))?;
        let token = self.kubectl(["create", "token", name, "--namespace", namespace, "--duration=24h"])?;
        let token = token.trim().to_owned();
        let kubeconfig = self.directory().join(format!("{namespace}-{name}.kubeconfig"));
        pki::write_kubeconfig(self.directory(), &kubeconfig, &self.url(), &token)?;
        Ok(ServiceAccount { token, kubeconfig })
    }

    /// Adds fake nodes `kwok-node-FIRST` and so on, and waits until they are Ready.
    ///
    /// # Errors
    /// When the server refuses, or KWOK does not run.
    pub fn add_fake_nodes(&self, first: u32, count: u32) -> Result<()> {
        if count == 0 {
            return Ok(());
        }
        let resources = "{cpu: 32, memory: 256Gi, pods: 110}";
        let nodes: String = (first..first + count)
            .map(|number| {
                format!(
                    "---
apiVersion: v1
kind: Node
metadata:
  name: kwok-node-{number}
  annotations: {{kwok.x-k8s.io/node: fake}}
  labels: {{type: kwok, kubernetes.io/os: linux, kubernetes.io/hostname: kwok-node-{number}}}
status: {{allocatable: {resources}, capacity: {resources}}}
"
                )
            })
            .collect();
        self.kubectl_with(["create", "--filename=-"], &nodes)?;
        self.kubectl(["wait", "--for=condition=Ready", "node", "--selector=type=kwok", "--timeout=60s"])
            .map(drop)
    }

    /// Loads images from an archive (OCI or docker) into the real node.
    ///
    /// # Errors
    /// When there is no real node, or it does not take the archive.
    pub fn load_image(&self, archive: &Path) -> Result<()> {
        node::load_image(&self.slot, archive)
    }

    /// Whether a component runs.
    ///
    /// # Errors
    /// When the supervisor is gone.
    pub fn is_running(&self, component: Component) -> Result<bool> {
        self.supervisor().alive(component.name())
    }

    /// Stops a component in good order. Its ports and data stay its own.
    ///
    /// # Errors
    /// When the supervisor is gone.
    pub fn stop(&self, component: Component) -> Result<()> {
        if component == Component::Node {
            return self.kill(component);
        }
        self.supervisor().stop(component.name(), "TERM")
    }

    /// Kills a component.
    ///
    /// # Errors
    /// When the supervisor is gone.
    pub fn kill(&self, component: Component) -> Result<()> {
        self.supervisor().stop(component.name(), "KILL")
    }

    /// Halts a component: its connections stay open and are not answered.
    ///
    /// # Errors
    /// When it does not run, or is the node, which is many processes.
    pub fn pause(&self, component: Component) -> Result<()> {
        if component == Component::Node {
            bail!("a node cannot be halted, only killed");
        }
        self.supervisor().send(component.name(), "STOP")
    }

    /// Lets a halted component go on.
    ///
    /// # Errors
    /// When it does not run.
    pub fn resume(&self, component: Component) -> Result<()> {
        self.supervisor().send(component.name(), "CONT")
    }

    /// Starts a component that was stopped, on its ports and data, and waits until it serves.
    ///
    /// # Errors
    /// When it runs already or does not start; with the last lines of its log.
    pub fn start_component(&self, component: Component) -> Result<()> {
        if component == Component::Kwok {
            // KWOK would wait for the leases of its forerunner to run out.
            self.kubectl(["delete", "leases", "--all", "--namespace=kube-node-lease"])?;
        }
        let command = self.options.command(component, &self.binaries, &self.slot);
        let pid = self.supervisor().run(self.directory(), component.name(), &command)?;
        match component {
            Component::Etcd => {
                let port = self.slot.port(Port::Etcd);
                self.wait_for(component, || Ok(TcpStream::connect(("127.0.0.1", port)).ok()))?;
            }
            Component::ApiServer => {
                self.wait_for(component, || Ok(self.kubectl(["get", "--raw=/readyz"]).ok()))?;
            }
            Component::Kwok => {
                let nodes = self.kubectl(["get", "nodes", "--selector=type=kwok", "--output=name"])?;
                if nodes.is_empty() {
                    self.add_fake_nodes(0, self.options.fake_nodes.unwrap_or_default())?;
                }
            }
            Component::Node => {
                node::attach(&self.slot, pid)?;
                let socket = node::socket(&self.slot);
                self.wait_for(component, || Ok(std::os::unix::net::UnixStream::connect(&socket).ok()))?;
                node::load_pause(&self.binaries, &self.slot)?;
                self.wait_for(component, || {
                    let wait = ["wait", "--for=condition=Ready", "node/real-node", "--timeout=1s"];
                    Ok(self.kubectl(wait).ok())
                })?;
            }
            Component::Scheduler | Component::ControllerManager => {}
        }
        Ok(())
    }

    fn wait_for<T>(&self, component: Component, mut ask: impl FnMut() -> Result<Option<T>>) -> Result<T> {
        let answer = wait(&format!("answer from {}", component.name()), START, || {
            if !self.is_running(component)? {
                bail!("{} ended", component.name());
            }
            ask()
        });
        answer.with_context(|| self.last_lines())
    }

    /// The ends of all logs: the cause is often in another one.
    fn last_lines(&self) -> String {
        let mut text = String::new();
        let logs = fs::read_dir(self.directory().join("log")).into_iter().flatten().flatten();
        for path in logs.map(|entry| entry.path()) {
            let log = fs::read(&path).unwrap_or_default();
            let log = String::from_utf8_lossy(&log);
            let lines: Vec<&str> = log.lines().collect();
            text.push_str(&format!("{}:\n", path.display()));
            for line in lines.iter().skip(lines.len().saturating_sub(8)) {
                text.push_str(&format!("  {line}\n"));
            }
        }
        text
    }

    fn supervisor(&self) -> MutexGuard<'_, Supervisor> {
        self.supervisor.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
