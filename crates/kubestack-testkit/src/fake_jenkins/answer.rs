//! What is asked, and what comes back, before it is HTTP.

use super::version::Version;
use serde_json::Value;
use std::collections::BTreeMap;

/// What is asked.
#[derive(Clone, Debug, Default)]
pub(super) struct Ask {
    pub method: String,
    /// Below the context path, each part decoded.
    pub path: Vec<String>,
    /// Of query and form.
    pub fields: Vec<(String, String)>,
    /// In lower case.
    pub headers: BTreeMap<String, String>,
    pub body: String,
}

impl Ask {
    /// The first field of that name.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// A header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    /// The cookie of a session.
    pub fn session(&self) -> Option<&str> {
        let cookies = self.header("cookie")?.split(';').map(str::trim);
        cookies.filter_map(|cookie| cookie.strip_prefix("JSESSIONID.fake=")).next_back()
    }
}

/// What comes back.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: String,
}

impl Answer {
    pub fn text(status: u16, kind: &'static str, body: impl Into<String>) -> Self {
        Self { status, headers: vec![("Content-Type", kind.to_owned())], body: body.into() }
    }

    pub fn html(status: u16, title: &str, text: &str) -> Self {
        let body = format!(
            "<!DOCTYPE html><html><head><title>{title}</title></head><body><h1>{title}</h1><p>{text}</p></body></html>"
        );
        Self::text(status, "text/html;charset=utf-8", body)
    }

    pub fn xml(body: impl Into<String>) -> Self {
        Self::text(200, "application/xml;charset=utf-8", body)
    }

    pub fn empty(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: String::new() }
    }

    /// To an absolute address.
    pub fn redirect(status: u16, location: String) -> Self {
        Self::empty(status).with("Location", location)
    }

    /// What its container says.
    pub fn error(status: u16, reason: &str) -> Self {
        Self::html(status, &format!("Error {status} {reason}"), &format!("HTTP ERROR {status} {reason}"))
    }

    pub fn not_found() -> Self {
        Self::error(404, "Not Found")
    }

    /// Words in a page, and in a header that has Latin-1 only.
    pub fn failure(status: u16, text: &str) -> Self {
        let latin: String = text.chars().map(|it| if it.is_ascii() { it } else { '?' }).collect();
        Self::html(status, "Error", text).with("X-Error", latin)
    }

    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// A document of the API: what `tree` asks for, or as much as `depth` does.
    pub fn document(version: Version, ask: &Ask, mut document: Value) -> Self {
        match ask.field("tree").map(Tree::parse) {
            Some(Some(tree)) => tree.keep(&mut document),
            Some(None) => return Self::error(500, "Server Error"),
            None if ask.field("depth").is_none_or(|depth| depth == "0") => shallow(&mut document),
            None => {}
        }
        if version.is_hudson() {
            without_class(&mut document);
            return Self::text(200, "application/javascript;charset=UTF-8", document.to_string());
        }
        Self::text(200, "application/json;charset=utf-8", document.to_string())
    }
}

/// Without a `tree`, things below these are shown from depth 1 on only.
fn shallow(document: &mut Value) {
    match document {
        Value::Object(fields) => {
            for (key, value) in fields.iter_mut() {
                match (key.as_str(), &mut *value) {
                    ("executors" | "oneOffExecutors", Value::Array(all)) => {
                        all.iter_mut().for_each(|one| *one = Value::Object(serde_json::Map::new()));
                    }
                    ("offlineCause", Value::Object(cause)) => cause.retain(|key, _| key == "_class"),
                    ("task", Value::Object(task)) => task.retain(|key, _| key != "labelExpression"),
                    _ => shallow(value),
                }
            }
        }
        Value::Array(all) => all.iter_mut().for_each(shallow),
        _ => {}
    }
}

fn without_class(document: &mut Value) {
    match document {
        Value::Object(fields) => {
            fields.remove("_class");
            fields.values_mut().for_each(without_class);
        }
        Value::Array(all) => all.iter_mut().for_each(without_class),
        _ => {}
    }
}

/// Which fields are asked for: `a,b[c,d{0,10}]`.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tree(BTreeMap<String, (Self, Option<(usize, usize)>)>);

impl Tree {
    fn parse(text: &str) -> Option<Self> {
        let mut rest = text;
        let tree = Self::read(&mut rest, 0)?;
        rest.is_empty().then_some(tree)
    }

    fn read(rest: &mut &str, depth: usize) -> Option<Self> {
        if depth > 50 {
            return None;
        }
        let mut tree = BTreeMap::new();
        loop {
            let end = rest.find(|it: char| "[],{}".contains(it)).unwrap_or(rest.len());
            let (name, after) = rest.split_at_checked(end)?;
            *rest = after;
            let mut below = Self::default();
            if let Some(after) = rest.strip_prefix('[') {
                *rest = after;
                below = Self::read(rest, depth + 1)?;
                *rest = rest.strip_prefix(']')?;
            }
            let mut range = None;
            if let Some((inner, after)) = rest.strip_prefix('{').and_then(|rest| rest.split_once('}')) {
                let (from, to) = inner.split_once(',')?;
                range = Some((from.parse().unwrap_or(0), to.parse().unwrap_or(usize::MAX)));
                *rest = after;
            }
            tree.insert(name.trim().to_owned(), (below, range));
            match rest.strip_prefix(',') {
                Some(after) => *rest = after,
                None => return Some(Self(tree)),
            }
        }
    }

    fn keep(&self, value: &mut Value) {
        match value {
            Value::Array(all) => all.iter_mut().for_each(|one| self.keep(one)),
            Value::Object(fields) => {
                fields.retain(|key, _| key == "_class" || self.0.contains_key(key));
                for (key, (below, range)) in &self.0 {
                    let Some(value) = fields.get_mut(key) else { continue };
                    if let (Value::Array(all), Some((from, to))) = (&mut *value, range) {
                        *all = all.drain(..).take(*to).skip(*from).collect();
                    }
                    below.keep(value);
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_tree_keeps_what_it_names_and_ranges_cut_lists() {
        let whole = || json!({"_class": "x", "a": 1, "items": [{"id": 1, "w": {"_class": "y", "z": 1}}, {"id": 2}, {"id": 3}]});
        for (tree, kept) in [
            ("a", json!({"_class": "x", "a": 1})),
            (
                "items[id,w[q]]{0,2}",
                json!({"_class": "x", "items": [{"id": 1, "w": {"_class": "y"}}, {"id": 2}]}),
            ),
            ("items[nix]{2,}", json!({"_class": "x", "items": [{}]})),
        ] {
            let mut document = whole();
            Tree::parse(tree).unwrap().keep(&mut document);
            assert_eq!(document, kept, "{tree}");
        }
        for bad in ["a[b", "a]", "a{1", "a[b]]"] {
            assert_eq!(Tree::parse(bad), None, "{bad}");
        }
    }
}
