//! The Swarm plugin (`PluginImpl.java`): of today, and version 1 as a real 1.22 answered.

use super::answer::Answer;
use super::nodes::escape;
use super::security::Permission;
use super::site::{Request, Said, Site};
use super::state::{Fault, Node};

/// Which Swarm plugin is installed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Swarm {
    /// None.
    #[default]
    Absent,
    /// Today's, which hands out the agent's secret.
    Today,
    /// Version 1, which wants the secret of its `slaveInfo` and tells nothing.
    One,
}

/// What version 1 wants.
const SWARM_SECRET: &str = "5d0b8f7e-swarm";

impl Site {
    /// Below `plugin/swarm`.
    pub fn swarm(&mut self, request: &Request<'_>, what: &str) -> Said {
        let field = |name: &str| request.ask.field(name).unwrap_or_default();
        match (self.swarm, what) {
            (Swarm::Today, "createSlave") => self.create_today(request),
            (Swarm::Today, "getSlaveLabels") => self.told(field("name")),
            (Swarm::Today, "addSlaveLabels" | "removeSlaveLabels") => {
                let given = field("labels").split_whitespace().map(str::to_owned);
                let name = field("name");
                self.known(name)?;
                self.change(request, Permission::AgentConfigure)?;
                let node = self.controller.agent(name)?;
                let mut labels: Vec<String> = node.labels.split_whitespace().map(str::to_owned).collect();
                for label in given {
                    labels.retain(|other| *other != label);
                    if what == "addSlaveLabels" {
                        labels.push(label);
                    }
                }
                node.labels = labels.join(" ");
                self.told(name)
            }
            (Swarm::One, "slaveInfo") => {
                Ok(Answer::xml(format!("<slaveInfo><swarmSecret>{SWARM_SECRET}</swarmSecret></slaveInfo>")))
            }
            (Swarm::One, "createSlave") => {
                if field("secret") != SWARM_SECRET {
                    return Err(Answer::error(403, "Forbidden"));
                }
                let mut name = field("name").to_owned();
                if self.controller.nodes.contains_key(&name) {
                    name.push_str("-127.0.0.1");
                }
                self.controller.create(&name, node(request)?)?;
                Ok(Answer::empty(200))
            }
            _ => Err(Answer::not_found()),
        }
    }

    fn create_today(&mut self, request: &Request<'_>) -> Said {
        self.change(request, Permission::AgentCreate)?;
        self.require(request, Permission::AgentConnect)?;
        let field = |name: &str| request.ask.field(name).unwrap_or_default();
        let mut name = field("name").to_owned();
        let replaces = field("deleteExistingClients") == "true";
        if !field("hash").is_empty() {
            name = format!("{name}-{}", field("hash"));
        } else if let Some(node) = self.controller.nodes.get(&name).filter(|_| !replaces) {
            let online = node.swarm && node.channel.is_some();
            let text = if online { "is already created and on-line." } else { "already exists." };
            return Err(Fault::Conflict(format!("Agent \"{name}\" {text}")).into());
        }
        let node = node(request)?;
        // Added without a word where one of that name is there.
        if self.controller.nodes.contains_key(&name) {
            self.controller.delete(&name)?;
        }
        self.controller.create(&name, node)?;
        let secret = self.controller.secret(&name);
        let body = format!("#\n#Mon Jan 05 12:00:00 UTC 2026\nname={name}\nsecret={secret}\n");
        Ok(Answer::text(200, "text/plain; charset=iso-8859-1", body))
    }

    fn known(&self, name: &str) -> Result<(), Answer> {
        if self.controller.nodes.contains_key(name) {
            return Ok(());
        }
        Err(Answer::text(404, "text/plain; UTF-8", format!("Agent \"{name}\" does not exist.")))
    }

    fn told(&mut self, name: &str) -> Said {
        self.known(name)?;
        let labels = escape(&self.controller.agent(name)?.labels);
        Ok(Answer::text(200, "text/xml", format!("<labelResponse><labels>{labels}</labels></labelResponse>")))
    }
}

fn node(request: &Request<'_>) -> Result<Node, Answer> {
    let field = |name: &str| request.ask.field(name).unwrap_or_default();
    let executors = field("executors").parse().map_err(|_| Answer::error(400, "Bad Request"))?;
    let description = match field("description") {
        "" => String::new(),
        text => format!(": {text}"),
    };
    Ok(Node {
        description: format!("Swarm agent from 127.0.0.1{description}"),
        labels: format!("swarm {}", field("labels")).trim_end().to_owned(),
        executors,
        exclusive: field("mode") == "EXCLUSIVE",
        remote_fs: field("remoteFsRoot").to_owned(),
        swarm: true,
        keeps: field("keepDisconnectedClients") == "true",
        ..Node::default()
    })
}
