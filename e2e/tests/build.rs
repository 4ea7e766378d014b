//! The cache of programs: built once, checked, built anew when broken. A stand-in for `go` writes what it is told.
#![expect(clippy::unwrap_used, reason = "a test stops where its own set-up fails")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

/// A cache of its own, and a `go` that notes each call in `calls`.
struct Home(tempfile::TempDir);

impl Home {
    fn new(go: &str) -> Self {
        let home = Self(tempfile::tempdir().unwrap());
        let path = home.path("path/go");
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, format!("#!/bin/sh\ncd {}\n{go}\n", home.0.path().display())).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        home
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn testbed(&self, args: &[&str]) -> Child {
        Command::new(env!("CARGO_BIN_EXE_kubestack-testbed"))
            .args(args)
            .env("XDG_CACHE_HOME", self.path("cache"))
            .env("PATH", format!("{}:/usr/bin:/bin", self.path("path").display()))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    fn build(&self) -> Output {
        self.testbed(&["build", "pause"]).wait_with_output().unwrap()
    }

    /// How often `go` was called.
    fn calls(&self) -> usize {
        fs::read_to_string(self.path("calls")).unwrap_or_default().lines().count()
    }
}

/// The program that a build says it made.
fn built(output: &Output) -> PathBuf {
    assert!(output.status.success(), "{}", words(output));
    Path::new(String::from_utf8_lossy(&output.stdout).trim()).join("pause")
}

fn words(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The file to write is what follows `-o`.
const GO: &str = r#"echo call >> calls
while [ "$1" != -o ]; do shift; done
echo program > "$2""#;

#[test]
fn what_is_built_is_kept_and_what_is_broken_is_built_anew() {
    let home = Home::new(GO);
    let program = built(&home.build());
    assert_eq!(fs::read_to_string(&program).unwrap(), "program\n");
    built(&home.build());
    assert_eq!(home.calls(), 1);

    fs::write(&program, "progr").unwrap();
    let status = home.testbed(&["status"]).wait_with_output().unwrap();
    assert!(!status.status.success());
    assert!(words(&status).contains("does not match SHA256SUMS"), "{}", words(&status));
    built(&home.build());
    assert_eq!((fs::read_to_string(&program).unwrap().as_str(), home.calls()), ("program\n", 2));

    fs::remove_file(&program).unwrap();
    built(&home.build());
    fs::remove_file(program.with_file_name("SHA256SUMS")).unwrap();
    built(&home.build());
    assert_eq!(home.calls(), 4);
}

#[test]
fn a_build_that_fails_half_way_leaves_no_program() {
    let home = Home::new(&(GO.to_owned() + "\n[ ! -e broken ]"));
    fs::write(home.path("broken"), "").unwrap();
    let output = home.build();
    assert!(!output.status.success());
    assert!(words(&output).contains("go could not build pause"), "{}", words(&output));
    let status = home.testbed(&["status"]).wait_with_output().unwrap();
    assert!(String::from_utf8_lossy(&status.stdout).starts_with("0 of 11 programs are built"));
    fs::remove_file(home.path("broken")).unwrap();
    built(&home.build());
}

#[test]
fn builds_of_several_processes_wait_for_each_other() {
    let home = Home::new(&format!("mkdir alone || exit 1\nsleep 0.2\n{GO}\nrmdir alone"));
    let builds: Vec<Child> = (0..3).map(|_| home.testbed(&["build", "pause"])).collect();
    for build in builds {
        built(&build.wait_with_output().unwrap());
    }
    assert_eq!(home.calls(), 1);
}

#[test]
fn what_cannot_be_built_or_started_says_what_to_do() {
    let home = Home::new("");
    fs::remove_file(home.path("path/go")).unwrap();
    // Only if there is no other `go` where Debian would put it.
    if !Path::new("/usr/bin/go").exists() {
        let output = home.build();
        assert!(words(&output).contains("the testbed is built with the Go toolchain"), "{}", words(&output));
    }
    let output = home.testbed(&["build", "kubeadm"]).wait_with_output().unwrap();
    assert!(words(&output).contains("no target `kubeadm`; there are kube-apiserver"), "{}", words(&output));
    let output = home.testbed(&["up"]).wait_with_output().unwrap();
    assert!(words(&output).contains("not built yet: `cargo xtask testbed build`"), "{}", words(&output));
}
