//! The demo: how it ends, and that it leaves nothing, whatever becomes of it.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test stops where its own set-up fails, and says what it skips"
)]
#![expect(clippy::disallowed_methods, reason = "real processes in real time")]

use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Far more than anything here takes; what is not done by then hangs.
const PATIENCE: Duration = Duration::from_secs(120);

/// A place that only one demo uses, so that whatever is found there was left by it.
struct Place {
    dir: tempfile::TempDir,
    root: PathBuf,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        Self { dir, root }
    }

    fn demo(&self, args: &[&str]) -> Child {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kubestack"));
        command.arg("demo").args(args).env("TMPDIR", self.dir.path());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    fn processes(&self) -> Vec<String> {
        let below =
            |path: &Path| fs::read_link(path.join("cwd")).is_ok_and(|cwd| cwd.starts_with(&self.root));
        let all = fs::read_dir("/proc").unwrap().flatten();
        all.filter(|entry| below(&entry.path()))
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect()
    }

    fn assert_empty(&self) {
        assert_eq!(self.processes(), Vec::<String>::new(), "processes are left");
        let left: Vec<_> = fs::read_dir(&self.root).unwrap().flatten().map(|entry| entry.path()).collect();
        assert_eq!(left, Vec::<PathBuf>::new(), "directories are left");
    }

    /// A demo with much to do, once its first jobs run.
    fn busy(&self) -> Child {
        let mut demo = self.demo(&["--jobs", "200"]);
        let began = Instant::now();
        while self.processes().is_empty() {
            assert!(demo.try_wait().unwrap().is_none() && began.elapsed() < PATIENCE, "no agent appears");
            std::thread::sleep(Duration::from_millis(10));
        }
        demo
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned()
}

#[test]
fn a_demo_ends_well_and_leaves_nothing() {
    let place = Place::new();
    let output = place.demo(&["--jobs", "12", "--seed", "5", "-o", "json"]).wait_with_output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["left"], serde_json::json!([]));
    assert_eq!(report["unexpected"], serde_json::json!([]));
    place.assert_empty();
}

#[test]
fn its_last_line_says_how_it_went() {
    let place = Place::new();
    let output = place.demo(&["--jobs", "12"]).wait_with_output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert!(stdout.trim_end().ends_with("every job ended as expected, nothing is left"), "{stdout}");
    assert!(stdout.contains("1 timeout") && stdout.contains("1 no such command"), "{stdout}");
    place.assert_empty();
}

#[test]
fn on_a_narrow_terminal_nothing_is_torn() {
    let place = Place::new();
    let demo = format!("stty cols 60; exec {} demo --jobs 12", env!("CARGO_BIN_EXE_kubestack"));
    let mut command = Command::new("script");
    command.args(["-qec", &demo, "/dev/null"]).env("TMPDIR", place.dir.path()).stdin(Stdio::null());
    let Ok(output) = command.output() else {
        assert!(std::env::var_os("CI").is_none(), "script (util-linux) is missing");
        println!("skipped: script (util-linux) is missing");
        return;
    };
    assert!(output.status.success(), "{}", said(&output));
    let said = said(&output);
    let progress: Vec<&str> =
        said.split("\r\x1b[2K").skip(1).filter(|text| text.starts_with("jobs: ")).collect();
    assert!(progress.len() > 3, "{said}");
    assert!(progress.iter().all(|text| text.trim_end().chars().count() < 60), "{progress:#?}");
    assert!(said.contains("  queued→running ") && !said.contains("QUEUED"), "{said}");
    place.assert_empty();
}

#[test]
fn a_demo_that_is_stopped_ends_its_jobs_and_leaves_nothing() {
    for signals in [&[Signal::INT][..], &[Signal::TERM], &[Signal::INT, Signal::INT]] {
        let place = Place::new();
        let demo = place.busy();
        for signal in signals {
            kill_process(Pid::from_child(&demo), *signal).unwrap();
        }
        let output = demo.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(130), "{signals:?}: {}", said(&output));
        place.assert_empty();
    }
}
