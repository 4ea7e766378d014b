//! The master against a real server of Jenkins' line, with real agents.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

use common::{build, context, label, request};
use kubestack_core::prelude::*;
use kubestack_testbed::hudson::{Hudson, hudson};
use serde_json::json;
use std::time::Duration;

/// Far more than anything here takes.
const BOUND: Duration = Duration::from_secs(180);

fn master(server: &Hudson) -> Box<dyn CiMaster> {
    let work = server.directory().join("work").display().to_string();
    build(json!({"external_url": server.url(), "work_dir": work, "poll": "200ms"})).unwrap()
}

/// Looks until the agent is as wanted. A look may fail: a server that has only just come up may be slower than the
/// bound of one request, and the engine looks again as well.
async fn until(master: &dyn CiMaster, agent: &AgentName, wanted: impl Fn(&AgentView) -> bool) -> AgentView {
    let looking = async {
        loop {
            let look = match master.agents().await {
                Ok(look) => look,
                Err(error) if error.kind == ErrorKind::Transient => continue,
                Err(error) => panic!("{error}"),
            };
            if let Some(view) =
                look.agents.into_iter().find(|view| view.name == agent.as_str() && wanted(view))
            {
                return view;
            }
        }
    };
    tokio::time::timeout(BOUND, looking).await.unwrap()
}

async fn demand(
    source: &mut Box<dyn DemandSource>,
    labels: &[LabelSpec],
    wanted: impl Fn(&[Demand]) -> bool,
) -> Vec<Demand> {
    let mut last = Vec::new();
    let looking = async {
        loop {
            last = match source.next(&context(labels)).await {
                Ok(look) => look.demands,
                Err(error) if error.kind == ErrorKind::Transient => continue,
                Err(error) => panic!("{error}"),
            };
            if wanted(&last) {
                return;
            }
        }
    };
    let found = tokio::time::timeout(BOUND, looking).await;
    assert!(found.is_ok(), "{last:#?}");
    last
}

fn enrolment(outcome: EnrolOutcome) -> Enrolment {
    match outcome {
        EnrolOutcome::Enrolled(enrolment) => enrolment,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_from_the_queue_to_the_end_of_its_agent() {
    let Some(mut server) = hudson().unwrap() else { return };
    let master = master(&server);
    let mut source = master.demand().unwrap();
    let mut news = master.completion().unwrap();
    let labels = [label("small", &["linux"]), label("large", &["linux", "big"])];
    let needs = |demands: &[Demand]| -> Vec<Vec<String>> {
        demands.iter().map(|demand| demand.needs.iter().map(ToString::to_string).collect()).collect()
    };
    assert_eq!(source.next(&context(&labels)).await.unwrap().demands, []);
    // What is there already is no news.
    tokio::select! {
        biased;
        early = news.next() => panic!("{early:?}"),
        () = std::future::ready(()) => {}
    }

    // No agent at all: the server says no word of the label, and the job's config does.
    let gate = server.directory().join("gate");
    server
        .job("one", "linux && !big", &format!("until [ -e {} ]; do sleep 0.1; done", gate.display()))
        .unwrap();
    server.build("one").unwrap();
    let waits = demand(&mut source, &labels, |all| !all.is_empty()).await;
    assert_eq!(needs(&waits), [["small"]], "{waits:#?}");
    assert!(waits[0].text.starts_with("one for linux&&!big"), "{}", waits[0].text);

    let ask = request(labels[0].clone(), 1);
    let given = enrolment(master.enrol(&ask).await.unwrap());
    assert!(matches!(master.enrol(&ask).await.unwrap(), EnrolOutcome::AlreadyExists));
    let view = until(&*master, &ask.agent, |_| true).await;
    assert_eq!(view.marks.as_ref(), Some(&ask.marks), "read from the node's page");
    assert_eq!((view.online, view.drained, view.activity.is_idle()), (false, Drained::No, true));
    // Now the server names the node in place of the label.
    let waits = source.next(&context(&labels)).await.unwrap().demands;
    assert_eq!(needs(&waits), [["small"]], "{waits:#?}");

    server.start_agent("agent", &given.args).unwrap();
    let view = until(&*master, &ask.agent, |view| view.activity.is_busy()).await;
    assert!(view.run.as_ref().is_some_and(|run| run.ends_with("job/one/1/")), "{view:?}");
    demand(&mut source, &labels, <[Demand]>::is_empty).await;
    let heard = tokio::time::timeout(BOUND, news.next()).await.unwrap().unwrap();
    assert_eq!((heard[0].agent.as_str(), heard[0].event), (ask.agent.as_str(), CompletionEvent::Started));
    assert_eq!(master.remove(&ask.agent, false).await.unwrap_err().kind, ErrorKind::Conflict);

    // Taken out while busy: it ends its job, and takes no other.
    master.drain(&ask.agent).await.unwrap();
    master.drain(&ask.agent).await.unwrap();
    let view = until(&*master, &ask.agent, |view| view.drained != Drained::No).await;
    assert_eq!((view.drained, view.activity.is_busy()), (Drained::ByUs, true));
    server.job("two", "small", "true").unwrap();
    server.build("two").unwrap();
    std::fs::write(&gate, "").unwrap();
    let view = until(&*master, &ask.agent, |view| view.activity.is_idle()).await;
    assert_eq!(view.drained, Drained::ByUs);
    let heard = tokio::time::timeout(BOUND, news.next()).await.unwrap().unwrap();
    assert_eq!(heard[0].event, CompletionEvent::Finalized);
    let waits = demand(&mut source, &labels, |all| !all.is_empty()).await;
    assert_eq!(needs(&waits), [["small"]], "the second job waits: {waits:#?}");

    master.remove(&ask.agent, false).await.unwrap();
    master.remove(&ask.agent, false).await.unwrap();
    assert_eq!(master.drain(&ask.agent).await.unwrap_err().kind, ErrorKind::NotFound);
    let left = master.agents().await.unwrap().agents;
    assert!(left.iter().all(|view| view.name != ask.agent.as_str()), "{left:?}");
    assert!(server.agent_runs("agent").unwrap(), "it does not end by itself");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_people_and_crashes_do_to_nodes_is_seen() {
    let Some(mut server) = hudson().unwrap() else { return };
    let master = master(&server);
    let odd = label("odd", &["a b", "x:y=1", "ünï", "q\"q", "p&&q", "-"]);
    let ask = request(odd.clone(), 7);
    let given = enrolment(master.enrol(&ask).await.unwrap());
    server.start_agent("agent", &given.args).unwrap();
    until(&*master, &ask.agent, |view| view.online).await;

    // Each odd label leads a job to it, and is demand of its label until then.
    let mut source = master.demand().unwrap();
    for (name, expression) in [("s1", "\"a b\""), ("s2", "x:y=1"), ("s3", "ünï"), ("s4", "\"p&&q\" && odd")]
    {
        server.job(name, expression, "true").unwrap();
        server.build(name).unwrap();
        demand(&mut source, std::slice::from_ref(&odd), <[Demand]>::is_empty).await;
    }
    for job in ["s1", "s2", "s3", "s4"] {
        let look = || server.request("GET", &format!("job/{job}/lastBuild/api/json"), None);
        let ended = kubestack_testbed::wait("end of the build", BOUND, || {
            Ok(look().ok().filter(|text| text.contains("\"result\":\"SUCCESS\"")))
        });
        assert!(ended.unwrap().contains(ask.agent.as_str()), "{job} ran elsewhere");
    }

    // An operator takes it out, and back.
    let toggle = format!("computer/{}/toggleOffline?offlineMessage=maintenance", ask.agent);
    server.request("POST", &toggle, None).unwrap();
    let view = until(&*master, &ask.agent, |view| view.drained != Drained::No).await;
    assert_eq!(view.drained, Drained::ByOthers);
    master.drain(&ask.agent).await.unwrap();
    let view = until(&*master, &ask.agent, |_| true).await;
    assert_eq!(view.drained, Drained::ByOthers, "a drain never toggles back");
    server.request("POST", &toggle, None).unwrap();
    until(&*master, &ask.agent, |view| view.drained == Drained::No && view.online).await;

    // Its process ends; then the server does.
    server.kill_agent("agent").unwrap();
    until(&*master, &ask.agent, |view| !view.online).await;
    server.kill().unwrap();
    let error = master.agents().await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Transient, "{error}");
    assert!(error.message.contains("cannot be reached"), "{error}");
    let error = master.enrol(&request(odd, 8)).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Transient, "nothing was sent: {error}");
    server.up().unwrap();
    let view = until(&*master, &ask.agent, |_| true).await;
    assert_eq!(view.marks.as_ref(), Some(&ask.marks), "the node outlives its server");

    // Deleted by hand while its agent lives: made again under its name, the agent is back.
    server.start_agent("agent", &given.args).unwrap();
    until(&*master, &ask.agent, |view| view.online).await;
    server.request("POST", &format!("computer/{}/doDelete", ask.agent), None).unwrap();
    assert!(master.agents().await.unwrap().agents.iter().all(|view| view.name != ask.agent.as_str()));
    enrolment(master.enrol(&ask).await.unwrap());
    until(&*master, &ask.agent, |_| true).await;

    // Why jobs wait stands on a node that is none of the agents, and goes when nothing waits.
    let reason = Explanation::new(None, vec!["odd".into()], "the quota is full");
    master.explain(&[reason]).await.unwrap();
    let page = server.request("GET", "computer/kubestack-ci/", None).unwrap();
    assert!(page.contains("odd: the quota is full"), "{page}");
    assert!(master.agents().await.unwrap().agents.iter().all(|view| view.name != "kubestack-ci"));
    master.explain(&[]).await.unwrap();
    assert!(server.request("GET", "computer/kubestack-ci/", None).is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn users_passwords_crumbs_and_each_missing_permission() {
    const READ: &str = "hudson.model.Hudson.Read";
    const ADMINISTER: &str = "hudson.model.Hudson.Administer";
    let Some(mut server) = hudson().unwrap() else { return };
    let configure = "hudson.model.Computer.Configure";
    server.job("one", "a", "true").unwrap();
    server
        .users(&[
            ("all", "right", &[READ, ADMINISTER, configure, "hudson.model.Computer.Delete"]),
            ("reader", "right", &[READ, "hudson.model.Item.Read"]),
            ("nobody", "right", &[]),
        ])
        .unwrap();
    server.kill().unwrap();
    server.up().unwrap();
    let master = |user: &str, pass: &str| {
        let work = server.directory().join("work").display().to_string();
        build(json!({"external_url": server.url(), "work_dir": work, "user": user, "pass": pass})).unwrap()
    };
    let ask = request(label("a", &[]), 1);

    let all = master("all", "right");
    let agents = all.agents().await.unwrap().agents;
    assert_eq!(agents.len(), 1, "{agents:?}");
    // Each change takes a crumb here.
    enrolment(all.enrol(&ask).await.unwrap());
    all.drain(&ask.agent).await.unwrap();
    assert_eq!(until(&*all, &ask.agent, |_| true).await.drained, Drained::ByUs);

    let wrong = master("all", "wrong").agents().await.unwrap_err();
    let none = build(json!({"external_url": server.url()})).unwrap().agents().await.unwrap_err();
    let nobody = master("nobody", "right").agents().await.unwrap_err();
    let reader = master("reader", "right");
    assert_eq!(reader.agents().await.unwrap().agents.len(), 2);
    let second = request(label("a", &[]), 2);
    let create = reader.enrol(&second).await.unwrap_err();
    let delete = reader.remove(&ask.agent, false).await.unwrap_err();
    for (error, said) in [
        (
            create,
            "cannot make node ci-a-1-2: the permission Administer is missing; give it to the daemon's user",
        ),
        (delete, "cannot remove node ci-a-1-1: the permission Delete is missing"),
        (wrong, "does not know this user and password or token"),
        (none, "forbidden; see docs/jenkins.md"),
        (nobody, "the permission Read is missing"),
    ] {
        assert_eq!(error.kind, ErrorKind::Unauthorized, "{error}");
        assert!(error.message.contains(said), "{said}: {error}");
    }
    // What a job is tied to comes the other way round for those who may not read its config.
    let crumb = "crumbIssuer/api/xml?xpath=concat(//crumbRequestField,\":\",//crumb)";
    let script = format!(
        "curl -gsf -u all:right -X POST -H \"$(curl -gsf -u all:right '{0}/{crumb}')\" {0}/job/one/build?delay=0sec",
        server.url()
    );
    let output = std::process::Command::new("bash").args(["-c", &script]).output().unwrap();
    assert!(output.status.success(), "{script}: {output:?}");
    let labels = [label("a", &["b"]), label("c", &[])];
    let mut source = reader.demand().unwrap();
    let waits = demand(&mut source, &labels, |all| all.iter().any(|one| !one.needs.is_empty())).await;
    assert_eq!(waits[0].needs, ["a".into()].into(), "{waits:?}");
    all.remove(&ask.agent, false).await.unwrap();
    assert_eq!(all.agents().await.unwrap().agents.len(), 1);
}
