//! Which nodes can be ours, by name alone: where a server tells no marks, or an agent makes its own node.

use kubestack_core::name::{AgentName, InstanceName};

/// Names of one installation.
pub struct Ours {
    instance: InstanceName,
    /// Clients of the Swarm plugin append `-` and eight hex digits to the name that they are given.
    appended: bool,
}

impl Ours {
    /// Names of that installation; `appended` where agents make their own nodes.
    pub fn new(instance: InstanceName, appended: bool) -> Self {
        Self { instance, appended }
    }

    /// The installation.
    pub fn instance(&self) -> &InstanceName {
        &self.instance
    }

    /// The name of the agent behind a node.
    pub fn agent<'a>(&self, node: &'a str) -> &'a str {
        let agent = self.appended.then(|| AgentName::before_appended(&self.instance, node)).flatten();
        agent.unwrap_or(node)
    }

    /// Whether an agent of ours could be called so.
    pub fn is_ours(&self, agent: &str) -> bool {
        AgentName::may_be_of(&self.instance, agent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_swarm_client_appended_is_taken_off_in_that_mode_only() {
        let agent = AgentName::compose(&"ci".into(), &"a b".into(), 3, 12_345_678);
        let node = format!("{agent}-0123abcd");
        assert_eq!(Ours::new("ci".into(), true).agent(&node), agent.as_str());
        assert_eq!(Ours::new("ci".into(), false).agent(&node), node);
        for other in
            [agent.as_str(), "static-01-0123abcd", "ci-0123abcd", "ci-a-1-2-0123ABCD", "xy-a-1-2-0123abcd"]
        {
            assert_eq!(Ours::new("ci".into(), true).agent(other), other);
        }
    }
}
