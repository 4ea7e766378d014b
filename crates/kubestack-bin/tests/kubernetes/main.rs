//! The main job on a real Kubernetes, with the rights of `deploy/role.yaml` and no more: a job is submitted, its agent is
//! a pod, its log comes back, and pod and Secret are gone. `cargo xtask kubernetes-demo` shows it to people.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test stops where its own set-up fails, and shows what it does to whoever asks with --nocapture"
)]
#![expect(clippy::disallowed_methods, reason = "a real daemon and a real cluster in real time")]

#[path = "../common/mod.rs"]
mod common;
mod deployment;
mod fake_nodes;
mod fault_proxy;
mod faults;
mod jenkins;
mod leaders;
mod moved;

use common::Daemon;
use fake_nodes::FakeNodes;
use kubestack_queue::client::QueueClient;
use kubestack_queue::model::{Job, JobState, Submission};
use kubestack_testbed::{Cluster, Options, ServiceAccount, cluster, image};
use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::time::Instant;

/// The daemon's account.
fn account(cluster: &Cluster) -> ServiceAccount {
    let account = cluster.service_account("kubestack", "kubestack").unwrap();
    deploy(cluster, "agents");
    account
}

/// What `deploy/` has for the daemon and its agents, with that namespace for them.
fn deploy(cluster: &Cluster, namespace: &str) {
    cluster.namespace(namespace).unwrap();
    for file in ["namespace.yaml", "role.yaml"] {
        let path = format!("{}/../../deploy/{file}", env!("CARGO_MANIFEST_DIR"));
        let text = fs::read_to_string(path).unwrap();
        let text = text.replace("namespace: agents", &format!("namespace: {namespace}"));
        cluster.apply(&text.replace("name: agents", &format!("name: {namespace}"))).unwrap();
    }
}

/// A running daemon whose agents are pods of that cluster, in the namespaces and with the role of `deploy/`.
fn daemon(cluster: &Cluster, max: u32) -> Daemon {
    let account = account(cluster);
    let mut daemon = Daemon::new();
    fs::write(daemon.path("key"), account.token).unwrap();
    let (dir, port, host) = (daemon.dir.path().display(), daemon.port, cluster.host());
    let (url, ca, image) = (cluster.url(), cluster.ca(), image::AGENT);
    let text = format!(
        "instance: test
state_dir: {dir}/state
masters:
  - {{name: queue, type: queue, url: 'http://{host}:{port}', token: {{file: {dir}/token}}, embedded: {{listen: '{host}:{port}'}}}}
kubernetes: {{url: '{url}', api_key: {{file: {dir}/key}}, ca_file: {}, namespace: agents}}
labels:
  - {{name: a, image: '{image}', cpu: 100m, memory: 64Mi, max: {max}, idle_timeout: 1s}}
",
        ca.display()
    );
    daemon.configure(|_| text);
    daemon.start();
    daemon
}

/// Names of all agents' objects of that kind.
fn names(cluster: &Cluster, kind: &str) -> Vec<String> {
    let names = "--output=jsonpath={.items[*].metadata.name}";
    let ours = "--selector=app.kubernetes.io/managed-by=kubestack";
    let names = cluster.kubectl(["get", kind, "--all-namespaces", ours, names]).unwrap();
    names.split_whitespace().map(str::to_owned).collect()
}

fn until_nothing_is_left(cluster: &Cluster, daemon: &Daemon) {
    daemon.until("the end of the last agent", || {
        let agents = daemon.status()["agents"].as_array().unwrap().len();
        (agents == 0).then_some(())
    });
    daemon.until("the end of the last pod", || names(cluster, "pods").is_empty().then_some(()));
    // One that was made in vain, while the server failed, is taken for a remnant only after a while.
    daemon.until("the end of the last Secret", || names(cluster, "secrets").is_empty().then_some(()));
}

#[test]
fn a_job_runs_in_a_pod_of_a_real_node_and_nothing_is_left() {
    let Some(cluster) = cluster(&Options::control_plane().real_node()).unwrap() else { return };
    println!("a cluster is up: {}", cluster.url());
    cluster.load_image(&image::agent().unwrap()).unwrap();
    println!("its node has the image {}", image::AGENT);
    let daemon = daemon(&cluster, 2);

    // The job asks whether it may end, so that there is time for a look at its pod.
    let gate = TcpListener::bind((cluster.host(), 0)).unwrap();
    gate.set_nonblocking(true).unwrap();
    let address = gate.local_addr().unwrap();
    let job =
        daemon.submit(&format!("echo hello from $(hostname), user $(id -u); wget -q -O - http://{address}/"));
    println!("job {job} is submitted");
    let mut call = daemon.until("the job's question", || gate.accept().ok()).0;

    let pods = cluster.kubectl(["get", "pods", "--namespace=agents", "--output=json"]).unwrap();
    let pods: serde_json::Value = serde_json::from_str(&pods).unwrap();
    let pod = &pods["items"][0];
    let name = pod["metadata"]["name"].as_str().unwrap();
    println!(
        "{}",
        cluster.kubectl(["get", "pods,secrets", "--namespace=agents", "--output=wide"]).unwrap().trim_end()
    );
    assert_eq!(pods["items"].as_array().unwrap().len(), 1, "{pods}");
    assert_eq!(pod["spec"]["nodeName"], "real-node");
    assert!(pod["status"]["containerStatuses"][0]["state"]["running"].is_object(), "{pod}");
    assert_eq!(names(&cluster, "secrets"), [name], "what it enrolled with");
    assert_eq!(daemon.status()["agents"][0]["name"], name);

    call.set_nonblocking(false).unwrap();
    let _ = call.read(&mut [0; 1024]).unwrap();
    call.write_all(b"HTTP/1.0 200 OK\r\n\r\nit may end\n").unwrap();
    drop(call);
    let result = daemon.tell(&["jobs", "result", &job]);
    assert!(result.contains("succeeded") && result.contains("attempts   1\n"), "{result}");
    let log = daemon.tell(&["logs", &job]);
    println!("its log:\n{log}");
    assert_eq!(log, format!("hello from {name}, user 65532\nit may end\n"));
    until_nothing_is_left(&cluster, &daemon);
    println!("no pod and no Secret is left");
    checked_from_inside(&cluster);
}

/// Without `url` and `kubeconfig` it is the cluster that the daemon itself runs in: a pod with its account's token.
fn checked_from_inside(cluster: &Cluster) {
    let (host, port) = cluster
        .url()
        .strip_prefix("https://")
        .unwrap()
        .split_once(':')
        .map(|(h, p)| (h.to_owned(), p.to_owned()))
        .unwrap();
    // There is no kube-proxy, so the variables that a pod gets lead nowhere.
    let pod = format!(
        r#"{{apiVersion: v1, kind: ConfigMap, metadata: {{name: inside, namespace: kubestack}}, data: {{c.yaml: "state_dir: /tmp\nproviders: [{{name: here, type: kubernetes, namespace: agents}}]\nlabels: [{{name: a, image: i}}]\n"}}}}
---
apiVersion: v1
kind: Pod
metadata: {{name: inside, namespace: kubestack}}
spec:
  restartPolicy: Never
  serviceAccountName: kubestack
  securityContext: {{runAsNonRoot: true, seccompProfile: {{type: RuntimeDefault}}}}
  volumes: [{{name: config, configMap: {{name: inside}}}}]
  containers:
  - name: check
    image: {}
    command: [/kubestack, -c, /config/c.yaml, check, --online]
    env: [{{name: KUBERNETES_SERVICE_HOST, value: {host}}}, {{name: KUBERNETES_SERVICE_PORT, value: "{port}"}}]
    volumeMounts: [{{name: config, mountPath: /config}}]
    securityContext: {{allowPrivilegeEscalation: false, capabilities: {{drop: [ALL]}}}}
"#,
        image::AGENT
    );
    cluster.apply(&pod).unwrap();
    let status = "--output=jsonpath={.status.phase}";
    let end = kubestack_testbed::wait("the end of the check", common::PATIENCE, || {
        let phase = cluster.kubectl(["get", "pod", "inside", "--namespace=kubestack", status])?;
        Ok(matches!(&*phase, "Succeeded" | "Failed").then_some(phase))
    });
    let log = cluster.kubectl(["logs", "inside", "--namespace=kubestack"]).unwrap();
    assert_eq!(end.unwrap(), "Succeeded", "{log}");
    assert!(
        log.contains("provider here: may create events: ok") && log.contains("a pod of label a: ok"),
        "{log}"
    );
    println!("from inside the cluster: {} checks are ok", log.matches(": ok").count());
}

/// `KUBESTACK_JOBS` for another number of jobs.
fn number_of_jobs(default: usize) -> usize {
    std::env::var("KUBESTACK_JOBS").map_or(default, |jobs| jobs.parse().unwrap())
}

/// Submits so many jobs that note in `dir` that they ran, and then do that.
async fn submit(client: &QueueClient, dir: &Path, jobs: usize, then: &str) {
    for index in 0..jobs {
        let script = format!("echo x >> {}; {then}", dir.join(format!("ran-{index}")).display());
        let command = ["sh".into(), "-c".into(), script].to_vec();
        let job = Submission { label: "a".into(), command, env: BTreeMap::new(), timeout_ms: None };
        client.submit(&job).await.unwrap();
    }
    println!("{jobs} jobs are submitted");
}

fn assert_ran_once(list: &[Job], dir: &Path, jobs: usize) {
    assert_eq!(list.len(), jobs);
    for (index, job) in list.iter().enumerate() {
        let ran = fs::read_to_string(dir.join(format!("ran-{index}"))).unwrap_or_default().lines().count();
        assert_eq!((ran, job.state, job.attempts), (1, JobState::Succeeded, 1), "{job:?}");
    }
}

/// The template commands of 2015, in their spelling and in ours.
fn templates_come_and_go(cluster: &Cluster, daemon: &Daemon) {
    let role = format!("{}/../../deploy/templates.yaml", env!("CARGO_MANIFEST_DIR"));
    cluster.apply(&fs::read_to_string(role).unwrap()).unwrap();
    let made = daemon.until("the right to make one", || {
        let made = daemon.call(&["create_template", "a"]);
        made.status.success().then(|| String::from_utf8(made.stdout).unwrap())
    });
    assert!(made.starts_with("kubernetes has template test-a-") && made.ends_with(" of a\n"), "{made}");
    let list = daemon.tell(&["list-templates"]);
    assert!(list.contains("as the config has it"), "{list}");
    let all: serde_json::Value =
        serde_json::from_str(&daemon.tell(&["list_templates", "-o", "json"])).unwrap();
    assert_eq!(all.as_array().unwrap().len(), 1);
    assert!(daemon.tell(&["delete-template", all[0]["uid"].as_str().unwrap()]).contains("is gone"));
    assert_eq!(daemon.tell(&["list-templates"]), "no templates\n");
    for command in [["create-template", "b"], ["delete_template", "b"]] {
        assert_eq!(daemon.call(&command).status.code(), Some(3), "{command:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_jobs_run_once_each_in_pods_of_fake_nodes_and_nothing_is_left() {
    let jobs = number_of_jobs(100);
    let Some(cluster) = cluster(&Options::control_plane().fake_nodes(4)).unwrap() else { return };
    let daemon = daemon(&cluster, 40);
    let began = Instant::now();
    let client =
        QueueClient::new(&format!("http://{}:{}", cluster.host(), daemon.port), "one".into()).unwrap();
    daemon.until("the queue", || daemon.call(&["jobs", "list"]).status.success().then_some(()));
    submit(&client, daemon.dir.path(), jobs, "").await;
    let mut nodes = FakeNodes::new(&cluster, "agents", daemon.dir.path()).await;
    let list = loop {
        nodes.play().await;
        let list = client.jobs().await.unwrap();
        if list.iter().all(|job| job.state.has_ended()) && nodes.are_quiet() {
            break list;
        }
        assert!(began.elapsed() < common::PATIENCE * 10, "no end; the daemon said:\n{}", daemon.log());
    };
    assert_ran_once(&list, daemon.dir.path(), jobs);
    until_nothing_is_left(&cluster, &daemon);
    templates_come_and_go(&cluster, &daemon);
    println!(
        "{jobs} jobs ran once each in {} pods, {:.0} s; no pod and no Secret is left",
        nodes.pods(),
        began.elapsed().as_secs_f32()
    );
}
