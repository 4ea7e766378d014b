//! The real node: it runs the agent's image, and its end leaves nothing on the host.
#![expect(clippy::unwrap_used, reason = "a test stops where its own set-up fails")]

mod common;

use common::{BOUND, holder, kill, processes, supervisor};
use kubestack_testbed::{Cluster, Component, Options, cluster, image, wait};
use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::path::{Path, PathBuf};

/// A pod as KubeStack is to make them: nothing but what the strictest profile of Pod Security lets through.
fn pod(name: &str, command: &str) -> String {
    format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: agents}}
spec:
  restartPolicy: Never
  automountServiceAccountToken: false
  securityContext: {{runAsNonRoot: true, seccompProfile: {{type: RuntimeDefault}}}}
  containers:
  - name: agent
    image: {}
    {command}
    securityContext: {{allowPrivilegeEscalation: false, capabilities: {{drop: [ALL]}}}}
",
        image::AGENT
    )
}

/// Runs a pod to its end: its phase, exit code and log.
fn run(cluster: &Cluster, name: &str, command: &str) -> (String, String) {
    cluster.apply(&pod(name, command)).unwrap();
    let path = "--output=jsonpath={.status.phase} {.status.containerStatuses[0].state.terminated.exitCode}";
    let end = wait("end of the pod", BOUND, || {
        let status = cluster.kubectl(["get", "pod", name, "--namespace=agents", path])?;
        Ok((status.starts_with("Succeeded") || status.starts_with("Failed")).then_some(status))
    });
    let end = end.unwrap_or_else(|error| {
        format!(
            "{error}: {}",
            cluster.kubectl(["describe", "pod", name, "--namespace=agents"]).unwrap_or_default()
        )
    });
    (end, cluster.kubectl(["logs", name, "--namespace=agents"]).unwrap())
}

/// What a node could leave on a host.
fn traces() -> BTreeSet<String> {
    let mut traces = BTreeSet::new();
    for directory in
        ["/sys/class/net", "/run/netns", "/var/lib/kubelet", "/var/lib/cni", "/run/containerd", "/opt"]
    {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            traces.insert(entry.path().display().to_string());
        }
        if Path::new(directory).exists() {
            traces.insert(directory.to_owned());
        }
    }
    for hierarchy in fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
        for cgroup in fs::read_dir(hierarchy.path()).into_iter().flatten().flatten() {
            if cgroup.path().is_dir() {
                traces.insert(cgroup.path().display().to_string());
            }
        }
    }
    let mounts = fs::read_to_string("/proc/mounts").unwrap();
    traces.extend(mounts.lines().map(str::to_owned));
    traces
}

/// Those of one cluster: other tests come and go meanwhile.
fn traces_of(directory: &Path) -> Vec<String> {
    let slot = directory.file_name().unwrap().to_str().unwrap();
    let marks = [format!("kubestack-{slot}"), directory.display().to_string()];
    traces().into_iter().filter(|trace| marks.iter().any(|mark| trace.contains(mark))).collect()
}

/// The node's pid namespace.
fn namespace(directory: &Path) -> PathBuf {
    let of = |process: &Path| fs::read_link(process.join("ns/pid")).ok();
    let ours = of(Path::new("/proc/self"));
    common::processes_in(directory)
        .iter()
        .find_map(|process| of(process).filter(|_| of(process) != ours))
        .unwrap()
}

/// All processes on the node, pods included.
fn inhabitants(namespace: &Path) -> Vec<PathBuf> {
    processes("ns/pid", |other| other == namespace)
}

#[test]
fn a_real_node_runs_the_agent_image_and_leaves_nothing_behind() {
    let Some(cluster) = cluster(&Options::control_plane().real_node()).unwrap() else { return };
    let elsewhere: BTreeSet<String> =
        ["/var/lib/kubelet", "/var/lib/cni", "/opt/containerd", "/run/containerd"]
            .into_iter()
            .filter(|path| Path::new(path).exists())
            .map(str::to_owned)
            .collect();
    cluster.load_image(&image::agent().unwrap()).unwrap();
    cluster.namespace("agents").unwrap();
    let strict = "pod-security.kubernetes.io/enforce=restricted";
    cluster.kubectl(["label", "namespace", "agents", strict]).unwrap();

    let (end, log) = run(&cluster, "version", "command: [/kubestack, --version]");
    assert_eq!(
        (end.as_str(), log.as_str()),
        ("Succeeded 0", concat!("kubestack ", env!("CARGO_PKG_VERSION"), "\n"))
    );
    let (end, log) = run(&cluster, "bare", "");
    assert_eq!(end, "Failed 1", "{log}");
    assert!(log.contains("agents are started by a provider"), "{log}");
    let (end, log) =
        run(&cluster, "job", "command: [sh, -c, 'echo kept > file && cat file && id && exit 3']");
    assert_eq!((end.as_str(), log.as_str()), ("Failed 3", "kept\nuid=65532(agent) gid=65532 groups=65532\n"));

    let listener = TcpListener::bind((cluster.host(), 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let server =
        std::thread::spawn(move || listener.accept().unwrap().0.write_all(b"from the host\n").unwrap());
    let call = format!("command: [sh, -c, 'nc {} {port} < /dev/null']", cluster.host());
    let (end, log) = run(&cluster, "call", &call);
    assert_eq!((end.as_str(), log.as_str()), ("Succeeded 0", "from the host\n"));
    server.join().unwrap();

    let directory = cluster.directory().to_owned();
    let namespace = namespace(&directory);
    assert!(inhabitants(&namespace).len() >= 3);
    assert!(!traces_of(&directory).is_empty());
    drop(cluster);
    assert_eq!(traces_of(&directory), [] as [String; 0]);
    assert_eq!(inhabitants(&namespace), [] as [PathBuf; 0]);
    for path in ["/var/lib/kubelet", "/var/lib/cni", "/opt/containerd", "/run/containerd"] {
        assert_eq!(Path::new(path).exists(), elsewhere.contains(path), "{path}");
    }
}

#[test]
fn a_node_that_lost_its_power_comes_back() {
    let Some(cluster) = cluster(&Options::control_plane().real_node()).unwrap() else { return };
    cluster.load_image(&image::agent().unwrap()).unwrap();
    cluster.namespace("agents").unwrap();
    cluster.apply(&pod("long", "command: [sh, -c, 'sleep 1000']")).unwrap();
    cluster
        .kubectl(["wait", "--for=condition=Ready", "pod/long", "--namespace=agents", "--timeout=180s"])
        .unwrap();
    let namespace = namespace(cluster.directory());
    cluster.kill(Component::Node).unwrap();
    wait("end of the node", BOUND, || Ok(inhabitants(&namespace).is_empty().then_some(()))).unwrap();
    cluster.start_component(Component::Node).unwrap();
    let (end, log) = run(&cluster, "next", "command: [sh, -c, 'echo back']");
    assert_eq!((end.as_str(), log.as_str()), ("Succeeded 0", "back\n"));
}

#[test]
fn a_killed_owner_and_a_killed_supervisor_leave_nothing_of_a_node() {
    if kubestack_testbed::skip(&Options::control_plane().real_node()).unwrap() {
        return;
    }
    let (mut owner, directory) = holder("--real-node");
    let node = namespace(&directory);
    assert!(inhabitants(&node).len() >= 3);
    owner.kill().unwrap();
    owner.wait().unwrap();
    wait("end of the cluster", BOUND, || Ok((!directory.exists()).then_some(()))).unwrap();
    assert_eq!(inhabitants(&node), [] as [PathBuf; 0]);
    assert_eq!(traces_of(&directory), [] as [String; 0]);

    let (mut owner, directory) = holder("--real-node");
    let node = namespace(&directory);
    kill(&supervisor(&directory));
    wait("end of the node", BOUND, || Ok(inhabitants(&node).is_empty().then_some(()))).unwrap();
    owner.kill().unwrap();
    owner.wait().unwrap();
    kubestack_testbed::clean().unwrap();
    assert_eq!(traces_of(&directory), [] as [String; 0]);
    assert!(!directory.exists());
}
