//! Clusters with real servers: what is promised of their life and end.
#![expect(clippy::unwrap_used, reason = "a test stops where its own set-up fails")]

mod common;

use common::{BOUND, holder, kill, processes_in, supervisor};
use kubestack_testbed::{Component, Options, Stages, cluster, wait};
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::Command;

#[test]
fn a_cluster_answers_and_nothing_of_it_is_left_when_it_is_dropped() {
    let Some(cluster) = cluster(&Options::api_only()).unwrap() else { return };
    assert_eq!(cluster.kubectl(["get", "--raw=/readyz"]).unwrap(), "ok");
    let directory = cluster.directory().to_owned();
    assert!(processes_in(&directory).len() >= 3);
    let mut onlooker = Command::new("sleep").arg("1000").current_dir(directory.join("log")).spawn().unwrap();
    drop(cluster);
    assert!(!directory.exists());
    assert!(onlooker.try_wait().unwrap().is_none());
    onlooker.kill().unwrap();
    onlooker.wait().unwrap();
    assert_eq!(processes_in(&directory), [] as [PathBuf; 0]);
}

#[test]
fn everything_ends_when_the_owner_is_killed() {
    if kubestack_testbed::skip(&Options::api_only()).unwrap() {
        return;
    }
    let (mut owner, directory) = holder("--api-only");
    assert!(processes_in(&directory).len() >= 3);
    owner.kill().unwrap();
    owner.wait().unwrap();
    wait("end of the cluster", BOUND, || Ok((!directory.exists()).then_some(()))).unwrap();
    assert_eq!(processes_in(&directory), [] as [PathBuf; 0]);
}

#[test]
fn a_killed_supervisor_takes_its_processes_along_and_the_rest_goes_at_the_next_start() {
    let Some(cluster) = cluster(&Options::api_only()).unwrap() else { return };
    let directory = cluster.directory().to_owned();
    kill(&supervisor(&directory));
    wait("end of all processes", BOUND, || Ok(processes_in(&directory).is_empty().then_some(()))).unwrap();
    assert!(cluster.is_running(Component::Etcd).unwrap_err().to_string().contains("the supervisor is gone"));
    assert!(directory.exists());
    drop(cluster);
    kubestack_testbed::clean().unwrap();
    assert!(!directory.exists());
}

#[test]
fn what_was_stored_is_there_after_killed_servers_start_again_at_the_same_address() {
    let Some(cluster) = cluster(&Options::api_only()).unwrap() else { return };
    let url = cluster.url();
    cluster.kubectl(["create", "configmap", "kept", "--from-literal=a=b"]).unwrap();
    cluster.kill(Component::ApiServer).unwrap();
    assert!(!cluster.is_running(Component::ApiServer).unwrap());
    let refused = cluster.kubectl(["get", "configmaps"]).unwrap_err().to_string();
    assert!(refused.contains("refused"), "{refused}");
    cluster.stop(Component::Etcd).unwrap();
    let again = cluster.start_component(Component::Etcd);
    again.unwrap();
    cluster.start_component(Component::ApiServer).unwrap();
    assert_eq!(cluster.url(), url);
    assert_eq!(cluster.kubectl(["get", "configmap", "kept", "--output=jsonpath={.data.a}"]).unwrap(), "b");
    let twice = cluster.start_component(Component::Etcd).unwrap_err().to_string();
    assert!(twice.contains("etcd runs already"), "{twice}");
}

#[test]
fn a_halted_server_answers_when_it_goes_on() {
    let Some(cluster) = cluster(&Options::api_only()).unwrap() else { return };
    cluster.pause(Component::ApiServer).unwrap();
    let silent = cluster.kubectl(["get", "--raw=/readyz", "--request-timeout=1s"]).unwrap_err().to_string();
    assert!(silent.contains("Timeout") || silent.contains("deadline exceeded"), "{silent}");
    cluster.resume(Component::ApiServer).unwrap();
    assert_eq!(cluster.kubectl(["get", "--raw=/readyz"]).unwrap(), "ok");
}

#[test]
fn a_service_account_may_do_what_its_role_says_and_nothing_else() {
    let Some(cluster) = cluster(&Options::api_only()).unwrap() else { return };
    let account = cluster.service_account("agents", "daemon").unwrap();
    let may = |verb: &str| {
        let kubeconfig = format!("--kubeconfig={}", account.kubeconfig.display());
        cluster.kubectl([&kubeconfig, "auth", "can-i", verb, "pods", "--namespace=agents"])
    };
    assert!(may("list").is_err());
    cluster
        .kubectl(["create", "role", "reader", "--verb=list", "--resource=pods", "--namespace=agents"])
        .unwrap();
    let subject = "--serviceaccount=agents:daemon";
    cluster
        .kubectl(["create", "rolebinding", "reader", "--role=reader", subject, "--namespace=agents"])
        .unwrap();
    wait("permission to list", BOUND, || Ok(may("list").ok())).unwrap();
    assert!(may("create").is_err());
}

#[test]
fn fake_pods_run_on_fake_nodes_and_fail_as_their_label_says() {
    let options = Options::control_plane().fake_nodes(2).stages(Stages::SlowAndFailing);
    let Some(cluster) = cluster(&options).unwrap() else { return };
    let pod = |name: &str, labels: &str| {
        format!(
            "---
apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {labels}}}
spec: {{containers: [{{name: main, image: none}}]}}
"
        )
    };
    cluster.apply(&(pod("good", "{}") + &pod("bad", "{sim.local/fail: image-pull}"))).unwrap();
    let status = |name: &str, path: &str| {
        cluster.kubectl(["get", "pod", name, &format!("--output=jsonpath={{.status.{path}}}")])
    };
    wait("running pod", BOUND, || Ok((status("good", "phase")? == "Running").then_some(()))).unwrap();
    let reason = "containerStatuses[0].state.waiting.reason";
    wait("failed pull", BOUND, || Ok(status("bad", reason)?.contains("ImagePull").then_some(()))).unwrap();
}

/// The command line with a cache of its own, which shares the programs with ours.
struct Terminal(tempfile::TempDir);

impl Terminal {
    fn run(&self, args: &[&str]) -> (bool, String) {
        let output = Command::new(env!("CARGO_BIN_EXE_kubestack-testbed"))
            .args(args)
            .env("XDG_CACHE_HOME", self.0.path())
            .output()
            .unwrap();
        (
            output.status.success(),
            [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap()).concat(),
        )
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.run(&["down"]);
    }
}

#[test]
fn what_up_starts_outlives_it_until_down() {
    if kubestack_testbed::skip(&Options::api_only()).unwrap() {
        return;
    }
    let terminal = Terminal(tempfile::tempdir().unwrap());
    let cache = terminal.0.path().join("kubestack-testbed");
    std::fs::create_dir(&cache).unwrap();
    symlink(kubestack_testbed::directory().unwrap().join("bin"), cache.join("bin")).unwrap();

    let (up, words) = terminal.run(&["up", "--api-only"]);
    if words.contains("slot 0 is taken") {
        // Not `eprintln!`, which the harness would keep to itself.
        writeln!(std::io::stderr(), "SKIPPED: a developer's cluster is up").unwrap();
        return;
    }
    assert!(up, "{words}");
    let kubeconfig = cache.join("run/0/kubeconfig");
    assert!(words.contains(&format!("export KUBECONFIG={}", kubeconfig.display())), "{words}");
    let (again, words) = terminal.run(&["up"]);
    assert!(!again && words.contains("it is up already"), "{words}");
    let (status, words) = terminal.run(&["status"]);
    assert!(status && words.contains("cluster 0, yours, held by process"), "{words}");
    assert!(!processes_in(&cache).is_empty());

    let (down, words) = terminal.run(&["down"]);
    assert!(down, "{words}");
    assert!(!kubeconfig.exists());
    assert_eq!(processes_in(&cache), [] as [PathBuf; 0]);
    let (status, words) = terminal.run(&["status"]);
    assert!(status && words.contains("no cluster of yours is up"), "{words}");
}
