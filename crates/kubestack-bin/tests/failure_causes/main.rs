//! Each cause of failure, made for real, and what the daemon says about it: the table in `docs/failure-causes.md`.
//! `KUBESTACK_UPDATE_DOCS=1` writes it anew.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test stops where its own set-up fails")]
#![expect(clippy::disallowed_methods, reason = "a real daemon and a real cluster in real time")]

mod cases;
#[path = "../common/mod.rs"]
mod common;
mod table;

use cases::{CASES, Case, Site};
use kubestack_core::cause::FailureCause;
use kubestack_testbed::{Options, cluster};
use std::collections::BTreeSet;

#[test]
fn each_cause_is_made_for_real_and_told_as_the_table_says() {
    let options = Options::control_plane().real_node().fake_nodes(2);
    let Some(cluster) = cluster(&options).unwrap() else { return };
    let site = Site::start(&cluster);
    for case in CASES.iter().filter(|case| case.create) {
        site.daemon.tell(&["create", case.label]);
    }
    site.daemon.submit("true");
    let mut rows = Vec::new();
    for case in CASES {
        (case.act)(&site, case);
        rows.push((case, site.told(case)));
    }
    let made: BTreeSet<FailureCause> = CASES.iter().map(|case| case.cause).collect();
    let not_made: Vec<&str> =
        FailureCause::ALL.iter().filter(|cause| !made.contains(cause)).map(|cause| cause.as_str()).collect();
    assert_eq!(not_made, ["master_down", "enrolment_refused"], "the text beside the table says why");
    for (case, told) in &rows {
        let Case { label, cause, .. } = case;
        assert!(told.explain.concat().contains(cause.words()), "{label}: {:?}", told.explain);
    }
    no_event_on_success(&site);
    table::check(&rows);
}

/// The label whose job went well.
fn no_event_on_success(site: &Site<'_>) {
    site.daemon.until("the end of the job", || {
        site.daemon.tell(&["jobs", "list"]).contains("succeeded").then_some(())
    });
    assert_eq!(site.events("a"), Vec::<String>::new());
}
