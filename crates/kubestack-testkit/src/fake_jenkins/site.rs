//! The HTTP surface: who may ask, and what is asked of which part. Pure: one request in, one answer out.

use super::answer::{Answer, Ask};
use super::documents::{Documents, encode};
use super::security::{Caller, Permission, Security, Sessions, caller, crumb, may};
use super::state::{Controller, Fault};
use super::swarm::Swarm;
use super::words::Locale;
use serde_json::{Value, json};

/// A controller with what stands between it and the wire.
pub(super) struct Site {
    pub controller: Controller,
    pub security: Option<Security>,
    pub sessions: Sessions,
    pub swarm: Swarm,
    /// Its own address; ends with `/`.
    pub root: String,
    /// Whether it is not ready yet.
    pub starting: bool,
}

/// What was asked, by whom.
pub(super) struct Request<'a> {
    pub ask: &'a Ask,
    pub caller: Caller,
    pub writes: bool,
}

/// `Err` is an answer too: one that ends the matter early.
pub(super) type Said = Result<Answer, Answer>;

impl From<Fault> for Answer {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Missing => Self::not_found(),
            Fault::Refused(text) => Self::failure(400, &text),
            Fault::Conflict(text) => Self::text(409, "text/plain; UTF-8", text),
        }
    }
}

impl Site {
    /// Answers one request.
    pub fn answer(&mut self, ask: &Ask) -> Answer {
        self.controller.settle();
        let answer = self.admit(ask).unwrap_or_else(|answer| answer);
        self.controller.settle();
        if self.controller.version.is_hudson() {
            return answer;
        }
        answer
            .with("X-Content-Type-Options", "nosniff")
            .with("X-Hudson", "1.395")
            .with("X-Jenkins", self.controller.version.to_string())
            .with("X-Jenkins-Session", self.controller.session.clone())
    }

    fn admit(&mut self, ask: &Ask) -> Said {
        if self.starting {
            let text = "Please wait while Jenkins is getting ready to work";
            return Err(Answer::html(503, "Starting Jenkins", text));
        }
        let path: Vec<&str> = ask.path.iter().map(String::as_str).collect();
        if path == ["login"] {
            return Ok(Answer::html(200, "Sign in [Jenkins]", "<form><input name=\"j_username\"></form>"));
        }
        let caller =
            caller(self.security.as_ref(), &self.sessions, ask.header("authorization"), ask.session());
        let Some(caller) = caller else {
            return Err(
                Answer::error(401, "Unauthorized").with("WWW-Authenticate", "Basic realm=\"Jenkins\"")
            );
        };
        let writes = ask.method == "POST";
        if writes && self.wants_crumb(&caller) && !self.has_crumb(ask, &caller) {
            return Err(Answer::error(403, "No valid crumb was included in the request"));
        }
        let request = Request { ask, caller, writes };
        if path == ["whoAmI", "api", "json"] {
            let known = request.caller.name != "anonymous";
            let document = json!({
                "_class": "hudson.security.WhoAmI", "anonymous": !known, "authenticated": known,
                "authorities": if known { json!(["authenticated"]) } else { json!([]) }, "name": request.caller.name,
            });
            return if self.controller.version.is_hudson() {
                Err(Answer::not_found())
            } else {
                self.document(&request, document)
            };
        }
        self.require(&request, Permission::OverallRead)?;
        self.route(&request, &path)
    }

    fn wants_crumb(&self, caller: &Caller) -> bool {
        self.security.as_ref().is_some_and(|security| !security.without_crumbs) && !caller.by_token
    }

    /// The session that a crumb holds for, if this version has it so.
    fn bound<'a>(&self, ask: &'a Ask) -> Option<&'a str> {
        self.sessions.known(ask.session()).filter(|_| self.controller.version.binds_crumbs())
    }

    fn has_crumb(&self, ask: &Ask, caller: &Caller) -> bool {
        let field = self.controller.version.crumb_field();
        let given = ask.header(&field.to_lowercase()).or_else(|| ask.field(field));
        let bound = self.bound(ask);
        let held = bound.is_some() || !self.controller.version.binds_crumbs();
        held && given.is_some_and(|given| given == crumb(&self.controller.session, &caller.name, bound))
    }

    /// Whether whoever asks has that permission; if not, why.
    pub fn require(&self, request: &Request<'_>, permission: Permission) -> Result<(), Answer> {
        if may(self.security.as_ref(), &request.caller, permission) {
            return Ok(());
        }
        let (id, title) = permission.names();
        let name = &request.caller.name;
        let anonymous = name == "anonymous";
        let from: String = request.ask.path.iter().map(|part| format!("/{part}")).collect();
        if anonymous && self.security.as_ref().is_some_and(|security| security.login_redirect) {
            return Err(Answer::redirect(302, format!("{}login?from={}", self.root, encode(&from))));
        }
        let details = format!(
            "<!--\nYou are authenticated as: {name}\nGroups that you are in:\n\nPermission you need to have (but didn't): {id}\n ... which is implied by: hudson.model.Hudson.Administer\n-->"
        );
        let page = if anonymous {
            let text =
                format!("<script>window.location.replace('login?from={}')</script>{details}", encode(&from));
            Answer::html(403, "Authentication required", &text)
        } else {
            Answer::html(403, "Access Denied", &format!("{name} is missing the {title} permission"))
        };
        Err(page
            .with("X-You-Are-Authenticated-As", name.clone())
            .with("X-Required-Permission", id)
            .with("X-Permission-Implied-By", "hudson.model.Hudson.Administer"))
    }

    /// As `require`, for what only a POST may do. The ancestor takes any method.
    pub fn change(&self, request: &Request<'_>, permission: Permission) -> Result<(), Answer> {
        if !request.writes && !self.controller.version.is_hudson() {
            let page = Answer::html(
                405,
                "Form POST required",
                "<form method=\"POST\"><button>Try POSTing</button></form>",
            );
            return Err(page.with("Allow", "POST"));
        }
        self.require(request, permission)
    }

    /// Whether whoever asks may see jobs.
    pub fn sees_jobs(&self, request: &Request<'_>) -> bool {
        may(self.security.as_ref(), &request.caller, Permission::ItemRead)
    }

    /// The documents for that request.
    pub fn documents(&self, request: &Request<'_>) -> Documents<'_> {
        let wanted = request.ask.header("accept-language").and_then(Locale::wanted);
        Documents {
            controller: &self.controller,
            root: &self.root,
            locale: wanted.unwrap_or(self.controller.locale),
            sees_jobs: self.sees_jobs(request),
        }
    }

    /// A document as far as it was asked for.
    pub fn document(&self, request: &Request<'_>, document: Value) -> Said {
        Ok(Answer::document(self.controller.version, request.ask, document))
    }

    fn route(&mut self, request: &Request<'_>, path: &[&str]) -> Said {
        match path {
            [] => Ok(Answer::html(200, "Dashboard [Jenkins]", "")),
            ["api", "json"] => {
                let crumbs = self.security.as_ref().is_some_and(|security| !security.without_crumbs);
                let document = self.documents(request).root(self.security.is_some(), crumbs);
                self.document(request, document)
            }
            ["computer", rest @ ..] => self.computers(request, rest),
            ["queue", rest @ ..] => self.queue(request, rest),
            ["createItem"] => self.create_job(request),
            ["job", name, rest @ ..] => self.job(request, name, rest),
            ["label", name, "api", "json"] => {
                let document = self.documents(request).label(name);
                self.document(request, document)
            }
            ["crumbIssuer", "api", "json"] => self.issue(request),
            ["me", "api", "json"] if request.caller.name != "anonymous" => {
                let name = &request.caller.name;
                self.document(request, json!({"_class": "hudson.model.User", "id": name, "fullName": name}))
            }
            ["plugin", "swarm", what] => self.swarm(request, what),
            ["quietDown" | "cancelQuietDown"] => {
                self.change(request, Permission::OverallAdminister)?;
                self.controller.quieting = path == ["quietDown"];
                Ok(Answer::redirect(302, self.root.clone()))
            }
            _ => Err(Answer::not_found()),
        }
    }

    fn issue(&mut self, request: &Request<'_>) -> Said {
        if self.security.as_ref().is_none_or(|security| security.without_crumbs) {
            return Err(Answer::not_found());
        }
        let (salt, user) = (self.controller.session.clone(), request.caller.name.clone());
        let known = self.sessions.known(request.ask.session()).map(str::to_owned);
        let fresh = known.is_none();
        let session = known.unwrap_or_else(|| self.sessions.begin(&salt, &user));
        let bound = Some(session.as_str()).filter(|_| self.controller.version.binds_crumbs());
        let document = json!({
            "_class": "hudson.security.csrf.DefaultCrumbIssuer",
            "crumb": crumb(&salt, &user, bound),
            "crumbRequestField": self.controller.version.crumb_field(),
        });
        let answer = self.document(request, document)?;
        let cookie = format!("JSESSIONID.fake={session}; Path=/; HttpOnly; SameSite=Lax");
        Ok(if fresh { answer.with("Set-Cookie", cookie) } else { answer })
    }
}
