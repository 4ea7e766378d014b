//! The pure part, request by request.

use super::answer::{Answer, Ask};
use super::security::{Permission, Security, Sessions};
use super::site::Site;
use super::state::{BUILT_IN, Controller};
use super::{Locale, Swarm, Version};
use base64::Engine as _;
use serde_json::Value;

fn site(version: Version) -> Site {
    let mut controller = Controller::new(version, 1_000_000);
    controller.nodes.get_mut(BUILT_IN).unwrap().executors = 0;
    Site {
        controller,
        security: None,
        sessions: Sessions::default(),
        swarm: Swarm::Today,
        root: "http://ci/jenkins/".to_owned(),
        starting: false,
    }
}

/// "METHOD path?query", then headers as "name: value".
fn ask(line: &str, headers: &[&str]) -> Ask {
    let (method, rest) = line.split_once(' ').unwrap();
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    Ask {
        method: method.to_owned(),
        path: path.split('/').filter(|part| !part.is_empty()).map(str::to_owned).collect(),
        fields: pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect(),
        headers: headers
            .iter()
            .filter_map(|it| it.split_once(": "))
            .map(|(k, v)| (k.into(), v.into()))
            .collect(),
        body: String::new(),
    }
}

fn header<'a>(answer: &'a Answer, name: &str) -> Option<&'a str> {
    answer.headers.iter().find(|(key, _)| *key == name).map(|(_, value)| value.as_str())
}

impl Site {
    fn does(&mut self, line: &str) -> Answer {
        self.answer(&ask(line, &[]))
    }

    fn json(&mut self, path: &str) -> Value {
        let answer = self.does(&format!("GET {path}"));
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        serde_json::from_str(&answer.body).unwrap()
    }

    fn has_job(&mut self, name: &str, label: &str, concurrent: bool) {
        let xml = format!(
            "<project><assignedNode>{label}</assignedNode><concurrentBuild>{concurrent}</concurrentBuild></project>"
        );
        self.controller.create_job(name, &xml).unwrap();
    }

    fn has_node(&mut self, name: &str, labels: &str, mode: &str) {
        let json = format!("{{\"numExecutors\":\"1\",\"labelString\":\"{labels}\",\"mode\":\"{mode}\"}}");
        let answer = self.does(&format!(
            "POST computer/doCreateItem?name={name}&type=hudson.slaves.DumbSlave&json={json}"
        ));
        assert_eq!((answer.status, header(&answer, "Location")), (302, Some("http://ci/jenkins/computer/")));
    }

    fn attach(&mut self, name: &str) -> u64 {
        let secret = self.controller.secret(name);
        self.controller.attach(name, &secret, "").unwrap()
    }

    fn why(&mut self) -> Vec<String> {
        let queue = self.json("queue/api/json");
        queue["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|item| item["why"].as_str().unwrap().to_owned())
            .collect()
    }
}

#[test]
fn why_an_item_waits_follows_the_nodes() {
    let mut site = site(Version::TODAY);
    site.has_job("j", "a &amp;&amp; !b", true);
    site.does("POST job/j/build?delay=0sec");
    assert_eq!(site.why(), ["Waiting for next available executor"], "without agents the label is dropped");
    site.controller.nodes.get_mut(BUILT_IN).unwrap().executors = 1;
    assert_eq!(site.why(), ["‘Built-In Node’ doesn’t have label ‘a&&!b’"]);
    site.has_node("other", "b a", "NORMAL");
    assert_eq!(site.why(), ["There are no nodes with the label ‘a&&!b’"]);
    site.has_node("n1", "a", "NORMAL");
    assert_eq!(site.why(), ["‘n1’ is offline"]);
    let item = &site.json("queue/api/json?tree=items[stuck,task[labelExpression]]")["items"][0];
    assert_eq!(
        (item["stuck"].as_bool(), item["task"]["labelExpression"].as_str()),
        (Some(true), Some("a && !b"))
    );
    site.has_node("n2", "a", "EXCLUSIVE");
    assert_eq!(site.why(), ["All nodes of label ‘a&&!b’ are offline"]);
    let german = site.answer(&ask("GET queue/api/json", &["accept-language: de-DE,de"]));
    assert!(german.body.contains("Alle Knoten des Labels „a&&!b“ sind offline"), "{}", german.body);
    site.controller.locale = Locale::De;
    assert!(site.does("GET queue/api/json").body.contains("sind offline"));
    let english = site.answer(&ask("GET queue/api/json", &["accept-language: en"]));
    assert!(english.body.contains("are offline"), "{}", english.body);
    site.controller.locale = Locale::En;
    site.attach("n2");
    assert_eq!(site.why(), [""; 0]);
    site.does("POST job/j/build?delay=0sec");
    assert_eq!(site.why(), ["Waiting for next available executor on ‘a&&!b’"]);
    site.does("POST computer/n1/doDelete");
    assert_eq!(site.why(), ["Waiting for next available executor on ‘n2’"]);
    site.does("POST computer/n2/toggleOffline?offlineMessage=x");
    assert_eq!(site.why(), ["‘n2’ is offline"], "one that was taken out counts as offline");
    site.controller.quieting = true;
    assert_eq!(site.why(), ["Jenkins is about to shut down"]);
}

#[test]
fn older_versions_say_it_in_other_words() {
    for (version, missing, one, two) in [
        (
            Version(2, 124),
            "There are no nodes with the label ‘a’",
            "n1 is offline",
            "All nodes of label ‘a’ are offline",
        ),
        (
            Version(1, 566),
            "All nodes of label ‘a’ are offline",
            "n1 is offline",
            "All nodes of label ‘a’ are offline",
        ),
        (
            Version(1, 525),
            "All nodes of label 'a' are offline",
            "n1 is offline",
            "All nodes of label 'a' are offline",
        ),
    ] {
        let mut site = site(version);
        site.has_job("j", "a", true);
        site.does("POST job/j/build?delay=0sec");
        site.has_node("z", "", "NORMAL");
        assert_eq!(site.why(), [missing], "{version}");
        site.has_node("n1", "a", "NORMAL");
        assert_eq!(site.why(), [one], "{version}");
        site.has_node("n2", "a", "NORMAL");
        assert_eq!(site.why(), [two], "{version}");
        let depth = site.json("queue/api/json?depth=1")["items"][0]["task"].clone();
        assert_eq!(depth.get("labelExpression").is_some(), version >= Version(2, 94), "{version}");
    }
}

#[test]
fn an_item_from_the_quiet_period_to_five_minutes_after_it_left() {
    let mut site = site(Version::TODAY);
    site.has_job("j", "", false);
    let answer = site.does("POST job/j/build");
    assert_eq!((answer.status, header(&answer, "Location")), (201, Some("http://ci/jenkins/queue/item/1/")));
    assert_eq!(site.why(), ["In the quiet period. Expires in 5.0 sec"]);
    site.does("POST job/j/build");
    let item = site.json("queue/item/1/api/json");
    assert_eq!(item["_class"], "hudson.model.Queue$WaitingItem");
    assert_eq!(item["actions"][0]["causes"].as_array().unwrap().len(), 2, "asked for twice, it is one");
    site.controller.now += 5_000;
    let item = site.json("queue/item/1/api/json");
    assert_eq!(
        (item["_class"].as_str(), item["pending"].as_bool()),
        (Some("hudson.model.Queue$BuildableItem"), Some(false))
    );
    site.has_node("e", "", "EXCLUSIVE");
    let channel = site.attach("e");
    assert_eq!(site.why(), ["‘e’ is reserved for jobs with matching label expression"]);
    site.controller.queue.holds_starts = true;
    site.has_node("n", "", "NORMAL");
    site.attach("n");
    assert_eq!(site.json("queue/item/1/api/json")["pending"], true);
    site.controller.queue.holds_starts = false;
    let left = site.json("queue/item/1/api/json");
    assert_eq!(left["executable"]["url"], "http://ci/jenkins/job/j/1/", "{left}");
    let computer = site.json("computer/n/api/json?tree=idle,executors[idle,currentExecutable[url,queueId]]");
    assert_eq!(computer["executors"][0]["currentExecutable"]["queueId"], 1, "{computer}");
    assert_eq!(site.json("computer/n/api/json")["executors"][0], serde_json::json!({}));
    // One build of it at a time, although another node is free.
    site.has_node("m", "", "NORMAL");
    site.attach("m");
    site.does("POST job/j/build?delay=0sec");
    let item = site.json("queue/item/2/api/json");
    assert_eq!(
        (item["_class"].as_str(), item["why"].as_str()),
        (Some("hudson.model.Queue$BlockedItem"), Some("A build is already in progress"))
    );
    site.controller.end_builds_on("n", "SUCCESS");
    assert_eq!(site.json("job/j/lastBuild/api/json")["number"], 2);
    site.controller.now += 5 * 60 * 1000;
    assert_eq!(site.does("GET queue/item/1/api/json").status, 404);
    site.controller.detach(channel);
}

#[test]
fn what_ends_with_an_agent() {
    let mut site = site(Version::TODAY);
    let made = |site: &mut Site, name: &str, keeps: bool| {
        let line = format!(
            "POST plugin/swarm/createSlave?name={name}&executors=1&labels=a&mode=EXCLUSIVE&keepDisconnectedClients={keeps}"
        );
        let answer = site.does(&line);
        assert!(
            answer.body.contains(&format!("name={name}\nsecret={}", site.controller.secret(name))),
            "{answer:?}"
        );
        assert_eq!(site.does(&line).status, 409);
        site.attach(name)
    };
    let (goes, stays) = (made(&mut site, "goes", false), made(&mut site, "stays", true));
    site.has_job("j", "swarm", true);
    site.does("POST job/j/build?delay=0sec");
    assert_eq!(site.json("computer/goes/api/json?depth=1")["idle"], false);
    site.controller.detach(goes);
    assert_eq!(site.json("job/j/1/api/json")["result"], "FAILURE");
    assert_eq!(site.does("GET computer/goes/api/json").status, 404);
    site.controller.detach(stays);
    assert_eq!(site.json("computer/stays/api/json")["offline"], true);
    // A restart forgets what was never on disk, and keeps the queue.
    site.has_node("n", "", "NORMAL");
    site.does("POST job/j/build?delay=0sec");
    let before = site.controller.session.clone();
    site.controller.restart();
    assert_ne!(site.controller.session, before);
    assert_eq!(site.controller.nodes.keys().collect::<Vec<_>>(), ["", "n"]);
    assert_eq!(site.why().len(), 1);
    // Deleting a node ends its connection.
    let channel = site.attach("n");
    site.does("POST computer/n/doDelete");
    assert!(!site.controller.is_connected(channel));
}

#[test]
fn statuses_and_what_is_said_with_them() {
    let mut site = site(Version::TODAY);
    site.has_node("n", "", "NORMAL");
    site.has_job("j", "", true);
    let dumb = "type=hudson.slaves.DumbSlave";
    for (line, status) in [
        ("GET computer/n/doDelete", 405),
        ("GET job/j/build", 405),
        ("POST computer/nix/doDelete", 404),
        ("POST computer/n/toggleOffline", 302),
        ("POST computer/n/changeOfflineCause?offlineMessage=x", 302),
        ("POST computer/n/doDisconnect", 302),
        ("POST computer/(built-in)/doDelete", 404),
        (&format!("POST computer/doCreateItem?name=n&{dumb}&json={{\"numExecutors\":1}}"), 400),
        (&format!("POST computer/doCreateItem?name=m&{dumb}&json={{\"numExecutors\":0}}"), 400),
        (&format!("POST computer/doCreateItem?name=a%b&{dumb}&json={{}}"), 400),
        (&format!("POST computer/doCreateItem?name=m&{dumb}&json=x"), 400),
        ("POST computer/doCreateItem?name=m&type=x&json={}", 500),
        ("GET queue/item/77/api/json", 404),
        ("POST queue/cancelItem?id=77", 404),
        ("GET queue/api/json?tree=items[", 500),
        ("GET crumbIssuer/api/json", 404),
        ("POST plugin/swarm/addSlaveLabels?name=nix&labels=a", 404),
        ("GET nix", 404),
    ] {
        let answer = site.does(line);
        assert_eq!(answer.status, status, "{line}: {answer:?}");
        assert!(header(&answer, "X-Jenkins").is_some());
    }
    let exists = site.does(&format!("POST computer/doCreateItem?name=n&{dumb}&json={{\"numExecutors\":1}}"));
    assert_eq!(header(&exists, "X-Error"), Some("Agent called ?n? already exists"), "Latin-1 only");
    let mut xml = ask("POST computer/createItem?name=x", &[]);
    xml.body = "<slave><label>a &amp; b</label><numExecutors>3</numExecutors></slave>".to_owned();
    assert_eq!((site.answer(&xml).status, site.answer(&xml).status), (200, 400));
    assert_eq!(site.json("computer/x/api/json")["numExecutors"], 3);
    site.controller.version = Version(2, 538);
    assert_eq!(site.answer(&xml).status, 404);
    site.controller.version = Version::TODAY;
    let labels = site.does("POST plugin/swarm/addSlaveLabels?name=n&labels=a b");
    assert!(labels.body.contains("<labels>a b</labels>"), "{labels:?}");
    site.does("POST job/j/build?delay=9sec");
    assert_eq!(site.does("POST queue/cancelItem?id=1").status, 204);
    assert_eq!(site.json("queue/item/1/api/json")["cancelled"], true);
    site.starting = true;
    assert_eq!(site.does("GET api/json").status, 503);
}

#[test]
fn who_may_what() {
    let all = Permission::DAEMON;
    let most = &all[..all.len() - 1];
    let mut site = site(Version::TODAY);
    site.has_node("n", "", "NORMAL");
    site.security = Some(Security::default().user("all", "p", "11aa", &all).user("most", "p", "11bb", most));
    let basic =
        |text: &str| format!("authorization: Basic {}", base64::prelude::BASE64_STANDARD.encode(text));
    let answer = site.answer(&ask("GET api/json", &[&basic("all:wrong")]));
    assert_eq!((answer.status, header(&answer, "WWW-Authenticate")), (401, Some("Basic realm=\"Jenkins\"")));
    let answer = site.does("GET api/json");
    assert_eq!((answer.status, header(&answer, "X-You-Are-Authenticated-As")), (403, Some("anonymous")));
    assert_eq!(header(&answer, "X-Required-Permission"), Some("hudson.model.Hudson.Read"));
    assert_eq!(site.does("GET whoAmI/api/json").status, 200);
    site.security.as_mut().unwrap().login_redirect = true;
    let answer = site.does("GET api/json");
    assert_eq!(
        (answer.status, header(&answer, "Location")),
        (302, Some("http://ci/jenkins/login?from=%2Fapi%2Fjson"))
    );

    let toggle = "POST computer/n/toggleOffline";
    let answer = site.answer(&ask(toggle, &[&basic("most:11bb")]));
    assert_eq!(header(&answer, "X-Required-Permission"), Some("hudson.model.Computer.Disconnect"));
    assert!(answer.body.contains("most is missing the Agent/Disconnect permission"));
    assert_eq!(site.answer(&ask(toggle, &[&basic("all:11aa")])).status, 302, "a token takes no crumb");

    // A password takes one, and it holds for one session of one user.
    let issued = site.answer(&ask("GET crumbIssuer/api/json", &[&basic("all:p")]));
    let crumb: Value = serde_json::from_str(&issued.body).unwrap();
    let crumb = format!("jenkins-crumb: {}", crumb["crumb"].as_str().unwrap());
    let cookie = header(&issued, "Set-Cookie").unwrap().split(';').next().unwrap();
    let cookie = format!("cookie: a=b; {cookie}");
    for (user, headers, status) in [
        ("all:p", vec![], 403),
        ("all:p", vec![&crumb], 403),
        ("all:p", vec![&cookie], 403),
        ("all:p", vec![&crumb, &cookie], 302),
        ("most:p", vec![&crumb, &cookie], 403),
        // Who brings a session along is checked for the crumb in spite of the token.
        ("all:11aa", vec![&cookie], 403),
        ("all:11aa", vec![&crumb, &cookie], 302),
    ] {
        let basic = basic(user);
        let mut all = vec![basic.as_str()];
        all.extend(headers.iter().map(|header| header.as_str()));
        let answer = site.answer(&ask(toggle, &all));
        assert_eq!(answer.status, status, "{user} {headers:?}: {answer:?}");
    }
    site.sessions.end();
    let answer = site.answer(&ask(toggle, &[&basic("all:p"), &crumb, &cookie]));
    assert!(answer.status == 403 && answer.body.contains("No valid crumb"), "{answer:?}");
    // Before SECURITY-626 no session was needed.
    site.controller.version = Version(2, 100);
    let issued = site.answer(&ask("GET crumbIssuer/api/json", &[&basic("all:p")]));
    let crumb: Value = serde_json::from_str(&issued.body).unwrap();
    let crumb = format!("jenkins-crumb: {}", crumb["crumb"].as_str().unwrap());
    assert_eq!(site.answer(&ask(toggle, &[&basic("all:p"), &crumb])).status, 302);
}
