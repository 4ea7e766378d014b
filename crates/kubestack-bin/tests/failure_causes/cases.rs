//! How each cause is made.

use crate::common::Daemon;
use kubestack_core::cause::FailureCause;
use kubestack_testbed::image::{self, Image};
use kubestack_testbed::{Cluster, wait};
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

const SHELL: &str = "kubestack.test/shell:1";

/// One way in which an agent comes to nothing.
pub struct Case {
    /// The label, which is the case's name.
    pub label: &'static str,
    pub cause: FailureCause,
    /// How it is made, for people.
    pub how: &'static str,
    /// Where: what plays the part that fails.
    pub on: &'static str,
    /// What of the label is special.
    pub config: &'static str,
    /// Whether an agent is asked for without a job.
    pub create: bool,
    /// What is done to the agent.
    pub act: fn(&Site<'_>, &Case),
}

/// What is told of a case.
pub struct Told {
    /// `kubestack explain LABEL`.
    pub explain: Vec<String>,
    /// The reasons of the Events that were written.
    pub events: Vec<String>,
}

const REAL: &str = "kubelet and containerd";
const FAKE: &str = "apiserver, KWOK's node";
const API: &str = "apiserver";
const QUEUE: &str = "the queue";

const fn case(
    label: &'static str,
    cause: FailureCause,
    on: &'static str,
    how: &'static str,
    config: &'static str,
) -> Case {
    Case { label, cause, how, on, config, create: true, act: |_, _| {} }
}

/// The container of the agent on the real node, with something changed.
macro_rules! real {
    ($image:literal, $container:literal) => {
        concat!(
            "image: '",
            $image,
            "', provider: p, pod: {spec: {nodeSelector: {kubernetes.io/hostname: real-node}, ",
            "containers: [{name: agent, ",
            $container,
            "}]}}"
        )
    };
}

macro_rules! fake {
    ($more:literal) => {
        concat!(
            "image: 'registry.invalid/agent:1', provider: p, pod: {spec: {nodeSelector: {type: kwok}}}, ",
            $more
        )
    };
}

pub const CASES: &[Case] = &[
    case(
        "image-wrong",
        FailureCause::ImageWrong,
        REAL,
        "an image's name that cannot be one",
        real!("UPPER/CASE:1", "args: []"),
    ),
    case(
        "image-unavailable",
        FailureCause::ImageUnavailable,
        REAL,
        "a registry that nobody listens at; it has two minutes to come back",
        real!("127.0.0.1:1/none:1", "args: []"),
    ),
    case(
        "unschedulable",
        FailureCause::Unschedulable,
        API,
        "1000 CPUs are asked for, and a `launch_timeout` of 3 s",
        fake!("cpu: '1000', launch_timeout: 3s"),
    ),
    case(
        "quota",
        FailureCause::Quota,
        API,
        "a ResourceQuota that allows no Secret",
        "image: 'registry.invalid/agent:1', provider: full",
    ),
    case(
        "bad-template",
        FailureCause::BadTemplate,
        API,
        "a `nodeSelector` that is none (422)",
        "image: 'registry.invalid/agent:1', provider: p, pod: {spec: {nodeSelector: {'not a key': x}}}",
    ),
    case(
        "bad-policy",
        FailureCause::BadTemplate,
        API,
        "a privileged container in a namespace of `restricted` pods (403)",
        "image: 'registry.invalid/agent:1', provider: p, pod: {spec: {containers: [{name: agent, securityContext: {privileged: true, allowPrivilegeEscalation: true}}]}}",
    ),
    case(
        "config",
        FailureCause::Config,
        REAL,
        "a command that is not in the image",
        real!("kubestack.test/shell:1", "command: [/nope]"),
    ),
    case(
        "crash-loop",
        FailureCause::CrashLoop,
        REAL,
        "it says something and ends with status 3",
        real!("kubestack.test/shell:1", "args: ['echo one; echo cannot reach the master; exit 3']"),
    ),
    case(
        "out-of-memory",
        FailureCause::OutOfMemory,
        REAL,
        "a process that wants all memory",
        concat!(
            real!("kubestack.test/shell:1", "args: ['x=xxxxxxxx; while :; do x=$x$x; done']"),
            ", memory: 32Mi"
        ),
    ),
    Case {
        act: evict,
        ..case(
            "evicted",
            FailureCause::Evicted,
            REAL,
            "`kubectl create --raw …/eviction`, as `kubectl drain` does",
            real!("kubestack.test/shell:1", "args: ['trap \"exit 0\" TERM; sleep 600 & wait']"),
        )
    },
    Case {
        act: lose_node,
        ..case(
            "node-lost",
            FailureCause::NodeLost,
            FAKE,
            "the node gets the taint `node.kubernetes.io/unreachable`, as the node controller does it",
            "image: 'registry.invalid/agent:1', provider: p, pod: {spec: {nodeSelector: {kubernetes.io/hostname: kwok-node-1}, tolerations: [{key: node.kubernetes.io/unreachable, operator: Exists, effect: NoExecute, tolerationSeconds: 0}]}}",
        )
    },
    case(
        "never-attached",
        FailureCause::NeverAttached,
        REAL,
        "a program that is no agent, and a `launch_timeout` of 6 s",
        concat!(
            real!("kubestack.test/shell:1", "args: ['echo waiting for Godot; sleep 600']"),
            ", launch_timeout: 6s"
        ),
    ),
    Case {
        create: false,
        act: lose_busy,
        ..case(
            "lost-while-busy",
            FailureCause::LostWhileBusy,
            FAKE,
            "its pod is deleted by force while its job runs",
            fake!("max: 1"),
        )
    },
    Case {
        act: offer,
        ..case(
            "offered-not-taken",
            FailureCause::OfferedNotTaken,
            QUEUE,
            "it attaches and asks for no job while one waits",
            fake!("max: 1"),
        )
    },
    case(
        "lifetime-exceeded",
        FailureCause::LifetimeExceeded,
        FAKE,
        "a `max_lifetime` of 3 s",
        fake!("max_lifetime: 3s"),
    ),
    Case {
        act: remove_node,
        ..case(
            "node-removed",
            FailureCause::NodeRemoved,
            QUEUE,
            "it is removed from the queue by hand",
            fake!("max: 1"),
        )
    },
    Case {
        act: remove_unit,
        ..case("unit-removed", FailureCause::UnitRemoved, FAKE, "`kubectl delete pod`", fake!("max: 1"))
    },
    case(
        "launch-failed",
        FailureCause::LaunchFailed,
        API,
        "the daemon may not create pods and Secrets in that namespace",
        "image: 'registry.invalid/agent:1', provider: closed",
    ),
];

/// A cluster, and a daemon with a label for each case.
pub struct Site<'a> {
    pub cluster: &'a Cluster,
    pub daemon: Daemon,
}

impl<'a> Site<'a> {
    pub fn start(cluster: &'a Cluster) -> Self {
        load(cluster);
        cluster.load_image(&image::agent().unwrap()).unwrap();
        let account = cluster.service_account("kubestack", "kubestack").unwrap();
        for namespace in ["agents", "full", "closed"] {
            cluster.namespace(namespace).unwrap();
            for file in ["namespace.yaml", "role.yaml"] {
                let path = format!("{}/../../deploy/{file}", env!("CARGO_MANIFEST_DIR"));
                let text = fs::read_to_string(path).unwrap();
                let text = text
                    .replace("namespace: agents", &format!("namespace: {namespace}"))
                    .replace("name: agents", &format!("name: {namespace}"));
                cluster.apply(&text).unwrap();
            }
        }
        cluster
            .apply("{apiVersion: v1, kind: ResourceQuota, metadata: {name: full, namespace: full}, spec: {hard: {count/secrets: \"0\"}}}")
            .unwrap();
        cluster
            .apply("{apiVersion: rbac.authorization.k8s.io/v1, kind: Role, metadata: {name: kubestack, namespace: closed}, rules: [{apiGroups: [\"\"], resources: [pods, secrets, events], verbs: [get, list, watch]}]}")
            .unwrap();
        let mut daemon = Daemon::new();
        fs::write(daemon.path("key"), account.token).unwrap();
        let (dir, host) = (daemon.dir.path().display(), cluster.host());
        let queue = format!("url: 'http://{host}:{}'", daemon.port);
        let (port, url, ca) = (daemon.port, cluster.url(), cluster.ca());
        let provider = |name: &str, namespace: &str| {
            format!(
                "  - {{name: {name}, type: kubernetes, url: '{url}', api_key: {{file: {dir}/key}}, ca_file: {}, namespace: {namespace}}}\n",
                ca.display()
            )
        };
        let providers = provider("p", "agents") + &provider("full", "full") + &provider("closed", "closed");
        let labels: String =
            CASES.iter().map(|case| format!("  - {{name: {}, {}}}\n", case.label, case.config)).collect();
        let text = format!(
            "instance: test
state_dir: {dir}/state
masters:
  - {{name: queue, type: queue, {queue}, token: {{file: {dir}/token}}, embedded: {{listen: '{host}:{port}'}}}}
providers:
{providers}policy: {{lost_grace: 1s, offer_timeout: 1s, forgotten_grace: 1s, destroy_grace: 1s, step_deadline: 5s}}
labels:
  - {{name: a, {}}}
{labels}",
            real!("docker.io/kubestack/agent:dev", "imagePullPolicy: Never")
        );
        daemon.configure(|_| text);
        daemon.start();
        daemon.status();
        Self { cluster, daemon }
    }

    /// Waits until the daemon says that the case's agent failed, or, where it still has patience, what hinders it.
    pub fn told(&self, case: &Case) -> Told {
        let said = format!("the cause of {}", case.label);
        let explain = self.daemon.until(&said, || {
            let text = self.daemon.tell(&["explain", case.label]);
            let lines: Vec<String> = text.lines().map(str::to_owned).collect();
            let patient = case.cause == FailureCause::ImageUnavailable;
            let of_it = |line: &String| {
                let failed = line.contains(" failed ") && line.contains(case.cause.words());
                failed
                    || (patient && line.contains(case.cause.words()) && line.contains("connection refused"))
            };
            let from = lines.iter().position(of_it)?;
            let of_log = lines[from + 1..].iter().take_while(|line| line.starts_with(' '));
            Some(lines[from..from + 1].iter().chain(of_log).cloned().collect())
        });
        let wanted = usize::from(!matches!(case.label, "image-unavailable" | "launch-failed"));
        let events = self.daemon.until("its Event", || {
            let events = self.events(case.label);
            (events.len() >= wanted).then_some(events)
        });
        assert_eq!(events.len(), wanted, "{}: one Event for failures alike: {events:?}", case.label);
        Told { explain, events }
    }

    /// The reasons of our Events about that label.
    pub fn events(&self, label: &str) -> Vec<String> {
        let json = self.cluster.kubectl(["get", "events", "--all-namespaces", "--output=json"]).unwrap();
        let events: serde_json::Value = serde_json::from_str(&json).unwrap();
        let ours = events["items"].as_array().unwrap().iter().filter(|event| {
            event["source"]["component"] == "kubestack"
                && event["message"].as_str().unwrap().contains(&format!("of label {label} "))
        });
        ours.map(|event| event["reason"].as_str().unwrap().to_owned()).collect()
    }

    /// The agent of that label, once it is in that state.
    fn agent(&self, label: &str, state: &str) -> String {
        self.daemon.until(&format!("{label}, {state}"), || {
            let status = self.daemon.status();
            let mut agents = status["agents"].as_array().unwrap().iter();
            let agent = agents.find(|agent| agent["label"] == label && agent["state"] == state)?;
            Some(agent["name"].as_str().unwrap().to_owned())
        })
    }

    /// The same once its pod runs.
    fn running(&self, label: &str) -> String {
        let agent = self.agent(label, "launching");
        wait("the pod", Duration::from_secs(60), || {
            let phase = ["get", "pod", &agent, "--namespace=agents", "--output=jsonpath={.status.phase}"];
            Ok((self.cluster.kubectl(phase)? == "Running").then_some(()))
        })
        .unwrap();
        agent
    }

    /// What the agent attaches with.
    fn token(&self, agent: &str) -> String {
        let value = "--output=go-template={{.data.KUBESTACK_AGENT_TOKEN | base64decode}}";
        self.cluster.kubectl(["get", "secret", agent, "--namespace=agents", value]).unwrap()
    }

    /// One request to the queue.
    fn ask(&self, request: &str, token: &str) -> String {
        let mut stream = TcpStream::connect((self.cluster.host(), self.daemon.port)).unwrap();
        let head = "HTTP/1.1\r\nhost: queue\r\ncontent-length: 0\r\nconnection: close";
        write!(stream, "{request} {head}\r\nauthorization: Bearer {token}\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 20"), "{request}: {answer}");
        answer
    }
}

/// Loads a shell as an image.
fn load(cluster: &Cluster) {
    let dir = tempfile::tempdir().unwrap();
    fs::copy("/bin/busybox", dir.path().join("busybox")).unwrap();
    let text = "FROM scratch\nCOPY busybox /bin/sh\nCOPY busybox /bin/sleep\nENV PATH=/bin\nUSER 65532:65532\nENTRYPOINT [\"/bin/sh\", \"-c\"]\n";
    fs::write(dir.path().join("Dockerfile"), text).unwrap();
    let archive = dir.path().join("image.tar");
    Image::from_dockerfile(SHELL, dir.path()).unwrap().write(&archive).unwrap();
    cluster.load_image(&archive).unwrap();
}

fn evict(site: &Site<'_>, case: &Case) {
    let agent = site.running(case.label);
    let eviction = site.daemon.path("eviction");
    let text = format!(
        r#"{{"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {{"name": "{agent}", "namespace": "agents"}}}}"#
    );
    fs::write(&eviction, text).unwrap();
    let path = format!("/api/v1/namespaces/agents/pods/{agent}/eviction");
    site.cluster.kubectl(["create", "--raw", &path, "-f", eviction.to_str().unwrap()]).unwrap();
}

fn lose_node(site: &Site<'_>, case: &Case) {
    site.running(case.label);
    site.cluster
        .kubectl(["taint", "node", "kwok-node-1", "node.kubernetes.io/unreachable:NoExecute"])
        .unwrap();
}

fn lose_busy(site: &Site<'_>, case: &Case) {
    site.daemon.tell(&["submit", "--label", case.label, "--", "sleep", "600"]);
    let agent = site.running(case.label);
    site.ask("POST /v1/agent/lease?wait=0", &site.token(&agent));
    site.agent(case.label, "busy");
    site.cluster
        .kubectl(["delete", "pod", &agent, "--namespace=agents", "--force", "--grace-period=0"])
        .unwrap();
}

fn offer(site: &Site<'_>, case: &Case) {
    let agent = site.running(case.label);
    site.ask("POST /v1/agent/lease?wait=0", &site.token(&agent));
    site.agent(case.label, "idle");
    site.daemon.tell(&["submit", "--label", case.label, "--", "true"]);
}

fn remove_node(site: &Site<'_>, case: &Case) {
    let agent = site.running(case.label);
    site.ask(&format!("DELETE /v1/agents/{agent}"), "one");
}

fn remove_unit(site: &Site<'_>, case: &Case) {
    let agent = site.running(case.label);
    site.cluster.kubectl(["delete", "pod", &agent, "--namespace=agents"]).unwrap();
}
