//! Listeners that are tied to no CI master, one module and one cargo feature each.
//!
//! ```text
//!  gearman: `status` of each server, added up      ──► demand
//!  zmq:     events of builds, from their publisher ──► completion
//! ```
//!
//! What this crate deliberately does not know: masters, platforms, and what becomes of the demand.

#[cfg(feature = "gearman")]
pub mod gearman;

#[cfg(feature = "zmq")]
pub mod zmq;

/// Whether a text can name a host, by name or by address.
#[cfg(any(feature = "gearman", feature = "zmq"))]
fn is_host(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_:".contains(&byte))
}
