//! What goes wrong between Jenkins and whoever asks.

use super::answer::{Answer, Ask};

/// What goes wrong with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// Jenkins is not ready: 503 and a page.
    Starting,
    /// A page of something before it, with this status, in place of the answer; Jenkins hears nothing.
    Page(u16),
    /// 500 where the answer is 404, as 1.398 has it right after a node is deleted.
    ErrorForMissing,
    /// Some keys stand twice in a document, the first time without a value.
    DoubledKeys,
    /// The connection ends before Jenkins hears of it.
    CutBefore,
    /// Jenkins does it, and the connection ends in the middle of the answer.
    CutAfter,
    /// Jenkins does it, and the answer comes only when the test lets it: [`super::FakeJenkins::release`].
    Held,
}

/// Requests that are in for trouble.
struct Due {
    part: String,
    left: u32,
    trouble: Trouble,
}

/// All trouble ahead, first come first served.
#[derive(Default)]
pub(super) struct Troubles(Vec<Due>);

impl Troubles {
    /// So many requests in whose "METHOD /path" that part stands are in for it.
    pub fn add(&mut self, part: &str, times: u32, trouble: Trouble) {
        self.0.push(Due { part: part.to_owned(), left: times, trouble });
    }

    /// What this one is in for.
    pub fn take(&mut self, ask: &Ask) -> Option<Trouble> {
        let line = format!("{} /{}", ask.method, ask.path.join("/"));
        let due = self.0.iter_mut().find(|due| due.left > 0 && line.contains(&due.part))?;
        due.left -= 1;
        Some(due.trouble)
    }
}

impl Trouble {
    /// The answer in place of any.
    pub(super) fn instead(self) -> Option<Answer> {
        match self {
            Self::Starting => Some(Answer::html(
                503,
                "Starting Jenkins",
                "Please wait while Jenkins is getting ready to work",
            )),
            Self::Page(status) => Some(Answer::html(status, "A proxy", "Something went wrong on the way")),
            _ => None,
        }
    }

    /// What becomes of an answer.
    pub(super) fn spoil(self, answer: Answer) -> Answer {
        match self {
            Self::ErrorForMissing if answer.status == 404 => Answer::error(500, "Server Error"),
            Self::DoubledKeys => {
                let mut answer = answer;
                for key in ["displayName", "why", "url", "idle", "building"] {
                    answer.body =
                        answer.body.replace(&format!("\"{key}\":"), &format!("\"{key}\":null,\"{key}\":"));
                }
                answer
            }
            _ => answer,
        }
    }
}
