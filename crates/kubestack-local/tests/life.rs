//! One unit's life: launched, seen, ended, taken away.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

mod common;

use common::{Host, alive, config, marked, until, written_pid};
use kubestack_core::prelude::*;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

const SOON: Duration = Duration::from_millis(200);
const LONG: Duration = Duration::from_secs(3600);

#[tokio::test]
async fn a_unit_runs_ends_with_its_status_and_last_words_and_is_taken_away() {
    let dir = tempfile::tempdir().unwrap();
    let host = Host::new("ci", dir.path());
    let (mut view, mut other) = (host.view().await, host.view().await);
    view.until("empty", BTreeMap::is_empty).await;
    let unit =
        host.launch(1, "echo hello; until test -e go; do sleep 0.02; done; echo bye >&2; exit 3").await;
    assert_eq!(unit.phase, UnitPhase::Running);
    view.until("running", |units| units.len() == 1).await;
    assert_eq!(view.units[&unit.name], unit);
    let home = dir.path().join(unit.name.as_str());
    assert_eq!(fs::metadata(&home).unwrap().permissions().mode() & 0o777, 0o700);

    fs::write(home.join("work/go"), "").unwrap();
    for view in [&mut view, &mut other] {
        let (cause, text) = view.until_ended(&unit).await;
        assert_eq!(cause, Some(FailureCause::CrashLoop));
        assert_eq!(text, "exited with status 3; its last words:\nhello\nbye");
    }
    assert_eq!(host.provider.log_tail(&unit.reference(), 1).await.unwrap(), "bye");
    host.destroy(&unit, SOON).await.unwrap();
    view.until_gone(&unit).await;
    other.until_gone(&unit).await;
    assert!(!home.exists());
    host.destroy(&unit, SOON).await.unwrap();
    assert_eq!(host.provider.log_tail(&unit.reference(), 1).await.unwrap(), "");
}

#[tokio::test]
async fn only_a_bad_end_without_a_job_is_a_failure() {
    let dir = tempfile::tempdir().unwrap();
    let host = Host::new("ci", dir.path());
    let mut view = host.view().await;
    let good = host.launch(1, "exit 0").await;
    assert_eq!(view.until_ended(&good).await, (None, "exited with status 0".to_owned()));
    let killed = host.launch(2, "kill -9 $$").await;
    assert_eq!(
        view.until_ended(&killed).await,
        (Some(FailureCause::CrashLoop), "ended by signal 9".to_owned())
    );
    let used = host.launch(3, "until test -e go; do sleep 0.02; done; exit 1").await;
    let marked = host.provider.mark(&used.reference(), &MarkPatch::Used("7".into())).await.unwrap();
    assert_eq!(marked.marks.used.as_deref(), Some("7"));
    assert!(marked.version > used.version);
    fs::write(dir.path().join(used.name.as_str()).join("work/go"), "").unwrap();
    assert_eq!(view.until_ended(&used).await, (None, "exited with status 1".to_owned()));
    assert_eq!(view.units[&used.name].marks.used.as_deref(), Some("7"));
}

#[tokio::test]
async fn all_processes_of_a_unit_end_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let host = Host::new("ci", dir.path());
    let mut view = host.view().await;
    // Each is found by one thing only: its mark (an orphan in a session of its own), its group (an orphan
    // without a mark), or its parent (without a mark, in a session of its own). Two ignore the request.
    let script = r#"
        trap '' TERM
        setsid sh -c 'trap "" TERM; echo $$ > session; while :; do sleep 0.1; done' &
        sh -c 'env -i sh -c "echo \$\$ > group; exec sleep 1000" &'
        env -i setsid sh -c 'echo $$ > child; exec sleep 1000' &
        sh -c 'setsid sh -c "echo \$\$ > orphan; exec sleep 1000" &'
        echo $$ > leader
        while :; do sleep 0.1; done"#;
    let unit = host.launch(1, script).await;
    let mut pids = Vec::new();
    for file in ["leader", "session", "group", "child", "orphan"] {
        pids.push(written_pid(dir.path(), &unit, file).await);
    }
    assert!(pids.iter().all(|pid| alive(*pid)));
    let bystander = host.launch(2, "exec sleep 1000").await;

    host.destroy(&unit, SOON).await.unwrap();
    view.until("terminating", |units| {
        units.get(&unit.name).is_some_and(|unit| unit.phase == UnitPhase::TERMINATING)
    })
    .await;
    view.until_gone(&unit).await;
    assert!(!pids.iter().any(|pid| alive(*pid)), "{pids:?}");
    assert!(marked(unit.uid.as_str()).is_empty());
    assert!(!dir.path().join(unit.name.as_str()).exists());
    assert_eq!(view.phase(&bystander), Some(&UnitPhase::Running));
    assert_eq!(marked(bystander.uid.as_str()).len(), 1);
    host.destroy(&bystander, SOON).await.unwrap();
    view.until_gone(&bystander).await;
}

#[tokio::test]
async fn the_agent_is_asked_first_and_its_job_is_left_to_it() {
    let dir = tempfile::tempdir().unwrap();
    let host = Host::new("ci", dir.path());
    let mut view = host.view().await;
    let out = tempfile::tempdir().unwrap();
    let to = out.path().join("said").display().to_string();
    let job =
        format!("trap 'echo twice >> {to}' TERM; echo $$ > job; until test -e {to}; do sleep 0.02; done");
    let agent = format!(
        "setsid sh -c \"{job}\" & trap 'echo asked >> {to}; wait; exit 0' TERM; echo $$ > agent; wait; exit 1"
    );
    let unit = host.launch(1, &agent).await;
    written_pid(dir.path(), &unit, "job").await;
    written_pid(dir.path(), &unit, "agent").await;
    host.destroy(&unit, LONG).await.unwrap();
    view.until_gone(&unit).await;
    assert_eq!(fs::read_to_string(to).unwrap(), "asked\n");
}

#[tokio::test]
async fn what_outlives_its_agent_is_ended_before_the_unit_counts_as_ended() {
    let dir = tempfile::tempdir().unwrap();
    let host = Host::new("ci", dir.path());
    let mut view = host.view().await;
    let unit =
        host.launch(1, "(trap '' TERM; while :; do sleep 0.1; done) & setsid sleep 1000 & exit 0").await;
    view.until_ended(&unit).await;
    assert!(marked(unit.uid.as_str()).is_empty());
}

#[tokio::test]
async fn a_held_unit_is_left_alone_until_it_is_released() {
    let dir = tempfile::tempdir().unwrap();
    let host = Host::new("ci", dir.path());
    let mut view = host.view().await;
    let unit = host.launch(1, "sleep 1000 & until test -e go; do sleep 0.02; done").await;
    let held = host.provider.mark(&unit.reference(), &MarkPatch::Held("look".into())).await.unwrap();
    assert_eq!(held.marks.held.as_deref(), Some("look"));
    let refused = host.destroy(&unit, SOON).await.unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Conflict);
    assert!(refused.message.contains("look"), "{refused}");
    let home = dir.path().join(unit.name.as_str());
    fs::write(home.join("work/go"), "").unwrap();
    // Its agent has ended, what it left behind has not, and two more looks change nothing about that.
    until("agent ended", || marked(unit.uid.as_str()).len() == 1).await;
    let looks = view.looks;
    while view.looks < looks + 2 {
        view.next().await.unwrap();
    }
    assert_eq!(view.phase(&unit), Some(&UnitPhase::Running));
    assert_eq!(marked(unit.uid.as_str()).len(), 1);

    host.provider.mark(&unit.reference(), &MarkPatch::Released).await.unwrap();
    view.until_ended(&unit).await;
    assert!(marked(unit.uid.as_str()).is_empty());
    host.provider.mark(&unit.reference(), &MarkPatch::Held("again".into())).await.unwrap();
    assert_eq!(host.destroy(&unit, SOON).await.unwrap_err().kind, ErrorKind::Conflict);
    assert!(home.join("log").exists());
    host.provider.mark(&unit.reference(), &MarkPatch::Released).await.unwrap();
    host.destroy(&unit, SOON).await.unwrap();
    view.until_gone(&unit).await;
}

#[tokio::test]
async fn a_name_is_launched_once_and_a_directory_of_others_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let host = Host::new("ci", dir.path());
    let first = host.launch(1, "exec sleep 1000").await;
    assert_eq!(host.launch(1, "exec sleep 1000").await, first);
    assert_eq!(marked(first.uid.as_str()).len(), 1);

    let name = host.marks(2).agent();
    fs::create_dir(dir.path().join(name.as_str())).unwrap();
    let refused = host.provider.launch(&host.request(2, "true")).await.unwrap_err();
    assert_eq!((refused.kind, refused.cause), (ErrorKind::Invalid, Some(FailureCause::Config)));
    assert!(dir.path().join(name.as_str()).exists());
    // Another instance's marks under a name that ours would have.
    let mut foreign = host.marks(3);
    foreign.instance = "other".into();
    let home = dir.path().join(host.marks(3).agent().as_str());
    fs::create_dir(&home).unwrap();
    let record = serde_json::json!({"uid": "x", "version": 1, "created": 1, "marks": foreign});
    fs::write(home.join("unit.json"), record.to_string()).unwrap();
    let refused = host.provider.launch(&host.request(3, "true")).await.unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Invalid);
    assert!(refused.message.contains("`other`"), "{refused}");

    let mut view = host.view().await;
    view.until("looked", |units| units.len() == 1).await;
    host.destroy(&first, SOON).await.unwrap();
    view.until_gone(&first).await;
}

#[tokio::test]
async fn what_cannot_be_started_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let script = dir.path().join("not-executable");
    fs::write(&script, "x").unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o600)).unwrap();
    let root = dir.path().join("root");
    for program in ["/nonexistent/agent", "no-such-agent-anywhere", script.to_str().unwrap()] {
        let host = Host::with("ci", config(&[program], &root));
        let error = host.provider.launch(&host.request(1, "")).await.unwrap_err();
        assert_eq!((error.kind, error.cause), (ErrorKind::Invalid, Some(FailureCause::Config)), "{error}");
        assert!(error.message.contains(program), "{error}");
        assert_eq!(fs::read_dir(&root).unwrap().count(), 0);
    }
    let host = Host::new("ci", &root);
    let mut request = host.request(1, "true");
    request.enrolment.as_mut().unwrap().env.insert("A=B".into(), "c".into());
    assert_eq!(host.provider.launch(&request).await.unwrap_err().kind, ErrorKind::Invalid);
    assert_eq!(fs::read_dir(&root).unwrap().count(), 0);
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    let host = Host::new("ci", &file);
    assert!(host.provider.launch(&host.request(1, "true")).await.is_err());
}

#[tokio::test]
async fn what_has_started_is_not_destroyed_as_not_started() {
    let dir = tempfile::tempdir().unwrap();
    let host = Host::new("ci", dir.path());
    let mut view = host.view().await;
    let unit = host.launch(1, "exec sleep 1000").await;
    let mut request = DestroyRequest::new(unit.reference(), SOON);
    request.only_if_not_started = true;
    assert_eq!(host.provider.destroy(&request).await.unwrap_err().kind, ErrorKind::Conflict);
    let mut other = unit.reference();
    other.uid = "another".into();
    host.provider.destroy(&DestroyRequest::new(other.clone(), SOON)).await.unwrap();
    assert_eq!(host.provider.mark(&other, &MarkPatch::Released).await.unwrap_err().kind, ErrorKind::NotFound);
    assert_eq!(marked(unit.uid.as_str()).len(), 1);
    host.destroy(&unit, SOON).await.unwrap();
    view.until_gone(&unit).await;
}

#[tokio::test]
async fn a_second_word_shortens_the_grace_and_none_may_hold_what_goes() {
    let dir = tempfile::tempdir().unwrap();
    let host = Host::new("ci", dir.path());
    let mut view = host.view().await;
    let unit = host.launch(1, "trap '' TERM; echo $$ > ready; while :; do sleep 0.1; done").await;
    written_pid(dir.path(), &unit, "ready").await;
    host.destroy(&unit, LONG).await.unwrap();
    let late = host.provider.mark(&unit.reference(), &MarkPatch::Held("x".into())).await.unwrap_err();
    assert_eq!(late.kind, ErrorKind::Conflict);
    host.destroy(&unit, Duration::ZERO).await.unwrap();
    view.until_gone(&unit).await;
}

#[tokio::test]
async fn secrets_reach_the_agent_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let host = Host::new("ci", dir.path());
    let mut view = host.view().await;
    let script = "test \"$TOKEN/$FROM_LABEL/$URL\" = tok3n-value/lab3l-value/http://m || exit 9
        env | cut -d= -f1 > names; pwd > cwd; until test -e go; do sleep 0.02; done";
    let mut request = host.request(1, script);
    let secret: SecretRef = serde_json::from_value("lab3l-value".into()).unwrap();
    request.label.env.insert("FROM_LABEL".into(), secret.clone());
    request.label.env.insert("URL".into(), secret);
    let enrolment = request.enrolment.as_mut().unwrap();
    enrolment.env.insert("URL".into(), "http://m".into());
    enrolment.secrets.insert("TOKEN".into(), "tok3n-value".to_owned().into());
    let unit = host.provider.launch(&request).await.unwrap();
    let home = dir.path().join(unit.name.as_str());
    let cwd = || fs::read_to_string(home.join("work/cwd")).unwrap_or_default();
    until("script ran", || cwd().ends_with('\n')).await;

    // The short-lived ones may be gone by now; the first one waits for us.
    let lines = marked(unit.uid.as_str()).into_iter().map(|pid| fs::read(format!("/proc/{pid}/cmdline")));
    let lines: Vec<Vec<u8>> = lines.filter_map(Result::ok).collect();
    assert!(lines.iter().any(|line| String::from_utf8_lossy(line).contains(script)));
    for line in lines {
        // The script names the values that it compares with; the first process is the script.
        let line = String::from_utf8_lossy(&line).replace(script, "");
        assert!(!line.contains("tok3n") && !line.contains("lab3l"), "{line}");
    }
    let mut open = vec![home.clone()];
    let mut files = 0;
    while let Some(path) = open.pop() {
        if path.is_dir() {
            open.extend(fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
        } else {
            files += 1;
            let text = fs::read_to_string(&path).unwrap();
            assert!(!text.contains("tok3n") && !text.contains("lab3l"), "{}: {text}", path.display());
        }
    }
    assert_eq!(files, 4, "record, log, names, cwd");
    // The daemon's own environment (cargo's, here) stays with the daemon.
    let names = fs::read_to_string(home.join("work/names")).unwrap();
    let known =
        ["PATH", "HOME", "LANG", "TZ", "TMPDIR", "TOKEN", "FROM_LABEL", "URL", "KUBESTACK_LOCAL_UNIT"];
    for name in names.lines().filter(|name| !["PWD", "OLDPWD", "SHLVL", "_"].contains(name)) {
        assert!(known.contains(&name), "{name} was inherited");
    }
    assert!(std::env::var_os("CARGO_MANIFEST_DIR").is_some(), "or this test proves nothing");
    assert_eq!(
        fs::read_to_string(home.join("work/cwd")).unwrap().trim(),
        home.join("work").to_str().unwrap()
    );
    fs::write(home.join("work/go"), "").unwrap();
    assert_eq!(view.until_ended(&unit).await, (None, "exited with status 0".to_owned()));
}
