//! The fake Jenkins against the real Hudson 1.395: both are asked the same questions in the same order, and all that the fake
//! tells as that version, the real one tells as well, in the same words.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use kubestack_testbed::hudson::{Hudson, hudson};
use kubestack_testkit::fake_jenkins::{FakeJenkins, Options, Swarm, Version};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::process::Command;
use std::time::Duration;

/// Far more than anything here takes.
const BOUND: Duration = Duration::from_secs(180);

/// What the real one tells and the fake leaves out, as nobody here reads it.
const UNCLAIMED: [&str; 28] = [
    "changeSet",
    "artifacts",
    "culprits",
    "currentWorkUnit",
    "description",
    "downstreamProjects",
    "healthReport",
    "icon",
    "id",
    "keepDependencies",
    "keepLog",
    "lastFailedBuild",
    "lastStableBuild",
    "lastSuccessfulBuild",
    "lastUnstableBuild",
    "lastUnsuccessfulBuild",
    "loadStatistics",
    "monitorData",
    "nodeDescription",
    "overallLoad",
    "primaryView",
    "propertiesList",
    "property",
    "queueItem",
    "scm",
    "upstreamProjects",
    "views",
    "actions",
];

/// What differs from moment to moment.
const VOLATILE: [&str; 5] =
    ["timestamp", "buildableStartMilliseconds", "duration", "progress", "slaveAgentPort"];

/// Asks with curl; status, type and place of the answer, and its body.
fn ask(root: &str, method: &str, path: &str, form: &[(&str, &str)], xml: Option<&str>) -> (String, String) {
    let mut curl = Command::new("curl");
    curl.args(["-g", "-s", "-S", "-i", "-X", method]).arg(format!("{root}/{path}"));
    for (key, value) in form {
        curl.args(["--data-urlencode", &format!("{key}={value}")]);
    }
    if let Some(xml) = xml {
        curl.args(["-H", "Content-Type: application/xml", "--data-binary", xml]);
    }
    let output = curl.output().unwrap();
    assert!(output.status.success(), "{method} {path}: {output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let field = |name: &str| {
        head.lines().find_map(|line| line.split_once(": ").filter(|(key, _)| key.eq_ignore_ascii_case(name)))
    };
    let status = head.split(' ').nth(1).unwrap();
    let place = field("location").map_or("", |(_, value)| value.trim()).replace(root, "ROOT");
    let document = field("content-type").is_some_and(|(_, kind)| kind.contains("javascript"));
    (format!("{status} {place} {}", if document { "document" } else { "" }), body.to_owned())
}

/// All that the fake tells, the real one tells as well, and in the same words.
fn compare(at: &str, fake: &Value, real: &Value, left_out: &mut BTreeSet<String>) {
    match (fake, real) {
        (Value::Object(fake), Value::Object(real)) => {
            for (key, value) in fake {
                let other =
                    real.get(key).unwrap_or_else(|| panic!("{at}: the real one has no `{key}`: {real:?}"));
                if VOLATILE.contains(&key.as_str()) {
                    assert_eq!(value.is_number(), other.is_number(), "{at}.{key}: {value} and {other}");
                } else {
                    compare(&format!("{at}.{key}"), value, other, left_out);
                }
            }
            left_out.extend(real.keys().filter(|key| !fake.contains_key(*key)).cloned());
        }
        (Value::Array(fake), Value::Array(real)) => {
            assert_eq!(fake.len(), real.len(), "{at}: {fake:?} and {real:?}");
            for (index, (fake, real)) in fake.iter().zip(real).enumerate() {
                compare(&format!("{at}[{index}]"), fake, real, left_out);
            }
        }
        _ => assert_eq!(fake, real, "{at}"),
    }
}

/// Both servers.
struct Both {
    fake: FakeJenkins,
    real: Hudson,
    left_out: BTreeSet<String>,
}

impl Both {
    fn both(&mut self, method: &str, path: &str, form: &[(&str, &str)], xml: Option<&str>) -> [String; 2] {
        let (fake, fake_body) = ask(self.fake.url(), method, path, form, xml);
        let (real, real_body) = ask(&self.real.url(), method, path, form, xml);
        assert_eq!(fake, real, "{method} {path}:\n{fake_body}\n{real_body}");
        [fake_body.replace(self.fake.url(), "ROOT"), real_body.replace(&self.real.url(), "ROOT")]
    }

    fn post(&mut self, path: &str, form: &[(&str, &str)]) {
        self.both("POST", path, form, None);
    }

    /// A document of the API, compared.
    fn document(&mut self, path: &str) -> Value {
        let bodies = self.both("GET", path, &[], None);
        let [fake, real] = bodies
            .map(|body| serde_json::from_str::<Value>(&body).unwrap_or_else(|_| panic!("{path}: {body}")));
        let mut left_out = BTreeSet::new();
        compare(path, &fake, &real, &mut left_out);
        // Deeper, the real one shows whole jobs and builds in place of their lines.
        if !path.contains("depth=") {
            self.left_out.extend(left_out);
        }
        real
    }

    /// Waits for the real one, which does things in its own time.
    fn until(&self, what: &str, path: &str, wanted: impl Fn(&Value) -> bool) {
        kubestack_testbed::wait(what, BOUND, || {
            let document: Value = serde_json::from_str(&self.real.request("GET", path, None)?)?;
            Ok(wanted(&document).then_some(()))
        })
        .unwrap();
    }

    fn node(&mut self, name: &str, labels: &str, mode: &str) {
        let class = |name: &str| json!({"stapler-class": name});
        let form = json!({
            "name": name, "nodeDescription": "d", "numExecutors": "1", "remoteFS": "/tmp/x", "labelString": labels,
            "mode": mode, "type": "hudson.slaves.DumbSlave$DescriptorImpl",
            "retentionStrategy": class("hudson.slaves.RetentionStrategy$Always"),
            "nodeProperties": {"stapler-class-bag": "true"}, "launcher": class("hudson.slaves.JNLPLauncher"),
        });
        let kind = "hudson.slaves.DumbSlave$DescriptorImpl";
        self.post("computer/doCreateItem", &[("name", name), ("type", kind), ("json", &form.to_string())]);
    }

    fn job(&mut self, name: &str, label: &str, script: &str) {
        let roams = label.is_empty();
        let label = if roams {
            String::new()
        } else {
            format!("<assignedNode>{}</assignedNode>", label.replace('&', "&amp;"))
        };
        let xml = format!(
            "<project><actions/><keepDependencies>false</keepDependencies><properties/><scm class=\"hudson.scm.NullSCM\"/>{label}<canRoam>{roams}</canRoam><disabled>false</disabled><triggers class=\"vector\"/><concurrentBuild>true</concurrentBuild><builders><hudson.tasks.Shell><command>{script}</command></hudson.tasks.Shell></builders><publishers/><buildWrappers/></project>"
        );
        self.both("POST", &format!("createItem?name={name}"), &[], Some(&xml));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hudson_answers_as_the_fake_says_that_it_does() {
    let Some(real) = hudson().unwrap() else { return };
    let options = Options {
        version: Version::HUDSON,
        context: String::new(),
        swarm: Swarm::Absent,
        built_in_executors: 2,
        ..Options::default()
    };
    let fake = FakeJenkins::start(options).await.unwrap();
    let mut both = Both { fake, real, left_out: BTreeSet::new() };
    for path in [
        "api/json",
        "computer/api/json",
        "computer/api/json?depth=1",
        "computer/(master)/api/json",
        "queue/api/json",
    ] {
        both.document(path);
    }
    for missing in [
        "computer/nix/api/json",
        "job/nix/api/json",
        "queue/item/1/api/json",
        "whoAmI/api/json",
        "crumbIssuer/api/json",
        "plugin/swarm/slaveInfo",
        "wsagents/",
        "nix",
    ] {
        both.both("GET", missing, &[], None);
    }

    // A job whose label no agent has, as agents come and go.
    both.job("ja", "a && !b", "true");
    both.job("ja", "a && !b", "true");
    both.post("job/ja/build?delay=0sec", &[]);
    both.until("item", "queue/api/json", |queue| queue["items"][0]["buildable"] == true);
    assert_eq!(both.document("queue/api/json")["items"][0]["why"], "Waiting for next available executor");
    both.post("job/ja/build?delay=0sec", &[]);
    both.document("queue/api/json");
    both.node("n1", "a", "EXCLUSIVE");
    both.node("n1", "a", "EXCLUSIVE");
    both.node("z", "b", "NORMAL");
    assert_eq!(both.document("queue/api/json?depth=1")["items"][0]["why"], "n1 is offline");
    both.node("n2", "a", "NORMAL");
    both.document("queue/api/json");
    both.document("queue/api/json?tree=items[why,stuck,task[name,url]]");
    both.document("job/ja/api/json");
    both.document("label/z/api/json");
    both.document("label/a%26%26%21b/api/json?tree=name,tiedJobs[name,url],nodes[nodeName]");
    let [fake, real] = both.both("GET", "job/ja/config.xml", &[], None);
    let label = "<assignedNode>a &amp;&amp; !b</assignedNode>";
    assert!(fake.contains(label) && real.contains(label), "{real}");

    // A node that is taken out, and put back.
    both.document("computer/n1/api/json");
    both.post("computer/n1/toggleOffline?offlineMessage=gone", &[]);
    both.document("computer/n1/api/json");
    both.document("computer/n1/api/json?depth=1");
    both.document("computer/api/json?tree=computer[displayName,description,offline,temporarilyOffline,offlineCauseReason,assignedLabels[name]]");
    let said = "Disconnected by anonymous : gone";
    assert!(both.both("GET", "computer/n1/", &[], None).iter().all(|page| page.contains(said)));
    both.post("computer/n1/toggleOffline", &[]);
    both.document("computer/n1/api/json");
    both.both("GET", "computer/n1/jenkins-agent.jnlp", &[], None);
    both.both("GET", "computer/n1/config.xml", &[], None);
    let pages = both.both("GET", "computer/n1/slave-agent.jnlp", &[], None);
    let arguments = pages.map(|page| {
        let parts = page.split("<argument>").skip(1).map(|part| part.split('<').next().unwrap().to_owned());
        let mut parts: Vec<String> = parts.collect();
        let secret = std::mem::take(&mut parts[0]);
        assert!(secret.len() == 64 && secret.bytes().all(|byte| byte.is_ascii_hexdigit()), "{page}");
        parts
    });
    assert_eq!(arguments[0], arguments[1]);

    // It is about to shut down, and then it is not: a job for any node runs on its own.
    both.both("GET", "quietDown", &[], None);
    both.job("free", "", "true");
    both.post("job/free/build?delay=0sec", &[]);
    let waits = |queue: &Value| {
        queue["items"].as_array().unwrap().iter().all(|item| item["buildable"] == true)
            && queue["items"].as_array().unwrap().len() == 2
    };
    both.until("second item", "queue/api/json", waits);
    both.document("queue/api/json");
    both.both("GET", "cancelQuietDown", &[], None);
    both.until("end of the build", "job/free/api/json", |job| job["lastCompletedBuild"].is_object());
    both.fake.finish("", "SUCCESS");
    both.document("job/free/1/api/json");
    both.document("job/free/lastBuild/api/json");
    both.document("job/free/api/json");

    // A real agent, and one that is none, with a job.
    let page = format!("{}/computer/n1/slave-agent.jnlp", both.real.url());
    let gate = both.real.directory().join("gate");
    both.job("busy", "n1", &format!("until [ -e {} ]; do sleep 0.1; done", gate.display()));
    both.post("job/ja/disable", &[]);
    both.post("job/busy/build?delay=0sec", &[]);
    both.real.start_agent("agent", &["-jnlpUrl".to_owned(), page]).unwrap();
    both.until("start of the build", "computer/n1/api/json", |node| node["idle"] == false);
    let [fake, _] = both.both("GET", "computer/n1/slave-agent.jnlp", &[], None);
    let secret = fake.split("<argument>").nth(1).unwrap().split('<').next().unwrap();
    let _agent = both.fake.attach("n1", secret).unwrap();
    both.document("computer/n1/api/json?depth=1");
    both.document("computer/api/json?tree=busyExecutors,totalExecutors,computer[displayName,idle,offline,executors[currentExecutable[number,url],idle,number]]");
    both.document("job/busy/1/api/json?tree=building,result,builtOn,number,url,fullDisplayName");
    both.document("job/busy/api/json?tree=color,inQueue,lastBuild[number,url],lastCompletedBuild[number]");
    both.document("queue/api/json");
    both.post("computer/n1/toggleOffline?offlineMessage=kubestack:%20drained", &[]);
    both.document("computer/n1/api/json?depth=1");
    std::fs::write(&gate, "").unwrap();
    both.until("end of the build", "job/busy/api/json", |job| job["lastCompletedBuild"].is_object());
    // A build has ended a moment before its executor is idle.
    both.until("idle executor", "computer/n1/api/json", |node| node["idle"] == true);
    both.fake.finish("n1", "SUCCESS");
    both.document("computer/n1/api/json?depth=1");
    both.document("job/busy/1/api/json?tree=building,result,builtOn,number,url");

    // And away with it all.
    both.post("computer/nix/doDelete", &[]);
    for node in ["n1", "n2", "z"] {
        both.post(&format!("computer/{node}/doDelete"), &[]);
        both.both("GET", &format!("computer/{node}/api/json"), &[], None);
    }
    both.post("job/ja/enable", &[]);
    both.document("job/ja/api/json");
    both.post("job/ja/doDelete", &[]);
    both.document("computer/api/json");
    both.document("api/json");
    let more: Vec<&String> = both.left_out.iter().filter(|key| !UNCLAIMED.contains(&key.as_str())).collect();
    assert!(
        more.is_empty(),
        "the real one tells these as well; claim them, or say here that nobody reads them: {more:?}"
    );
}
