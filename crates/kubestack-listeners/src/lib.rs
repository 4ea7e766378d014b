//! Listeners that are tied to no CI master, one module and one cargo feature each.
//!
//! ```text
//!  gearman: `status` of each server, added up ──► demand
//! ```
//!
//! What this crate deliberately does not know: masters, platforms, and what becomes of the demand.

#[cfg(feature = "gearman")]
pub mod gearman;
