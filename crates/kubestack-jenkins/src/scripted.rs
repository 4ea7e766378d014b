//! Forms of today's Jenkins that neither the real server in our tests has, nor the fake one (`tests/fake_jenkins.rs`): answers
//! that Jenkins would not give by itself, and requests to the letter. **No real server of today checked it**.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use crate::client::{Client, Credentials};
use crate::config::JenkinsConfig;
use crate::master::JenkinsMaster;
use crate::wire::{Lost, Wire};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use kubestack_core::prelude::*;
use kubestack_core::secrecy::ExposeSecret;
use kubestack_testkit::host::RuntimeClock;
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};
use tower::service_fn;
use tower::util::BoxCloneSyncService;

type Log = Arc<Mutex<Vec<String>>>;
type Script = dyn Fn(&str, &str) -> Response<String> + Send + Sync;

fn say(status: u16, body: impl Into<String>) -> Response<String> {
    let answer = Response::builder().status(status).header("X-Jenkins", "2.579");
    answer.header("X-Jenkins-Session", "0a1b2c3d").body(body.into()).unwrap()
}

fn with(mut answer: Response<String>, name: &'static str, value: &str) -> Response<String> {
    answer.headers_mut().insert(name, value.parse().unwrap());
    answer
}

/// A wire on whose other end the script answers ("METHOD /path", headers and body), and all that was asked.
fn wire(script: impl Fn(&str, &str) -> Response<String> + Send + Sync + 'static) -> (Wire, Log) {
    let (log, script): (Log, Arc<Script>) = (Log::default(), Arc::new(script));
    let asked = log.clone();
    let service = service_fn(move |request: Request<Full<Bytes>>| {
        let (log, script) = (log.clone(), script.clone());
        async move {
            let line = format!("{} {}", request.method(), request.uri().path_and_query().unwrap());
            let mut rest: Vec<String> =
                request.headers().iter().map(|(k, v)| format!("{k}: {}", v.to_str().unwrap())).collect();
            let body = request.into_body().collect().await.unwrap().to_bytes();
            rest.push(String::from_utf8_lossy(&body).into_owned());
            let rest = rest.join("\n");
            let answer = script(&line, &rest);
            log.lock().unwrap().push(format!("{line}\n{rest}"));
            Ok::<_, Lost>(
                answer
                    .map(|body| Full::new(Bytes::from(body)).map_err(|never| match never {}).boxed_unsync()),
            )
        }
    });
    (BoxCloneSyncService::new(service), asked)
}

fn master(
    config: Value,
    script: impl Fn(&str, &str) -> Response<String> + Send + Sync + 'static,
) -> (JenkinsMaster, Log) {
    let mut whole = json!({"external_url": "http://ci/jenkins/"});
    whole.as_object_mut().unwrap().extend(config.as_object().unwrap().clone());
    let config: JenkinsConfig = Fragment::from_value(whole).parse().unwrap();
    let user = config.user.clone().unwrap_or_default();
    let credentials = match (&config.pass, &config.token) {
        (Some(_), _) => Credentials::Password(user, "s3cret".into()),
        (_, Some(_)) => Credentials::Token(user, "t0ken".into()),
        _ => Credentials::Anonymous,
    };
    let (wire, log) = wire(script);
    let client = Client::new(wire, &config.external_url, credentials, Arc::new(RuntimeClock::start()));
    (JenkinsMaster::new("ci".into(), client, config, Some("s3cret".into())), log)
}

fn ask(attach: Option<&str>) -> EnrolRequest {
    let mut label = LabelSpec::new("a");
    label.attach = attach.map(str::to_owned);
    let marks = Marks::new("ci".into(), "a".into(), "p".into(), Some("jenkins".into()), (1, 2), "t".into());
    EnrolRequest::new(label, marks)
}

const SECRET: &str = "3943709451c8c7e2f7ad7f6465b504e96087f6fc07d6fea404096e23330fd87f";

fn jnlp() -> String {
    format!(
        "<jnlp><application-desc><argument>{SECRET}</argument><argument>ci-a-1-2</argument></application-desc></jnlp>"
    )
}

fn count(log: &Log, part: &str) -> usize {
    log.lock().unwrap().iter().filter(|line| line.contains(part)).count()
}

#[tokio::test(start_paused = true)]
async fn a_password_takes_a_crumb_and_its_session_and_a_new_one_when_it_is_refused() {
    let crumbs = Mutex::new(0);
    let (master, log) = master(json!({"user": "u", "pass": "p"}), move |line, rest| match line {
        "GET /jenkins/crumbIssuer/api/json" => {
            let mut crumbs = crumbs.lock().unwrap();
            *crumbs += 1;
            let body = json!({"crumb": format!("crumb{crumbs}"), "crumbRequestField": "Jenkins-Crumb"});
            with(
                say(200, body.to_string()),
                "set-cookie",
                &format!("JSESSIONID.1={crumbs}; Path=/; HttpOnly"),
            )
        }
        "POST /jenkins/computer/doCreateItem" => {
            if rest.contains("jenkins-crumb: crumb2") && rest.contains("cookie: JSESSIONID.1=2") {
                return with(say(302, ""), "location", "http://ci/jenkins/computer/");
            }
            say(403, "<p>No valid crumb was included in the request</p>")
        }
        "GET /jenkins/computer/ci-a-1-2/jenkins-agent.jnlp" => say(200, jnlp()),
        _ => say(200, "{}"),
    });
    let EnrolOutcome::Enrolled(given) = master.enrol(&ask(None)).await.unwrap() else { panic!() };
    assert_eq!(given.secrets["JENKINS_SECRET"].expose_secret(), SECRET);
    assert_eq!(given.env["JENKINS_URL"], "http://ci/jenkins/");
    assert!(given.args.is_empty());
    assert!(!format!("{given:?}").contains(SECRET));
    assert_eq!(count(&log, "POST "), 2, "one that was refused without effect, one that passed");
    assert_eq!(count(&log, "accept-language: en"), log.lock().unwrap().len());
}

#[tokio::test(start_paused = true)]
async fn a_token_takes_neither_crumb_nor_cookie() {
    let (master, log) = master(json!({"user": "u", "token": "t"}), |line, _| match line {
        "POST /jenkins/computer/doCreateItem" => {
            with(with(say(302, ""), "location", "."), "set-cookie", "JSESSIONID.1=x")
        }
        "GET /jenkins/computer/ci-a-1-2/jenkins-agent.jnlp" => with(say(200, jnlp()), "set-cookie", "a=b"),
        _ => with(say(200, "{}"), "set-cookie", "a=b"),
    });
    for _ in 0..2 {
        assert!(matches!(master.enrol(&ask(None)).await.unwrap(), EnrolOutcome::Enrolled(_)));
    }
    assert_eq!((count(&log, "crumb"), count(&log, "cookie:")), (0, 0));
    assert_eq!(count(&log, "authorization: Basic dTp0MGtlbg=="), log.lock().unwrap().len());
}

#[tokio::test(start_paused = true)]
async fn a_redirect_to_a_login_is_never_success() {
    for place in
        ["/jenkins/login?from=%2Fcomputer%2F", "https://sso.example.org/auth?to=/computer/", "http://ci/"]
    {
        let (master, _) = master(json!({}), move |line, _| match line {
            line if line.starts_with("POST") => with(say(302, ""), "location", place),
            _ => say(200, "{}"),
        });
        let error = master.enrol(&ask(None)).await.unwrap_err();
        let expected =
            if place.ends_with("ci/") { ErrorKind::UnknownOutcome } else { ErrorKind::Unauthorized };
        assert_eq!(error.kind, expected, "{error}");
    }
    let (master, _) = master(json!({}), |_, _| say(200, "<!DOCTYPE html><form><input name=\"j_username\">"));
    let error = master.agents().await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unauthorized, "{error}");
    assert!(error.message.contains("a login page came"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn what_cannot_have_had_an_effect_is_told_from_what_may_have() {
    let exists = "<h1>Error</h1><p>Agent called ?a? already exists</p>";
    for (status, body, header, kind) in [
        (400, exists, None, None),
        (400, "", Some("Agent called ?a? already exists"), None),
        (400, "", Some("?/? is an unsafe character"), Some(ErrorKind::Invalid)),
        (403, "", None, Some(ErrorKind::Unauthorized)),
        (401, "", None, Some(ErrorKind::Unauthorized)),
        (500, "<title>Error 500</title>", None, Some(ErrorKind::UnknownOutcome)),
        (503, "Please wait", None, Some(ErrorKind::Transient)),
    ] {
        let (master, _) = master(json!({}), move |line, _| match (line.starts_with("POST"), header) {
            (true, Some(text)) => with(say(status, body), "x-error", text),
            (true, None) => say(status, body),
            _ => say(200, "{}"),
        });
        match (master.enrol(&ask(None)).await, kind) {
            (Ok(EnrolOutcome::AlreadyExists), None) => {}
            (Err(error), Some(kind)) => assert_eq!(error.kind, kind, "{error}"),
            other => panic!("{status} {header:?}: {other:?}"),
        }
    }
    // A node without its secret is a node: an error that says otherwise would let it be forgotten.
    let (master, _) = master(json!({}), |line, _| match line {
        "POST /jenkins/computer/doCreateItem" => with(say(302, ""), "location", "."),
        "GET /jenkins/computer/ci-a-1-2/jenkins-agent.jnlp" => say(403, ""),
        _ => say(200, "{}"),
    });
    assert_eq!(master.enrol(&ask(None)).await.unwrap_err().kind, ErrorKind::UnknownOutcome);
}

#[tokio::test(start_paused = true)]
async fn a_look_tells_marks_drains_quiet_and_a_new_session() {
    let marks = ask(None).marks;
    let node = |name: &str, reason: Option<&str>| {
        json!({"displayName": name, "description": marks.to_text(), "offline": true, "offlineCauseReason": reason,
            "temporarilyOffline": reason.is_some(), "executors": [{"idle": false, "currentExecutable": {"url": "u", "queueId": 7}}]})
    };
    let nodes = json!({"computer": [node("ci-a-1-2", Some("kubestack: takes no more jobs")), node("x", Some("disk full")), node("kubestack-ci", None)]});
    let (master, _) = master(json!({}), move |line, _| match line {
        "GET /jenkins/api/json?tree=quietingDown" => say(200, "{\"quietingDown\":true}"),
        line if line.starts_with("GET /jenkins/computer/") => say(200, nodes.to_string()),
        _ => say(200, "{}"),
    });
    let look = master.agents().await.unwrap();
    assert!(look.quiet);
    assert_eq!(look.session.as_deref(), Some("0a1b2c3d"));
    let ours = &look.agents[0];
    assert_eq!((ours.drained, ours.job.as_deref(), ours.online), (Drained::ByUs, Some("7"), true));
    assert_eq!(ours.marks.as_ref().map(Marks::agent), Some("ci-a-1-2".into()));
    assert_eq!(look.agents[1].drained, Drained::ByOthers);
    assert_eq!(look.agents.len(), 2, "the board is no agent");
}

fn item(id: u64, task: Value, why: &str) -> Value {
    json!({"_class": "hudson.model.Queue$BuildableItem", "id": id, "buildable": true, "pending": false, "why": why,
        "inQueueSince": 1000, "task": task})
}

async fn needs(items: Value, nodes: Value) -> Vec<(String, Vec<String>)> {
    let (items, nodes) = (json!({"items": items}).to_string(), json!({"computer": nodes}).to_string());
    let (master, _) = master(json!({}), move |line, _| match line {
        line if line.starts_with("GET /jenkins/queue/") => say(200, items.clone()),
        line if line.starts_with("GET /jenkins/computer/") => say(200, nodes.clone()),
        line if line.contains("/broken/config.xml") => say(500, "<title>Error 500</title>"),
        line if line.contains("/tied/config.xml") => say(200, "<assignedNode>a</assignedNode>"),
        line if line.contains("config.xml") => say(403, ""),
        line if line.contains("/label/") => say(200, "{\"tiedJobs\":[]}"),
        _ => say(200, "{}"),
    });
    let mut labels = std::collections::BTreeMap::new();
    for (name, provides, unlabelled) in
        [("a", vec!["a", "linux"], false), ("b", vec!["b", "linux"], false), ("any", vec!["any"], true)]
    {
        let mut label = LabelSpec::new(name);
        label.provides = provides.into_iter().map(str::to_owned).collect();
        label.unlabelled = unlabelled;
        labels.insert(label.name.clone(), label);
    }
    let mut source = master.demand().unwrap();
    let snapshot = source.next(&SourceContext::new(labels)).await.unwrap();
    let needs = |demand: Demand| (demand.id.unwrap(), demand.needs.iter().map(ToString::to_string).collect());
    snapshot.demands.into_iter().map(needs).collect()
}

#[tokio::test(start_paused = true)]
async fn where_the_label_of_an_item_is_found() {
    let job = |label: Value| json!({"_class": "hudson.model.FreeStyleProject", "name": "j", "url": "http://ci/job/j/", "labelExpression": label});
    let part = || json!({"_class": "org.jenkinsci.plugins.workflow.support.steps.ExecutorStepExecution$PlaceholderTask", "name": "part of p #1", "url": "job/p/1/"});
    let marks = ask(None).marks.to_text();
    let nodes = json!([{"displayName": "Built-In Node"}, {"displayName": "ci-a-1-2", "description": marks}, {"displayName": "static"}]);
    let mut waiting = item(90, job(json!("a")), "In the quiet period. Expires in 4.9 sec");
    waiting["buildable"] = false.into();
    let mut pending = item(91, job(json!("a")), "");
    pending["pending"] = true.into();
    let run = json!({"_class": "org.jenkinsci.plugins.workflow.job.WorkflowJob", "name": "p", "url": "http://ci/job/p/"});
    let items = json!([
        item(1, job(json!("linux && !b")), "‘x’ is offline"),
        item(2, job(json!(" linux ")), ""),
        item(3, job(Value::Null), "Waiting for next available executor"),
        item(4, part(), "There are no nodes with the label ‘b’"),
        item(5, part(), "Waiting for next available executor on ‘linux&&a’"),
        item(6, part(), "‘ci-a-1-2’ is offline"),
        item(7, part(), "Waiting for next available executor on ‘static’"),
        item(8, part(), "Waiting for next available executor"),
        item(9, job(json!("windows")), ""),
        // Gearman pins a build to one of our agents: that agent is there already.
        item(10, job(json!("ci-a-1-2")), "‘ci-a-1-2’ is offline"),
        item(11, job(json!("static")), "‘static’ is offline"),
        item(12, run, ""),
        waiting, pending, {"buildable": true}, 3, null,
    ]);
    let found = needs(items, nodes).await;
    let expected: [(&str, &[&str]); 10] = [
        ("1", &["a"]),
        ("2", &["a", "b"]),
        ("3", &["any"]),
        ("4", &["b"]),
        ("5", &["a"]),
        ("6", &["a"]),
        ("7", &[]),
        ("8", &["any"]),
        ("9", &[]),
        ("11", &[]),
    ];
    let expected =
        expected.map(|(id, needs)| (id.to_owned(), needs.iter().map(ToString::to_string).collect()));
    assert_eq!(found, expected.map(|pair: (String, Vec<String>)| pair));
}

#[tokio::test(start_paused = true)]
async fn one_job_whose_config_cannot_be_read_hides_no_other() {
    let job = |id: u64, name: &str| {
        let class = "hudson.model.FreeStyleProject";
        let task = json!({"_class": class, "name": name, "url": format!("http://ci/job/{name}/")});
        item(id, task, "Waiting for next available executor")
    };
    let nodes = json!([{"displayName": "master"}]);
    let found = needs(json!([job(1, "broken"), job(2, "tied")]), nodes).await;
    assert_eq!(found, [("1".to_owned(), vec![]), ("2".to_owned(), vec!["a".to_owned()])]);
}

#[tokio::test(start_paused = true)]
async fn a_swarm_client_gets_the_password_by_environment_and_is_known_by_its_longer_name() {
    let config = json!({"attach": "swarm-client", "user": "u", "pass": "p", "internal_url": "http://in"});
    let (master, log) = master(config, |line, _| match line {
        line if line.starts_with("GET /jenkins/computer/api/") => {
            say(200, json!({"computer": [{"displayName": "ci-a-1-2-0a1b2c3d"}]}).to_string())
        }
        line if line.starts_with("POST /jenkins/computer/ci-a-1-2-0a1b2c3d/") => {
            with(say(302, ""), "location", "..")
        }
        line if line.starts_with("GET /jenkins/computer/ci-a-1-2-0a1b2c3d/") => {
            say(200, json!({"displayName": "ci-a-1-2-0a1b2c3d"}).to_string())
        }
        line if line.starts_with("GET /jenkins/computer/") => say(404, ""),
        _ => say(200, "{}"),
    });
    assert!(!master.capabilities().lists_agents && !master.capabilities().re_enrols);
    let EnrolOutcome::Enrolled(given) = master.enrol(&ask(None)).await.unwrap() else { panic!() };
    assert_eq!(given.secrets["JENKINS_PASSWORD"].expose_secret(), "s3cret");
    assert!(
        !given.args.join(" ").contains("s3cret") && !given.env.values().any(|value| value.contains("s3cret"))
    );
    assert_eq!((given.env["JENKINS_URL"].as_str(), given.args.len()), ("http://in", 3));
    assert_eq!(log.lock().unwrap().len(), 0, "its client makes the node");
    assert_eq!(master.agents().await.unwrap().agents[0].name, "ci-a-1-2");
    master.remove(&"ci-a-1-2".into(), false).await.unwrap();
    assert_eq!(count(&log, "POST /jenkins/computer/ci-a-1-2-0a1b2c3d/doDelete"), 1);

    let (other, _) = self::master(json!({}), |_, _| say(200, "{}"));
    assert_eq!(other.enrol(&ask(Some("swarm-client"))).await.unwrap_err().kind, ErrorKind::Invalid);
    assert_eq!(other.enrol(&ask(Some("ssh"))).await.unwrap_err().kind, ErrorKind::Invalid);
}

#[tokio::test(start_paused = true)]
async fn a_toggle_that_somebody_else_undid_is_not_repeated() {
    let (master, log) = master(json!({}), |line, _| match line {
        line if line.starts_with("POST") => with(say(302, ""), "location", "."),
        line if line.contains("/computer/") => say(200, "{\"displayName\":\"ci-a-1-2\"}"),
        _ => say(200, "{}"),
    });
    let error = master.drain(&"ci-a-1-2".into()).await.unwrap_err();
    assert_eq!((error.kind, count(&log, "POST ")), (ErrorKind::UnknownOutcome, 1));
}

#[tokio::test(start_paused = true)]
async fn what_never_answers_is_given_up() {
    let service = service_fn(|_: Request<Full<Bytes>>| std::future::pending::<Result<_, Lost>>());
    let client = Client::new(
        BoxCloneSyncService::new(service),
        "http://ci",
        Credentials::Anonymous,
        Arc::new(RuntimeClock::start()),
    );
    let error = client.json("look", "api/json").await.unwrap_err();
    assert_eq!(
        (error.kind, error.message.contains("no answer within")),
        (ErrorKind::Transient, true),
        "{error}"
    );
    assert_eq!(client.post("do it", "x", &[]).await.unwrap_err().kind, ErrorKind::UnknownOutcome);
}
