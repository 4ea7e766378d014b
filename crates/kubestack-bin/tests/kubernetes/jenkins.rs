//! The mission on real parts: jobs wait in a server of Jenkins' line, and each gets a pod of a real node, in which a real
//! agent attaches, runs that one job, is drained and goes. `cargo xtask jenkins-demo` shows it to people.

use crate::common::Daemon;
use crate::{account, names, until_nothing_is_left};
use kubestack_testbed::hudson::{self, Hudson, hudson};
use kubestack_testbed::{Cluster, Options, cluster, wait};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

/// What jobs say, and how they end.
const JOBS: [(&str, &str, &str); 3] = [
    ("good", "exit 0", "SUCCESS"),
    ("bad", "exit 3", "FAILURE"),
    // Asked about last.
    ("long", "exit 0", "SUCCESS"),
];

/// A running daemon: that server's jobs in pods of that cluster. It is on the machine, so its address of the server is not
/// that of the pods.
fn daemon(cluster: &Cluster, server: &Hudson, internal: &str) -> Daemon {
    let mut daemon = Daemon::new();
    fs::write(daemon.path("key"), account(cluster).token).unwrap();
    let (dir, external, image) = (daemon.dir.path().display(), server.url(), hudson::AGENT);
    let (url, ca) = (cluster.url(), cluster.ca());
    let publisher = server.publisher();
    let text = format!(
        "instance: test
state_dir: {dir}/state
demand-listeners:
  - {{name: jenkins-queue, type: jenkins_queue}}
destroy-listeners:
  - {{name: zmq, type: zmq, host: 127.0.0.1, port: {publisher}}}
jenkins: {{external_url: '{external}', internal_url: '{internal}', attach: inbound, poll: 300ms}}
kubernetes: {{url: '{url}', api_key: {{file: {dir}/key}}, ca_file: {}, namespace: agents}}
policy: {{master_poll: 300ms}}
labels:
  - {{name: a, provides: [linux], image: '{image}', cpu: 200m, memory: 256Mi, max: 3, idle_timeout: 1s,
      pod: {{spec: {{securityContext: {{runAsUser: 65532}}}}}}}}
  - {{name: named, image: '{image}', cpu: 200m, memory: 256Mi}}
",
        ca.display()
    );
    println!("the daemon starts, with this config:\n{}", text.trim_end());
    daemon.configure(|_| text);
    let mut command = daemon.command("run");
    command.env("KUBESTACK_LOG", "info,kubestack_engine=debug");
    daemon.start_as(command);
    daemon
}

/// Where jobs ask whether they may end.
struct Gate {
    listener: TcpListener,
    /// Job → its agent, and the open question.
    asked: BTreeMap<String, (String, TcpStream)>,
}

impl Gate {
    fn new(host: &str) -> Self {
        let listener = TcpListener::bind((host, 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        Self { listener, asked: BTreeMap::new() }
    }

    /// What a job has to do before it ends.
    fn script(&self, then: &str) -> String {
        let address = self.listener.local_addr().unwrap();
        format!(
            "echo $JOB_NAME on $(hostname), user $(id -u)\nwget -q -O - http://{address}/$JOB_NAME/$NODE_NAME\n{then}"
        )
    }

    /// Takes the questions that are there.
    fn listen(&mut self) {
        while let Ok((mut call, _)) = self.listener.accept() {
            call.set_nonblocking(false).unwrap();
            let mut request = [0; 1024];
            let length = call.read(&mut request).unwrap();
            let request = String::from_utf8_lossy(&request[..length]).into_owned();
            let path = request.split_whitespace().nth(1).unwrap();
            let (job, agent) = path.trim_start_matches('/').split_once('/').unwrap();
            let before = self.asked.insert(job.to_owned(), (agent.to_owned(), call));
            assert!(before.is_none(), "{job} runs twice");
        }
    }

    fn agent(&self, job: &str) -> String {
        self.asked[job].0.clone()
    }

    fn open(&mut self, job: &str) {
        let (_, mut call) = self.asked.remove(job).unwrap();
        call.write_all(b"HTTP/1.0 200 OK\r\n\r\nit may end\n").unwrap();
    }
}

fn ask(server: &Hudson, path: &str) -> Value {
    serde_json::from_str(&server.request("GET", path, None).unwrap()).unwrap()
}

/// The nodes of that server, by name, without the server itself.
fn nodes(server: &Hudson) -> BTreeMap<String, Value> {
    let all = ask(server, "computer/api/json");
    let all = all["computer"].as_array().unwrap().iter();
    let named = all.map(|node| (node["displayName"].as_str().unwrap().to_owned(), node.clone()));
    named.filter(|(name, _)| name != "master").collect()
}

/// The secret of an agent, as the server has it.
fn secret(server: &Hudson, agent: &str) -> String {
    let page = server.request("GET", &format!("computer/{agent}/slave-agent.jnlp"), None).unwrap();
    page.split("<argument>").nth(1).unwrap().split('<').next().unwrap().to_owned()
}

/// Uid and phase of an agent's pod; `None` if there is none.
fn pod(cluster: &Cluster, agent: &str) -> Option<String> {
    let what = "--output=jsonpath={.metadata.uid} {.status.phase}{.metadata.deletionTimestamp}";
    cluster.kubectl(["get", "pod", agent, "--namespace=agents", what]).ok()
}

#[test]
fn jobs_of_a_real_server_run_in_pods_of_a_real_node_one_each_and_nothing_is_left() {
    let Some(mut server) = hudson().unwrap() else { return };
    let Some(cluster) = cluster(&Options::control_plane().real_node()).unwrap() else { return };
    let internal = server.reachable_at(&cluster.host()).unwrap();
    println!("Hudson 1.395 is up: {}, and for pods {internal}", server.url());
    cluster.load_image(&hudson::agent_image().unwrap()).unwrap();
    println!("a cluster is up: {}; its node has the image {}", cluster.url(), hudson::AGENT);

    let mut gate = Gate::new(&cluster.host());
    for (job, then, _) in JOBS {
        server.job(job, "a && linux", &gate.script(then)).unwrap();
        server.build(job).unwrap();
    }
    // This server answers 500 for a queue in which an item is just on its way from one list to another.
    let queue = wait("queue of all jobs", Duration::from_secs(60), || {
        let text = server.request("GET", "queue/api/json", None).unwrap_or_default();
        let queue = serde_json::from_str::<Value>(&text).ok();
        Ok(queue.filter(|queue| queue["items"].as_array().is_some_and(|items| items.len() == JOBS.len())))
    });
    let queue = queue.unwrap();
    for item in queue["items"].as_array().unwrap() {
        println!("queued: {} in Hudson", item["task"]["name"].as_str().unwrap());
    }
    let daemon = daemon(&cluster, &server, &internal);

    let mut made = BTreeSet::new();
    daemon.until("all jobs at work", || {
        for pod in names(&cluster, "pods") {
            if made.insert(pod.clone()) {
                println!("created: pod {pod}");
            }
        }
        gate.listen();
        (gate.asked.len() == JOBS.len()).then_some(())
    });
    let agents: BTreeSet<String> = JOBS.iter().map(|(job, ..)| gate.agent(job)).collect();
    assert_eq!(agents.len(), JOBS.len(), "an agent has two jobs: {agents:?}");
    assert_eq!(names(&cluster, "pods"), Vec::from_iter(agents.clone()));
    assert_eq!(names(&cluster, "secrets"), Vec::from_iter(agents.clone()));
    println!(
        "{}",
        cluster.kubectl(["get", "pods,secrets", "--namespace=agents", "--output=wide"]).unwrap().trim_end()
    );
    for (job, (agent, _)) in &gate.asked {
        assert_eq!(nodes(&server)[agent]["idle"], false);
        println!("attached: {agent}, at work on {job}");
    }
    kept_secret(&cluster, &daemon, &server, &internal, &agents);

    // A job ends once its agent takes no other one.
    daemon.until("the drained agents", || {
        let nodes = nodes(&server);
        agents.iter().all(|agent| nodes[agent]["temporarilyOffline"] == true).then_some(())
    });
    println!("drained: all three take no more jobs, while theirs run");
    // The plugin listens from the first build on, and the daemon tries again at growing intervals.
    daemon.said("hears the publisher");
    println!("heard: the ZMQ Event Publisher of that server");
    let long = gate.agent("long");
    let at_work = pod(&cluster, &long).unwrap();
    for job in ["good", "bad"] {
        gate.open(job);
        ended(&daemon, &server, job);
    }
    // The busy one outlasts them and its own `idle_timeout`.
    daemon.until("the end of the others", || (names(&cluster, "pods") == [&*long]).then_some(()));
    daemon.until("the end of their nodes", || nodes(&server).keys().eq([&long]).then_some(()));
    println!("gone: pods and nodes of the two that are done; {long} is busy and stays");
    assert_eq!(pod(&cluster, &long).unwrap(), at_work);
    assert_eq!(ask(&server, "job/long/1/api/json")["building"], true);
    gate.open("long");
    ended(&daemon, &server, "long");
    until_nothing_is_left(&cluster, &daemon);
    daemon.until("the end of the last node", || nodes(&server).is_empty().then_some(()));
    for (job, ..) in JOBS {
        assert_eq!(ask(&server, &format!("job/{job}/api/json"))["nextBuildNumber"], 2, "{job} ran once");
    }
    println!("gone: everything");
    for agent in &agents {
        let news = |line: &&str| line.contains("heard") && line.contains(agent) && line.contains("Finalized");
        let log = daemon.log();
        println!("by ZMQ: {}", log.lines().find(|line| line.contains("zmq") && news(line)).unwrap().trim());
    }
    a_user_by_name_is_told(&cluster, &server, &daemon);
    println!("no pod, no Secret and no node is left");
}

/// A job ends as its script does, and its log came through.
fn ended(daemon: &Daemon, server: &Hudson, job: &str) {
    let build = daemon.until("the end of a build", || {
        let build = ask(server, &format!("job/{job}/1/api/json"));
        (build["building"] == false).then_some(build)
    });
    let agent = build["builtOn"].as_str().unwrap();
    let log = server.request("GET", &format!("job/{job}/1/consoleText"), None).unwrap();
    println!("built: {job} on {agent}: {}; its log:\n{}", build["result"], log.trim_end());
    let (.., result) = JOBS.iter().find(|(name, ..)| *name == job).unwrap();
    assert_eq!(build["result"], *result);
    assert!(log.contains(&format!("{job} on {agent}, user 65532\n")));
}

/// What becomes of Jenkins' own images without `runAsUser` (docs/jenkins.md): their user has a name, and the kubelet does not
/// believe that it is not root.
fn a_user_by_name_is_told(cluster: &Cluster, server: &Hudson, daemon: &Daemon) {
    daemon.tell(&["create", "named"]);
    let told = daemon.until("what the kubelet says", || {
        let told = daemon.tell(&["explain", "named"]);
        told.contains("image has non-numeric user (agent), cannot verify user is non-root").then_some(told)
    });
    println!("a label without `runAsUser`:\n{}", told.trim_end());
    until_nothing_is_left(cluster, daemon);
    daemon.until("the end of the last node", || nodes(server).is_empty().then_some(()));
}

/// The agents' secrets are in their Secrets, and in nothing that people look at.
fn kept_secret(
    cluster: &Cluster,
    daemon: &Daemon,
    server: &Hudson,
    internal: &str,
    agents: &BTreeSet<String>,
) {
    let pods = cluster.kubectl(["get", "pods", "--namespace=agents", "--output=yaml"]).unwrap();
    assert!(pods.contains(internal) && !pods.contains(&server.url()), "{pods}");
    let shown = [pods, daemon.status().to_string(), daemon.log()];
    for agent in agents {
        let secret = secret(server, agent);
        assert_eq!(secret.len(), 64);
        let value = "--template={{.data.JENKINS_SECRET | base64decode}}";
        assert_eq!(cluster.kubectl(["get", "secret", agent, "--namespace=agents", value]).unwrap(), secret);
        assert!(shown.iter().all(|text| !text.contains(&secret)), "{agent}'s secret is shown");
    }
    println!("their secrets are in Secrets only");
}
