//! The program as a user calls it.
#![expect(clippy::unwrap_used, reason = "a test stops where its own set-up fails")]

use std::fs;
use std::process::{Command, Output};

fn kubestack(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_kubestack")).args(args).env_remove("KUBESTACK_CONFIG").output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A plugin that nothing names is dropped by the linker together with its registration, without a word.
#[test]
fn all_plugins_are_in_the_binary() {
    let listed = text(&kubestack(&["plugins", "list"]).stdout);
    let rows: Vec<Vec<&str>> = listed
        .lines()
        .skip(1)
        .map(|line| line.split("  ").map(str::trim).filter(|text| !text.is_empty()).take(2).collect())
        .collect();
    assert_eq!(
        rows,
        [
            ["demand source", "gearman"],
            ["demand source", "jenkins_queue"],
            ["completion source", "zmq"],
            ["master", "jenkins"],
            ["master", "queue"],
            ["provider", "kubernetes"],
            ["provider", "local"]
        ]
    );
    let listed: serde_json::Value =
        serde_json::from_slice(&kubestack(&["plugins", "list", "-o", "json"]).stdout).unwrap();
    assert_eq!((&listed[3]["kind"], &listed[5]["type"]), (&"master".into(), &"kubernetes".into()));
    assert!(text(&kubestack(&["plugins", "list", "-o", "yaml"]).stdout).contains("- kind: master"));
}

#[test]
fn completions_are_what_their_shell_reads() {
    for shell in ["bash", "zsh", "fish"] {
        let output = kubestack(&["completions", shell]);
        assert!(output.status.success(), "{shell}");
        let script = text(&output.stdout);
        assert!(script.contains("drain-all") && script.contains("submit"), "{shell}: {script}");
        // Read by the shell itself where it is installed.
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("script");
        fs::write(&path, &script).unwrap();
        if let Ok(output) = Command::new(shell).arg("-n").arg(&path).output() {
            assert!(output.status.success(), "{shell}: {}", text(&output.stderr));
        }
    }
}

#[test]
fn wrong_usage_ends_with_2_and_says_what_is_right() {
    for (args, expected) in [
        (&["lsit"][..], "'list'"),
        (&["list", "-o", "jsn"], "'json'"),
        (&["list", "--nonsense"], "--nonsense"),
        (&["demo", "--jobs", "0"], "1..=10000"),
        (&["submit", "--label", "a"], "<COMMAND>"),
        (&["submit", "--label", "a", "--timeout", "soon", "--", "true"], "is not a duration"),
        (&["completions", "tcsh"], "bash"),
    ] {
        let output = kubestack(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(text(&output.stderr).contains(expected), "{args:?}: {}", text(&output.stderr));
    }
    assert!(text(&kubestack(&["--help"]).stdout).contains("Exit codes: 0 done"));
}

#[test]
fn the_spellings_of_2015_are_accepted() {
    for args in [&["-c", "/no/such", "run", "-d"][..], &["-c", "/no/such", "drain_all"]] {
        let said = text(&kubestack(args).stderr);
        assert!(said.contains("/no/such: cannot be read"), "{args:?}: {said}");
    }
}

#[test]
fn the_examples_are_valid() {
    let examples = fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples")).unwrap();
    let mut seen = 0;
    for path in examples.map(|entry| entry.unwrap().path()) {
        let mut check = Command::new(env!("CARGO_BIN_EXE_kubestack"));
        let output = check.arg("-c").arg(&path).arg("check").env("JENKINS_TOKEN", "t").output().unwrap();
        assert!(output.status.success(), "{}: {}", path.display(), text(&output.stderr));
        seen += 1;
    }
    assert!(seen >= 8);
}

#[test]
fn a_bad_config_ends_with_2_and_names_each_problem_and_starts_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bad.yaml");
    let state = dir.path().join("state");
    let config = format!(
        "state_dir: {}\nmasters:\n  - {{name: q, type: queue, url: 'http://127.0.0.1:1', tokn: x}}\nproviders:\n  - {{name: l, type: lokal}}\nlabels:\n  - {{name: a, cpus: 2}}\n",
        state.display()
    );
    fs::write(&path, config).unwrap();
    let record = dir.path().join("record");
    let online = ["check", "--online", "--record", record.to_str().unwrap()];
    assert_eq!(kubestack(&[&["-c", path.to_str().unwrap()], &online[..]].concat()).status.code(), Some(2));
    assert!(!record.exists(), "a second try would find it there");
    for action in ["check", "plan", "run"] {
        let output = kubestack(&["-c", path.to_str().unwrap(), action]);
        assert_eq!(output.status.code(), Some(2), "{action}");
        let said = text(&output.stderr);
        assert!(said.contains("bad.yaml:5:") && said.contains("did you mean `local`?"), "{said}");
        assert!(said.contains("bad.yaml:7:") && said.contains("`cpus`"), "{said}");
        assert!(!state.exists());
    }
    // What only the plugin knows is checked as well.
    let config = fs::read_to_string(&path).unwrap().replace("lokal", "local").replace("cpus: 2", "cpu: 2");
    fs::write(&path, config).unwrap();
    let output = kubestack(&["-c", path.to_str().unwrap(), "check"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("`tokn`"), "{}", text(&output.stderr));
}

/// One look at the file shows all that there is to mend.
#[test]
fn all_problems_come_at_once_each_with_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bad.yaml");
    let state = dir.path().join("state");
    let config = format!(
        "state_dir: {}
masters:
  - {{name: q, type: queue, url: 'http://127.0.0.1:1', tokn: x, embeded: 1, token: {{file: /no/such}}}}
  - {{name: r, type: queue, url: 'http://127.0.0.1:1', token: {{file: /no/such}}}}
  - {{name: r, type: queue, url: [s3cret], token: 99887766}}
providers:
  - {{name: l, type: local, comand: x, term_grace: soon}}
labels:
  - {{name: a, maxx: 1, masters: s, provider: k, cpu: [2]}}
  - {{name: a}}
statedir: x
",
        state.display()
    );
    fs::write(&path, config).unwrap();
    let record = dir.path().join("record");
    let online = ["check", "--online", "--record", record.to_str().unwrap()];
    assert_eq!(kubestack(&[&["-c", path.to_str().unwrap()], &online[..]].concat()).status.code(), Some(2));
    assert!(!record.exists(), "a second try would find it there");
    for action in ["check", "plan", "run"] {
        let output = kubestack(&["-c", path.to_str().unwrap(), action]);
        assert_eq!(output.status.code(), Some(2), "{action}");
        let said = text(&output.stderr);
        for expected in [
            "bad.yaml:3:55: masters[0].tokn: unknown field `tokn`, did you mean `token`?",
            "bad.yaml:3:64: masters[0].embeded: unknown field `embeded`, did you mean `embedded`?",
            "bad.yaml:4:55: masters[1].token: the secret file /no/such cannot be opened",
            "bad.yaml:5:6: masters[2].name: there are two entries called `r`",
            "bad.yaml:5:28: masters[2].url: invalid type: sequence",
            "bad.yaml:5:43: masters[2].token: expected a text, {env: NAME} or {file: PATH}",
            "bad.yaml:7:28: providers[0].comand: unknown field `comand`, did you mean `command`?",
            "bad.yaml:7:39: providers[0].term_grace: ",
            "bad.yaml:9:15: labels[0].maxx: unknown field `maxx`, did you mean `max`?",
            "bad.yaml:9:24: labels[0].masters: there is no master called `s`",
            "bad.yaml:9:36: labels[0].provider: there is no provider called `k`",
            "bad.yaml:9:49: labels[0].cpu: ",
            "bad.yaml:10:6: labels[1].name: there are two labels called `a`",
            "bad.yaml:11:1: statedir: there is no section `statedir`, did you mean `state_dir`?",
        ] {
            assert!(said.contains(expected), "{action}: {expected} is not in\n{said}");
        }
        assert!(!said.contains("s3cret") && !said.contains("99887766"), "{said}");
    }
    let left: Vec<_> = fs::read_dir(dir.path()).unwrap().flatten().map(|entry| entry.file_name()).collect();
    assert_eq!(left, ["bad.yaml"], "something was started");
}

#[test]
fn a_queue_that_could_not_work_is_refused_by_its_key() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c.yaml");
    for (keys, expected) in [
        ("url: 'http://', token: t", "masters[0].url: "),
        ("url: 'https://ci:1', token: t", "masters[0].url: must begin with http://"),
        ("url: 'http://ci:1', token: ''", "masters[0].token: must be of letters"),
        ("url: 'http://ci:1', token: 's3cret s3cret'", "masters[0].token: must be of letters"),
        (
            "url: 'http://ci:1', token: t, embedded: {listen: here}",
            "masters[0].embedded.listen: must be an address",
        ),
        (
            "url: 'http://ci:1', token: t, embedded: {listen: 'a:1', lease: 0s}",
            "masters[0].embedded.lease: must be",
        ),
        (
            "url: 'http://ci:1', token: t, embedded: {listen: 'a:1', attempts: 0}",
            "masters[0].embedded.attempts: must",
        ),
    ] {
        let text = format!(
            "masters: [{{name: q, type: queue, {keys}}}]\nproviders: [{{name: l, type: local}}]\nlabels: [{{name: a}}]\n"
        );
        fs::write(&path, text).unwrap();
        let output = kubestack(&["-c", path.to_str().unwrap(), "check"]);
        let said = self::text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{keys}: {said}");
        assert!(said.contains(expected) && !said.contains("s3cret"), "{keys}: {said}");
    }
}

#[test]
fn without_a_daemon_it_says_how_to_start_one() {
    let dir = tempfile::tempdir().unwrap();
    let example =
        fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/local.yaml")).unwrap();
    let path = dir.path().join("c.yaml");
    fs::write(&path, example.replace("/tmp/kubestack-example", dir.path().to_str().unwrap())).unwrap();
    let output = kubestack(&["-c", path.to_str().unwrap(), "list"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("kubestack run"), "{}", text(&output.stderr));
}
