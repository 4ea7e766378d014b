//! Lists of the API, read leniently: an item at a time, so that 50,000 of them are never in memory as a tree; what a
//! version adds, leaves out, says twice or writes with another type is passed over.

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use std::fmt;

/// The items of the list called `key` in the object `body`, as `read` takes them.
///
/// # Errors
/// If that is no JSON object, or has no such list: an answer without one is not one of which nothing is there.
pub fn list<T>(
    body: &[u8],
    key: &str,
    read: impl Fn(&Value) -> Option<T>,
) -> Result<Vec<T>, serde_json::Error> {
    let mut items = Vec::new();
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let found = deserializer.deserialize_map(Root { key, read: &read, items: &mut items })?;
    deserializer.end()?;
    if !found {
        return Err(serde::de::Error::custom(format!("there is no `{key}` in it")));
    }
    Ok(items)
}

/// A text that is there and not blank.
pub fn text(value: &Value, key: &str) -> Option<String> {
    let text = value.get(key)?.as_str()?;
    (!text.trim().is_empty()).then(|| text.to_owned())
}

/// Whether that is there and true.
pub fn is(value: &Value, key: &str) -> bool {
    value.get(key).and_then(Value::as_bool).unwrap_or_default()
}

/// The items of a list, if it is there and one.
pub fn items<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    value.get(key).and_then(Value::as_array).into_iter().flatten()
}

struct Root<'a, T, R> {
    key: &'a str,
    read: &'a R,
    items: &'a mut Vec<T>,
}

impl<'de, T, R: Fn(&Value) -> Option<T>> Visitor<'de> for Root<'_, T, R> {
    /// Whether the list was there.
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an object with `{}`", self.key)
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<bool, M::Error> {
        let mut found = false;
        while let Some(key) = map.next_key::<String>()? {
            if key == self.key {
                found = true;
                self.items.clear();
                map.next_value_seed(List { read: self.read, items: self.items })?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }
}

struct List<'a, T, R> {
    read: &'a R,
    items: &'a mut Vec<T>,
}

impl<'de, T, R: Fn(&Value) -> Option<T>> DeserializeSeed<'de> for List<'_, T, R> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de, T, R: Fn(&Value) -> Option<T>> Visitor<'de> for List<'_, T, R> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<S: SeqAccess<'de>>(self, mut list: S) -> Result<(), S::Error> {
        while let Some(item) = list.next_element::<Value>()? {
            self.items.extend((self.read)(&item));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_odd_is_passed_over_and_what_is_no_list_is_an_error() {
        let name = |value: &Value| text(value, "name");
        let body = br#"{"_class":"x","items":[{"name":"a","name":"b","n":-1e300},{"name":null},7,{"name":"c","new":{}}],"z":1}"#;
        assert_eq!(list(body, "items", name).unwrap(), ["b", "c"]);
        assert_eq!(list(br#"{"items":[],"items":[{"name":"a"}]}"#, "items", name).unwrap(), ["a"]);
        assert_eq!(list(br#"{"items":[]}"#, "items", name).unwrap(), Vec::<String>::new());
        for bad in [
            "",
            "<html>",
            "[]",
            "{}",
            "{\"status\":\"ok\"}",
            "{\"items\":[{\"name\":\"a\"}",
            "{\"items\":{}}",
            "{} {}",
            "{\"items\":null}",
        ] {
            assert!(list(bad.as_bytes(), "items", name).is_err(), "{bad}");
        }
        let deep = format!("{{\"items\":[{}1{}]}}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(list(deep.as_bytes(), "items", name).is_err());
    }
}
