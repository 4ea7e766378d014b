//! What must hold where a config or a state directory is damaged, misspelt or hostile.
use kubestack_core::coordination::Coordination;
use kubestack_core::{inventory, prelude::*, registry::Build};
use kubestack_engine::{config::Config, coordination::LocalCoordination};
fn nothing<T: ?Sized>(_: &BuildContext, _: &Fragment) -> Result<Box<T>> {
    Err(Error::invalid("only a name"))
}
inventory::submit! { Plugin { type_name: "ci", summary: "", schema: || schemars::schema_for!(()), example: "", build: Build::Master(nothing) } }
inventory::submit! { Plugin { type_name: "here", summary: "", schema: || schemars::schema_for!(()), example: "", build: Build::Provider(nothing) } }
const BASE: &str = "masters: [{name: m, type: ci, pass: s3cret}]\nproviders: [{name: p, type: here}]\n";
fn problems(tail: &str) -> String {
    Config::parse(&format!("{BASE}{tail}"), "c.yaml").map_or_else(|p| p.to_string(), |_| String::new())
}
#[tokio::test]
async fn term_is_not_reused_when_both_files_are_corrupt() {
    let dir = tempfile::tempdir().unwrap();
    for _ in 0..3 {
        LocalCoordination::new(dir.path()).acquire().await.unwrap();
    }
    std::fs::write(dir.path().join("state.json"), "{").unwrap();
    std::fs::write(dir.path().join("term"), "").unwrap();
    let next = LocalCoordination::new(dir.path()).acquire().await;
    assert!(next.as_ref().map_or(true, |l| l.term > 3), "{next:?}");
}
#[tokio::test]
async fn lead_is_lost_when_the_directory_is_removed_by_hand() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (LocalCoordination::new(dir.path()), LocalCoordination::new(dir.path()));
    a.acquire().await.unwrap();
    std::fs::remove_dir_all(dir.path()).unwrap();
    let second = b.acquire().await.is_ok();
    assert!(!(second && a.holds() && b.holds()), "two leaders at once");
}
#[test]
fn a_misspelt_limit_is_no_resource() {
    let p = problems("labels: [{name: a}]\nlimits: {agent: 5}\n");
    assert!(p.contains("agents"), "accepted: {p:?}");
}
#[test]
fn two_wrong_keys_in_one_label_are_both_told() {
    let p = problems("labels: [{name: a, cpu: lots, weight: x}]\n");
    assert!(p.contains("cpu") && p.contains("weight"), "{p}");
}
#[test]
fn two_unlabelled_labels_of_one_master() {
    let p = problems("labels: [{name: a, unlabelled: true}, {name: b, unlabelled: true}]\n");
    assert!(p.contains("unlabelled"), "accepted: {p:?}");
}
#[test]
fn no_labels() {
    assert!(!problems("labels: []\n").is_empty(), "accepted");
}
#[test]
fn bad_names() {
    for n in ["\"\"", "\"a\\u0007b\""] {
        assert!(!problems(&format!("labels: [{{name: {n}}}]\n")).is_empty(), "accepted {n}");
    }
    let long = "x".repeat(500);
    assert!(!problems(&format!("labels: [{{name: {long}}}]\n")).is_empty(), "accepted a long one");
}
#[test]
fn yaml_1_1_words_stay_names() {
    let p = problems("labels: [{name: no}]\n");
    assert!(p.is_empty(), "{p}");
}
#[test]
fn a_syntax_error_shows_no_secret_and_takes_one_line() {
    let p = problems("labels: [\n");
    assert!(!p.contains("s3cret"), "{p}");
    assert_eq!(p.lines().count(), 1, "{p}");
}
#[test]
fn a_parse_error_begins_with_its_place() {
    let p = problems("labels: []\nlabels: []\n");
    assert!(p.starts_with("c.yaml:4:"), "{p}");
}
#[test]
fn debug_of_a_config_shows_no_secret() {
    let c = Config::parse(&format!("{BASE}labels: [{{name: a}}]\n"), "c").unwrap();
    assert!(!format!("{c:?}").contains("s3cret"));
}
#[test]
fn an_alias_bomb_is_refused() {
    let mut t = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n".to_owned();
    for i in 1..9 {
        t += &format!("a{i}: &a{i} [{}]\n", format!("*a{},", i - 1).repeat(10));
    }
    let p = problems(&t);
    assert!(
        p.contains("alias") || p.contains("limit") || p.contains("budget"),
        "{}",
        p.get(..300).unwrap_or(&p)
    );
}
inventory::submit! { Plugin { type_name: "news", summary: "", schema: || schemars::schema_for!(()), example: "", build: Build::DemandSource(nothing) } }
#[test]
fn a_broken_listener_does_not_shift_the_place_of_the_next() {
    let p = problems(
        "labels: [{name: a}]\ndemand-listeners:\n  - {type: news}\n  - {name: n, type: news, masters: [x]}\n",
    );
    assert!(p.contains("c.yaml:6:27: demand-listeners[1].masters"), "{p}");
}
#[test]
fn a_pipe_as_secret_is_refused_not_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pipe");
    rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::RUSR).unwrap();
    let p = problems(&format!("labels: [{{name: a, env: {{A: {{file: '{}'}}}}}}]\n", path.display()));
    assert!(p.contains("is not a regular file"), "{p}");
}
#[tokio::test]
async fn terms_grow_over_a_hundred_restarts_with_either_file_damaged() {
    let dir = tempfile::tempdir().unwrap();
    let mut last = 0;
    for round in 0..100 {
        let term = LocalCoordination::new(dir.path()).acquire().await.unwrap().term;
        assert!(term > last, "{term} after {last}");
        last = term;
        match round % 10 {
            3 => std::fs::write(dir.path().join("state.json"), "{").unwrap(),
            7 => std::fs::write(dir.path().join("term"), "").unwrap(),
            _ => {}
        }
    }
}
