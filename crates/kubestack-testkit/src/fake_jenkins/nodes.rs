//! Requests for nodes.

use super::answer::Answer;
use super::documents::encode;
use super::security::Permission;
use super::site::{Request, Said, Site};
use super::state::{BUILT_IN, Node};
use serde_json::Value;

impl Site {
    /// Below `computer`.
    pub fn computers(&mut self, request: &Request<'_>, rest: &[&str]) -> Said {
        match rest {
            [] => Ok(Answer::html(200, "Nodes [Jenkins]", "")),
            ["api", "json"] => {
                let document = self.documents(request).computers();
                self.document(request, document)
            }
            ["doCreateItem"] => self.create_from_form(request),
            ["createItem"] if self.controller.version.creates_nodes_from_xml() => {
                self.change(request, Permission::AgentCreate)?;
                let node = from_xml(&request.ask.body);
                let name = request.ask.field("name").unwrap_or_default();
                self.controller.create(name, node)?;
                Ok(Answer::empty(200))
            }
            [name, rest @ ..] => {
                let name = if matches!(*name, "(built-in)" | "(master)") { BUILT_IN } else { name };
                if !self.controller.nodes.contains_key(name) {
                    return Err(Answer::not_found());
                }
                self.computer(request, name, rest)
            }
        }
    }

    fn computer(&mut self, request: &Request<'_>, name: &str, rest: &[&str]) -> Said {
        let home = format!("{}computer/{}/", self.root, encode(name));
        let user = request.caller.name.as_str();
        let message = request.ask.field("offlineMessage").unwrap_or_default();
        let hudson = self.controller.version.is_hudson();
        match rest {
            [] => Ok(self.page(name)),
            ["api", "json"] => {
                let document = self.documents(request).computer(name).ok_or_else(Answer::not_found)?;
                self.document(request, document)
            }
            ["config.xml"] if hudson => Err(Answer::not_found()),
            ["config.xml"] if request.writes => {
                self.require(request, Permission::AgentConfigure)?;
                let new = from_xml(&request.ask.body);
                let node = self.controller.agent(name)?;
                let (channel, cookie) = (node.channel, node.cookie.clone());
                *node = Node { channel, cookie, swarm: node.swarm, ..new };
                Ok(Answer::empty(200))
            }
            ["config.xml"] => {
                self.require(request, Permission::AgentExtendedRead)?;
                Ok(Answer::xml(xml(name, self.controller.agent(name)?)))
            }
            ["toggleOffline"] => {
                let out = self.controller.nodes.get(name).is_some_and(|node| node.taken_out.is_some());
                self.change(
                    request,
                    if out { Permission::AgentConnect } else { Permission::AgentDisconnect },
                )?;
                self.controller.toggle(name, user, message)?;
                Ok(Answer::redirect(302, home))
            }
            ["changeOfflineCause"] if !hudson => {
                self.change(request, Permission::AgentDisconnect)?;
                self.controller.change_cause(name, user, message)?;
                Ok(Answer::redirect(302, home))
            }
            ["doDisconnect"] => {
                self.change(request, Permission::AgentDisconnect)?;
                self.controller.disconnect(name, Some(user), message);
                Ok(Answer::redirect(302, home))
            }
            ["doDelete"] => {
                self.change(request, Permission::AgentDelete)?;
                self.controller.delete(name)?;
                // The container of today takes the dots out.
                let nodes = if hudson { format!("{home}..") } else { format!("{}computer/", self.root) };
                Ok(Answer::redirect(302, nodes))
            }
            ["slave-agent.jnlp"] => self.secret_page(request, name),
            ["jenkins-agent.jnlp"] if self.controller.version.new_secret_page() => {
                self.secret_page(request, name)
            }
            _ => Err(Answer::not_found()),
        }
    }

    /// What people see of a node; of the ancestor's nodes only this tells description and reason.
    fn page(&self, name: &str) -> Answer {
        let Some(node) = self.controller.nodes.get(name) else { return Answer::not_found() };
        let cause = node.taken_out.as_ref().or(node.lost.as_ref());
        let cause = cause.map(|cause| match &cause.by {
            Some(by) => format!("Disconnected by {by} : {}", cause.reason),
            None => "Connection was broken".to_owned(),
        });
        let text = format!("{}</p><p>{}", escape(&node.description), escape(&cause.unwrap_or_default()));
        Answer::html(200, &escape(&self.controller.display_name(name)), &text)
    }

    fn secret_page(&mut self, request: &Request<'_>, name: &str) -> Said {
        self.require(request, Permission::AgentConnect)?;
        let web_socket = self.controller.agent(name)?.web_socket;
        let mut arguments = vec![self.controller.secret(name), escape(name)];
        if web_socket {
            arguments.push("-webSocket".to_owned());
        }
        arguments.extend(["-url".to_owned(), self.root.clone()]);
        let arguments: String = arguments.iter().map(|it| format!("<argument>{it}</argument>")).collect();
        let main = "hudson.remoting.jnlp.Main";
        let body =
            format!("<jnlp><application-desc main-class=\"{main}\">{arguments}</application-desc></jnlp>");
        Ok(Answer::text(200, "application/x-java-jnlp-file", body))
    }

    fn create_from_form(&mut self, request: &Request<'_>) -> Said {
        self.change(request, Permission::AgentCreate)?;
        let name = request.ask.field("name").unwrap_or_default();
        let kind = request.ask.field("type").unwrap_or_default();
        let form: Value = serde_json::from_str(request.ask.field("json").unwrap_or_default())
            .map_err(|_| Answer::error(400, "Bad Request"))?;
        // The ancestor binds the form as it is, and a node needs a name.
        let nameless = self.controller.version.is_hudson() && form.get("name").is_none();
        if !matches!(kind, "hudson.slaves.DumbSlave" | "hudson.slaves.DumbSlave$DescriptorImpl") || nameless {
            return Err(Answer::error(500, "Server Error"));
        }
        self.controller.create(name, from_form(&form))?;
        Ok(Answer::redirect(302, format!("{}computer/", self.root)))
    }
}

fn from_form(form: &Value) -> Node {
    let text = |key: &str| form.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let executors = match form.get("numExecutors") {
        Some(Value::String(text)) => text.trim().parse().ok(),
        Some(number) => number.as_u64().and_then(|number| number.try_into().ok()),
        None => None,
    };
    Node {
        description: text("nodeDescription"),
        labels: text("labelString"),
        executors: executors.unwrap_or_default(),
        exclusive: text("mode") == "EXCLUSIVE",
        remote_fs: text("remoteFS"),
        web_socket: form.pointer("/launcher/webSocket").and_then(Value::as_bool).unwrap_or_default(),
        ..Node::default()
    }
}

fn from_xml(xml: &str) -> Node {
    let text = |key: &str| super::state::element(xml, key).unwrap_or_default();
    Node {
        description: text("description"),
        labels: text("label"),
        executors: text("numExecutors").trim().parse().unwrap_or_default(),
        exclusive: text("mode") == "EXCLUSIVE",
        remote_fs: text("remoteFS"),
        web_socket: text("webSocket") == "true",
        ..Node::default()
    }
}

fn xml(name: &str, node: &Node) -> String {
    let mode = if node.exclusive { "EXCLUSIVE" } else { "NORMAL" };
    let class = if node.swarm { "hudson.plugins.swarm.SwarmSlave" } else { "slave" };
    format!(
        "<?xml version=\"1.1\" encoding=\"UTF-8\"?>\n<{class}><name>{}</name><description>{}</description><remoteFS>{}</remoteFS><numExecutors>{}</numExecutors><mode>{mode}</mode><retentionStrategy class=\"hudson.slaves.RetentionStrategy$Always\"/><launcher class=\"hudson.slaves.JNLPLauncher\"><webSocket>{}</webSocket></launcher><label>{}</label><nodeProperties/></{class}>",
        escape(name),
        escape(&node.description),
        escape(&node.remote_fs),
        node.executors,
        node.web_socket,
        escape(&node.labels),
    )
}

/// A text within markup.
pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
