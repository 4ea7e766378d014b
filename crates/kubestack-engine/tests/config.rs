//! The config file: what is valid, and what is said about what is not.
#![expect(clippy::panic, reason = "a test stops where its own set-up fails")]

use kubestack_core::inventory;
use kubestack_core::prelude::*;
use kubestack_core::registry::Build;
use kubestack_engine::config::Config;
use std::time::Duration;

fn nothing<T: ?Sized>(_: &BuildContext, _: &Fragment) -> Result<Box<T>> {
    Err(Error::invalid("only a name"))
}

macro_rules! double {
    ($name:literal, $kind:expr) => {
        inventory::submit! {
            Plugin { type_name: $name, summary: "", schema: || schemars::schema_for!(()), example: "", build: $kind }
        }
    };
}

double!("jenkins", Build::Master(nothing));
double!("other", Build::Master(nothing));
double!("kubernetes", Build::Provider(nothing));
double!("gearman", Build::DemandSource(nothing));
double!("jenkins_queue", Build::DemandOfMaster("jenkins"));
double!("zmq", Build::CompletionSource(nothing));

const OF_2015: &str = "
demand-listeners:
  - {name: jenkins-queue, type: jenkins_queue}
  - {name: gearman-server, type: gearman, host: gearman_host, port: 4730}
destroy-listeners:
  - {name: zmq, type: zmq, host: zmq_host, port: 8888}
jenkins:    {external_url: 'http://ci/', internal_url: 'http://ci.internal/', user: u, pass: p}
kubernetes: {url: 'http://k8s:8080', api_key: k}
labels:
  - {name: dummy-image, image: yrobla/jenkins-slave-swarm-infra, cpu: 250m, memory: 512Mi}
";

fn problems(text: &str) -> Vec<String> {
    match Config::parse(text, "c.yaml") {
        Ok(_) => Vec::new(),
        Err(problems) => problems.0,
    }
}

fn assert_problem(text: &str, expected: &str) {
    let problems = problems(text);
    assert!(problems.iter().any(|problem| problem.contains(expected)), "{expected} not in {problems:#?}");
}

#[test]
fn the_file_of_2015_is_valid_key_for_key() {
    let config = Config::parse(OF_2015, "c.yaml").unwrap_or_else(|problems| panic!("{problems}"));
    let label = &config.setup.settings.labels["dummy-image"];
    assert_eq!(label.providers, ["kubernetes".into()]);
    assert!(label.masters.contains("jenkins"));
    assert_eq!(label.resources.0["cpu"].to_string(), "250m");
    assert_eq!(config.demand.len(), 1, "the queue of Jenkins comes with its master");
    assert_eq!(config.demand[0].fragment.value()["host"], "gearman_host");
    assert!(config.demand[0].masters.contains("jenkins"), "one master is the default");
    assert_eq!(config.masters[0].fragment.value()["attach"], "swarm-client", "as it was in 2015");
}

#[test]
fn a_listener_that_names_its_master_s_own_demand_needs_that_master_and_no_address() {
    let with = |old: &str, new: &str| OF_2015.replace(old, new);
    assert_problem(
        &with("type: jenkins_queue}", "type: jenkins_queue, host: h}"),
        "c.yaml:3:48: demand-listeners[0].host: `jenkins_queue` has no further keys",
    );
    let other = "masters: [{name: a, type: other}]";
    let jenkins = OF_2015.lines().find(|line| line.starts_with("jenkins:")).unwrap();
    assert_problem(&with(jenkins, other), "there is no master of type `jenkins` whose queue it could be");
    let grouped = with("type: jenkins_queue}", "type: jenkins_queue, merge_group: zuul}");
    let config = Config::parse(&grouped, "c").unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(config.setup.settings.sources["jenkins"].merge_group.as_deref(), Some("zuul"));
}

#[test]
fn the_instance_follows_from_the_masters_addresses() {
    let instance = |text: &str| Config::parse(text, "c").unwrap().setup.instance;
    assert_eq!(instance(OF_2015), instance(OF_2015));
    assert_ne!(instance(OF_2015), instance(&OF_2015.replace("http://ci/", "http://other/")));
}

#[test]
fn each_problem_names_file_line_and_key_and_all_come_at_once() {
    let text = OF_2015.replace("cpu: 250m", "cpu: lots").replace("labels:", "lables: []\nlabels:");
    let problems = problems(&text);
    assert_eq!(problems.len(), 2, "{problems:#?}");
    assert!(problems[0].starts_with("c.yaml:9:1: lables: "), "{problems:#?}");
    assert!(problems[0].contains("did you mean `labels`?"), "{problems:#?}");
    assert!(problems[1].starts_with("c.yaml:11:"), "{problems:#?}");
    assert!(
        problems[1].contains("labels[0].cpu") && problems[1].contains("`lots` is not a quantity"),
        "{problems:#?}"
    );
}

#[test]
fn what_cannot_work_is_said_with_what_to_do() {
    let with = |from: &str, to: &str| OF_2015.replace(from, to);
    assert_problem(&with("type: gearman,", "type: german,"), "did you mean `gearman`?");
    assert_problem(&with("type: zmq", "type: gearman"), "no completion source of type `gearman`");
    assert_problem(&with("cpu: 250m", "provider: kubernets"), "did you mean `kubernetes`?");
    assert_problem(&with("cpu: 250m", "cup: 250m"), "unknown field `cup`");
    assert_problem(&with("cpu: 250m", "max: 1, min_ready: 2"), "is larger than `max`");
    assert_problem(&with("cpu: 250m", "weight: 0"), "must be at least 1");
    assert_problem(&with("cpu: 250m", "idle_timeout: soon"), "is not a duration");
    assert_problem(&with("cpu: 250m", "env: {A: {file: /no/such}}"), "/no/such cannot be opened");
    assert_problem(&with("cpu: 250m", "env: {A: {env: KUBESTACK_NO_SUCH}}"), "KUBESTACK_NO_SUCH is not set");
    assert_problem(&with("gearman-server", "jenkins-queue"), "two entries called `jenkins-queue`");
    assert_problem(&with("labels:", "masters: [{name: a, type: jenkins}]\nlabels:"), "use one of the two");
    assert_problem(&with("labels:", "instance: My_CI\nlabels:"), "a-z, 0-9");
    assert_problem(&with("cpu: 250m", "max_lifetime: 0s"), "max_lifetime: must be longer than zero");
    assert_problem(&with("cpu: 250m", "launch_timeout: 0s"), "launch_timeout: must be longer than zero");
    for state_dir in ["5", "[/tmp]", "''", ""] {
        assert_problem(&format!("{OF_2015}state_dir: {state_dir}\n"), "state_dir: must be the path");
    }
    assert_problem(&format!("{OF_2015}console: {{listen: x}}\n"), "no console in this version");
    let lead = |what: &str| format!("{OF_2015}coordination: {{{what}}}\n");
    assert_problem(&lead("provider: kubernets"), "did you mean `kubernetes`?");
    assert_problem(&lead("provider: kubernetes, dir: /tmp"), "use one of the two");
    assert_problem(&lead("lease_duration: 9s"), "is for `provider`");
    for lease in ["1s", "2500ms", "2h"] {
        let text = lead(&format!("provider: kubernetes, lease_duration: {lease}"));
        assert_problem(&text, "whole seconds, from 2s to 1h");
    }
    for key in ["step_deadline", "stale_after", "master_poll"] {
        assert_problem(&format!("{OF_2015}policy: {{{key}: 0s}}\n"), "must be longer than zero");
    }
    assert_problem("labels: [", "c.yaml:1:9: ");
    assert_problem("", "is empty");
    assert_problem("[]", "must be a map");
    assert_problem("labels: {}", "must be a list");
}

#[test]
fn what_is_no_file_of_a_config_is_refused_and_never_read_to_its_end() {
    let read = |path: &str| Config::read(path.as_ref()).unwrap_err().to_string();
    assert!(read("/dev/zero").contains("is larger than"), "{}", read("/dev/zero"));
    assert!(read("/").contains("cannot be read"), "{}", read("/"));
    assert!(read("/no/such").contains("name another file with -c"));
}

#[test]
fn a_duplicate_key_is_an_error_not_a_silent_choice() {
    assert_problem(&OF_2015.replace("cpu: 250m", "cpu: 250m, cpu: 300m"), "duplicate");
}

#[test]
fn policy_and_limits_reach_the_planner() {
    let text = format!("{OF_2015}policy: {{step_deadline: 7s}}\nlimits: {{agents: 5, cpu: 3}}\n");
    let setup = Config::parse(&text, "c").unwrap().setup;
    assert_eq!(setup.settings.policy.step_deadline, Duration::from_secs(7));
    assert_eq!(setup.settings.limit.agents, Some(5));
    assert_eq!(setup.settings.limit.resources.0["cpu"].to_string(), "3");
}
