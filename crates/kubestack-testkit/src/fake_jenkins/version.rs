//! What differs from version to version. Where a version is not known exactly, it is "after Hudson".

/// A version by its first two numbers, such as 2.579.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(
    /// Such as 2.
    pub u32,
    /// Such as 579.
    pub u32,
);

impl Version {
    /// What was read of Jenkins' sources, August 2026.
    pub const TODAY: Self = Self(2, 579);
    /// The ancestor, which the testbed has for real; a test compares the two.
    pub const HUDSON: Self = Self(1, 395);

    /// Whether it is the ancestor: its answers have no `X-Jenkins`, no `_class`, no numbers of queue items.
    pub(super) fn is_hudson(self) -> bool {
        self <= Self::HUDSON
    }

    /// Names in curly quotes in the words of the queue (2.125).
    pub(super) fn quotes(self) -> bool {
        self >= Self(2, 125)
    }

    /// The kinds of quotes around a label that is offline: curly since 1.526, straight before.
    pub(super) fn curly_labels(self) -> bool {
        self >= Self(1, 526)
    }

    /// "There are no nodes with the label" (1.567); before, they are all offline.
    pub(super) fn tells_missing_nodes(self) -> bool {
        self >= Self(1, 567)
    }

    /// `labelExpression` of jobs, `assignedLabels` of nodes (2.94).
    pub(super) fn tells_labels(self) -> bool {
        self >= Self(2, 94)
    }

    /// What the built-in node is called (2.307), and what its own label is.
    pub(super) fn built_in(self) -> (&'static str, &'static str) {
        if self >= Self(2, 307) { ("Built-In Node", "built-in") } else { ("master", "master") }
    }

    /// `jenkins-agent.jnlp` (2.264); `slave-agent.jnlp` is in all.
    pub(super) fn new_secret_page(self) -> bool {
        self >= Self(2, 264)
    }

    /// `computer/createItem` with a body of XML (2.539).
    pub(super) fn creates_nodes_from_xml(self) -> bool {
        self >= Self(2, 539)
    }

    /// Agents by WebSocket (2.216).
    pub(super) fn web_socket(self) -> bool {
        self >= Self(2, 216)
    }

    /// Crumbs hold for one session (2.176.2, SECURITY-626).
    pub(super) fn binds_crumbs(self) -> bool {
        self >= Self(2, 176)
    }

    /// The header that carries a crumb.
    pub(super) fn crumb_field(self) -> &'static str {
        if self >= Self(2, 0) { "Jenkins-Crumb" } else { ".crumb" }
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.0, self.1)
    }
}
