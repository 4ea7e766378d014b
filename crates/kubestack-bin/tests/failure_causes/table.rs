//! The table of the documentation.

use crate::cases::{Case, Told};
use std::fs;

const BEGIN: &str = "<!-- made by the test failure_causes of kubestack-bin -->\n";
const END: &str = "<!-- end -->\n";

/// Compares the table with what was told, or writes it.
pub fn check(rows: &[(&Case, Told)]) {
    let mut table = String::from(
        "| cause | how it is made | where | `kubestack explain` | Event |\n|---|---|---|---|---|\n",
    );
    for (case, told) in rows {
        let said: Vec<String> = told.explain.iter().map(|line| cell(&normal(line))).collect();
        let events = told.events.join(", ");
        let (cause, how, on) = (case.cause.as_str(), case.how, case.on);
        let events = if events.is_empty() { "–" } else { &events };
        table += &format!("| `{cause}` | {how} | {on} | {} | {events} |\n", said.join("<br>"));
    }
    let path = format!("{}/../../docs/failure-causes.md", env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(&path).unwrap();
    let (before, rest) = text.split_once(BEGIN).unwrap();
    let (old, after) = rest.split_once(END).unwrap();
    if std::env::var_os("KUBESTACK_UPDATE_DOCS").is_some() {
        fs::write(&path, [before, BEGIN, &table, END, after].concat()).unwrap();
    } else {
        let differs = table.lines().zip(old.lines()).find(|(new, old)| new != old);
        assert!(
            old == table,
            "docs/failure-causes.md is not what is told; see to that, or write it anew with KUBESTACK_UPDATE_DOCS=1: {differs:#?}"
        );
    }
}

/// A line without what is different each time: numbers of agents, times, addresses, and how often it was tried.
fn normal(line: &str) -> String {
    let mut words: Vec<String> = Vec::new();
    let mut rest = line;
    if let Some((before, after)) = line.split_once(" times in a row")
        && let Some((head, _)) = before.rsplit_once(", ")
    {
        words.push(format!("{head}{after}"));
        rest = "";
    }
    let line = if rest.is_empty() { words.concat() } else { rest.to_owned() };
    let text = line.split(' ').map(word).collect::<Vec<_>>().join(" ");
    match text.split_once(" failed ") {
        Some((agent, after)) if after.contains(" ago") => {
            let (_, after) = after.split_once(" ago").unwrap();
            format!("{agent} failed … ago{after}")
        }
        _ => text,
    }
}

fn word(word: &str) -> String {
    let own = |c: char| !(c.is_ascii_alphanumeric() || c == '-');
    let name: String = word.trim_matches(own).to_owned();
    let numbered = name.strip_prefix("test-").and_then(|rest| {
        let (head, serial) = rest.rsplit_once('-')?;
        let (head, term) = head.rsplit_once('-')?;
        let number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        (number(serial) && number(term)).then(|| format!("test-{head}-N"))
    });
    match numbered {
        Some(new) => word.replace(&name, &new),
        None if word.contains("10.254.") || word.contains("127.0.0.1:") && word.contains("->") => {
            "ADDRESS".to_owned()
        }
        None => word.to_owned(),
    }
}

/// A text that is one cell.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('<', "&lt;").trim_start().to_owned()
}
