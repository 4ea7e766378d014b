//! Telling the users of Jenkins why their jobs wait: in the description of a node of ours that is never online. Beside
//! that, with one node there Jenkins tells of each job what label it waits for; without any it does not.

use crate::master::Jenkins;
use crate::nodes::{one, place};
use crate::ours::Ours;
use kubestack_core::name::slug;
use kubestack_core::prelude::*;
use serde_json::json;

/// No page is made longer than this.
const MAX_TEXT: usize = 4_000;

/// What that node is called.
pub fn name(ours: &Ours) -> String {
    let slug: String = slug(ours.instance().as_str()).chars().take(40).collect();
    format!("kubestack-{slug}")
}

/// Says these reasons and no others.
pub async fn write(jenkins: &Jenkins, reasons: &[Explanation]) -> Result<()> {
    let (client, name) = (&jenkins.client, name(&jenkins.ours));
    let lines = reasons.iter().map(|reason| format!("{}: {}", reason.labels.join(", "), reason.text));
    let text: String = lines.collect::<Vec<_>>().join("; ").chars().take(MAX_TEXT).collect();
    if one(client, &name).await?.is_some() {
        let path = format!("{}/doDelete", place(&name));
        client.post("take back why jobs wait", &path, &[]).await?;
    }
    if reasons.is_empty() {
        return Ok(());
    }
    let node_type = client.profile().await?.node_type;
    let class = |name: &str| json!({"stapler-class": name, "$class": name});
    let form = json!({
        "name": name,
        "nodeDescription": text,
        "numExecutors": "1",
        "remoteFS": "/nonexistent",
        "labelString": "",
        "mode": "EXCLUSIVE",
        "type": node_type,
        "retentionStrategy": class("hudson.slaves.RetentionStrategy$Always"),
        "nodeProperties": {"stapler-class-bag": "true"},
        "launcher": class("hudson.slaves.JNLPLauncher"),
    });
    let form = form.to_string();
    let fields = [("name", name.as_str()), ("type", node_type), ("json", form.as_str())];
    client.post("tell why jobs wait", "computer/doCreateItem", &fields).await?;
    let path = format!("{}/toggleOffline", place(&name));
    client.post("tell why jobs wait", &path, &[("offlineMessage", &text)]).await.map(drop)
}
