//! Conformance suites: what the engine relies on in a plugin, each promise as one check that says what breaks without it.
//!
//! A suite runs against the plugin as its users configure it, on the real platform or system behind it. What a plugin says
//! it cannot do (its capabilities) is not asked of it.

mod provider;
mod view;

pub use provider::{ProviderSubject, SECRET, provider};

use std::fmt;

/// How one check went.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// The promise holds.
    Kept,
    /// It does not, and that was seen instead.
    Broken(String),
    /// The plugin does not claim to.
    NotClaimed,
}

/// One promise.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Check {
    /// Its name.
    pub name: &'static str,
    /// What goes wrong where it is broken.
    pub otherwise: &'static str,
    /// How it went.
    pub verdict: Verdict,
}

/// What came of a suite; shown, it is a table for people.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Report {
    /// Each check, in the order in which they ran.
    pub checks: Vec<Check>,
}

impl Report {
    /// The names of the promises that are broken.
    pub fn broken(&self) -> Vec<&'static str> {
        let broken = self.checks.iter().filter(|check| matches!(check.verdict, Verdict::Broken(_)));
        broken.map(|check| check.name).collect()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.checks.iter().map(|check| check.name.len()).max().unwrap_or_default();
        for Check { name, otherwise, verdict } in &self.checks {
            match verdict {
                Verdict::Kept => writeln!(f, "kept         {name:width$}  otherwise: {otherwise}")?,
                Verdict::NotClaimed => writeln!(f, "not claimed  {name:width$}  so: {otherwise}")?,
                Verdict::Broken(seen) => {
                    writeln!(f, "BROKEN       {name:width$}  {otherwise}; seen: {seen}")?
                }
            }
        }
        write!(f, "{} checks, {} broken", self.checks.len(), self.broken().len())
    }
}
