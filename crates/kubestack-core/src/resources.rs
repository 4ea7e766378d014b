//! Resource vectors and quantities as Kubernetes writes them.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// An amount in thousandths, read from and written as a Kubernetes quantity: `250m`, `2`, `512Mi`, `1.5G`.
///
/// Source of the form: Kubernetes API conventions, `resource.Quantity` (binary `Ki Mi Gi Ti Pi`, decimal
/// `m k M G T P`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Quantity(u128);

/// Suffixes with their factor in thousandths.
const SUFFIXES: [(&str, u128); 12] = [
    ("Ki", 1024 * 1000),
    ("Mi", 1024 * 1024 * 1000),
    ("Gi", 1024 * 1024 * 1024 * 1000),
    ("Ti", 1024 * 1024 * 1024 * 1024 * 1000),
    ("Pi", 1024 * 1024 * 1024 * 1024 * 1024 * 1000),
    ("m", 1),
    ("k", 1_000_000),
    ("M", 1_000_000_000),
    ("G", 1_000_000_000_000),
    ("T", 1_000_000_000_000_000),
    ("P", 1_000_000_000_000_000_000),
    ("", 1000),
];

impl Quantity {
    /// From thousandths: `Quantity::from_millis(250)` is `250m`.
    pub const fn from_millis(millis: u128) -> Self {
        Self(millis)
    }

    /// In thousandths.
    pub const fn as_millis(self) -> u128 {
        self.0
    }
}

impl std::str::FromStr for Quantity {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not a quantity; write for example 250m, 2, 512Mi or 1.5Gi");
        let split = text.trim_end_matches(|c: char| c.is_ascii_alphabetic()).len();
        let (number, suffix) = text.split_at(split);
        let (_, factor) = SUFFIXES.iter().find(|(name, _)| *name == suffix).ok_or_else(wrong)?;
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        if whole.is_empty() || !digits(whole) || !digits(fraction) || fraction.len() > 9 {
            return Err(wrong());
        }
        let scale = 10_u128.pow(u32::try_from(fraction.len()).unwrap_or(0));
        let number: u128 = format!("{whole}{fraction}").parse().map_err(|_| wrong())?;
        let scaled = number.checked_mul(*factor).ok_or_else(wrong)?;
        Ok(Self(scaled.div_ceil(scale)))
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fits = |factor: u128| self.0 > 0 && self.0.is_multiple_of(factor);
        for suffix in ["Pi", "Ti", "Gi", "Mi", "Ki"] {
            if let Some((_, factor)) = SUFFIXES.iter().find(|(name, _)| *name == suffix)
                && fits(*factor)
            {
                return write!(f, "{}{suffix}", self.0 / factor);
            }
        }
        if self.0.is_multiple_of(1000) { write!(f, "{}", self.0 / 1000) } else { write!(f, "{}m", self.0) }
    }
}

impl Serialize for Quantity {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Quantity {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        /// A quantity may be written as a bare number.
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Form {
            Text(String),
            Whole(u64),
            Real(f64),
        }
        let text = match Form::deserialize(deserializer)
            .map_err(|_| serde::de::Error::custom("expected a quantity such as 250m, 2 or 512Mi"))?
        {
            Form::Text(text) => text,
            Form::Whole(number) => number.to_string(),
            Form::Real(number) => number.to_string(),
        };
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl schemars::JsonSchema for Quantity {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Quantity".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({"type": ["string", "number"], "examples": ["250m", "512Mi", 2]})
    }
}

/// Amounts by resource name (`cpu`, `memory`, `nvidia.com/gpu`…). A name that is absent means: none needed,
/// or, as a limit, not limited.
#[derive(
    Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(transparent)]
pub struct Resources(pub BTreeMap<String, Quantity>);

impl Resources {
    /// What a provider that limits the number of its units calls that number, in what it reports as free
    /// ([`SlaveProvider::capacity`](crate::provider::SlaveProvider::capacity)). Each agent takes one; labels never name it.
    pub const AGENTS: &str = "agents";

    /// The same and that many agents.
    #[must_use]
    pub fn with_agents(mut self, count: u32) -> Self {
        self.0.insert(Self::AGENTS.to_owned(), Quantity(u128::from(count) * 1000));
        self
    }

    /// Adds `other` to this.
    pub fn add(&mut self, other: &Self) {
        for (name, amount) in &other.0 {
            let sum = self.0.entry(name.clone()).or_default();
            *sum = Quantity(sum.0.saturating_add(amount.0));
        }
    }

    /// That many times this.
    #[must_use]
    pub fn times(&self, count: u32) -> Self {
        let times = |(name, amount): (&String, &Quantity)| {
            (name.clone(), Quantity(amount.0.saturating_mul(u128::from(count))))
        };
        Self(self.0.iter().map(times).collect())
    }

    /// Takes `other` from this, never below zero.
    pub fn remove(&mut self, other: &Self) {
        for (name, amount) in &other.0 {
            if let Some(sum) = self.0.get_mut(name) {
                *sum = Quantity(sum.0.saturating_sub(amount.0));
            }
        }
    }

    /// Whether `used` plus `more` stays within this limit; a resource that the limit does not name is free.
    pub fn allows(&self, used: &Self, more: &Self) -> bool {
        self.0.iter().all(|(name, limit)| {
            let needed = more.0.get(name).map_or(0, |amount| amount.0);
            let taken = used.0.get(name).map_or(0, |amount| amount.0);
            needed == 0 || taken.saturating_add(needed) <= limit.0
        })
    }

    /// Whether no resource is named.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_read_as_kubernetes_writes_them() {
        for (text, millis) in
            [("250m", 250), ("2", 2000), ("0.5", 500), ("1Ki", 1_024_000), ("1.5k", 1_500_000)]
        {
            assert_eq!(text.parse::<Quantity>().unwrap().as_millis(), millis, "{text}");
        }
        assert_eq!("512Mi".parse::<Quantity>().unwrap().to_string(), "512Mi");
        assert_eq!("250m".parse::<Quantity>().unwrap().to_string(), "250m");
        for text in ["", "m", "-1", "1.2.3", "1e3", "12MiB", "340282366920938463463374607431768211456"] {
            assert!(text.parse::<Quantity>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_limit_binds_only_what_it_names() {
        let vector = |pairs: &[(&str, &str)]| {
            Resources(pairs.iter().map(|(k, v)| ((*k).to_owned(), v.parse().unwrap())).collect())
        };
        let limit = vector(&[("cpu", "2")]);
        assert!(limit.allows(&vector(&[("cpu", "1500m")]), &vector(&[("cpu", "500m"), ("memory", "9Gi")])));
        assert!(!limit.allows(&vector(&[("cpu", "1500m")]), &vector(&[("cpu", "501m")])));
    }
}
