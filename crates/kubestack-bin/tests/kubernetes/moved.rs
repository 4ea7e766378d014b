//! What an operator of 2015 brings along: `examples/2015.yaml`, unchanged but for its addresses, and the daemon of today.
//! Real are the daemon, gearmand, the publisher inside the ZMQ plugin (jeromq 0.2.0) and the apiserver; fake are Jenkins, the
//! nodes, and the image with its Swarm client.

use crate::common::Daemon;
use crate::{deploy, names, until_nothing_is_left};
use k8s_openapi::ByteString;
use kubestack_testbed::gearman::{Gearmand, gearmand};
use kubestack_testbed::publisher::{Library, Publisher, publisher};
use kubestack_testbed::{Cluster, Component, Options, cluster};
use kubestack_testkit::fake_jenkins::{FakeAgent, FakeJenkins, Options as Jenkins, Permission, Security};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

/// The password and the key in the file.
const SECRET: &str = "change-me";
/// What the job without a Jenkins of its own waits for in Gearman.
const ROW: &str = "build:row:dummy-image";

/// The file with the addresses of this test. Where it says nothing, what the daemon writes is in `/var/lib`, which is not
/// this test's: that is the one line more.
fn file(daemon: &Daemon, addresses: [(&str, String); 5]) -> String {
    let path = format!("{}/../../examples/2015.yaml", env!("CARGO_MANIFEST_DIR"));
    let mut text = fs::read_to_string(path).unwrap();
    for (theirs, ours) in addresses {
        assert_eq!(text.matches(theirs).count(), 1, "{theirs}");
        text = text.replace(theirs, &ours);
    }
    format!("state_dir: {}\n{text}", daemon.path("state").display())
}

/// The apiserver takes the key of the file for that of the account that `deploy/role.yaml` is for.
fn knows_the_key(cluster: &Cluster) {
    let keys = cluster.directory().join("pki/tokens.csv");
    let line = format!("{SECRET},system:serviceaccount:kubestack:kubestack,kubestack\n");
    fs::OpenOptions::new().append(true).open(keys).unwrap().write_all(line.as_bytes()).unwrap();
    cluster.stop(Component::ApiServer).unwrap();
    cluster.start_component(Component::ApiServer).unwrap();
}

/// Pods of that daemon, once there are so many and KWOK says that they run.
fn pods(cluster: &Cluster, daemon: &Daemon, count: usize) -> Vec<Value> {
    daemon.until("pods", || {
        let pods = cluster.kubectl(["get", "pods", "--namespace=default", "--output=json"]).unwrap();
        let pods = serde_json::from_str::<Value>(&pods).unwrap()["items"].as_array().unwrap().clone();
        let running = pods.iter().filter(|pod| pod["status"]["phase"] == "Running").count();
        (running == count).then_some(pods)
    })
}

/// One answer of a server, with its head. `http://HOST:PORT/PATH` is all that it knows of addresses.
fn ask(url: &str, method: &str, headers: &str) -> String {
    let (host, path) = url.strip_prefix("http://").unwrap().split_once('/').unwrap();
    let mut stream = TcpStream::connect(host).unwrap();
    let request = format!("{method} /{path} HTTP/1.0\r\nHost: {host}\r\n{headers}Content-Length: 0\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.split(' ').nth(1) == Some("200"), "{method} {url}: {answer}");
    answer
}

/// What the kubelet and the image's `jenkins-slave.sh` make of a pod: the client's options.
fn options(cluster: &Cluster, pod: &Value) -> BTreeMap<String, String> {
    let container = &pod["spec"]["containers"][0];
    // A kubelet makes `$` of `$$`.
    let text = |value: &Value| value.as_str().unwrap().replace("$$", "$");
    let args: Vec<String> = container["args"].as_array().unwrap().iter().map(text).collect();
    assert_eq!((args[0].as_str(), args[1].as_str(), args.len()), ("sh", "-c", 3), "{args:?}");
    let mut command = Command::new("sh");
    command.arg("-c").arg(args[2].replace("/usr/local/bin/jenkins-slave.sh", r"printf '%s\n'"));
    for variable in container["env"].as_array().unwrap() {
        let name = variable["name"].as_str().unwrap();
        let from = &variable["valueFrom"]["secretKeyRef"];
        match (from["name"].as_str(), from["key"].as_str()) {
            (Some(secret), Some(key)) => {
                let value = format!("--template={{{{.data.{key} | base64decode}}}}");
                let value = cluster.kubectl(["get", "secret", secret, "--namespace=default", &value]);
                command.env(name, value.unwrap())
            }
            _ => command.env(name, text(&variable["value"])),
        };
    }
    let said = String::from_utf8(command.output().unwrap().stdout).unwrap();
    let words: Vec<&str> = said.lines().collect();
    words.chunks(2).map(|pair| (pair[0].to_owned(), pair[1].to_owned())).collect()
}

/// What the client does with them: logs in as the user with the password, and makes its own node, under a longer name.
fn swarm_client(fake: &FakeJenkins, options: &BTreeMap<String, String>, hash: &str) -> (String, FakeAgent) {
    let login = format!("{}:{}", options["-username"], options["-password"]);
    let login = serde_json::to_value(ByteString(login.into_bytes())).unwrap();
    let login = format!("Authorization: Basic {}\r\n", login.as_str().unwrap());
    let url = &options["-master"];
    let answer = ask(&format!("{url}/crumbIssuer/api/json"), "GET", &login);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let crumb: Value = serde_json::from_str(body).unwrap();
    let cookie =
        head.lines().find_map(|line| line.strip_prefix("set-cookie: ")).unwrap().split(';').next().unwrap();
    let (field, crumb) = (crumb["crumbRequestField"].as_str().unwrap(), crumb["crumb"].as_str().unwrap());
    let headers = format!("{login}Cookie: {cookie}\r\n{field}: {crumb}\r\n");
    let what = format!(
        "{url}/plugin/swarm/createSlave?name={}&hash={hash}&labels={}&executors={}&mode={}",
        options["-name"],
        options["-labels"],
        options["-executors"],
        options["-mode"].to_uppercase()
    );
    let answer = ask(&what, "POST", &headers);
    let value = |key: &str| answer.lines().find_map(|line| line.strip_prefix(key)).unwrap().trim().to_owned();
    let node = value("name=");
    let agent = fake.attach(&node, &value("secret=")).unwrap();
    (node, agent)
}

/// Somebody took the row out of Gearman, as Jenkins' plugin does.
fn is_taken(server: &Gearmand) -> Option<()> {
    let mut stream = TcpStream::connect(("127.0.0.1", server.port())).unwrap();
    stream.write_all(b"status\n").unwrap();
    let mut said = String::new();
    while !said.ends_with(".\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        said.push(char::from(byte[0]));
    }
    said.contains(&format!("{ROW}\t1\t1\t")).then_some(())
}

fn finish(fake: &FakeJenkins, publisher: &mut Publisher, node: &str) {
    assert_eq!(fake.finish(node, "SUCCESS"), 1, "{node} had its one job");
    let event = format!(r#"onFinalized {{"name":"one","build":{{"number":1,"node_name":"{node}"}}}}"#);
    publisher.publish(&event).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_file_of_2015_serves_a_fake_jenkins_and_a_real_gearmand_by_fake_swarm_clients_in_pods_of_fake_nodes()
 {
    let Some(gearmand) = gearmand().unwrap() else { return };
    let Some(mut publisher) = publisher(Library::Jeromq020).unwrap() else { return };
    let mut daemon = Daemon::new();
    let Some(cluster) = cluster(&Options::control_plane().fake_nodes(2)).unwrap() else { return };
    knows_the_key(&cluster);
    deploy(&cluster, "default");
    let security = Security::default().user("kubestack", SECRET, "11aa", &Permission::DAEMON);
    let jenkins = Jenkins { security: Some(security), ..Jenkins::default() };
    let fake = FakeJenkins::start(jenkins).await.unwrap();
    let internal = fake.url().replace("127.0.0.1", "localhost");
    let addresses = [
        ("http://jenkins.example.org", fake.url().to_owned()),
        ("http://10.0.0.2:8080", internal.clone()),
        ("gearman_host, port: 4730", format!("127.0.0.1, port: {}", gearmand.port())),
        ("zmq_host, port: 8888", format!("127.0.0.1, port: {}", publisher.port())),
        ("http://10.0.0.1:8080", cluster.url()),
    ];
    let text = file(&daemon, addresses);
    daemon.configure(|_| text);
    assert!(daemon.tell(&["check"]).contains("valid (instance ks-"));

    gearmand.submit(ROW).unwrap();
    fake.job("one", Some("dummy-image"));
    fake.build("one", Duration::ZERO).unwrap();
    let mut command = daemon.command("run");
    // The file has no key for the authority of an `https` server, so this host trusts it.
    command.arg("-d").env("SSL_CERT_FILE", cluster.ca());
    command.env("KUBESTACK_LOG", "info,kubestack_engine=debug");
    daemon.start_as(command);
    let pods = pods(&cluster, &daemon, 2);
    daemon.said("hears the publisher");

    let mut agents = Vec::new();
    for (pod, hash) in pods.iter().zip(["0a1b2c3d", "12345678"]) {
        let (name, container) = (pod["metadata"]["name"].as_str().unwrap(), &pod["spec"]["containers"][0]);
        assert_eq!(container["image"], "yrobla/jenkins-slave-swarm-infra");
        let amounts = json!({"cpu": "250m", "memory": "512Mi"});
        assert_eq!(container["resources"], json!({"requests": amounts, "limits": amounts}));
        assert!(!pod.to_string().contains(SECRET), "{pod}");
        let options = options(&cluster, pod);
        let expected = [
            ("-executors", "1"),
            ("-labels", "dummy-image"),
            ("-master", &*internal),
            ("-mode", "exclusive"),
            ("-name", name),
            ("-password", SECRET),
            ("-username", "kubestack"),
        ];
        assert_eq!(options, expected.map(|(key, value)| (key.to_owned(), value.to_owned())).into());
        let (node, agent) = swarm_client(&fake, &options, hash);
        assert_eq!(node, format!("{name}-{hash}"));
        agents.push((node, agent));
    }
    assert_eq!(names(&cluster, "secrets").len(), 2);

    // Jenkins' plugin takes the row and runs it there.
    let _worker = gearmand.work(ROW).unwrap();
    daemon.until("the worker", || is_taken(&gearmand));
    fake.job("row", Some("dummy-image"));
    fake.build("row", Duration::ZERO).unwrap();
    daemon.until("both at work", || {
        let status = daemon.status();
        let agents = status["agents"].as_array().unwrap();
        (agents.len() == 2 && agents.iter().all(|agent| agent["state"] == "busy")).then_some(())
    });
    for (node, agent) in agents {
        finish(&fake, &mut publisher, &node);
        daemon.until("the end of its node", || (!fake.nodes().contains(&node)).then_some(()));
        assert!(!agent.is_connected());
        let name = node.rsplit_once('-').unwrap().0;
        let heard = |line: &str| line.contains("heard") && line.contains(name) && line.contains("Finalized");
        daemon.until("its event", || daemon.log().lines().any(heard).then_some(()));
    }
    until_nothing_is_left(&cluster, &daemon);
    assert_eq!(fake.nodes(), [""; 0]);
    let shown = daemon.log() + &daemon.status().to_string();
    assert!(!shown.contains(SECRET), "{shown}");
}
