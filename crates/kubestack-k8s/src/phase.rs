//! From what the platform says about a pod to a phase, and to the cause where it came to nothing.
//!
//! Sources: Kubernetes "Pod Lifecycle" and "Disruptions" (conditions, `DisruptionTarget`), the kubelet's
//! `images/types.go`, `container/sync_result.go` and `eviction`/`lifecycle` packages (reasons).

use crate::AGENT_CONTAINER;
use crate::object::{ContainerStatus, Pod, PodStatus, Terminated, Waiting};
use kubestack_core::prelude::*;

/// So much of an agent's last words is told.
const TOLD_LINES: usize = 20;
const TOLD_BYTES: usize = 4096;
/// The kubelet cuts the end of a log to so many bytes (`MaxContainerTerminationMessageLogLength`), so what then comes
/// first is half a line, in which nobody would know a secret again.
const CUT_BYTES: usize = 2048;

/// How far the pod is. `used`: whether it began its job.
pub fn phase(pod: &Pod, used: bool) -> UnitPhase {
    let status = &pod.status;
    let agent = agent(status);
    let ended = agent.and_then(|agent| agent.state.terminated.as_ref());
    let over = matches!(status.phase.as_str(), "Failed" | "Succeeded") || ended.is_some();
    if pod.metadata.deletion_timestamp.is_some() {
        // Whoever deletes a pod ends its agent: only if the platform did it is that a failure of its own.
        return match disruption(status) {
            Some((cause, text)) if over => UnitPhase::Ended { cause: Some(cause), text },
            Some((cause, text)) => UnitPhase::Terminating { cause: Some(cause), text },
            None => UnitPhase::TERMINATING,
        };
    }
    if over {
        return end(status, ended, used);
    }
    if has_started(pod) {
        return UnitPhase::Running;
    }
    let (cause, text) = hindrance(status);
    UnitPhase::Pending { cause, text }
}

/// Whether anything of the agent has run.
pub fn has_started(pod: &Pod) -> bool {
    match agent(&pod.status) {
        Some(agent) => {
            agent.state.running.is_some() || agent.state.terminated.is_some() || agent.restart_count > 0
        }
        // A pod that runs, or may run, and does not say which of its containers.
        None => !matches!(pod.status.phase.as_str(), "Pending" | ""),
    }
}

fn agent(status: &PodStatus) -> Option<&ContainerStatus> {
    status.container_statuses.iter().find(|container| container.name == AGENT_CONTAINER)
}

/// Why it ended. As with any provider, a bad end alone is a failure only of what never began its job: what
/// became of a job, its master knows.
fn end(status: &PodStatus, ended: Option<&Terminated>, used: bool) -> UnitPhase {
    if let Some((cause, text)) = disruption(status).or_else(|| removal(status)) {
        return UnitPhase::Ended { cause: Some(cause), text };
    }
    let failed = |cause| (!used).then_some(cause);
    let Some(ended) = ended else {
        if status.phase == "Succeeded" {
            return UnitPhase::Ended { cause: None, text: "ended".to_owned() };
        }
        let broken = status.init_container_statuses.iter().find_map(|container| {
            let ended = container.state.terminated.as_ref().filter(|ended| ended.exit_code != 0)?;
            Some((FailureCause::Config, format!("init container `{}` {}", container.name, exit(ended))))
        });
        let (cause, text) =
            broken.unwrap_or((FailureCause::LaunchFailed, words(&status.reason, &status.message)));
        return UnitPhase::Ended { cause: Some(cause), text };
    };
    let cause = match ended.reason.as_str() {
        "OOMKilled" => Some(FailureCause::OutOfMemory),
        // The runtime could not start what the image or the label names.
        "StartError" | "ContainerCannotRun" => Some(FailureCause::Config),
        "DeadlineExceeded" => Some(FailureCause::LifetimeExceeded),
        _ if ended.exit_code == 0 => None,
        _ => failed(FailureCause::CrashLoop),
    };
    UnitPhase::Ended { cause, text: exit(ended) }
}

/// How a container ended, with its last words.
fn exit(ended: &Terminated) -> String {
    let mut text = match (ended.reason.as_str(), ended.signal) {
        ("OOMKilled", _) => "was killed for want of memory; give the label more `memory`".to_owned(),
        (_, signal) if signal != 0 => format!("ended by signal {signal}"),
        (reason, _) if !matches!(reason, "" | "Error" | "Completed") => {
            format!("exited with status {} ({reason})", ended.exit_code)
        }
        _ => format!("exited with status {}", ended.exit_code),
    };
    let tail = tail(&ended.message);
    if !tail.is_empty() {
        text.push_str("; its last words:\n");
        text.push_str(&tail);
    }
    text
}

/// The last lines of a text.
fn tail(text: &str) -> String {
    let mut lines: Vec<&str> = text.trim_end().lines().collect();
    if text.len() >= CUT_BYTES && lines.len() > 1 {
        lines.remove(0);
    }
    let tail = lines.get(lines.len().saturating_sub(TOLD_LINES)..).unwrap_or_default().join("\n");
    let mut from = tail.len().saturating_sub(TOLD_BYTES);
    while !tail.is_char_boundary(from) {
        from += 1;
    }
    tail.get(from..).unwrap_or_default().to_owned()
}

/// The platform took it away (Kubernetes 1.26 and newer say so in a condition).
fn disruption(status: &PodStatus) -> Option<(FailureCause, String)> {
    let target =
        status.conditions.iter().find(|one| one.kind == "DisruptionTarget" && one.status == "True")?;
    let cause = match target.reason.as_str() {
        "DeletionByTaintManager" | "DeletionByPodGC" => FailureCause::NodeLost,
        _ => FailureCause::Evicted,
    };
    let text = words(&target.reason, &target.message);
    // The kubelet's own words on an eviction say which resource was short.
    let more =
        if status.message.is_empty() || status.message == target.message { "" } else { &status.message };
    Some((cause, if more.is_empty() { text } else { format!("{text}: {more}") }))
}

/// The kubelet ended it or never let it start.
fn removal(status: &PodStatus) -> Option<(FailureCause, String)> {
    let cause = match status.reason.as_str() {
        "Evicted" | "Preempting" | "NodeShutdown" | "Terminated" => FailureCause::Evicted,
        "NodeLost" => FailureCause::NodeLost,
        "DeadlineExceeded" => FailureCause::LifetimeExceeded,
        "UnexpectedAdmissionError" | "NodeAffinity" | "NodePorts" | "InsufficientResourcesError" => {
            FailureCause::Unschedulable
        }
        reason if reason.starts_with("OutOf") => FailureCause::Unschedulable,
        _ => return None,
    };
    Some((cause, words(&status.reason, &status.message)))
}

/// Why it has not started, where the platform says so.
fn hindrance(status: &PodStatus) -> (Option<FailureCause>, String) {
    let containers = status.init_container_statuses.iter().chain(&status.container_statuses);
    let waiting: Vec<(&ContainerStatus, &Waiting)> =
        containers.filter_map(|one| Some((one, one.state.waiting.as_ref()?))).collect();
    for (container, waiting) in &waiting {
        if let Some(cause) = cause_of_waiting(waiting) {
            let mut text = words(&waiting.reason, &waiting.message);
            if container.name != AGENT_CONTAINER {
                text = format!("container `{}`: {text}", container.name);
            }
            if waiting.message.contains("runAsNonRoot") {
                text.push_str("; use an image with a numeric user, or set `runAsUser` (for root: `runAsNonRoot: false`) under the label's `pod`");
            }
            return (Some(cause), text);
        }
    }
    let unscheduled =
        status.conditions.iter().find(|one| one.kind == "PodScheduled" && one.status == "False");
    if let Some(condition) = unscheduled {
        let cause = (condition.reason == "Unschedulable").then_some(FailureCause::Unschedulable);
        return (cause, words(&condition.reason, &condition.message));
    }
    let text = waiting.first().map(|(_, waiting)| words(&waiting.reason, &waiting.message));
    (None, text.unwrap_or_default())
}

fn cause_of_waiting(waiting: &Waiting) -> Option<FailureCause> {
    Some(match waiting.reason.as_str() {
        "InvalidImageName" | "ErrImageNeverPull" => FailureCause::ImageWrong,
        "RegistryUnavailable" => FailureCause::ImageUnavailable,
        "ErrImagePull" | "ImagePullBackOff" | "ImageInspectError" | "SignatureValidationFailed" => {
            cause_of_pull(&waiting.message)
        }
        "CreateContainerConfigError"
        | "CreateContainerError"
        | "RunContainerError"
        | "StartError"
        | "PreCreateHookError"
        | "PreStartHookError"
        | "PostStartHookError" => FailureCause::Config,
        "CrashLoopBackOff" => FailureCause::CrashLoop,
        _ => return None,
    })
}

/// Waiting helps unless the registry itself said that there is no such image, or not for us.
fn cause_of_pull(message: &str) -> FailureCause {
    /// What containerd, CRI-O and registries say (OCI distribution spec, error codes) of an image that is not
    /// there or not for us.
    const WRONG: [&str; 13] = [
        "not found",
        "manifest unknown",
        "manifest_unknown",
        "name_unknown",
        "name unknown",
        "repository does not exist",
        "pull access denied",
        "insufficient_scope",
        "unauthorized",
        "authentication required",
        "forbidden",
        "no match for platform",
        "invalid reference format",
    ];
    /// What sounds like it and passes: a name server that knows no such host, a registry that is overloaded.
    const PASSES: [&str; 3] = ["no such host", "toomanyrequests", "server misbehaving"];
    let message = message.to_lowercase();
    let says = |words: &[&str]| words.iter().any(|word| message.contains(word));
    if says(&WRONG) && !says(&PASSES) { FailureCause::ImageWrong } else { FailureCause::ImageUnavailable }
}

fn words(reason: &str, message: &str) -> String {
    match (reason, message.trim()) {
        ("", message) => message.to_owned(),
        (reason, "") => reason.to_owned(),
        (reason, message) => format!("{reason}: {message}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn told(status: Value) -> UnitPhase {
        phase(&serde_json::from_value(json!({"status": status})).unwrap(), false)
    }

    fn waiting(reason: &str, message: &str) -> Value {
        json!({"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "True"}],
               "containerStatuses": [{"name": "agent", "restartCount": 0,
                                      "state": {"waiting": {"reason": reason, "message": message}}}]})
    }

    fn ended(reason: &str, code: i32, message: &str) -> Value {
        json!({"phase": "Failed", "containerStatuses": [{"name": "agent", "restartCount": 0, "state":
               {"terminated": {"exitCode": code, "reason": reason, "message": message}}}]})
    }

    fn failed(reason: &str, message: &str) -> Value {
        json!({"phase": "Failed", "reason": reason, "message": message})
    }

    fn disrupted(reason: &str, message: &str) -> Value {
        json!({"phase": "Failed", "conditions": [
            {"type": "DisruptionTarget", "status": "True", "reason": reason, "message": message}]})
    }

    /// Cause and words of all that can hinder or end a pod, as real servers put it.
    #[test]
    fn each_failure_has_its_cause() {
        let containerd = r#"failed to pull and unpack image "docker.io/library/nope:1": failed to resolve reference "docker.io/library/nope:1": "#;
        let pull = |words: &str| format!("{containerd}{words}");
        let table = [
            ("image not there", waiting("ErrImagePull", &pull("docker.io/library/nope:1: not found"))),
            (
                "image backing off",
                waiting(
                    "ImagePullBackOff",
                    &format!(
                        "Back-off pulling image \"nope:1\": ErrImagePull: {}",
                        pull("docker.io/library/nope:1: not found")
                    ),
                ),
            ),
            (
                "image denied",
                waiting(
                    "ErrImagePull",
                    &pull(
                        "pull access denied, repository does not exist or may require authorization: server message: insufficient_scope: authorization failed",
                    ),
                ),
            ),
            (
                "image name invalid",
                waiting(
                    "InvalidImageName",
                    "Failed to apply default image tag \"UPPER:1\": couldn't parse image name",
                ),
            ),
            (
                "image never pulled",
                waiting(
                    "ErrImageNeverPull",
                    "Container image \"x:1\" is not present with pull policy of Never",
                ),
            ),
            (
                "registry down",
                waiting(
                    "ErrImagePull",
                    &pull(
                        "failed to do request: Head \"https://127.0.0.1:1/v2/\": dial tcp 127.0.0.1:1: connect: connection refused",
                    ),
                ),
            ),
            (
                "registry unknown",
                waiting("ErrImagePull", &pull("dial tcp: lookup registry.invalid: no such host")),
            ),
            ("registry slow", waiting("ErrImagePull", &pull("dial tcp 10.0.0.1:443: i/o timeout"))),
            (
                "registry overloaded",
                waiting(
                    "ErrImagePull",
                    &pull("unexpected status from HEAD request: 429 Too Many Requests: toomanyrequests"),
                ),
            ),
            (
                "backing off, no words (1.30 and older)",
                waiting("ImagePullBackOff", "Back-off pulling image \"nope:1\""),
            ),
            ("Secret missing", waiting("CreateContainerConfigError", "secret \"ci-small-1-2\" not found")),
            (
                "root image",
                waiting(
                    "CreateContainerConfigError",
                    "container has runAsNonRoot and image will run as root (pod: \"x\", container: agent)",
                ),
            ),
            (
                "runtime refuses",
                waiting("CreateContainerError", "failed to generate spec: no command specified"),
            ),
            ("still creating", waiting("ContainerCreating", "")),
            (
                "no node",
                json!({"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes are available: 3 Insufficient cpu."}]}),
            ),
            (
                "gated",
                json!({"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False", "reason": "SchedulingGated", "message": "Scheduling is blocked due to non-empty scheduling gates"}]}),
            ),
            ("just made", json!({"phase": "Pending"})),
            (
                "done",
                json!({"phase": "Succeeded", "containerStatuses": [{"name": "agent", "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}}]}),
            ),
            ("crashed", ended("Error", 1, "line 1\ncannot reach the master\n")),
            (
                "no such program",
                ended("StartError", 128, "exec: \"/nope\": stat /nope: no such file or directory"),
            ),
            ("out of memory", ended("OOMKilled", 137, "")),
            (
                "evicted by the kubelet",
                failed(
                    "Evicted",
                    "The node was low on resource: memory. Threshold quantity: 100Mi, available: 80Mi.",
                ),
            ),
            (
                "refused by the kubelet",
                failed(
                    "OutOfcpu",
                    "Node didn't have enough resource: cpu, requested: 4000, used: 2000, capacity: 4000",
                ),
            ),
            (
                "node shut down",
                failed("Terminated", "Pod was terminated in response to imminent node shutdown."),
            ),
            (
                "deadline",
                failed("DeadlineExceeded", "Pod was active on the node longer than the specified deadline"),
            ),
            (
                "preempted",
                disrupted(
                    "PreemptionByScheduler",
                    "default-scheduler: preempting to accommodate a higher priority pod",
                ),
            ),
            ("evicted by the API", disrupted("EvictionByEvictionAPI", "Eviction API: evicting")),
            ("node gone", disrupted("DeletionByPodGC", "PodGC: node no longer exists")),
            ("failed without words", json!({"phase": "Failed"})),
            (
                "init container failed",
                json!({"phase": "Failed", "initContainerStatuses": [{"name": "setup", "state": {"terminated": {"exitCode": 2, "reason": "Error", "message": "no space left"}}}], "containerStatuses": [{"name": "agent", "state": {"waiting": {"reason": "PodInitializing"}}}]}),
            ),
            (
                "init container cannot pull",
                json!({"phase": "Pending", "initContainerStatuses": [{"name": "setup", "state": {"waiting": {"reason": "InvalidImageName", "message": "x"}}}]}),
            ),
            (
                "sidecar runs on",
                json!({"phase": "Running", "containerStatuses": [{"name": "helper", "state": {"running": {}}}, {"name": "agent", "state": {"terminated": {"exitCode": 0}}}]}),
            ),
            (
                "sidecar runs, agent cannot",
                json!({"phase": "Running", "containerStatuses": [{"name": "helper", "state": {"running": {}}}, {"name": "agent", "state": {"waiting": {"reason": "InvalidImageName"}}}]}),
            ),
            (
                "running",
                json!({"phase": "Running", "containerStatuses": [{"name": "agent", "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}}}]}),
            ),
            ("node does not answer", json!({"phase": "Unknown"})),
        ];
        let rows: Vec<String> = table
            .into_iter()
            .map(|(what, status)| match told(status) {
                UnitPhase::Pending { cause, text } => {
                    format!("{what} | pending | {} | {text}", cause.map_or("-", FailureCause::as_str))
                }
                UnitPhase::Ended { cause, text } => {
                    format!("{what} | ended | {} | {text}", cause.map_or("-", FailureCause::as_str))
                }
                other => format!("{what} | {other:?}"),
            })
            .collect();
        insta::assert_snapshot!(rows.join("\n"));
    }

    #[test]
    fn a_bad_end_after_its_job_is_no_failure_of_the_agent() {
        let pod: Pod = serde_json::from_value(json!({"status": ended("Error", 1, "")})).unwrap();
        assert!(matches!(phase(&pod, true), UnitPhase::Ended { cause: None, .. }));
        let pod: Pod = serde_json::from_value(json!({"status": ended("OOMKilled", 137, "")})).unwrap();
        assert!(matches!(phase(&pod, true), UnitPhase::Ended { cause: Some(FailureCause::OutOfMemory), .. }));
    }

    #[test]
    fn what_is_being_deleted_is_terminating_unless_the_platform_ended_it() {
        let deleted = |mut status: Value| {
            let status = std::mem::take(&mut status);
            let meta = json!({"deletionTimestamp": "2026-01-01T00:00:00Z"});
            phase(&serde_json::from_value(json!({"metadata": meta, "status": status})).unwrap(), false)
        };
        assert_eq!(deleted(json!({"phase": "Running"})), UnitPhase::TERMINATING);
        assert_eq!(deleted(ended("Error", 143, "")), UnitPhase::TERMINATING, "ended because it was asked to");
        let evicted = json!({"phase": "Running", "conditions": [{"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI"}]});
        let cause = Some(FailureCause::Evicted);
        assert!(
            matches!(deleted(evicted), UnitPhase::Terminating { cause: told, .. } if told == cause),
            "it runs on for its grace"
        );
        let gone = deleted(disrupted("DeletionByPodGC", "PodGC: node no longer exists"));
        assert!(matches!(gone, UnitPhase::Ended { cause: Some(FailureCause::NodeLost), .. }));
    }

    #[test]
    fn only_the_last_words_are_told() {
        let many: String = (0..100).map(|line| format!("line {line}\n")).collect();
        assert_eq!(tail(&many).lines().count(), TOLD_LINES);
        assert!(tail(&many).ends_with("line 99"));
        let long = "ü".repeat(TOLD_BYTES);
        assert!(tail(&long).len() <= TOLD_BYTES);
    }
}
