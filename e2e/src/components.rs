//! What a cluster consists of, and how each part is started.

use crate::node;
use crate::slots::{Port, Slot};
use std::path::{Path, PathBuf};

/// A part of a cluster that can be stopped and started on its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Component {
    /// The store; its data stay when it stops.
    Etcd,
    /// The server.
    ApiServer,
    /// kube-scheduler.
    Scheduler,
    /// kube-controller-manager.
    ControllerManager,
    /// KWOK, which plays the fake nodes.
    Kwok,
    /// The real node. It has no way to stop but losing its power: kubelet, containerd and all pods end at once.
    Node,
}

impl Component {
    /// In the order of their start.
    pub(crate) const ALL: [Self; 6] =
        [Self::Etcd, Self::ApiServer, Self::ControllerManager, Self::Scheduler, Self::Kwok, Self::Node];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Etcd => "etcd",
            Self::ApiServer => "kube-apiserver",
            Self::Scheduler => "kube-scheduler",
            Self::ControllerManager => "kube-controller-manager",
            Self::Kwok => "kwok",
            Self::Node => "node",
        }
    }
}

/// How fake pods and nodes change by themselves: KWOK's Stage documents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stages {
    /// At once: pods run, those of jobs complete, deleted ones go.
    Fast,
    /// Pods start after 2 to 5 s; the label `sim.local/fail` with `image-pull`, `crash-loop` or `oom` makes one fail.
    SlowAndFailing,
    /// A file.
    File(PathBuf),
}

impl Stages {
    pub(crate) fn text(&self) -> std::io::Result<String> {
        match self {
            Self::Fast => Ok(include_str!("../stages/fast.yaml").to_owned()),
            Self::SlowAndFailing => Ok(include_str!("../stages/slow-and-failing.yaml").to_owned()),
            Self::File(path) => std::fs::read_to_string(path),
        }
    }
}

/// What a cluster is to consist of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    pub(crate) scheduler: bool,
    pub(crate) controller_manager: bool,
    pub(crate) fake_nodes: Option<u32>,
    pub(crate) stages: Stages,
    pub(crate) real_node: bool,
    pub(crate) apiserver_flags: Vec<String>,
    pub(crate) slot: Option<u8>,
}

impl Options {
    /// etcd and kube-apiserver only. There, no namespace gets its `default` service account.
    pub fn api_only() -> Self {
        Self {
            scheduler: false,
            controller_manager: false,
            fake_nodes: None,
            stages: Stages::Fast,
            real_node: false,
            apiserver_flags: Vec::new(),
            slot: None,
        }
    }

    /// With scheduler and controller-manager.
    pub fn control_plane() -> Self {
        Self { scheduler: true, controller_manager: true, ..Self::api_only() }
    }

    /// With kube-scheduler.
    #[must_use]
    pub fn scheduler(mut self) -> Self {
        self.scheduler = true;
        self
    }

    /// With kube-controller-manager.
    #[must_use]
    pub fn controller_manager(mut self) -> Self {
        self.controller_manager = true;
        self
    }

    /// With KWOK and so many fake nodes `kwok-node-N`, each of 32 cores, 256 GiB and 110 pods.
    #[must_use]
    pub fn fake_nodes(mut self, count: u32) -> Self {
        self.fake_nodes = Some(count);
        self
    }

    /// How fake nodes and pods change.
    #[must_use]
    pub fn stages(mut self, stages: Stages) -> Self {
        self.stages = stages;
        self
    }

    /// With a real node `real-node`: kubelet and containerd. Needs root.
    #[must_use]
    pub fn real_node(mut self) -> Self {
        self.real_node = true;
        self
    }

    /// One more flag for kube-apiserver, such as that of an audit policy.
    #[must_use]
    pub fn apiserver_flag(mut self, flag: impl Into<String>) -> Self {
        self.apiserver_flags.push(flag.into());
        self
    }

    /// In this slot, instead of any free one; [`crate::DEVELOPER`] for the cluster that outlives a command.
    #[must_use]
    pub fn slot(mut self, number: u8) -> Self {
        self.slot = Some(number);
        self
    }

    pub(crate) fn has(&self, component: Component) -> bool {
        match component {
            Component::Etcd | Component::ApiServer => true,
            Component::Scheduler => self.scheduler,
            Component::ControllerManager => self.controller_manager,
            Component::Kwok => self.fake_nodes.is_some(),
            Component::Node => self.real_node,
        }
    }

    /// The programs that this takes.
    pub(crate) fn programs(&self) -> Vec<&'static str> {
        let mut programs = vec!["kubectl"];
        for component in Component::ALL.into_iter().filter(|component| self.has(*component)) {
            match component {
                Component::Node => programs.extend(node::PROGRAMS),
                other => programs.push(other.name()),
            }
        }
        programs
    }

    /// The command of a component.
    pub(crate) fn command(&self, component: Component, binaries: &Path, slot: &Slot) -> Vec<String> {
        if component == Component::Node {
            return node::command(binaries, slot);
        }
        let address = self.address(slot);
        let flags = match component {
            Component::Etcd | Component::Node => {
                let client = format!("http://127.0.0.1:{}", slot.port(Port::Etcd));
                let peer = format!("http://127.0.0.1:{}", slot.port(Port::EtcdPeer));
                format!(
                    "--name=testbed --data-dir=etcd --unsafe-no-fsync --log-level=warn
                     --listen-client-urls={client} --advertise-client-urls={client}
                     --listen-peer-urls={peer} --initial-advertise-peer-urls={peer} --initial-cluster=testbed={peer}"
                )
            }
            Component::ApiServer => format!(
                "--etcd-servers=http://127.0.0.1:{} --bind-address={address} --advertise-address={address}
                 --secure-port={} --endpoint-reconciler-type=none
                 --tls-cert-file=pki/apiserver.crt --tls-private-key-file=pki/apiserver.key
                 --client-ca-file=pki/ca.crt --token-auth-file=pki/tokens.csv
                 --authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction
                 --service-cluster-ip-range=10.96.0.0/16
                 --service-account-issuer=https://kubernetes.default.svc
                 --service-account-key-file=pki/sa.pub --service-account-signing-key-file=pki/sa.key
                 --kubelet-client-certificate=pki/kubelet-client.crt --kubelet-client-key=pki/kubelet-client.key
                 --kubelet-preferred-address-types=InternalIP --allow-privileged=true",
                slot.port(Port::Etcd),
                slot.port(Port::ApiServer),
            ),
            Component::ControllerManager => "--kubeconfig=pki/system:kube-controller-manager.kubeconfig
                 --leader-elect=false --secure-port=0 --use-service-account-credentials=true
                 --service-account-private-key-file=pki/sa.key --root-ca-file=pki/ca.crt
                 --cluster-signing-cert-file=pki/ca.crt --cluster-signing-key-file=pki/ca.key
                 --cluster-cidr=10.244.0.0/16 --allocate-node-cidrs=true
                 --kube-api-qps=200 --kube-api-burst=400"
                .to_owned(),
            Component::Scheduler => "--kubeconfig=pki/system:kube-scheduler.kubeconfig
                 --leader-elect=false --secure-port=0 --kube-api-qps=200 --kube-api-burst=400"
                .to_owned(),
            Component::Kwok => format!(
                "--kubeconfig=pki/kwok.kubeconfig --manage-all-nodes=false
                 --manage-nodes-with-annotation-selector=kwok.x-k8s.io/node=fake
                 --cidr=10.200.0.0/16 --node-ip=127.0.0.1 --server-address=127.0.0.1:{0} --node-port={0}
                 --node-lease-duration-seconds=40 --config=stages.yaml",
                slot.port(Port::Kwok)
            ),
        };
        let program = binaries.join(component.name()).display().to_string();
        let mut command: Vec<String> =
            std::iter::once(program).chain(flags.split_whitespace().map(str::to_owned)).collect();
        if component == Component::ApiServer {
            command.extend(self.apiserver_flags.iter().cloned());
        }
        command
    }

    /// Where the server listens: on loopback, or where a real node reaches it too.
    pub(crate) fn address(&self, slot: &Slot) -> String {
        if self.real_node { slot.gateway() } else { "127.0.0.1".to_owned() }
    }
}
