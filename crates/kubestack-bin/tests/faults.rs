//! What the world does to a daemon: signals, a second daemon, a port taken, a disk that is full.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test stops where its own set-up fails, and says what it skips"
)]
#![expect(clippy::disallowed_methods, reason = "a real daemon in real time")]

mod common;

use common::{Daemon, PATIENCE};
use rustix::process::Signal;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::Instant;

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn a_second_daemon_is_refused_in_one_line_and_the_first_goes_on() {
    let daemon = Daemon::running();
    daemon.status();
    let output = daemon.command("run").env("KUBESTACK_LOG", "warn").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stderr);
    let pid = daemon.child.as_ref().unwrap().id();
    assert!(said.starts_with(&format!("error: another daemon (pid {pid}) runs this installation")), "{said}");
    assert!(said.contains("stop it first") && said.lines().count() == 1, "{said}");
    daemon.status();
}

#[test]
fn a_log_level_that_makes_no_sense_is_refused() {
    let daemon = Daemon::new();
    let output = daemon.command("run").env("KUBESTACK_LOG", "debug,=[").output().unwrap();
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(
        said.starts_with("error: KUBESTACK_LOG is not understood") && said.lines().count() == 1,
        "{said}"
    );
}

#[test]
fn a_running_job_and_whoever_follows_it_outlast_the_daemon() {
    for signal in [Signal::TERM, Signal::INT, Signal::KILL] {
        let mut daemon = Daemon::running();
        let go = daemon.path("go");
        let job = daemon
            .submit(&format!("echo begun; while ! [ -e {} ]; do sleep 0.05; done; echo over", go.display()));
        let mut follower =
            daemon.command("logs").args(["--follow", &job]).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(follower.stdout.take().unwrap()).lines();
        assert_eq!(lines.next().unwrap().unwrap(), "begun");
        daemon.signal(signal);
        let status = daemon.ended();
        assert_eq!(status.success(), signal != Signal::KILL, "{}", daemon.log());
        daemon.start();
        daemon.status();
        fs::write(&go, "").unwrap();
        assert_eq!(lines.next().unwrap().unwrap(), "over");
        assert!(follower.wait().unwrap().success());
        let said = daemon.tell(&["jobs", "result", &job]);
        assert!(said.contains("attempts   1\n") && said.contains("succeeded"), "{said}");
    }
}

/// A queue that shows nothing, and does not answer whoever wants to change something.
fn hanging_queue() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let answer = |stream: TcpStream| {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        let body = if line.contains("/v1/changes") { "{\"demand\":1,\"agents\":1}" } else { "[]" };
        let hangs = line.starts_with("PUT /v1/agents");
        while line.trim_end() != "" {
            line.clear();
            reader.read_line(&mut line).unwrap();
        }
        if hangs {
            std::thread::park();
        }
        let length = body.len();
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}");
        let _ = (&stream).write_all(head.as_bytes());
    };
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            std::thread::spawn(move || answer(stream.unwrap()));
        }
    });
    port
}

/// A daemon with a launch under way that does not end, told to stop.
fn stopping(stop_grace: &str) -> Daemon {
    let mut daemon = Daemon::new();
    let port = hanging_queue();
    daemon.configure(|text| {
        let (before, _) = text.split_once(", embedded").unwrap();
        let (_, after) = text.split_once("}}\n").unwrap();
        format!("{before}}}\n{after}")
            .replace(&daemon.port.to_string(), &port.to_string())
            .replace("step_deadline: 1s", &format!("step_deadline: 500s, stop_grace: {stop_grace}"))
    });
    daemon.start();
    daemon.status();
    daemon.tell(&["create", "a"]);
    daemon.said("launch");
    daemon.signal(Signal::TERM);
    daemon.said("another signal stops at once");
    daemon
}

#[test]
fn a_stop_waits_for_what_is_under_way_but_not_for_ever() {
    let mut daemon = stopping("200ms");
    assert_eq!(daemon.ended().code(), Some(0), "{}", daemon.log());
    assert!(daemon.log().contains("stopped; agents and their jobs go on"), "{}", daemon.log());
}

#[test]
fn a_second_signal_stops_at_once() {
    let mut daemon = stopping("500s");
    daemon.signal(Signal::INT);
    assert_eq!(daemon.ended().code(), Some(130), "{}", daemon.log());
}

#[test]
fn a_port_that_is_taken_is_said_in_one_line_and_used_once_it_is_free() {
    let mut daemon = Daemon::new();
    let taken = TcpListener::bind(("127.0.0.1", daemon.port)).unwrap();
    daemon.start();
    let port = daemon.port;
    let line = format!("the queue cannot listen on 127.0.0.1:{port}: Address already in use");
    daemon.said(&line);
    daemon.status();
    daemon.until("the reason in the list", || {
        let said = daemon.tell(&["list"]);
        (said.contains(&line) && said.contains("choose another address under `embedded.listen`"))
            .then_some(())
    });
    drop(taken);
    let job = daemon.submit("true");
    daemon.tell(&["jobs", "result", &job]);
    assert_eq!(daemon.log().matches(&line).count(), 1, "{}", daemon.log());
}

#[test]
fn a_place_that_cannot_be_used_is_said_in_one_line() {
    let daemon = Daemon::new();
    fs::write(daemon.path("file"), "").unwrap();
    let long = "x".repeat(100);
    for (place, code, expected) in [
        ("file/state", 1, "name another directory under `state_dir`"),
        (&*format!("{long}/state"), 2, "is too long for the control socket"),
    ] {
        daemon.configure(|text| text.replace("/state\n", &format!("/{place}\n")));
        let output = daemon.command("run").output().unwrap();
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert!(said.contains(expected) && said.lines().count() <= 2, "{said}");
        assert!(!daemon.path(&long).exists());
    }
}

/// A file may grow no further, which is what a full disk looks like to whoever writes; root is not needed.
#[test]
fn a_full_disk_stops_nothing_for_good() {
    if Command::new("prlimit").arg("--version").output().is_err() {
        assert!(std::env::var_os("CI").is_none(), "prlimit (util-linux) is missing");
        println!("skipped: prlimit (util-linux) is missing");
        return;
    }
    let mut daemon = Daemon::new();
    let mut shell = Command::new("sh");
    // Without the trap the kernel ends whoever writes beyond the limit.
    shell.args(["-c", "trap '' XFSZ; ulimit -S -f 6000; exec \"$0\" \"$@\""]);
    let run = daemon.command("run");
    shell.arg(run.get_program()).args(run.get_args());
    daemon.start_as(shell);
    let small = daemon.submit("echo small");
    daemon.tell(&["jobs", "result", &small]);
    let began = Instant::now();
    let refused = loop {
        assert!(began.elapsed() < PATIENCE, "the limit is never reached");
        let words = "x".repeat(100_000);
        let output = daemon.call(&["submit", "--label", "a", "--", "true", &words, &words, &words, &words]);
        if !output.status.success() {
            break text(&output.stderr);
        }
    };
    assert!(refused.contains("free some space"), "{refused}");
    assert_eq!(daemon.tell(&["logs", &small]), "small\n", "what is there can still be read");
    daemon.status();
    let pid = daemon.child.as_ref().unwrap().id().to_string();
    let raised = Command::new("prlimit").args(["--pid", &pid, "--fsize=unlimited"]).status().unwrap();
    assert!(raised.success());
    let job = daemon.submit("echo again");
    daemon.tell(&["jobs", "result", &job]);
    assert_eq!(daemon.tell(&["logs", &job]), "again\n");
}
