//! How long to wait after an error, by its kind. The only place that decides so.

use kubestack_core::error::ErrorKind;
use std::time::Duration;

/// First pause and longest pause.
fn range(kind: ErrorKind) -> (Duration, Duration) {
    let millis = Duration::from_millis;
    match kind {
        // Often over at once; but a system that is down must not be hammered.
        ErrorKind::Transient | ErrorKind::UnknownOutcome => (millis(250), millis(30_000)),
        ErrorKind::RateLimited { after } => (after.max(millis(100)), millis(300_000).max(after)),
        // The next look, which is on its way, will show what is different.
        ErrorKind::Conflict | ErrorKind::NotFound => (millis(200), millis(10_000)),
        // Only people can mend these; asking often would lock accounts and fill logs.
        ErrorKind::Unauthorized => (millis(5_000), millis(300_000)),
        _ => (millis(10_000), millis(600_000)),
    }
}

/// The pause after the failure number `attempts` (from 0) in a row. `salt` spreads those that failed
/// together, and is the same for the same thing, so that a run can be replayed.
pub(crate) fn pause(kind: ErrorKind, attempts: u32, salt: &str) -> Duration {
    let (first, longest) = range(kind);
    let base = first.saturating_mul(1_u32 << attempts.min(16)).min(longest);
    // FNV-1a: stable across versions and platforms, which a hasher of the standard library is not.
    let hash = salt.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    let spread = u32::try_from(hash.wrapping_add(u64::from(attempts)) % 256).unwrap_or(0);
    base + base / 1024 * spread
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_a_bound_and_never_undercut_what_the_server_asked() {
        let kind = ErrorKind::Transient;
        assert!(pause(kind, 0, "a") < pause(kind, 3, "a"));
        assert!(pause(kind, 60, "a") <= Duration::from_millis(37_500));
        assert_eq!(pause(kind, 2, "a"), pause(kind, 2, "a"));
        assert_ne!(pause(kind, 2, "a"), pause(kind, 2, "b"));
        let asked = ErrorKind::RateLimited { after: Duration::from_secs(7) };
        assert!(pause(asked, 0, "a") >= Duration::from_secs(7));
    }
}
