//! Why an item waits, in the words of a version and a language (`hudson/model/Messages.properties`).

use super::version::Version;

/// A language in which the server talks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Locale {
    /// English.
    En,
    /// German; what it has no words for it says in English.
    De,
}

impl Locale {
    /// What a browser asks for, if it is one of these.
    pub(super) fn wanted(header: &str) -> Option<Self> {
        match header.trim().get(..2)? {
            "en" => Some(Self::En),
            "de" => Some(Self::De),
            _ => None,
        }
    }
}

/// A reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Why {
    Next,
    NextOn(String),
    AllOffline(String),
    NoNodes(String),
    Offline(String),
    Missing {
        node: String,
        label: String,
    },
    Reserved(String),
    InProgress,
    /// So many milliseconds are left.
    Quiet(u64),
    Finished,
    ShuttingDown,
    Several(Vec<Self>),
}

impl Why {
    pub fn text(&self, version: Version, locale: Locale) -> String {
        let q = |name: &String| if version.quotes() { format!("‘{name}’") } else { name.clone() };
        let label = |name: &String| match (locale, version.curly_labels()) {
            (Locale::De, true) => format!("„{name}“"),
            (_, true) => format!("‘{name}’"),
            (_, false) => format!("'{name}'"),
        };
        match (self, locale) {
            (Self::Next, Locale::En) => "Waiting for next available executor".to_owned(),
            (Self::Next, Locale::De) => "Warte auf den nächsten freien Build-Prozessor".to_owned(),
            (Self::NextOn(name), Locale::En) => format!("Waiting for next available executor on {}", q(name)),
            (Self::NextOn(name), Locale::De) => {
                format!("Warte auf den nächsten freien Build-Prozessor auf {}", q(name))
            }
            (Self::NoNodes(name), _) if !version.tells_missing_nodes() => {
                Self::AllOffline(name.clone()).text(version, locale)
            }
            (Self::NoNodes(name), Locale::En) => format!("There are no nodes with the label {}", label(name)),
            (Self::NoNodes(name), Locale::De) => {
                format!("Es gibt keine Knoten mit dem Label {}", label(name))
            }
            (Self::AllOffline(name), Locale::En) => format!("All nodes of label {} are offline", label(name)),
            (Self::AllOffline(name), Locale::De) => {
                format!("Alle Knoten des Labels {} sind offline", label(name))
            }
            (Self::Offline(name), Locale::En) => format!("{} is offline", q(name)),
            (Self::Offline(name), Locale::De) => format!("{} ist offline", q(name)),
            (Self::Missing { node, label }, _) if version.curly_labels() => {
                format!("{} doesn’t have label {}", q(node), q(label))
            }
            (Self::Missing { node, label }, _) => format!("{node} doesn't have label {label}"),
            (Self::Reserved(name), _) => {
                format!("{} is reserved for jobs with matching label expression", q(name))
            }
            (Self::InProgress, Locale::En) => "A build is already in progress".to_owned(),
            (Self::InProgress, Locale::De) => "Ein Build ist bereits in Arbeit".to_owned(),
            (Self::Quiet(left), _) if *left >= 1000 => {
                let (whole, tenth) = (left / 1000, left % 1000 / 100);
                format!("In the quiet period. Expires in {whole}.{tenth} sec")
            }
            (Self::Quiet(left), _) => format!("In the quiet period. Expires in {left} ms"),
            (Self::Finished, _) => "Finished waiting".to_owned(),
            (Self::ShuttingDown, _) if version.is_hudson() => "Hudson is about to shut down".to_owned(),
            (Self::ShuttingDown, Locale::En) => "Jenkins is about to shut down".to_owned(),
            (Self::ShuttingDown, Locale::De) => "Jenkins wird heruntergefahren".to_owned(),
            (Self::Several(all), _) => {
                let mut texts: Vec<String> = all.iter().map(|one| one.text(version, locale)).collect();
                texts.sort();
                texts.dedup();
                let more = texts.len().saturating_sub(5);
                texts.truncate(5);
                if more > 0 {
                    texts.push(format!("... and {more} more"));
                }
                texts.join("; ")
            }
        }
    }
}
