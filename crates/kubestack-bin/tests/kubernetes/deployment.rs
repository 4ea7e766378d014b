//! `deploy/` as it is, on a real node: two daemons in pods that the strictest Pod Security lets through, agents beside
//! them, and a leader that goes.

use crate::common::PATIENCE;
use crate::leaders::{coordination, holder, queue};
use crate::{account, names};
use kubestack_testbed::{Cluster, Options, cluster, image, wait};
use std::fs;

/// `deploy/daemon.yaml` with this cluster's addresses; its queue listens there.
fn daemon(cluster: &Cluster, queue: &str) -> String {
    let file = format!("{}/../../deploy/daemon.yaml", env!("CARGO_MANIFEST_DIR"));
    let url = cluster.url();
    let (host, port) = url.strip_prefix("https://").unwrap().rsplit_once(':').unwrap();
    // There is no kube-proxy, so the variables that a pod gets lead nowhere.
    let env = format!(
        "args: [-c, /etc/kubestack/config.yaml, run]
          env: [{{name: KUBERNETES_SERVICE_HOST, value: {host}}}, {{name: KUBERNETES_SERVICE_PORT, value: '{port}'}}]"
    );
    fs::read_to_string(file)
        .unwrap()
        .replace("http://queue.example.org:4740", queue)
        .replace("kubestack/agent:1", image::AGENT)
        .replace("args: [-c, /etc/kubestack/config.yaml, run]", &env)
}

/// The daemon's pod that leads.
fn leader(cluster: &Cluster) -> Option<String> {
    let holder = holder(cluster, "kubestack-ci")?.1;
    let (pod, _) = holder.split_once('_')?;
    Some(pod.to_owned())
}

#[test]
fn two_daemons_in_pods_of_a_real_node_lead_one_after_the_other() {
    let Some(cluster) = cluster(&Options::control_plane().real_node()).unwrap() else { return };
    cluster.load_image(&image::agent().unwrap()).unwrap();
    account(&cluster);
    cluster.apply(&coordination("ci")).unwrap();
    let queue = queue(&cluster.host(), "small");
    let secret = format!("--from-file=queue={}", queue.path("token").display());
    cluster.kubectl(["create", "secret", "generic", "kubestack", "--namespace=kubestack", &secret]).unwrap();
    cluster.apply(&daemon(&cluster, &format!("http://{}:{}", cluster.host(), queue.port))).unwrap();
    let run = |script: &str| {
        let job = queue.tell(&["submit", "--label", "small", "--", "sh", "-c", script]);
        let job = job.trim().to_owned();
        let shown = || queue.tell(&["jobs", "show", &job]).contains("succeeded").then_some(());
        until(&cluster, "the job's end", || Ok(shown()));
        println!("{}", queue.tell(&["logs", &job]).trim_end());
    };
    queue.until("the queue", || queue.call(&["jobs", "list"]).status.success().then_some(()));
    run("echo a first job, on $(hostname)");
    let first = until(&cluster, "a leader", || Ok(leader(&cluster)));
    println!("{first} leads");
    let namespace = "--namespace=kubestack";
    let pods = cluster.kubectl(["get", "pods", namespace, "--output=jsonpath={.items[*].metadata.name}"]);
    assert_eq!(pods.unwrap().split(' ').count(), 2);
    cluster.kubectl(["delete", "pod", &first, namespace]).unwrap();
    let second = until(&cluster, "the next leader", || Ok(leader(&cluster).filter(|pod| *pod != first)));
    println!("{first} was taken away, {second} leads");
    run("echo a second job, on $(hostname)");
    // By hand in the leader's pod, as an operator would.
    let command = ["exec", &second, namespace, "--", "/kubestack", "-c", "/etc/kubestack/config.yaml"];
    let tell = |arguments: &[&str]| cluster.kubectl(command.iter().chain(arguments).copied());
    let checks = tell(&["check", "--online"]).unwrap();
    assert!(
        checks.contains("coordination: may patch leases.coordination.k8s.io kubestack-ci: ok"),
        "{checks}"
    );
    tell(&["pause", "--reason", "by hand"]).unwrap();
    assert!(tell(&["list"]).unwrap().contains("by hand"));
    for kind in ["pods", "secrets"] {
        until(&cluster, "the last object's end", || Ok(names(&cluster, kind).is_empty().then_some(())));
    }
}

fn until<T>(cluster: &Cluster, what: &str, look: impl FnMut() -> anyhow::Result<Option<T>>) -> T {
    let told = wait(what, PATIENCE, look).map_err(|error| {
        let pods = cluster.kubectl(["describe", "pods", "--all-namespaces"]).unwrap_or_default();
        let logs =
            ["logs", "--namespace=kubestack", "--selector=app.kubernetes.io/name=kubestack", "--prefix"];
        format!("{error}:\n{pods}\n{}", cluster.kubectl(logs).unwrap_or_default())
    });
    told.unwrap()
}
