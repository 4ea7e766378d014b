//! No secret is ever shown: not in logs, errors, records, answers, argument lists or files of the daemon.
#![expect(clippy::unwrap_used, reason = "a test stops where its own set-up fails")]
#![expect(clippy::disallowed_methods, reason = "a real daemon in real time")]

mod common;

use common::Daemon;
use rustix::process::Signal;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

const OPERATOR: &str = "operator-5ecr3t-a";
const ROTATED: &str = "rotated-5ecr3t-b";
const LABEL: &str = "label-5ecr3t-c";
const TEXT: &str = "text-5ecr3t-d";

/// All files below, by their path.
fn files(below: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(below).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if let Ok(bytes) = fs::read(&path) {
            found.push((path.display().to_string(), bytes));
        }
    }
    found
}

/// What `/proc` shows of the processes that work below `root`, by the name of the file there.
fn processes(root: &Path, file: &str) -> Vec<String> {
    let all = fs::read_dir("/proc").unwrap().flatten();
    let below =
        all.filter(|entry| fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd.starts_with(root)));
    let read = below.filter_map(|entry| fs::read(entry.path().join(file)).ok());
    read.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).collect()
}

#[test]
fn no_secret_is_shown_anywhere_after_a_full_run() {
    let mut daemon = Daemon::new();
    let root = daemon.dir.path().canonicalize().unwrap();
    fs::write(daemon.path("token"), OPERATOR).unwrap();
    fs::write(daemon.path("label-secret"), LABEL).unwrap();
    daemon.configure(|text| {
        let env = format!("env: {{A: {{file: {}/label-secret}}, B: {TEXT}}}", root.display());
        text.replace("{name: a,", &format!("{{name: a, {env},"))
    });
    let mut run = daemon.command("run");
    run.env("KUBESTACK_LOG", "trace");
    daemon.start_as(run);
    daemon.status();
    let mut shown: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    let mut keep = |name: &str, bytes: Vec<u8>| {
        shown.insert(name.to_owned(), bytes);
    };

    let job = daemon.submit("echo begun; sleep 600");
    daemon.until("the job", || daemon.tell(&["logs", &job]).contains("begun").then_some(()));
    // The token that the agent got is known to nobody but it and its environment.
    let environments = processes(&root, "environ").concat();
    let agent = environments.split('\0').find_map(|pair| pair.strip_prefix("KUBESTACK_AGENT_TOKEN="));
    let agent = agent.unwrap().to_owned();
    assert!(
        environments.contains(LABEL) && environments.contains(TEXT),
        "the agent gets its label's secrets"
    );
    keep("argument lists", processes(&root, "cmdline").concat().into_bytes());
    for arguments in [
        &["list", "-o", "json"][..],
        &["list"],
        &["explain", "a"],
        &["jobs", "list", "-o", "json"],
        &["jobs", "show", &job, "-o", "yaml"],
        &["check"],
        &["plugins", "list"],
    ] {
        let output = daemon.call(arguments);
        keep(&format!("{arguments:?}"), [output.stdout, output.stderr].concat());
    }
    daemon.tell(&["jobs", "cancel", &job]);
    daemon.call(&["jobs", "result", &job]);
    let failed = daemon.submit("exit 3");
    daemon.call(&["jobs", "result", &failed]);

    // Errors, too: a wrong token, a rotated one, a config that is wrong around its secrets.
    fs::write(daemon.path("token"), ROTATED).unwrap();
    daemon.said("restart the daemon to use the new config");
    for arguments in [&["jobs", "list"][..], &["submit", "--label", "a", "--", "true"]] {
        let output = daemon.call(arguments);
        assert!(!output.status.success(), "that token is not in use yet");
        keep(&format!("{arguments:?} with a wrong token"), output.stderr);
    }
    daemon.configure(|text| {
        text.replace("url: 'http:", &format!("pass: {TEXT}, url: 'https:")).replace(
            "{name: a,",
            &format!("{{name: a, image: [{TEXT}], env: {{A: [{TEXT}], B: {{fiel: {TEXT}}}}},"),
        )
    });
    let output = daemon.call(&["check"]);
    assert_eq!(output.status.code(), Some(2));
    keep("check of a wrong config", output.stderr);
    daemon.said("the old one stays in use");
    daemon.signal(Signal::TERM);
    daemon.ended();

    keep("the log", fs::read(daemon.path("log")).unwrap());
    for (path, bytes) in files(&daemon.path("state")) {
        keep(&path, bytes);
    }
    assert!(shown.keys().any(|name| name.ends_with("audit.jsonl")), "{:?}", shown.keys());
    assert!(shown.keys().any(|name| name.ends_with("queue.redb")), "{:?}", shown.keys());
    for (name, bytes) in &shown {
        assert!(!bytes.is_empty() || name.ends_with("log") || name.ends_with("lock"), "nothing in {name}");
        for secret in [OPERATOR, ROTATED, LABEL, TEXT, &agent] {
            let found = bytes.windows(secret.len()).position(|window| window == secret.as_bytes());
            let around = found.map(|at| {
                let around = bytes.get(at.saturating_sub(200)..(at + 60).min(bytes.len()));
                String::from_utf8_lossy(around.unwrap_or_default()).into_owned()
            });
            assert_eq!(around, None, "{secret} is in {name}");
        }
    }
}
