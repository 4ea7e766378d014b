//! From YAML to a plain value, with the place of each key and item beside it.

use kubestack_core::config::{Position, Positions};
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use serde_saphyr::Spanned;
use std::fmt;

/// Any YAML value, with the places inside.
enum Tree {
    Scalar(Value),
    List(Vec<Spanned<Self>>),
    Map(Vec<(Spanned<String>, Spanned<Self>)>),
}

/// Enough for any template; recursion stays bounded.
const MAX_DEPTH: usize = 64;
/// What aliases may blow a file up to, in parser events.
const MAX_REPLAYED: usize = 100_000;

/// Reads a document.
pub(super) fn read(text: &str, file: &str) -> Result<(Value, Positions), String> {
    let mut positions = Positions { file: file.to_owned(), ..Positions::default() };
    if text.trim().is_empty() {
        return Err(format!("{file}: is empty; see examples/ for a config to start from"));
    }
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! { max_depth: MAX_DEPTH, max_documents: 1 },
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: MAX_REPLAYED },
        // `no`, `on` and `0755` are texts to whoever writes a name.
        strict_booleans: true,
        leading_zero_numbers_as_strings: true,
        // A snippet would show the secrets around the place.
        with_snippet: false,
    };
    let tree: Spanned<Tree> =
        serde_saphyr::from_str_with_options(text, options).map_err(|error| problem(file, &error))?;
    let value = place(tree.value, String::new(), &mut positions);
    Ok((value, positions))
}

/// The parser's words behind the place in our own form, in one line.
fn problem(file: &str, error: &serde_saphyr::Error) -> String {
    let text = error.without_snippet().to_string();
    let text = text.lines().next().unwrap_or_default();
    let text = text.rfind(" at line ").and_then(|end| text.get(..end)).unwrap_or(text);
    let place = error.location().map(|location| position(&location)).filter(|place| place.line > 0);
    match place {
        Some(Position { line, column }) => format!("{file}:{line}:{column}: {text}"),
        None => format!("{file}: {text}"),
    }
}

fn place(tree: Tree, path: String, positions: &mut Positions) -> Value {
    match tree {
        Tree::Scalar(value) => value,
        Tree::List(items) => {
            let items = items.into_iter().enumerate().map(|(index, item)| {
                let path = format!("{path}[{index}]");
                positions.by_path.insert(path.clone(), position(&item.referenced));
                place(item.value, path, positions)
            });
            Value::Array(items.collect())
        }
        Tree::Map(entries) => {
            let mut map = Map::new();
            for (key, value) in entries {
                let path = if path.is_empty() { key.value.clone() } else { format!("{path}.{}", key.value) };
                positions.by_path.insert(path.clone(), position(&key.referenced));
                map.insert(key.value, place(value.value, path, positions));
            }
            Value::Object(map)
        }
    }
}

fn position(location: &serde_saphyr::Location) -> Position {
    let clamp = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
    Position { line: clamp(location.line()), column: clamp(location.column()) }
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TreeVisitor)
    }
}

struct TreeVisitor;

impl<'de> Visitor<'de> for TreeVisitor {
    type Value = Tree;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text, number, true or false, list or map")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Tree, E> {
        Ok(Tree::Scalar(Value::Bool(value)))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Tree, E> {
        Ok(Tree::Scalar(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Tree, E> {
        Ok(Tree::Scalar(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Tree, E> {
        Ok(Tree::Scalar(Number::from_f64(value).map_or(Value::Null, Value::Number)))
    }

    fn visit_str<E>(self, value: &str) -> Result<Tree, E> {
        Ok(Tree::Scalar(value.into()))
    }

    fn visit_unit<E>(self) -> Result<Tree, E> {
        Ok(Tree::Scalar(Value::Null))
    }

    fn visit_none<E>(self) -> Result<Tree, E> {
        Ok(Tree::Scalar(Value::Null))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Tree, D::Error> {
        Tree::deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Tree, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = list.next_element()? {
            items.push(item);
        }
        Ok(Tree::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Tree, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Tree::Map(entries))
    }
}
