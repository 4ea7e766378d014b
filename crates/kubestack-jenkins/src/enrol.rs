//! Making a node, and what its agent is told.

use crate::config::Attach;
use crate::master::Jenkins;
use crate::nodes::place;
use crate::versions::Profile;
use kubestack_core::prelude::*;
use serde_json::{Value, json};

/// How the images of 2015 are started; everything comes by environment, so that nothing stands in the pod.
const SWARM_CLIENT: &str = r#"exec /usr/local/bin/jenkins-slave.sh -master "$JENKINS_URL" -name "$JENKINS_AGENT_NAME" -username "$JENKINS_USER" -password "$JENKINS_PASSWORD" -executors 1 -mode "$JENKINS_MODE" -labels "$JENKINS_LABELS""#;

/// Makes Jenkins expect an agent.
pub async fn enrol(jenkins: &Jenkins, request: &EnrolRequest) -> Result<EnrolOutcome> {
    let own = jenkins.config.attach;
    let attach = match &request.label.attach {
        None => own,
        Some(text) => Attach::parse(text).ok_or_else(|| {
            let text = format!("Jenkins knows no attach `{text}`; there are inbound, swarm and swarm-client");
            Error::invalid(text).with_cause(FailureCause::Config)
        })?,
    };
    match attach {
        Attach::Inbound => inbound(jenkins, request).await,
        Attach::Swarm => swarm(jenkins, request).await,
        // It decides what a look at the nodes can tell, and that is for the whole master.
        Attach::SwarmClient if own != Attach::SwarmClient => {
            let text = "attach `swarm-client` is for a whole master; set it in its entry, or use an entry of its own";
            Err(Error::invalid(text).with_cause(FailureCause::Config))
        }
        Attach::SwarmClient => Ok(EnrolOutcome::Enrolled(swarm_client(jenkins, request))),
    }
}

async fn inbound(jenkins: &Jenkins, request: &EnrolRequest) -> Result<EnrolOutcome> {
    let client = &jenkins.client;
    let profile = client.profile().await?;
    let form = node(profile, &jenkins.config.work_dir, jenkins.config.web_socket, request).to_string();
    let name = request.agent.as_str();
    let what = format!("make node {name}");
    let fields = [("name", name), ("type", profile.node_type), ("json", form.as_str())];
    match client.post(&what, "computer/doCreateItem", &fields).await {
        Ok(_) => {}
        Err(error) if error.kind == ErrorKind::Invalid && error.message.contains("already exists") => {
            return Ok(EnrolOutcome::AlreadyExists);
        }
        Err(error) if error.kind == ErrorKind::Invalid => {
            return Err(error.with_cause(FailureCause::EnrolmentRefused));
        }
        Err(error) => return Err(error),
    }
    with_secret(jenkins, profile, name).await
}

/// The form that Jenkins' own page for a new node sends.
fn node(profile: &Profile, work_dir: &str, web_socket: bool, request: &EnrolRequest) -> Value {
    let class = |name: &str| json!({"stapler-class": name, "$class": name});
    let inbound = "hudson.slaves.JNLPLauncher";
    let launcher = if profile.names_agents {
        let settings = json!({
            "disabled": false, "workDirPath": "", "internalDir": "remoting", "failIfWorkDirIsMissing": false,
        });
        json!({
            "stapler-class": inbound, "$class": inbound, "webSocket": web_socket, "workDirSettings": settings,
        })
    } else {
        class(inbound)
    };
    json!({
        "name": request.agent.as_str(),
        "nodeDescription": request.marks.to_text(),
        "numExecutors": "1",
        "remoteFS": work_dir,
        "labelString": labels(request),
        "mode": mode(request),
        "type": profile.node_type,
        "retentionStrategy": class("hudson.slaves.RetentionStrategy$Always"),
        "nodeProperties": {"stapler-class-bag": "true"},
        "launcher": launcher,
    })
}

/// Jobs without a label go to nodes that are not exclusive.
fn mode(request: &EnrolRequest) -> &'static str {
    if request.label.unlabelled { "NORMAL" } else { "EXCLUSIVE" }
}

/// The labels as Jenkins reads them: with blanks between them, in quotes where one has blanks itself.
fn labels(request: &EnrolRequest) -> String {
    let quoted = request.label.provides.iter().map(|label| {
        let odd =
            label.contains(|character: char| character.is_whitespace() || "\"'\\&|!<>()".contains(character));
        if odd { format!("\"{}\"", label.replace('\\', "\\\\").replace('"', "\\\"")) } else { label.clone() }
    });
    quoted.collect::<Vec<_>>().join(" ")
}

/// What an agent needs that gets its name and secret and nothing else.
async fn with_secret(jenkins: &Jenkins, profile: &Profile, name: &str) -> Result<EnrolOutcome> {
    let page = format!("{}/{}", place(name), profile.secret_page);
    let text = jenkins.client.text(&format!("read the secret of {name}"), &page).await;
    // From here on there is a node: an error that says otherwise would let it be forgotten.
    let doubt = |text: String| Error::unknown_outcome(format!("node {name} was made, but {text}"));
    let text = text.map_err(|error| doubt(error.message))?;
    let secret = secret(&text).ok_or_else(|| doubt(format!("{page} tells no secret")))?;
    Ok(EnrolOutcome::Enrolled(credentials(jenkins, profile, name, secret)))
}

/// The secret in the page for agents: the first argument, 64 hex digits.
fn secret(page: &str) -> Option<&str> {
    let arguments = page.split("<argument>").skip(1).filter_map(|rest| rest.split("</argument>").next());
    let hex = |text: &&str| text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    arguments.map(str::trim).next().filter(hex)
}

fn url(jenkins: &Jenkins) -> String {
    let url = jenkins.config.internal_url.as_ref().unwrap_or(&jenkins.config.external_url);
    url.trim_end_matches('/').to_owned()
}

/// The environment of `jenkins/inbound-agent`.
fn credentials(jenkins: &Jenkins, profile: &Profile, name: &str, secret: &str) -> Enrolment {
    let mut enrolment = Enrolment::default();
    let mut set = |key: &str, value: String| enrolment.env.insert(key.to_owned(), value);
    set("JENKINS_URL", format!("{}/", url(jenkins)));
    set("JENKINS_AGENT_NAME", name.to_owned());
    set("JENKINS_AGENT_WORKDIR", jenkins.config.work_dir.clone());
    if jenkins.config.web_socket {
        set("JENKINS_WEB_SOCKET", "true".to_owned());
    }
    enrolment.secrets.insert("JENKINS_SECRET".to_owned(), secret.to_owned().into());
    if !profile.names_agents {
        let page = format!("{}/{}/{}", url(jenkins), place(name), profile.secret_page);
        enrolment.args.extend(["-jnlpUrl".to_owned(), page]);
    }
    enrolment
}

/// Over the Swarm plugin: the node goes when its agent disconnects, and when Jenkins is started anew.
async fn swarm(jenkins: &Jenkins, request: &EnrolRequest) -> Result<EnrolOutcome> {
    let client = &jenkins.client;
    let profile = client.profile().await?;
    let (name, what) = (request.agent.as_str(), format!("make node {} over the Swarm plugin", request.agent));
    let marks = request.marks.to_text();
    let labels = labels(request);
    let mut fields = vec![
        ("name", name),
        ("description", marks.as_str()),
        ("executors", "1"),
        ("remoteFsRoot", jenkins.config.work_dir.as_str()),
        ("labels", labels.as_str()),
        ("mode", mode(request)),
    ];
    if profile.swarm_tells_secret {
        fields.extend([("deleteExistingClients", "false"), ("keepDisconnectedClients", "false")]);
        let answer = match client.post(&what, "plugin/swarm/createSlave", &fields).await {
            Ok(answer) => answer,
            Err(error) if error.kind == ErrorKind::Conflict => return Ok(EnrolOutcome::AlreadyExists),
            Err(error) => return Err(missing_plugin(error)),
        };
        let text = String::from_utf8_lossy(&answer);
        let (given, secret) = (property(&text, "name"), property(&text, "secret"));
        return match (given, secret) {
            (Some(given), Some(secret)) if given == name => {
                Ok(EnrolOutcome::Enrolled(credentials(jenkins, profile, name, secret)))
            }
            (Some(given), Some(_)) => Err(Error::unknown_outcome(format!(
                "the Swarm plugin called the node {given} in place of {name}"
            ))),
            _ => with_secret(jenkins, profile, name).await,
        };
    }
    // Version 1 gives another name to a node whose name is taken, and says nothing of it.
    if crate::nodes::one(client, name).await?.is_some() {
        return Ok(EnrolOutcome::AlreadyExists);
    }
    let info = client
        .text("read the Swarm plugin's secret", "plugin/swarm/slaveInfo")
        .await
        .map_err(missing_plugin)?;
    let secret =
        info.split_once("<swarmSecret>").and_then(|(_, rest)| rest.split_once('<')).map(|(secret, _)| secret);
    let Some(secret) = secret else {
        return Err(Error::bug(
            "the Swarm plugin tells no swarmSecret; its version is not one that is known",
        ));
    };
    fields.push(("secret", secret));
    client.post(&what, "plugin/swarm/createSlave", &fields).await?;
    with_secret(jenkins, profile, name).await
}

fn missing_plugin(error: Error) -> Error {
    if error.kind != ErrorKind::NotFound {
        return error;
    }
    let text = format!("{}; is the Swarm plugin installed? `attach: inbound` does without", error.message);
    Error::invalid(text).with_cause(FailureCause::EnrolmentRefused)
}

/// A value of a Java properties text.
fn property<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    let pairs = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once('='));
    pairs
        .map(|(name, value)| (name.trim(), value.trim()))
        .find(|(name, _)| *name == key)
        .map(|(_, value)| value)
}

fn swarm_client(jenkins: &Jenkins, request: &EnrolRequest) -> Enrolment {
    let mut enrolment = Enrolment::default();
    let mode = mode(request).to_lowercase();
    for (key, value) in [
        ("JENKINS_URL", url(jenkins)),
        ("JENKINS_AGENT_NAME", request.agent.to_string()),
        ("JENKINS_USER", jenkins.config.user.clone().unwrap_or_default()),
        ("JENKINS_LABELS", labels(request)),
        ("JENKINS_MODE", mode),
    ] {
        enrolment.env.insert(key.to_owned(), value);
    }
    if let Some(password) = &jenkins.password {
        enrolment.secrets.insert("JENKINS_PASSWORD".to_owned(), password.clone());
    }
    enrolment.args.extend(["sh", "-c", SWARM_CLIENT].map(str::to_owned));
    enrolment
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::versions::{ANCESTOR, TODAY};

    fn request(provides: &[&str], unlabelled: bool) -> EnrolRequest {
        let mut label = LabelSpec::new("a");
        label.provides = provides.iter().map(ToString::to_string).collect();
        label.unlabelled = unlabelled;
        let marks = Marks::new("ci".into(), "a".into(), "p".into(), Some("j".into()), (1, 2), "t".into());
        EnrolRequest::new(label, marks)
    }

    #[test]
    fn the_form_of_today_no_real_server_checked_it() {
        insta::assert_snapshot!(
            serde_json::to_string_pretty(&node(&TODAY, "/w", true, &request(&["a", "b c", "q\"x"], false)))
                .unwrap()
        );
    }

    #[test]
    fn a_label_for_jobs_without_a_label_is_not_exclusive() {
        assert_eq!(node(&ANCESTOR, "/w", false, &request(&["a"], true))["mode"], "NORMAL");
        assert_eq!(node(&ANCESTOR, "/w", false, &request(&["a"], false))["mode"], "EXCLUSIVE");
    }

    #[test]
    fn the_secret_is_the_first_argument_or_there_is_none() {
        let hex = "3943709451c8c7e2f7ad7f6465b504e96087f6fc07d6fea404096e23330fd87f";
        let real =
            format!("<application-desc main-class=\"m\"><argument>{hex}</argument><argument>ks-1</argument>");
        assert_eq!(secret(&real), Some(hex));
        for bad in ["", "<html>login</html>", "<argument>ks-1</argument>", "<argument>"] {
            assert_eq!(secret(bad), None, "{bad}");
        }
    }

    #[test]
    fn properties_of_the_swarm_plugin_of_today_no_real_server_checked_it() {
        let text = "#\n#Mon Jan 05 12:00:00 UTC 2026\nsecret=abc\nname=n-1\n";
        assert_eq!(
            (property(text, "name"), property(text, "secret"), property(text, "x")),
            (Some("n-1"), Some("abc"), None)
        );
    }
}
