//! News of jobs on agents, from the looks at the nodes that are taken anyway.

use crate::master::Jenkins;
use crate::nodes::Node;
use kubestack_core::prelude::*;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What two looks at the nodes differ in.
pub struct JenkinsNews {
    jenkins: Arc<Jenkins>,
    /// The build on each node, as it was last.
    before: Option<BTreeMap<String, Option<String>>>,
}

impl JenkinsNews {
    pub(crate) fn new(jenkins: Arc<Jenkins>) -> Self {
        Self { jenkins, before: None }
    }

    fn compare(&mut self, nodes: &[Node]) -> Vec<Completion> {
        let at = self.jenkins.client.now();
        let build = |node: &Node| (node.busy > 0).then(|| node.build.clone().unwrap_or_default());
        let now: BTreeMap<String, Option<String>> =
            nodes.iter().map(|node| (node.name.clone(), build(node))).collect();
        let Some(before) = self.before.replace(now) else { return Vec::new() };
        let mut news = Vec::new();
        for node in nodes {
            let (was, is) = (before.get(&node.name).cloned().flatten(), build(node));
            if was == is {
                continue;
            }
            let agent = self.jenkins.ours.agent(&node.name);
            if was.is_some() {
                news.push(Completion::new(agent, CompletionEvent::Finalized, at));
            }
            if is.is_some() {
                let started = Completion::new(agent, CompletionEvent::Started, at);
                news.push(match node.queue_id {
                    Some(id) => started.job(id.to_string()),
                    None => started,
                });
            }
        }
        news
    }
}

#[async_trait]
impl CompletionSource for JenkinsNews {
    async fn next(&mut self) -> Result<Vec<Completion>> {
        let mut looks = self.jenkins.look.subscribe();
        loop {
            // The first time, what was seen before counts as well.
            let look = looks.borrow_and_update().clone();
            let news = look.map_or_else(Vec::new, |nodes| self.compare(&nodes));
            if !news.is_empty() {
                return Ok(news);
            }
            if looks.changed().await.is_err() {
                return Err(Error::bug("the master is gone"));
            }
        }
    }
}
