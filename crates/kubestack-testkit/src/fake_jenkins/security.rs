//! Who may do what: users, tokens, permissions, sessions and crumbs.

use super::state::hex;
use base64::Engine as _;
use std::collections::{BTreeMap, BTreeSet};

/// A permission of Jenkins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "Jenkins' own names")]
pub enum Permission {
    OverallAdminister,
    OverallRead,
    ItemRead,
    ItemExtendedRead,
    ItemCreate,
    ItemConfigure,
    ItemDelete,
    ItemBuild,
    ItemCancel,
    AgentCreate,
    AgentDelete,
    AgentConnect,
    AgentDisconnect,
    AgentConfigure,
    AgentExtendedRead,
}

impl Permission {
    /// What the least-permissions list of `docs/jenkins.md` names, without the one that is for old servers.
    pub const DAEMON: [Self; 6] = [
        Self::OverallRead,
        Self::ItemRead,
        Self::AgentCreate,
        Self::AgentDelete,
        Self::AgentConnect,
        Self::AgentDisconnect,
    ];

    /// As `X-Required-Permission` says it, and as people read it.
    pub fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::OverallAdminister => ("hudson.model.Hudson.Administer", "Overall/Administer"),
            Self::OverallRead => ("hudson.model.Hudson.Read", "Overall/Read"),
            Self::ItemRead => ("hudson.model.Item.Read", "Job/Read"),
            Self::ItemExtendedRead => ("hudson.model.Item.ExtendedRead", "Job/ExtendedRead"),
            Self::ItemCreate => ("hudson.model.Item.Create", "Job/Create"),
            Self::ItemConfigure => ("hudson.model.Item.Configure", "Job/Configure"),
            Self::ItemDelete => ("hudson.model.Item.Delete", "Job/Delete"),
            Self::ItemBuild => ("hudson.model.Item.Build", "Job/Build"),
            Self::ItemCancel => ("hudson.model.Item.Cancel", "Job/Cancel"),
            Self::AgentCreate => ("hudson.model.Computer.Create", "Agent/Create"),
            Self::AgentDelete => ("hudson.model.Computer.Delete", "Agent/Delete"),
            Self::AgentConnect => ("hudson.model.Computer.Connect", "Agent/Connect"),
            Self::AgentDisconnect => ("hudson.model.Computer.Disconnect", "Agent/Disconnect"),
            Self::AgentConfigure => ("hudson.model.Computer.Configure", "Agent/Configure"),
            Self::AgentExtendedRead => ("hudson.model.Computer.ExtendedRead", "Agent/ExtendedRead"),
        }
    }
}

/// A user.
#[derive(Clone, Debug)]
struct User {
    password: String,
    token: String,
    may: BTreeSet<Permission>,
}

/// A server with users: anonymous may nothing, and changes take a crumb unless they come with a token.
#[derive(Clone, Debug, Default)]
pub struct Security {
    users: BTreeMap<String, User>,
    /// Whether changes take no crumb.
    pub without_crumbs: bool,
    /// Whether a login page of others stands before it: whoever is nobody is sent there, and gets no 403.
    pub login_redirect: bool,
}

impl Security {
    /// Adds a user with a password, an API token, and what he may do.
    #[must_use]
    pub fn user(mut self, name: &str, password: &str, token: &str, may: &[Permission]) -> Self {
        let may = may.iter().copied().collect();
        self.users.insert(name.to_owned(), User { password: password.into(), token: token.into(), may });
        self
    }
}

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Caller {
    /// Nobody in particular is `anonymous`.
    pub name: String,
    /// Came with a token, and with no session that is his already: needs no crumb.
    pub by_token: bool,
}

/// Sessions and the crumbs that hold for them. Both end with the server.
#[derive(Default)]
pub(super) struct Sessions {
    /// Whose each is.
    of: BTreeMap<String, String>,
    next: u64,
}

impl Sessions {
    /// A new one for that user.
    pub fn begin(&mut self, salt: &str, user: &str) -> String {
        self.next += 1;
        let id: String = hex(&format!("{salt} session {}", self.next)).chars().take(26).collect();
        self.of.insert(id.clone(), user.to_owned());
        id
    }

    /// That one, if it is there.
    pub fn known<'a>(&self, cookie: Option<&'a str>) -> Option<&'a str> {
        cookie.filter(|id| self.of.contains_key(*id))
    }

    /// All of them end.
    pub fn end(&mut self) {
        self.of.clear();
    }

    fn is_of(&self, cookie: Option<&str>, user: &str) -> bool {
        cookie.and_then(|id| self.of.get(id)).is_some_and(|of| of == user)
    }
}

/// The crumb of a user in a session.
pub(super) fn crumb(salt: &str, user: &str, session: Option<&str>) -> String {
    hex(&format!("{salt} {user};{}", session.unwrap_or_default()))
}

/// Who sends these headers; `None` where the password is wrong.
pub(super) fn caller(
    security: Option<&Security>,
    sessions: &Sessions,
    authorization: Option<&str>,
    cookie: Option<&str>,
) -> Option<Caller> {
    let nobody = Caller { name: "anonymous".to_owned(), by_token: false };
    let (Some(security), Some(header)) = (security, authorization) else {
        // A session is enough to be somebody.
        let of = cookie.and_then(|id| sessions.of.get(id));
        return Some(of.map_or(nobody, |name| Caller { name: name.clone(), by_token: false }));
    };
    let basic = base64::prelude::BASE64_STANDARD.decode(header.strip_prefix("Basic ")?).ok()?;
    let basic = String::from_utf8(basic).ok()?;
    let (name, secret) = basic.split_once(':')?;
    let user = security.users.get(name)?;
    let by_token = secret == user.token;
    if !by_token && secret != user.password {
        return None;
    }
    // The check for tokens is skipped for whom the session knows already.
    Some(Caller { name: name.to_owned(), by_token: by_token && !sessions.is_of(cookie, name) })
}

/// Whether he may.
pub(super) fn may(security: Option<&Security>, caller: &Caller, permission: Permission) -> bool {
    let Some(security) = security else { return true };
    security.users.get(&caller.name).is_some_and(|user| {
        user.may.contains(&permission) || user.may.contains(&Permission::OverallAdminister)
    })
}
