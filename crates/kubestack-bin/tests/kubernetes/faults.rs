//! The daemon while the way to one cluster's API server is bad, and while API server and etcd are restarted under it; and
//! afterwards nothing is lost, leaked, or shown that is secret.

use crate::common::{Daemon, PATIENCE};
use crate::fake_nodes::FakeNodes;
use crate::fault_proxy::{Fault, FaultProxy};
use crate::until_nothing_is_left;
use kubestack_testbed::{Cluster, Component, Options, cluster};
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Instant;

const VARIABLE: &str = "s3cret-of-the-label-9c1f";
const OPERATOR: &str = "0perator-5ecr3t-77aa";

/// Two providers of one cluster: `bad` by way of the proxy, and `good` at once.
fn daemon(cluster: &Cluster, proxy: &FaultProxy, key: &str) -> Daemon {
    let mut daemon = Daemon::new();
    fs::write(daemon.path("key"), key).unwrap();
    fs::write(daemon.path("token"), OPERATOR).unwrap();
    let (dir, port) = (daemon.dir.path().display(), daemon.port);
    let (url, ca, bad) = (cluster.url(), cluster.ca(), &proxy.url);
    let text = format!(
        "instance: test
state_dir: {dir}/state
masters:
  - {{name: queue, type: queue, url: 'http://127.0.0.1:{port}', token: {{file: {dir}/token}}, embedded: {{listen: '127.0.0.1:{port}'}}}}
providers:
  - {{name: good, type: kubernetes, url: '{url}', api_key: {{file: {dir}/key}}, ca_file: {}, namespace: calm}}
  - {{name: bad, type: kubernetes, url: '{bad}', api_key: {{file: {dir}/key}}, namespace: agents}}
policy: {{step_deadline: 3s}}
labels:
  - {{name: a, provider: good, image: 'registry.invalid/agent:1', idle_timeout: 1s, env: {{KEY: {VARIABLE}}}}}
  - {{name: b, provider: bad, image: 'registry.invalid/agent:1', idle_timeout: 1s, env: {{KEY: {VARIABLE}}}}}
",
        ca.display()
    );
    daemon.configure(|_| text);
    let mut run = daemon.command("run");
    run.env("KUBESTACK_LOG", "trace");
    daemon.start_as(run);
    daemon.status();
    daemon
}

fn submit(daemon: &Daemon, label: &str) -> String {
    daemon.until("the queue", || {
        let output = daemon.call(&["submit", "--label", label, "--", "true"]);
        output.status.success().then(|| String::from_utf8(output.stdout).unwrap().trim().to_owned())
    })
}

/// Plays the nodes until that holds.
async fn until<T>(
    daemon: &Daemon,
    nodes: &mut [FakeNodes; 2],
    what: &str,
    mut look: impl FnMut() -> Option<T>,
) -> T {
    let began = Instant::now();
    loop {
        for nodes in &mut *nodes {
            nodes.play().await;
        }
        if let Some(found) = look() {
            return found;
        }
        assert!(began.elapsed() < PATIENCE * 2, "no sign of {what}; the daemon said:\n{}", daemon.log());
    }
}

fn succeeded(daemon: &Daemon, job: &str) -> Option<()> {
    daemon.tell(&["jobs", "show", job]).contains("succeeded").then_some(())
}

/// What is wrong with that provider.
fn error(daemon: &Daemon, name: &str) -> Option<String> {
    let status = daemon.status();
    let system =
        status["systems"].as_array().unwrap().iter().find(|system| system["name"] == name).unwrap().clone();
    system["error"].as_str().map(str::to_owned)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn faults_on_the_way_to_one_provider_are_named_disturb_no_other_and_pass() {
    let Some(cluster) = cluster(&Options::control_plane().fake_nodes(2)).unwrap() else { return };
    let account = crate::account(&cluster);
    crate::deploy(&cluster, "calm");
    let proxy = FaultProxy::start(&cluster, &account.kubeconfig);
    let daemon = daemon(&cluster, &proxy, &account.token);
    let dir = daemon.dir.path();
    let mut nodes =
        [FakeNodes::new(&cluster, "agents", dir).await, FakeNodes::new(&cluster, "calm", dir).await];
    let first = submit(&daemon, "b");
    until(&daemon, &mut nodes, "a job by way of the proxy", || succeeded(&daemon, &first)).await;
    let mut faults = vec![
        (Fault::Delay, ""),
        (Fault::NoAnswer, "connection closed"),
        (Fault::CutBody, "cut"),
        (Fault::TooManyRequests, "TooManyRequests"),
        (Fault::InternalError, "InternalError"),
        (Fault::Gone, "Expired"),
    ];
    if std::env::var_os("KUBESTACK_LONG").is_some() {
        faults.push((Fault::Hang, "no answer"));
    }
    for (fault, words) in faults {
        proxy.set(fault);
        let (good, bad) = (submit(&daemon, "a"), submit(&daemon, "b"));
        if !words.is_empty() {
            until(&daemon, &mut nodes, &format!("{fault:?} in the list"), || {
                error(&daemon, "bad").filter(|error| error.contains(words))
            })
            .await;
            assert_eq!(error(&daemon, "good"), None, "{fault:?}");
        }
        until(&daemon, &mut nodes, &format!("the other provider's job in {fault:?}"), || {
            succeeded(&daemon, &good)
        })
        .await;
        proxy.set(Fault::None);
        until(&daemon, &mut nodes, &format!("the end of {fault:?}"), || succeeded(&daemon, &bad)).await;
        println!("{fault:?}: named, passed");
    }

    // The whole server, and its store, in mid-run.
    let jobs: Vec<String> = ["a", "b"].iter().cycle().take(8).map(|label| submit(&daemon, label)).collect();
    until(&daemon, &mut nodes, "a pod", || (!crate::names(&cluster, "pods").is_empty()).then_some(())).await;
    cluster.kill(Component::ApiServer).unwrap();
    cluster.kill(Component::Etcd).unwrap();
    daemon.until("the loss of the server", || error(&daemon, "good"));
    cluster.start_component(Component::Etcd).unwrap();
    cluster.start_component(Component::ApiServer).unwrap();
    for job in &jobs {
        until(&daemon, &mut nodes, "all jobs", || succeeded(&daemon, job)).await;
    }
    until(&daemon, &mut nodes, "the last agent's end", || nodes_are_done(&daemon)).await;
    until_nothing_is_left(&cluster, &daemon);
    println!("API server and etcd were restarted under {} jobs; all are done, nothing is left", jobs.len());
    no_secret_is_shown(&cluster, &daemon, &account.token);
}

fn nodes_are_done(daemon: &Daemon) -> Option<()> {
    daemon.status()["agents"].as_array().unwrap().is_empty().then_some(())
}

/// Everything that daemon and cluster show after all this, failed agents included.
fn no_secret_is_shown(cluster: &Cluster, daemon: &Daemon, key: &str) {
    // One that failed: its pod is held up, and goes by hand.
    daemon.tell(&["create", "a"]);
    let pods = daemon.until("a pod", || Some(crate::names(cluster, "pods")).filter(|pods| !pods.is_empty()));
    let value = "--output=go-template={{.data.KUBESTACK_AGENT_TOKEN | base64decode}}";
    let agent = cluster.kubectl(["get", "secret", &pods[0], "--namespace=calm", value]).unwrap();
    let all = "pods,events,configmaps,resourcequotas,serviceaccounts,leases,replicasets";
    let objects = cluster.kubectl(["get", all, "--all-namespaces", "--output=yaml"]).unwrap();
    let value = value.replace("KUBESTACK_AGENT_TOKEN", "KEY");
    let variable = cluster.kubectl(["get", "secret", &pods[0], "--namespace=calm", &value]).unwrap();
    cluster.kubectl(["delete", "pod", &pods[0], "--namespace=calm"]).unwrap();
    daemon.until("its failure", || daemon.tell(&["explain", "a"]).contains("by hand").then_some(()));
    let mut shown = vec![("objects", objects), ("log", daemon.log())];
    shown.push(("audit", fs::read_to_string(daemon.path("state/audit.jsonl")).unwrap()));
    shown.push(("events", cluster.kubectl(["get", "events", "--all-namespaces", "--output=yaml"]).unwrap()));
    shown.push(("metrics", cluster.kubectl(["get", "--raw", "/metrics"]).unwrap()));
    let mut queue = TcpStream::connect(("127.0.0.1", daemon.port)).unwrap();
    write!(
        queue,
        "GET /v1/jobs HTTP/1.1\r\nHost: q\r\nAuthorization: Bearer {OPERATOR}\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    let mut answer = String::new();
    queue.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("\"label\""), "{answer}");
    shown.push(("the queue's answer", answer));
    for command in [
        &["list", "-o", "json"][..],
        &["plan", "-o", "json"],
        &["explain", "a"],
        &["jobs", "list", "-o", "json"],
        &["check", "--online"],
    ] {
        let output = daemon.call(command);
        let text = [output.stdout, output.stderr].concat();
        shown.push(("command line", String::from_utf8_lossy(&text).into_owned()));
    }
    for (place, text) in &shown {
        assert!(!text.is_empty(), "{place}");
    }
    let found = |secret: &str, shown: &[(&'static str, String)]| -> Vec<&'static str> {
        shown.iter().filter(|(_, text)| text.contains(secret)).map(|(place, _)| *place).collect()
    };
    for secret in [VARIABLE, OPERATOR, key, agent.as_str()] {
        assert_eq!(found(secret, &shown), Vec::<&str>::new(), "a secret is shown");
    }
    // What is looked for is found where it belongs, and nowhere else.
    let places = shown.len();
    shown.push(("Secret", variable));
    assert_eq!(found(VARIABLE, &shown), ["Secret"]);
    println!("no secret in {places} places");
}
