//! Which labels can serve what is queued.

use super::status::{Jobs, Queued};
use kubestack_core::label::LabelSpec;
use kubestack_core::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

/// What all builds are called; other functions (`stop:…`, `set_description:…`) are for Jenkins itself.
const BUILD: &str = "build:";

/// The demand behind the queue. What no label can serve is there too, with what it asks for.
pub(super) fn demands(
    queued: &Queued,
    jobs: &BTreeMap<String, String>,
    labels: &BTreeMap<LabelName, LabelSpec>,
    instance: &InstanceName,
) -> Vec<Demand> {
    let builds: Vec<(&str, &str, Jobs)> = queued
        .iter()
        .filter_map(|(function, counts)| Some((function.as_str(), function.strip_prefix(BUILD)?, *counts)))
        .collect();
    let serving = |wanted: &str| {
        let serving = labels.values().filter(|label| label.provides.contains(wanted));
        serving.map(|label| label.name.clone()).collect::<BTreeSet<_>>()
    };
    // Nodes that may run a job are registered for it with and without its label (Gearman plugin,
    // `ExecutorWorkerThread`): what is known under a label may also run without.
    let mut known: BTreeMap<&str, BTreeSet<LabelName>> = BTreeMap::new();
    for (_, build, _) in &builds {
        if let Some((job, wanted)) = build.split_once(':') {
            known.entry(job).or_default().extend(serving(wanted));
        }
    }
    let mut demands = Vec::new();
    for (function, build, counts) in builds {
        if counts == Jobs::default() {
            continue;
        }
        let (needs, text) = match build.split_once(':') {
            _ if build.contains([' ', '\t']) => {
                (BTreeSet::new(), format!("{function:?}: a name with a blank is not taken from Gearman"))
            }
            // Made for one node: an agent of ours that is there already.
            Some((_, node))
                if AgentName::may_be_of(instance, node)
                    || AgentName::before_appended(instance, node).is_some() =>
            {
                continue;
            }
            Some((_, wanted)) => (serving(wanted), function.to_owned()),
            None => (without_label(build, jobs, &known, labels, serving), function.to_owned()),
        };
        let mut demand = Demand::count(counts.waiting, needs).text(text);
        demand.running = counts.running;
        demands.push(demand);
    }
    demands
}

fn without_label(
    job: &str,
    jobs: &BTreeMap<String, String>,
    known: &BTreeMap<&str, BTreeSet<LabelName>>,
    labels: &BTreeMap<LabelName, LabelSpec>,
    serving: impl Fn(&str) -> BTreeSet<LabelName>,
) -> BTreeSet<LabelName> {
    if let Some(wanted) = jobs.get(job) {
        return serving(wanted);
    }
    match known.get(job) {
        Some(labels) if !labels.is_empty() => labels.clone(),
        _ => labels.values().filter(|label| label.unlabelled).map(|label| label.name.clone()).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::status::parse;
    use super::*;

    fn told(status: &str) -> Vec<(String, u32, u32, Vec<String>)> {
        let mut small = LabelSpec::new("small");
        small.provides.insert("linux".to_owned());
        let mut big = LabelSpec::new("big");
        big.provides.insert("linux".to_owned());
        let mut any = LabelSpec::new("any");
        any.unlabelled = true;
        let labels = [small, big, any].map(|label| (label.name.clone(), label));
        let jobs = BTreeMap::from([("docs".to_owned(), "small".to_owned())]);
        let queued = parse(format!("{status}.\n").as_bytes()).unwrap();
        let demands = demands(&queued, &jobs, &BTreeMap::from(labels), &"ci".into());
        let names = |needs: BTreeSet<LabelName>| needs.iter().map(ToString::to_string).collect();
        demands
            .into_iter()
            .map(|demand| (demand.text, demand.waiting, demand.running, names(demand.needs)))
            .collect()
    }

    fn row(text: &str, waiting: u32, running: u32, needs: &[&str]) -> (String, u32, u32, Vec<String>) {
        (text.to_owned(), waiting, running, needs.iter().map(|&name| name.to_owned()).collect())
    }

    #[test]
    fn a_job_with_a_label_needs_what_provides_it() {
        let told =
            told("build:a:small\t2\t1\t0\nbuild:a:linux\t1\t0\t0\nbuild:a:gone\t1\t0\t0\nstop:x\t5\t0\t1\n");
        assert_eq!(
            told,
            [
                row("build:a:gone", 1, 0, &[]),
                row("build:a:linux", 1, 0, &["big", "small"]),
                row("build:a:small", 1, 1, &["small"]),
            ]
        );
    }

    #[test]
    fn a_job_without_one_goes_by_the_config_then_by_its_other_rows_then_to_the_unlabelled() {
        let told = told(
            "build:docs\t1\t0\t0\nbuild:a\t1\t0\t0\nbuild:a:small\t0\t0\t3\nbuild:b\t1\t0\t0\nbuild:b:gone\t0\t0\t0\n",
        );
        assert_eq!(
            told,
            [
                row("build:a", 1, 0, &["small"]),
                row("build:b", 1, 0, &["any"]),
                row("build:docs", 1, 0, &["small"])
            ]
        );
    }

    #[test]
    fn names_with_blanks_are_told_and_left_alone_and_so_is_what_names_an_agent_of_ours() {
        let told = told(
            "build:a b:small\t1\t0\t0\nbuild:a\tb\t1\t0\t0\nbuild:a:ci-small-1-2\t1\t0\t1\nbuild:a:ci-small-1-2-0123abcd\t1\t0\t1\nbuild:a:xy-small-1-2\t1\t0\t1\n",
        );
        let refused = ": a name with a blank is not taken from Gearman";
        assert_eq!(
            told,
            [
                row(&format!("\"build:a\\tb\"{refused}"), 1, 0, &[]),
                row(&format!("\"build:a b:small\"{refused}"), 1, 0, &[]),
                row("build:a:xy-small-1-2", 1, 0, &[]),
            ]
        );
    }
}
