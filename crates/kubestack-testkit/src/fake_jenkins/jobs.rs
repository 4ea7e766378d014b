//! Requests for jobs, builds and the queue.

use super::answer::Answer;
use super::documents::encode;
use super::security::Permission;
use super::site::{Request, Said, Site};

impl Site {
    /// `createItem?name=`.
    pub fn create_job(&mut self, request: &Request<'_>) -> Said {
        self.change(request, Permission::ItemCreate)?;
        if !request.ask.header("content-type").is_some_and(|kind| kind.contains("xml")) {
            return Err(Answer::failure(400, "No mode given"));
        }
        self.controller.create_job(request.ask.field("name").unwrap_or_default(), &request.ask.body)?;
        Ok(Answer::text(200, "text/html;charset=utf-8", ""))
    }

    /// Below `job/NAME`.
    pub fn job(&mut self, request: &Request<'_>, name: &str, rest: &[&str]) -> Said {
        if !self.sees_jobs(request) || !self.controller.jobs.contains_key(name) {
            return Err(Answer::not_found());
        }
        let home = format!("{}job/{}/", self.root, encode(name));
        match rest {
            [] => Ok(Answer::html(200, name, "Project")),
            ["api", "json"] => {
                let document = self.documents(request).job(name).ok_or_else(Answer::not_found)?;
                self.document(request, document)
            }
            ["config.xml"] if request.writes => {
                self.require(request, Permission::ItemConfigure)?;
                self.controller.configure_job(name, &request.ask.body)?;
                Ok(Answer::empty(200))
            }
            ["config.xml"] => {
                self.require(request, Permission::ItemExtendedRead)?;
                let job = self.controller.jobs.get(name).ok_or_else(Answer::not_found)?;
                Ok(Answer::xml(job.xml.clone()))
            }
            ["build" | "buildWithParameters"] => self.build(request, name, &home),
            [what @ ("enable" | "disable")] => {
                self.change(request, Permission::ItemConfigure)?;
                self.controller.disable(name, *what == "disable")?;
                Ok(Answer::redirect(302, home))
            }
            ["doDelete"] => {
                self.change(request, Permission::ItemDelete)?;
                self.controller.delete_job(name)?;
                Ok(Answer::redirect(302, self.root.clone()))
            }
            [number, "api", "json"] => {
                let mut builds = self.controller.builds_of(name);
                let build = match *number {
                    "lastBuild" => builds.next_back(),
                    number => builds.find(|build| build.number.to_string() == number),
                };
                let document = self.documents(request).build(build.ok_or_else(Answer::not_found)?);
                self.document(request, document)
            }
            _ => Err(Answer::not_found()),
        }
    }

    fn build(&mut self, request: &Request<'_>, name: &str, home: &str) -> Said {
        self.change(request, Permission::ItemBuild)?;
        let delay = request.ask.field("delay").map(|text| text.trim_end_matches("sec"));
        let quiet = delay.and_then(|seconds| seconds.parse::<u64>().ok()).map(|seconds| seconds * 1000);
        let own = ["delay", "token", "cause", "json"];
        let params =
            request.ask.fields.iter().filter(|(key, _)| !own.contains(&key.as_str())).cloned().collect();
        let id = self.controller.schedule(name, quiet, params, &request.caller.name)?;
        Ok(if self.controller.version.is_hudson() {
            Answer::redirect(302, home.to_owned())
        } else {
            Answer::redirect(201, format!("{}queue/item/{id}/", self.root))
        })
    }

    /// Below `queue`.
    pub fn queue(&mut self, request: &Request<'_>, rest: &[&str]) -> Said {
        match rest {
            ["api", "json"] => {
                let document = self.documents(request).queue();
                self.document(request, document)
            }
            ["item", id, "api", "json"]
                if !self.controller.version.is_hudson() && self.sees_jobs(request) =>
            {
                let id = id.parse().map_err(|_| Answer::not_found())?;
                let queue = &self.controller.queue;
                let documents = self.documents(request);
                let waiting = queue.items.get(&id).map(|item| documents.item(item));
                let document = waiting.or_else(|| queue.left.get(&id).map(|left| documents.left(left)));
                self.document(request, document.ok_or_else(Answer::not_found)?)
            }
            ["cancelItem"] if !self.controller.version.is_hudson() => {
                self.change(request, Permission::ItemCancel)?;
                let id = request.ask.field("id").and_then(|id| id.parse().ok()).unwrap_or_default();
                let now = self.controller.now;
                let left = self.controller.queue.leave(id, now, true);
                if left { Ok(Answer::empty(204)) } else { Err(Answer::not_found()) }
            }
            _ => Err(Answer::not_found()),
        }
    }
}
