//! A plugin's part of the config file, and references to secrets.

use crate::error::{Error, Result};
use crate::registry::nearest;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

/// Where something stands in the config file: 1-based line and column.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Line, from 1.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
}

/// Positions of all keys and items of a file by their path, such as `labels[0].image`.
#[derive(Clone, Debug, Default)]
pub struct Positions {
    /// The file's name, for messages.
    pub file: String,
    /// Path → where its key (of a map) or its item (of a list) stands.
    pub by_path: BTreeMap<String, Position>,
}

/// A part of the config that only its plugin understands: a value, and where it stands in the file.
#[derive(Clone, Debug)]
pub struct Fragment {
    value: Value,
    path: String,
    positions: Arc<Positions>,
}

impl Fragment {
    /// A part of a file.
    pub fn new(value: Value, path: impl Into<String>, positions: Arc<Positions>) -> Self {
        Self { value, path: path.into(), positions }
    }

    /// A value that stands in no file, for embedders and tests.
    pub fn from_value(value: Value) -> Self {
        Self::new(value, "", Arc::default())
    }

    /// The value as it is.
    pub fn value(&self) -> &Value {
        &self.value
    }

    /// Reads it as `T`. Put `#[serde(deny_unknown_fields)]` on `T`: a misspelt key is then an error.
    ///
    /// # Errors
    /// [`Invalid`](crate::error::ErrorKind::Invalid), with a line for each wrong key: file, line, column and key.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T> {
        match self.parse_all() {
            (Some(form), problems) if problems.is_empty() => Ok(form),
            (_, problems) => Err(Error::invalid(problems.join("\n"))),
        }
    }

    /// The same where more is to be checked even if some keys are wrong: all that is wrong, a line each, and
    /// what the other keys give.
    pub fn parse_all<T: DeserializeOwned>(&self) -> (Option<T>, Vec<String>) {
        let whole = match self.read(&self.value) {
            Ok(form) => return (Some(form), Vec::new()),
            Err(error) => error,
        };
        let Value::Object(keys) = &self.value else { return (None, vec![whole]) };
        // Serde stops at the first error, so each key is tried alone. That others are missing then is no
        // fault of this one.
        let empty = self.read::<T>(&Value::Object(Map::new())).err();
        let fault = |key: &String, value: &Value| {
            let alone = Map::from_iter([(key.clone(), value.clone())]);
            let error = self.read::<T>(&Value::Object(alone)).err()?;
            (Some(&error) != empty.as_ref() && !error.contains("missing field `")).then_some(error)
        };
        let (mut rest, mut problems) = (keys.clone(), Vec::new());
        for (key, value) in keys {
            if let Some(problem) = fault(key, value) {
                rest.remove(key);
                problems.push(with_suggestion(problem, key));
            }
        }
        match self.read(&Value::Object(rest)) {
            Ok(form) => (Some(form), problems),
            Err(error) => {
                problems.push(error);
                (None, problems)
            }
        }
    }

    fn read<T: DeserializeOwned>(&self, value: &Value) -> Result<T, String> {
        serde_path_to_error::deserialize(value).map_err(|error| {
            let inner = error.path().to_string();
            let inner = if inner == "." { String::new() } else { inner };
            self.error(&inner, error.inner()).message
        })
    }

    /// An error about the key at `inner`, a path within this fragment (`""`: the fragment itself).
    pub fn error(&self, inner: &str, message: impl fmt::Display) -> Error {
        let dot = if self.path.is_empty() || inner.is_empty() || inner.starts_with('[') { "" } else { "." };
        let path = format!("{}{dot}{inner}", self.path);
        Error::invalid(self.positions.message(&path, message))
    }
}

impl Positions {
    /// `file:line:column: path: message`, with as much of it as is known.
    pub fn message(&self, path: &str, message: impl fmt::Display) -> String {
        let mut text = String::new();
        if !self.file.is_empty() {
            text.push_str(&self.file);
            if let Some(position) = self.find(path) {
                text.push_str(&format!(":{}:{}", position.line, position.column));
            }
            text.push_str(": ");
        }
        if !path.is_empty() {
            text.push_str(&format!("{path}: "));
        }
        format!("{text}{message}")
    }

    /// Where `path` stands, or the nearest thing around it.
    pub fn find(&self, path: &str) -> Option<Position> {
        let mut path = path;
        loop {
            if let Some(position) = self.by_path.get(path) {
                return Some(*position);
            }
            path = path.get(..path.rfind(['.', '['])?)?;
        }
    }
}

/// What serde says of an unknown key, with the nearest known one instead of all of them.
fn with_suggestion(problem: String, key: &str) -> String {
    let Some((before, known)) = problem.split_once(&format!("unknown field `{key}`")) else { return problem };
    match nearest(key, known.split('`').skip(1).step_by(2)) {
        Some(near) => format!("{before}unknown field `{key}`, did you mean `{near}`?"),
        None => problem,
    }
}

/// A secret, as the config names it: the text itself, `{env: NAME}` or `{file: PATH}`.
#[derive(Clone, Deserialize, schemars::JsonSchema)]
#[serde(untagged, expecting = "expected a text, {env: NAME} or {file: PATH}")]
pub enum SecretRef {
    /// The value itself.
    Text(#[schemars(with = "String")] Hidden),
    /// The value of that environment variable.
    Env(EnvRef),
    /// The content of that file, without trailing line ends.
    File(FileRef),
}

/// `{env: NAME}`.
#[derive(Clone, Debug, Deserialize, Serialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EnvRef {
    /// The variable's name.
    pub env: String,
}

/// `{file: PATH}`.
#[derive(Clone, Debug, Deserialize, Serialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FileRef {
    /// The file's path.
    pub file: PathBuf,
}

/// A text that is not shown by `Debug` and is not serialized.
#[derive(Clone, Deserialize)]
#[serde(transparent)]
pub struct Hidden(String);

impl Hidden {
    /// Hides the text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself; whoever asks must not show it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl SecretRef {
    /// Changes when the reference, or a literal's text, changes. To be hashed with other things, not to be
    /// shown: a short secret could be guessed from it.
    pub fn fingerprint(&self) -> String {
        use sha2::{Digest, Sha256};
        match self {
            Self::Text(text) => {
                let digest = Sha256::digest(text.0.as_bytes());
                let hash: String = digest.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
                format!("text#{hash}")
            }
            Self::Env(reference) => format!("env:{}", reference.env),
            Self::File(reference) => format!("file:{}", reference.file.display()),
        }
    }
}

impl fmt::Debug for SecretRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text(_) => "[hidden]",
            Self::Env(_) => "[env]",
            Self::File(_) => "[file]",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code)]
    struct Config {
        host: String,
        #[serde(default)]
        port: u16,
    }

    fn fragment(value: Value) -> Fragment {
        let mut positions = Positions { file: "c.yaml".into(), ..Positions::default() };
        positions.by_path.insert("demand-listeners[0]".into(), Position { line: 2, column: 3 });
        positions.by_path.insert("demand-listeners[0].port".into(), Position { line: 3, column: 5 });
        Fragment::new(value, "demand-listeners[0]", Arc::new(positions))
    }

    #[test]
    fn a_wrong_type_names_file_line_and_key() {
        let error = fragment(json!({"host": "h", "port": "x"})).parse::<Config>().unwrap_err().to_string();
        assert!(error.starts_with("c.yaml:3:5: demand-listeners[0].port: invalid type"), "{error}");
    }

    #[test]
    fn an_unknown_key_names_its_place() {
        let error = fragment(json!({"host": "h", "prot": 1})).parse::<Config>().unwrap_err().to_string();
        assert!(error.starts_with("c.yaml:2:3: demand-listeners[0]"), "{error}");
        assert!(error.contains("`prot`"), "{error}");
    }

    #[test]
    fn all_wrong_keys_are_told_at_once_and_what_is_missing_besides() {
        let wrong = fragment(json!({"prot": 1, "port": "x", "hots": "h"}));
        let error = wrong.parse::<Config>().unwrap_err().message;
        let lines: Vec<&str> = error.lines().collect();
        assert_eq!(lines.len(), 4, "{error}");
        assert!(error.contains("unknown field `prot`, did you mean `port`?"), "{error}");
        assert!(error.contains("unknown field `hots`, did you mean `host`?"), "{error}");
        assert!(
            lines.iter().any(|line| line.starts_with("c.yaml:3:5: demand-listeners[0].port: ")),
            "{error}"
        );
        assert!(error.contains("missing field `host`"), "{error}");
        let (rest, problems) = fragment(json!({"host": "h", "port": "x"})).parse_all::<Config>();
        assert_eq!((rest.unwrap().host.as_str(), problems.len()), ("h", 1));
    }

    #[test]
    fn a_secret_is_read_in_three_forms_and_never_shown() {
        for value in [json!("s3cret"), json!({"env": "S3CRET"}), json!({"file": "/s3cret"})] {
            let secret: SecretRef = serde_json::from_value(value).unwrap();
            assert!(!format!("{secret:?}").contains("s3cret"));
        }
        let hidden: SecretRef = serde_json::from_value(json!("s3cret")).unwrap();
        assert!(!hidden.fingerprint().contains("s3cret"));
        assert!(serde_json::from_value::<SecretRef>(json!({"evn": "X"})).is_err());
    }
}
