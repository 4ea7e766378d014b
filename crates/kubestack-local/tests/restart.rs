//! What a restart, a kill, or a hand in the directory leaves, is found; what is not ours is not touched.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

mod common;

use common::{Host, Stranger, alive, boot_id, marked, until, write_unit, written_pid};
use kubestack_core::prelude::*;
use serde_json::json;
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

const SOON: Duration = Duration::from_millis(200);
const LONG: Duration = Duration::from_secs(3600);

/// The start of all uids of that instance in that directory.
async fn scope(instance: &str, dir: &Path) -> String {
    let host = Host::new(instance, dir);
    let unit = host.launch(99, "true").await;
    let mut view = host.view().await;
    view.until_ended(&unit).await;
    host.destroy(&unit, SOON).await.unwrap();
    unit.uid.as_str().split_once('-').unwrap().0.to_owned()
}

#[tokio::test]
async fn units_are_found_again_running_or_ended_in_between() {
    let dir = tempfile::tempdir().unwrap();
    let host = Host::new("ci", dir.path());
    let runs = host.launch(1, "exec sleep 1000").await;
    let ends = host.launch(2, "until test -e go; do sleep 0.02; done; exit 4").await;
    host.provider.mark(&runs.reference(), &MarkPatch::Used("7".into())).await.unwrap();
    host.stop().await;
    fs::write(dir.path().join(ends.name.as_str()).join("work/go"), "").unwrap();
    until("ended", || marked(ends.uid.as_str()).is_empty()).await;

    let host = Host::new("ci", dir.path());
    let mut view = host.view().await;
    view.next().await.unwrap();
    assert_eq!(view.phase(&runs), Some(&UnitPhase::Running));
    assert_eq!(view.units[&runs.name].uid, runs.uid);
    assert_eq!(view.units[&runs.name].marks.used.as_deref(), Some("7"));
    // Its parent is still this process, so that even its status could be had.
    let UnitPhase::Ended { text, .. } = view.phase(&ends).unwrap() else { panic!("{:?}", view.units) };
    assert_eq!(text, "exited with status 4");
    // The end of one that was found is noticed as that of one that was launched.
    Command::new("kill").arg(written_leader(dir.path(), &runs).to_string()).status().unwrap();
    let (cause, text) = view.until_ended(&runs).await;
    assert_eq!((cause, text.as_str()), (None, "ended by signal 15"));
    for unit in [&runs, &ends] {
        host.destroy(unit, SOON).await.unwrap();
        view.until_gone(unit).await;
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

fn written_leader(dir: &Path, unit: &Unit) -> i64 {
    let record = fs::read(dir.join(unit.name.as_str()).join("unit.json")).unwrap();
    serde_json::from_slice::<serde_json::Value>(&record).unwrap()["leader"]["pid"].as_i64().unwrap()
}

/// A dry run may look beside the daemon that tends these units, which is making one just now.
#[tokio::test]
async fn a_look_shows_everything_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let absent = Host::new("ci", &dir.path().join("not/there"));
    assert!(absent.provider.look().await.unwrap().1.is_empty() && !dir.path().join("not").exists());
    let making = dir.path().join(format!(".{}-ci-small-1-9", scope("ci", dir.path()).await));
    let host = Host::new("ci", dir.path());
    let runs = host.launch(1, "exec sleep 1000").await;
    let ends = host.launch(2, "until test -e go; do sleep 0.02; done; exit 4").await;
    host.stop().await;
    fs::write(dir.path().join(ends.name.as_str()).join("work/go"), "").unwrap();
    until("ended", || marked(ends.uid.as_str()).is_empty()).await;
    fs::create_dir(&making).unwrap();
    let records = || {
        [&runs, &ends].map(|unit| fs::read(dir.path().join(unit.name.as_str()).join("unit.json")).unwrap())
    };
    let before = records();

    let host = Host::new("ci", dir.path());
    let (_, units) = host.provider.look().await.unwrap();
    let phases: BTreeMap<_, _> = units.iter().map(|unit| (&unit.name, &unit.phase)).collect();
    assert_eq!(phases.len(), 2, "{phases:?}");
    assert_eq!(phases[&runs.name], &UnitPhase::Running);
    assert!(matches!(phases[&ends.name], UnitPhase::Ended { .. }), "{phases:?}");
    assert!(making.exists() && records() == before);
    for unit in [&runs, &ends] {
        host.destroy(unit, SOON).await.unwrap();
    }
    let mut view = host.view().await;
    for unit in [&runs, &ends] {
        view.until_gone(unit).await;
    }
}

#[tokio::test]
async fn a_destroy_goes_on_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let host = Host::new("ci", dir.path());
    let stubborn = "trap '' TERM; echo $$ > ready; while :; do sleep 0.1; done";
    let (asked, told) = (host.launch(1, stubborn).await, host.launch(2, stubborn).await);
    for unit in [&asked, &told] {
        written_pid(dir.path(), unit, "ready").await;
    }
    host.destroy(&asked, LONG).await.unwrap();
    host.destroy(&told, SOON).await.unwrap();
    host.stop().await;

    let host = Host::new("ci", dir.path());
    let mut view = host.view().await;
    view.until_gone(&told).await;
    assert_eq!(view.phase(&asked), Some(&UnitPhase::TERMINATING));
    host.destroy(&asked, Duration::ZERO).await.unwrap();
    view.until_gone(&asked).await;
}

#[tokio::test]
async fn a_pid_that_was_used_again_is_never_signalled() {
    let dir = tempfile::tempdir().unwrap();
    let stranger = Stranger::new(&[]);
    let host = Host::new("ci", dir.path());
    let (pid, start) = (stranger.pid(), stranger.start());
    let other_boot = "00000000-0000-0000-0000-000000000000";
    let again = json!({"leader": {"pid": pid, "start": start + 1, "boot": boot_id()}});
    let rebooted = json!({"leader": {"pid": pid, "start": start, "boot": other_boot}});
    let going = json!({"leader": {"pid": pid, "start": start - 1, "boot": boot_id()}, "ending": "1ms"});
    let again = write_unit(dir.path(), &host.marks(1), "u1", &again);
    let rebooted = write_unit(dir.path(), &host.marks(2), "u2", &rebooted);
    let going = write_unit(dir.path(), &host.marks(3), "u3", &going);

    let mut view = host.view().await;
    let (cause, text) = view.until_ended(&again).await;
    assert_eq!(cause, None);
    assert!(text.contains("unknown"), "{text}");
    assert_eq!(view.until_ended(&rebooted).await.0, Some(FailureCause::NodeLost));
    view.until_gone(&going).await;
    for unit in [&again, &rebooted] {
        host.destroy(unit, Duration::ZERO).await.unwrap();
        view.until_gone(unit).await;
    }
    assert!(alive(pid));
}

#[tokio::test]
async fn two_instances_in_one_directory_do_not_see_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let (ours, theirs) = (Host::new("ours", dir.path()), Host::new("theirs", dir.path()));
    let (mine, yours) = (ours.launch(1, "exec sleep 1000").await, theirs.launch(1, "exec sleep 1000").await);
    let (mut view, mut their_view) = (ours.view().await, theirs.view().await);
    view.next().await.unwrap();
    their_view.next().await.unwrap();
    assert_eq!(view.units.keys().collect::<Vec<_>>(), [&mine.name]);
    assert_eq!(their_view.units.keys().collect::<Vec<_>>(), [&yours.name]);

    ours.destroy(&yours, Duration::ZERO).await.unwrap();
    let error = ours.provider.mark(&yours.reference(), &MarkPatch::Released).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::NotFound);
    // A process of theirs without its directory is theirs to end.
    let stray = Stranger::new(&[("KUBESTACK_LOCAL_UNIT", &format!("{}9", yours.uid))]);
    ours.stop().await;
    let ours = Host::new("ours", dir.path());
    let mut view = ours.view().await;
    view.until("looked", |units| units.len() == 1).await;
    ours.destroy(&mine, Duration::ZERO).await.unwrap();
    view.until_gone(&mine).await;
    assert_eq!(marked(yours.uid.as_str()).len(), 2, "theirs and the stray");
    assert!(alive(stray.pid()));
    theirs.destroy(&yours, Duration::ZERO).await.unwrap();
    their_view.until_gone(&yours).await;
}

#[tokio::test]
async fn a_kill_between_start_and_record_is_made_good() {
    let dir = tempfile::tempdir().unwrap();
    let scope = scope("ci", dir.path()).await;
    let host = Host::new("ci", dir.path());
    let uid = format!("{scope}-1");
    let started = Stranger::new(&[("KUBESTACK_LOCAL_UNIT", &uid)]);
    let found = write_unit(dir.path(), &host.marks(1), &uid, &json!({}));
    let remnant = write_unit(dir.path(), &host.marks(2), &format!("{scope}-2"), &json!({}));
    // Half made: it has no name of its own yet.
    let half = dir.path().join(format!(".{scope}-{}", host.marks(3).agent()));
    fs::create_dir(&half).unwrap();

    let mut view = host.view().await;
    view.next().await.unwrap();
    assert_eq!(view.phase(&found), Some(&UnitPhase::Running));
    assert_eq!(view.phase(&remnant), Some(&UnitPhase::Remnant));
    assert!(!half.exists());
    assert!(alive(started.pid()));
    let mut request = DestroyRequest::new(remnant.reference(), SOON);
    request.only_if_not_started = true;
    host.provider.destroy(&request).await.unwrap();
    view.until_gone(&remnant).await;
    host.destroy(&found, SOON).await.unwrap();
    view.until_gone(&found).await;
    assert!(!alive(started.pid()));
}

#[tokio::test]
async fn a_directory_removed_by_hand_ends_its_processes() {
    let dir = tempfile::tempdir().unwrap();
    let host = Host::new("ci", dir.path());
    let mut view = host.view().await;
    let seen = host.launch(1, "exec sleep 1000").await;
    let unseen = host.launch(2, "exec sleep 1000").await;
    view.until("running", |units| units.len() == 2).await;
    fs::remove_dir_all(dir.path().join(seen.name.as_str())).unwrap();
    view.until_gone(&seen).await;
    assert!(marked(seen.uid.as_str()).is_empty());
    host.stop().await;

    fs::remove_dir_all(dir.path().join(unseen.name.as_str())).unwrap();
    assert_eq!(marked(unseen.uid.as_str()).len(), 1);
    let host = Host::new("ci", dir.path());
    let mut view = host.view().await;
    view.until("empty", BTreeMap::is_empty).await;
    until("stray ended", || marked(unseen.uid.as_str()).is_empty()).await;
}

#[tokio::test]
async fn a_root_that_vanishes_is_an_error_and_not_an_empty_view() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("a/b");
    let host = Host::new("ci", &root);
    let mut view = host.view().await;
    let unit = host.launch(1, "exec sleep 1000").await;
    view.until("running", |units| units.len() == 1).await;
    fs::rename(dir.path().join("a"), dir.path().join("moved")).unwrap();
    let error = loop {
        if let Err(error) = view.next().await {
            break error;
        }
        assert_eq!(view.units.len(), 1);
    };
    assert!(error.message.contains("cannot list"), "{error}");
    assert_eq!(marked(unit.uid.as_str()).len(), 1);
    fs::rename(dir.path().join("moved"), dir.path().join("a")).unwrap();
    let mut view = host.view().await;
    view.until("running", |units| units.len() == 1).await;
    host.destroy(&unit, SOON).await.unwrap();
    view.until_gone(&unit).await;
}

const DAEMON_DIR: &str = "KUBESTACK_LOCAL_TEST_DIR";

/// Not a test: launches agents, and takes every second one away again, until it is killed.
#[tokio::test]
#[ignore = "started as a process of its own by the test below"]
async fn daemon() {
    let Some(dir) = std::env::var_os(DAEMON_DIR) else { return };
    let host = Host::new("ci", Path::new(&dir));
    let first = u64::from(std::process::id()) * 1000;
    for serial in first..first + 1000 {
        let unit = host.launch(serial, "sleep 1000 & sleep 1000").await;
        if serial % 2 == 1 {
            host.destroy(&unit, SOON).await.unwrap();
        }
        writeln!(std::io::stdout(), "launched {}", unit.name).unwrap();
    }
}

#[tokio::test]
async fn whatever_a_killed_daemon_leaves_is_found_and_can_be_taken_away() {
    let dir = tempfile::tempdir().unwrap();
    let scope = scope("ci", dir.path()).await;
    let mut survivors = 0;
    for round in 0..12_u64 {
        let mut daemon = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "daemon", "--ignored", "--nocapture"])
            .env(DAEMON_DIR, dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(daemon.stdout.take().unwrap()).lines();
        let launched = lines.map(Result::unwrap).filter(|line| line.starts_with("launched"));
        assert_eq!(launched.take(2 + usize::try_from(round % 3).unwrap()).count() as u64, 2 + round % 3);
        // Somewhere in the midst of the next launches.
        #[expect(clippy::disallowed_methods, reason = "not to wait for something, but to hit any moment")]
        tokio::time::sleep(Duration::from_micros(round * 397)).await;
        daemon.kill().unwrap();
        daemon.wait().unwrap();

        let host = Host::new("ci", dir.path());
        let mut view = host.view().await;
        view.next().await.unwrap();
        survivors += view.units.values().filter(|unit| unit.phase == UnitPhase::Running).count();
        let with_process = |unit: &&Unit| !marked(unit.uid.as_str()).is_empty();
        for unit in view.units.values().filter(with_process) {
            assert!(unit.phase.holds_capacity(), "{unit:?} has a process");
        }
        let units: Vec<Unit> = view.units.values().cloned().collect();
        for unit in &units {
            host.destroy(unit, SOON).await.unwrap();
        }
        view.until("empty", BTreeMap::is_empty).await;
        assert_eq!(marked(&scope), Vec::<i32>::new());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        host.stop().await;
    }
    assert!(survivors >= 12, "agents survive the daemon: {survivors}");
}
