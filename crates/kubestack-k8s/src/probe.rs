//! What `kubestack check --online` tries: each permission, the reads, and each label's pod as a server-side dry run.

use crate::api::Api;
use crate::fault::Effect;
use crate::manifest::Manifest;
use crate::provider::refused;
use kubestack_core::context::Secrets;
use kubestack_core::prelude::*;
use serde_json::Value;

/// What the daemon needs, as `deploy/role.yaml` gives it: the verb, the resource, and what goes without it.
const NEEDED: &[(&str, &str, &str)] = &[
    ("create", "pods", "no agent can be launched"),
    ("get", "pods", "no agent can be taken away"),
    ("list", "pods", "nothing works"),
    ("watch", "pods", "nothing works"),
    ("patch", "pods", "no agent can be held, nor marked as used"),
    ("delete", "pods", "no agent can be taken away"),
    ("create", "secrets", "no agent can be launched"),
    ("get", "secrets", "what a crash left behind stays"),
    ("list", "secrets", "nothing works"),
    ("watch", "secrets", "nothing works"),
    ("delete", "secrets", "no agent can be taken away whole"),
];

/// What it can live without.
const OPTIONAL: &[(&str, &str, &str)] = &[
    ("get", "pods/log", "the last words of a failed agent are lost with it"),
    ("list", "resourcequotas", "full quotas show as refusals only"),
    ("create", "events", "failures do not show as Events of the cluster"),
];

/// Tries everything; where the cluster does not answer, that alone is told.
pub async fn probe(
    api: &Api,
    instance: &InstanceName,
    secrets: &dyn Secrets,
    labels: &[LabelSpec],
    look: impl Future<Output = Result<(Moment, Vec<Unit>)>>,
) -> Vec<Probe> {
    let mut probes = Vec::new();
    let mut forbidden = Vec::new();
    let optional = OPTIONAL.iter().map(|permission| (permission, false));
    for ((verb, resource, without), needed) in
        NEEDED.iter().map(|permission| (permission, true)).chain(optional)
    {
        let what = format!("may {verb} {resource}");
        let result = match api.may(verb, resource, None).await {
            Ok(true) => Ok(()),
            Ok(false) => {
                forbidden.push((*verb, *resource));
                Err(Error::unauthorized(format!(
                    "not permitted in namespace `{}`: without it {without}; give the daemon's role this verb \
                     (deploy/role.yaml)",
                    api.namespace
                )))
            }
            Err(fault) => {
                let error = fault.error("ask for permissions", Effect::None);
                return vec![Probe::new("what is permitted", Err(error))];
            }
        };
        let probe = Probe::new(what, result);
        probes.push(if needed { probe } else { probe.optional() });
    }
    // What would fail for the same reason again says nothing new.
    if !forbidden.iter().any(|(verb, what)| *verb == "list" && *what != "resourcequotas") {
        probes.push(Probe::new("read all pods and Secrets", look.await.map(drop)));
    }
    if !forbidden.contains(&("create", "pods")) {
        for label in labels {
            let what = format!("a pod of label {}", label.name);
            probes.push(Probe::new(what, dry_run(api, instance, secrets, label).await));
        }
    }
    probes
}

/// Has the server check a pod as the label makes it, with all admission, without making it.
async fn dry_run(api: &Api, instance: &InstanceName, secrets: &dyn Secrets, label: &LabelSpec) -> Result<()> {
    // Terms begin with 1, so that no agent is called so.
    let marks =
        Marks::new(instance.clone(), label.name.clone(), "probe".into(), None, (0, 0), label.template_hash());
    let request = LaunchRequest::new(label.clone(), marks, None);
    let pod = Manifest::new(&request, &api.namespace, secrets)?.pod;
    let made = api.create::<Value>("pods?dryRun=All", &pod).await;
    made.map(drop).map_err(|fault| refused(fault, "make such a pod", api))
}
