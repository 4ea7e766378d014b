//! What a real kubelet and containerd say of each way in which a pod can fail, and the cause that it is told as.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

use common::site::Site;
use common::{SECRET, enrolment, label};
use kubestack_core::prelude::*;
use kubestack_testbed::image::Image;
use kubestack_testbed::{Cluster, Options, cluster};
use serde_json::{Value, json};

const SHELL: &str = "kubestack.test/shell:1";
const ROOT: &str = "kubestack.test/root:1";

/// Loads a shell as an image, with that user.
fn load(cluster: &Cluster, name: &str, user: &str) {
    let dir = tempfile::tempdir().unwrap();
    std::fs::copy("/bin/busybox", dir.path().join("busybox")).unwrap();
    let text = format!(
        "FROM scratch\nCOPY busybox /bin/sh\nENV PATH=/bin\n{user}\nENTRYPOINT [\"/bin/sh\", \"-c\"]\n"
    );
    std::fs::write(dir.path().join("Dockerfile"), text).unwrap();
    let archive = dir.path().join("image.tar");
    Image::from_dockerfile(name, dir.path()).unwrap().write(&archive).unwrap();
    cluster.load_image(&archive).unwrap();
}

/// An agent that runs this script, from a pod patched so.
fn agent(image: &str, script: &str, patch: &Value) -> LabelSpec {
    let mut label = label();
    label.image = Some(image.to_owned());
    let mut container = json!({"name": "agent", "args": [script]});
    container.as_object_mut().unwrap().extend(patch.as_object().unwrap().clone());
    label.pod = Some(Fragment::from_value(json!({"spec": {"containers": [container]}})));
    label
}

#[tokio::test]
async fn each_cause_is_told_as_a_real_node_shows_it() {
    let Some(cluster) = cluster(&Options::control_plane().real_node()).unwrap() else { return };
    load(&cluster, SHELL, "USER 65532:65532");
    load(&cluster, ROOT, "USER 0");
    let site = Site::new(&cluster, "node");
    let none = json!({});
    let shell = |script: &str| agent(SHELL, script, &none);
    let with = |patch: Value| agent(SHELL, "exit 0", &patch);
    let mut hungry = shell("x=xxxxxxxx; while :; do x=$x$x; done");
    hungry.resources.0.insert("memory".into(), "32Mi".parse().unwrap());
    let mut huge = shell("exit 0");
    huge.resources.0.insert("cpu".into(), "1000".parse().unwrap());
    let cases = [
        (shell("exit 0"), None, "exited with status 0"),
        (
            shell("echo one; echo cannot reach the master; exit 3"),
            Some(FailureCause::CrashLoop),
            "status 3; its last words:\none\ncannot reach the master",
        ),
        (hungry, Some(FailureCause::OutOfMemory), "memory"),
        (huge, Some(FailureCause::Unschedulable), "Insufficient cpu"),
        (with(json!({"command": ["/nope"]})), Some(FailureCause::Config), "/nope"),
        (
            with(
                json!({"env": [{"name": "X", "valueFrom": {"secretKeyRef": {"name": "none", "key": "x"}}}]}),
            ),
            Some(FailureCause::Config),
            "secret \"none\" not found",
        ),
        (agent(ROOT, "exit 0", &none), Some(FailureCause::Config), "runAsNonRoot: false"),
        (agent("UPPER/CASE:1", "exit 0", &none), Some(FailureCause::ImageWrong), "InvalidImageName"),
        (
            agent("kubestack.test/none:1", "exit 0", &json!({"imagePullPolicy": "Never"})),
            Some(FailureCause::ImageWrong),
            "ErrImageNeverPull",
        ),
        (
            agent("127.0.0.1:1/none:1", "exit 0", &none),
            Some(FailureCause::ImageUnavailable),
            "connection refused",
        ),
    ];
    let mut view = site.view();
    for (serial, (label, cause, said)) in (1..).zip(cases) {
        let unit = site.launch(serial, label, None).await.unwrap();
        let told = |phase: Option<&UnitPhase>| match phase {
            Some(UnitPhase::Pending { cause: Some(cause), text }) => Some((Some(*cause), text.clone())),
            Some(UnitPhase::Ended { cause, text }) => Some((*cause, text.clone())),
            _ => None,
        };
        view.until(said, |view| told(view.phase(&unit.name)).is_some()).await;
        let (found, text) = told(view.phase(&unit.name)).unwrap();
        assert_eq!(found, cause, "{text}");
        assert!(text.contains(said), "{said}: {text}");
        site.destroy(&unit).await.unwrap();
        view.until_gone(&unit.name).await;
    }

    // The agent gets its secret, though nobody else does; and what it says can be read.
    let unit = site.launch(90, shell("echo $MASTER ${#TOKEN}; exit 0"), Some(enrolment())).await.unwrap();
    view.until("ended", |view| matches!(view.phase(&unit.name), Some(UnitPhase::Ended { cause: None, .. })))
        .await;
    let log = site.provider.log_tail(&unit.reference(), 5).await.unwrap();
    assert_eq!(log, format!("http://queue.invalid {}\n", SECRET.len()));
    site.destroy(&unit).await.unwrap();
    view.until_gone(&unit.name).await;
    assert!(site.names("secrets").is_empty());
}
