//! What label a job is tied to, where the queue does not tell: its `config.xml`, or each label's `tiedJobs`.

use crate::client::{Client, encode};
use crate::json::{items, text};
use kubestack_core::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// What is known of a job is asked for again after that time.
const FRESH: Duration = Duration::from_secs(60);

/// As many jobs are known at a time; the rest is asked for in later reads.
const MAX_KNOWN: usize = 10_000;

/// As many are asked for in one read of the queue.
const MAX_ASKED: usize = 20;

/// What a job is tied to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tied {
    /// It asks for this.
    To(String),
    /// It asks for nothing.
    Free,
    /// Nobody tells us.
    Unknown,
}

/// What is known of jobs, by their addresses.
#[derive(Default)]
pub struct Jobs {
    known: BTreeMap<String, (Moment, Tied)>,
    /// Jobs by label, for servers whose jobs' config we may not read.
    tied: BTreeMap<String, String>,
    tied_at: Option<Moment>,
    asked: usize,
}

impl Jobs {
    /// A read of the queue begins.
    pub fn begin(&mut self) {
        self.asked = 0;
    }

    /// What that job is tied to; `url` is as Jenkins tells it, `labels` those that anything of ours provides.
    pub async fn tied(&mut self, client: &Client, url: &str, labels: &BTreeSet<String>) -> Result<Tied> {
        let now = client.now();
        let known = self.known.get(url);
        if let Some((_, tied)) = known.filter(|(at, _)| now.since(*at) < FRESH) {
            return Ok(tied.clone());
        }
        let old = known.map_or(Tied::Unknown, |(_, tied)| tied.clone());
        self.asked += 1;
        if self.asked > MAX_ASKED {
            return Ok(old);
        }
        let Some(path) = path(url) else { return Ok(Tied::Unknown) };
        let tied = match self.read(client, url, path, labels).await {
            Ok(tied) => tied,
            // One job that cannot be read must hide no other; if it is the server, reading the queue fails as well.
            Err(error) if !matches!(error.kind, ErrorKind::RateLimited { .. }) => {
                tracing::debug!(job = url, %error, "what a job is tied to stays as it was known");
                return Ok(old);
            }
            Err(error) => return Err(error),
        };
        if self.known.len() >= MAX_KNOWN {
            self.known.clear();
        }
        self.known.insert(url.to_owned(), (now, tied.clone()));
        Ok(tied)
    }

    async fn read(
        &mut self,
        client: &Client,
        url: &str,
        path: &str,
        labels: &BTreeSet<String>,
    ) -> Result<Tied> {
        match client.text("read what a job is tied to", &format!("{path}config.xml")).await {
            Ok(xml) => Ok(assigned(&xml)),
            // Not for us, or a part of a job: the other way round, then.
            Err(error)
                if matches!(
                    error.kind,
                    ErrorKind::NotFound | ErrorKind::Unauthorized | ErrorKind::Invalid
                ) =>
            {
                self.read_tied(client, labels).await?;
                Ok(self.tied.get(url).map_or(Tied::Unknown, |label| Tied::To(label.clone())))
            }
            Err(error) => Err(error),
        }
    }

    async fn read_tied(&mut self, client: &Client, labels: &BTreeSet<String>) -> Result<()> {
        if self.tied_at.is_some_and(|at| client.now().since(at) < FRESH) {
            return Ok(());
        }
        // Also where it fails: the next try is as far off as the next look, and until then the last whole one counts.
        self.tied_at = Some(client.now());
        let mut tied = BTreeMap::new();
        for label in labels {
            let path = format!("label/{}/api/json?tree=tiedJobs[name,url]", encode(label));
            let told = match client.json("read the jobs of a label", &path).await {
                Ok(told) => told,
                Err(error) if error.kind == ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            for job in items(&told, "tiedJobs").filter_map(|job| text(job, "url")).take(MAX_KNOWN) {
                tied.insert(job, label.clone());
            }
        }
        self.tied = tied;
        Ok(())
    }
}

/// The path of a job in the address that Jenkins tells; its host may be one that only browsers know.
fn path(url: &str) -> Option<&str> {
    let at = url.find("/job/")?;
    let path = url.get(at + 1..)?;
    (path.ends_with('/') && !path.contains(['?', '#', ' ']) && !path.contains("..")).then_some(path)
}

/// What stands in `assignedNode` of a job's `config.xml`.
fn assigned(xml: &str) -> Tied {
    let Some((_, rest)) = xml.split_once("<assignedNode>") else { return Tied::Free };
    let Some((label, _)) = rest.split_once("</assignedNode>") else { return Tied::Unknown };
    let label =
        ["&lt;<", "&gt;>", "&quot;\"", "&apos;'", "&amp;&"].iter().fold(label.to_owned(), |text, pair| {
            let (entity, character) = pair.split_at(pair.len() - 1);
            text.replace(entity, character)
        });
    match label.trim() {
        "" => Tied::Free,
        label => Tied::To(label.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_label_stands_in_the_config() {
        let xml = "<project><assignedNode>a &amp;&amp; &quot;b c&quot;</assignedNode></project>";
        assert_eq!(assigned(xml), Tied::To("a && \"b c\"".into()));
        assert_eq!(assigned("<project/>"), Tied::Free);
        assert_eq!(assigned("<assignedNode> </assignedNode>"), Tied::Free);
        assert_eq!(assigned("<assignedNode>a"), Tied::Unknown);
    }

    #[test]
    fn a_job_is_found_below_whatever_jenkins_is_under() {
        assert_eq!(path("http://ci/jenkins/job/f/job/a%20b/"), Some("job/f/job/a%20b/"));
        for bad in ["", "http://ci/", "http://ci/job/a/../../x/", "http://ci/job/a/?x=/"] {
            assert_eq!(path(bad), None, "{bad}");
        }
    }
}
