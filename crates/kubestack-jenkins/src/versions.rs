//! What differs from version to version. Today's Jenkins is the product; its ancestor is what a real server in our
//! tests is, and stands apart. What one version tells and another leaves out (`labelExpression` since 2.94) needs no line
//! here: it is asked for, and read if it is there.

/// One line of servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Profile {
    /// The type of a permanent node in `doCreateItem`: the descriptor's id.
    pub node_type: &'static str,
    /// Below a node: what tells its secret. The newer name is there since 2.264, the older still is.
    pub secret_page: &'static str,
    /// The API tells a node's description and why it is offline. Without it only the node's page does.
    pub tells_nodes: bool,
    /// Agents take name and secret from environment or arguments; else the address of the page that tells them.
    pub names_agents: bool,
    /// Swarm: `createSlave` hands out the agent's secret. Version 1 wants a `swarmSecret` instead, and answers nothing.
    pub swarm_tells_secret: bool,
}

/// Jenkins since 2.264.
pub const TODAY: Profile = Profile {
    node_type: "hudson.slaves.DumbSlave",
    secret_page: "jenkins-agent.jnlp",
    tells_nodes: true,
    names_agents: true,
    swarm_tells_secret: true,
};

/// Hudson 1.395 and what is like it. Its answers carry no `X-Jenkins`.
pub const ANCESTOR: Profile = Profile {
    node_type: "hudson.slaves.DumbSlave$DescriptorImpl",
    secret_page: "slave-agent.jnlp",
    tells_nodes: false,
    names_agents: false,
    swarm_tells_secret: false,
};

/// Which of them answers so; `version` is the header `X-Jenkins`.
pub fn profile(version: Option<&str>) -> &'static Profile {
    if version.is_some() { &TODAY } else { &ANCESTOR }
}
