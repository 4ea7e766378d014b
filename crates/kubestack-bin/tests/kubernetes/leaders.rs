//! Two daemons of one installation, of which one leads: the leader is killed (-9) at random moments under load, and
//! started again to stand by.

use crate::common::{Daemon, PATIENCE};
use crate::fake_nodes::FakeNodes;
use crate::{account, assert_ran_once, names, number_of_jobs, submit};
use kubestack_queue::client::QueueClient;
use kubestack_testbed::{Cluster, Options, ServiceAccount, cluster};
use std::fs;
use std::time::Instant;

/// What keeps the queue, and has nothing to do with agents of that label.
pub fn queue(host: &str, label: &str) -> Daemon {
    let mut queue = Daemon::new();
    queue.configure(|text| {
        let text = text.replace("instance: test", "instance: queue").replace("127.0.0.1", host);
        text.replace("name: a,", &format!("name: not-{label},"))
    });
    queue.start();
    queue
}

/// `deploy/coordination.yaml` for that instance.
pub fn coordination(instance: &str) -> String {
    let role = format!("{}/../../deploy/coordination.yaml", env!("CARGO_MANIFEST_DIR"));
    fs::read_to_string(role).unwrap().replace("kubestack-ci]", &format!("kubestack-{instance}]"))
}

/// The term and the holder, as that Lease has them.
pub fn holder(cluster: &Cluster, lease: &str) -> Option<(u64, String)> {
    let spec = "--output=jsonpath={.spec.leaseTransitions} {.spec.holderIdentity}";
    let spec = cluster.kubectl(["get", "lease", lease, "--namespace=agents", spec]).ok()?;
    let (term, holder) = spec.split_once(' ')?;
    Some((term.parse().ok()?, holder.to_owned()))
}

fn contender(cluster: &Cluster, account: &ServiceAccount, queue: &Daemon, max: usize) -> Daemon {
    let mut daemon = Daemon::new();
    fs::write(daemon.path("key"), &account.token).unwrap();
    let (dir, port) = (daemon.dir.path().display(), queue.port);
    let (url, ca) = (cluster.url(), cluster.ca());
    let text = format!(
        "instance: test
state_dir: {dir}/state
masters:
  - {{name: queue, type: queue, url: 'http://127.0.0.1:{port}', token: {{file: {dir}/token}}}}
kubernetes: {{url: '{url}', api_key: {{file: {dir}/key}}, ca_file: {}, namespace: agents}}
coordination: {{provider: kubernetes, lease_duration: 2s}}
policy: {{step_deadline: 2s}}
labels:
  - {{name: a, image: 'registry.invalid/agent:1', max: {max}, idle_timeout: 1s}}
",
        ca.display()
    );
    daemon.configure(|_| text);
    daemon.start();
    daemon
}

/// The term, and which of them leads.
fn leader(cluster: &Cluster, daemons: &[Daemon; 2]) -> Option<(u64, usize)> {
    let (term, holder) = holder(cluster, "kubestack-test")?;
    let leads = |daemon: &Daemon| {
        daemon.child.as_ref().is_some_and(|child| holder.contains(&format!("_{}_", child.id())))
    };
    Some((term, daemons.iter().position(leads)?))
}

/// `KUBESTACK_KILLS` for another number of kills.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_killed_again_and_again_is_replaced_and_nothing_is_lost_or_left() {
    let kills: usize = std::env::var("KUBESTACK_KILLS").map_or(3, |kills| kills.parse().unwrap());
    let jobs = number_of_jobs(60);
    let Some(cluster) = cluster(&Options::control_plane().fake_nodes(4)).unwrap() else { return };
    let account = account(&cluster);
    cluster.apply(&coordination("test")).unwrap();
    let queue = queue("127.0.0.1", "a");
    // So few at once that jobs are left for the last kill.
    let max = (jobs / kills / 2).max(1);
    let mut daemons = [(); 2].map(|()| contender(&cluster, &account, &queue, max));
    let client = QueueClient::new(&format!("http://127.0.0.1:{}", queue.port), "one".into()).unwrap();
    queue.until("the queue", || queue.call(&["jobs", "list"]).status.success().then_some(()));
    // A job outlasts the change of its leader.
    submit(&client, queue.dir.path(), jobs, "sleep 3").await;
    let mut nodes = FakeNodes::new(&cluster, "agents", queue.dir.path()).await;

    let (began, mut killed, mut last, mut chance) = (Instant::now(), 0, 0, 1_u64);
    // So many looks at the world are let pass before the next kill.
    let mut patience = None;
    let list = loop {
        nodes.play().await;
        let list = client.jobs().await.unwrap();
        if list.iter().all(|job| job.state.has_ended()) && nodes.are_quiet() && killed == kills {
            break list;
        }
        let said = || daemons.iter().map(Daemon::log).collect::<Vec<_>>().join("\n");
        assert!(began.elapsed() < PATIENCE * 10, "no end after {killed} kills; they said:\n{}", said());
        if killed == kills {
            continue;
        }
        let Some((term, at)) = leader(&cluster, &daemons).filter(|(term, _)| *term > last) else { continue };
        let left = patience.get_or_insert_with(|| {
            chance = chance.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(0x1405_7B7E_F767_814F);
            chance >> 58
        });
        if *left > 0 {
            *left -= 1;
            continue;
        }
        (last, patience) = (term, None);
        let child = daemons[at].child.as_mut().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        daemons[at].start();
        killed += 1;
    };
    assert_ran_once(&list, queue.dir.path(), jobs);
    let left = || {
        let (_, at) = leader(&cluster, &daemons)?;
        let output = daemons[at].call(&["list", "-o", "json"]);
        let status: serde_json::Value = serde_json::from_slice(&output.stdout).ok()?;
        status["agents"].as_array()?.is_empty().then_some(())
    };
    queue.until("the end of the last agent", left);
    for kind in ["pods", "secrets"] {
        queue.until("the end of the last object", || names(&cluster, kind).is_empty().then_some(()));
    }
    println!(
        "{jobs} jobs ran once each in {} pods while the leader was killed {killed} times, {:.0} s; no pod and no Secret is \
         left",
        nodes.pods(),
        began.elapsed().as_secs_f32()
    );
    // The other one says who leads.
    let (term, at) = leader(&cluster, &daemons).unwrap();
    assert!(term > u64::try_from(killed).unwrap(), "{term}");
    let words = format!("_{}_", daemons[at].child.as_ref().unwrap().id());
    queue.until("the word of the one that stands by", || {
        let answer = daemons[1 - at].call(&["list"]);
        let said = String::from_utf8(answer.stderr).unwrap();
        (said.contains("this daemon stands by: ") && said.contains(&words)).then_some(())
    });
    // A leader that is told to stop passes the lead on at once; one whose Lease is taken away says so and ends.
    daemons[at].signal(rustix::process::Signal::TERM);
    assert!(daemons[at].ended().success());
    queue.until("the next leader", || leader(&cluster, &daemons).filter(|(_, now)| *now != at));
    cluster.kubectl(["delete", "lease", "kubestack-test", "--namespace=agents"]).unwrap();
    assert_eq!(daemons[1 - at].ended().code(), Some(4));
    assert!(daemons[1 - at].log().contains("another daemon leads this instance now, or will"));
}
