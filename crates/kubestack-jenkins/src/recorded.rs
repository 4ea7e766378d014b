//! A wire that takes down what passes, without what is nobody's business.

use crate::wire::{Lost, Wire};
use base64::Engine as _;
use bytes::Bytes;
use http::{HeaderMap, Request, Response, Uri};
use http_body_util::{BodyExt, Full, Limited};
use kubestack_core::transcript::{Exchange, Transcript};
use std::collections::BTreeMap;
use tower::util::BoxCloneSyncService;
use tower::{ServiceExt, service_fn};

/// Headers of answers that this crate reads; cookies are left out.
const HEADERS: [&str; 7] = [
    "content-type",
    "location",
    "x-error",
    "x-hudson",
    "x-jenkins",
    "x-jenkins-session",
    "x-required-permission",
];

/// What is not to be taken down of one Jenkins.
#[derive(Clone)]
pub struct Masks {
    /// The entry's name in the config.
    pub system: String,
    /// Where it is: `https://ci.example.org/jenkins`.
    pub base: String,
    /// Secrets as they are.
    pub secrets: Vec<String>,
}

/// The same wire, with a transcript.
pub fn recorded(wire: Wire, transcript: Transcript, masks: Masks) -> Wire {
    BoxCloneSyncService::new(service_fn(move |request: Request<Full<Bytes>>| {
        let (wire, transcript, masks) = (wire.clone(), transcript.clone(), masks.clone());
        async move {
            let asked = format!("{} {}", request.method(), masks.path(request.uri()));
            let (head, body) = wire.oneshot(request).await?.into_parts();
            let body = Limited::new(body, crate::client::MAX_ANSWER).collect().await;
            let body = body.map_err(|error| Lost::NoAnswer(error.to_string()))?.to_bytes();
            let text = String::from_utf8_lossy(&body);
            let kept =
                if asked.ends_with("/config.xml") { what_is_read_of_a_job(&text) } else { text.into_owned() };
            transcript.add(Exchange {
                system: masks.system.clone(),
                asked: masks.text(&asked),
                status: head.status.as_u16(),
                headers: masks.headers(&head.headers),
                body: masks.text(&kept),
            });
            let body = Full::new(body).map_err(|never| match never {}).boxed_unsync();
            Ok(Response::from_parts(head, body))
        }
    }))
}

impl Masks {
    /// The path below the server's own.
    fn path(&self, uri: &Uri) -> String {
        let own = self.base.parse::<Uri>().map(|base| base.path().trim_end_matches('/').to_owned());
        let path = uri.path_and_query().map_or("", |path| path.as_str());
        let below = path.strip_prefix(own.as_deref().unwrap_or_default()).unwrap_or(path);
        below.trim_start_matches('/').to_owned()
    }

    fn headers(&self, headers: &HeaderMap) -> BTreeMap<String, String> {
        let kept = HEADERS.iter().filter_map(|name| Some((*name, headers.get(*name)?.to_str().ok()?)));
        kept.map(|(name, value)| (name.to_owned(), self.text(value))).collect()
    }

    /// A text without secrets, without the server's address, and without numbers that may be secrets: crumbs, agents' secrets.
    fn text(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for secret in self.secrets.iter().filter(|secret| !secret.is_empty()) {
            text = text.replace(secret.as_str(), "***");
            text = text.replace(&base64::prelude::BASE64_STANDARD.encode(secret), "***");
        }
        text = text.replace(self.base.trim_end_matches('/'), "http://jenkins.invalid");
        let host = self.base.parse::<Uri>().ok().and_then(|base| Some(base.authority()?.as_str().to_owned()));
        if let Some(host) = host.as_deref() {
            text = text.replace(host, "jenkins.invalid");
        }
        zeros(&text)
    }
}

/// Runs of 32 hex digits and more, as zeros.
fn zeros(text: &str) -> String {
    let mut masked = String::with_capacity(text.len());
    for part in text.split_inclusive(|character: char| !character.is_ascii_hexdigit()) {
        let digits = part.trim_end_matches(|character: char| !character.is_ascii_hexdigit());
        if digits.len() >= 32 {
            masked.extend(std::iter::repeat_n('0', digits.len()));
            masked.push_str(part.get(digits.len()..).unwrap_or_default());
        } else {
            masked.push_str(part);
        }
    }
    masked
}

/// A job's config has whatever its authors wrote; of it only this is read.
fn what_is_read_of_a_job(xml: &str) -> String {
    let element = |name: &str| {
        let (open, close) = (format!("<{name}>"), format!("</{name}>"));
        let begin = xml.find(&open)?;
        let end = xml.get(begin..)?.find(&close)? + begin + close.len();
        xml.get(begin..end)
    };
    let kept = ["assignedNode", "canRoam"].into_iter().filter_map(element);
    format!("<project>{}</project>", kept.collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::{Client, Credentials};
    use crate::master::JenkinsMaster;
    use kubestack_core::prelude::*;
    use kubestack_testkit::host::RuntimeClock;
    use serde_json::json;
    use std::path::Path;
    use std::sync::{Arc, Mutex};

    const SECRET: &str = "3943709451c8c7e2f7ad7f6465b504e96087f6fc07d6fea404096e23330fd87f";

    /// A wire that answers as a transcript says: what was asked often, in its order, and then as the last time.
    fn replay(exchanges: Vec<Exchange>) -> Wire {
        let left = Arc::new(Mutex::new(exchanges));
        BoxCloneSyncService::new(service_fn(move |request: Request<Full<Bytes>>| {
            let asked =
                format!("{} {}", request.method(), &request.uri().path_and_query().unwrap().as_str()[1..]);
            let mut left = left.lock().unwrap();
            let places: Vec<usize> = (0..left.len()).filter(|index| left[*index].asked == asked).collect();
            assert!(!places.is_empty(), "{asked} was never asked");
            let (place, last) = (places[0], places.len() == 1);
            let exchange = if last { left[place].clone() } else { left.remove(place) };
            let mut answer = Response::builder().status(exchange.status);
            for (name, value) in &exchange.headers {
                answer = answer.header(name, value);
            }
            let body = Full::new(Bytes::from(exchange.body)).map_err(|never| match never {}).boxed_unsync();
            let answer = answer.body(body).unwrap();
            async move { Ok::<_, Lost>(answer) }
        }))
    }

    fn master(wire: Wire, base: &str) -> JenkinsMaster {
        let config = Fragment::from_value(json!({"external_url": base})).parse().unwrap();
        let clock = Arc::new(RuntimeClock::start());
        JenkinsMaster::new("ci".into(), Client::new(wire, base, Credentials::Anonymous, clock), config, None)
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_nobody_s_business_is_not_taken_down_and_the_rest_can_be_played_again() {
        let base = "https://ci.example.org/jenkins";
        let body = json!({
            "computer": [{"displayName": "n", "description": "s3cret czNjcmV0 ci.example.org", "executors": [{"currentExecutable": {"url": format!("{base}/job/a/1/")}}], "offlineCauseReason": SECRET}],
        });
        let headers = [("x-jenkins", "2.579"), ("set-cookie", "JSESSIONID=1"), ("x-secret", "x")];
        let real = BoxCloneSyncService::new(service_fn(move |request: Request<Full<Bytes>>| {
            let xml = "<project><command>curl -u me:pw</command><assignedNode>a</assignedNode></project>";
            let text =
                if request.uri().path().ends_with("config.xml") { xml.to_owned() } else { body.to_string() };
            let mut answer = Response::builder();
            for (name, value) in headers {
                answer = answer.header(name, value);
            }
            let answer =
                answer.body(Full::new(Bytes::from(text)).map_err(|never| match never {}).boxed_unsync());
            async move { Ok::<_, Lost>(answer.unwrap()) }
        }));
        let transcript = Transcript::default();
        let masks = Masks { system: "jenkins".into(), base: base.into(), secrets: vec!["s3cret".into()] };
        let wire = recorded(real, transcript.clone(), masks);
        let seen = master(wire.clone(), base).agents().await.unwrap();
        let config = Request::get(format!("{base}/job/a/config.xml")).body(Full::default()).unwrap();
        wire.oneshot(config).await.unwrap();

        let exchanges = transcript.exchanges();
        let text = serde_json::to_string(&exchanges).unwrap();
        for hidden in ["s3cret", "czNjcmV0", SECRET, "example.org", "JSESSIONID", "x-secret", "me:pw"] {
            assert!(!text.contains(hidden), "{hidden}: {text}");
        }
        assert_eq!(exchanges.last().unwrap().body, "<project><assignedNode>a</assignedNode></project>");
        assert_eq!(exchanges.last().unwrap().asked, "GET job/a/config.xml");

        let again = master(replay(exchanges), "http://jenkins.invalid").agents().await.unwrap();
        let shape =
            |look: &AgentsSnapshot| look.agents.iter().map(|view| view.name.clone()).collect::<Vec<_>>();
        assert_eq!(shape(&again), shape(&seen));
        assert_eq!(again.agents[0].run.as_deref(), Some("http://jenkins.invalid/job/a/1/"));
    }

    /// Each file in `transcripts/` is what `kubestack check --online --record` wrote for somebody. What was read there must be
    /// read for ever.
    #[tokio::test(start_paused = true)]
    async fn whatever_servers_answered_is_understood() {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/transcripts");
        let mut seen = 0;
        for path in std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()) {
            let text = std::fs::read_to_string(&path).unwrap();
            let exchanges: Vec<Exchange> =
                text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
            let master = master(replay(exchanges), "http://jenkins.invalid");
            for probe in master.probe().await {
                assert!(probe.result.is_ok(), "{}: {}: {:?}", path.display(), probe.what, probe.result);
            }
            seen += 1;
        }
        assert!(seen > 0);
    }
}
