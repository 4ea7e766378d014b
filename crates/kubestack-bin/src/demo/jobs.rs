//! The mix of jobs: real commands, with what is expected of each.

use kubestack_queue::model::Submission;
use std::collections::BTreeMap;

/// Labels of the demo with their caps.
pub(super) const LABELS: [(&str, Option<u32>); 3] = [("quick", None), ("steady", None), ("capped", Some(2))];

/// How a job is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expected {
    Success,
    /// With this exit status.
    Exit(i32),
    TimeOut,
    NoSuchCommand,
}

/// One job of the mix.
pub(super) struct DemoJob {
    pub submission: Submission,
    pub expected: Expected,
}

/// Draws the mix from the seed: mostly jobs that succeed, some that fail, one that takes too long, one whose
/// command does not exist.
pub(super) fn mix(jobs: u32, seed: u64) -> Vec<DemoJob> {
    let mut random = SplitMix(seed);
    (0..jobs)
        .map(|index| {
            let (label, _) = LABELS.get(random.below(LABELS.len())).copied().unwrap_or(("quick", None));
            let (expected, command, timeout_ms) = match (index, random.below(8)) {
                (1, _) => {
                    (Expected::TimeOut, shell("echo this one takes too long; exec sleep 600"), Some(1_000))
                }
                (2, _) => (Expected::NoSuchCommand, vec!["/no/such/command".to_owned()], None),
                (_, 0) => (Expected::Exit(3), shell("echo this one fails >&2; exit 3"), None),
                _ => {
                    let millis = 20 + random.below(280);
                    let script = format!("echo job {index}; sleep 0.{millis:03}");
                    (Expected::Success, shell(&script), None)
                }
            };
            let label = label.to_owned();
            DemoJob { submission: Submission { label, command, env: BTreeMap::new(), timeout_ms }, expected }
        })
        .collect()
}

fn shell(script: &str) -> Vec<String> {
    ["sh", "-c", script].map(str::to_owned).to_vec()
}

/// Vigna's SplitMix64: the same numbers everywhere, which is all that a demo asks of randomness.
struct SplitMix(u64);

impl SplitMix {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((word ^ (word >> 31)) % (bound.max(1) as u64)).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mix_has_each_kind_and_is_the_same_for_the_same_seed() {
        let (a, b) = (mix(50, 7), mix(50, 7));
        assert!(a.iter().zip(&b).all(|(a, b)| a.submission == b.submission));
        for kind in [Expected::Success, Expected::Exit(3), Expected::TimeOut, Expected::NoSuchCommand] {
            assert!(a.iter().any(|job| job.expected == kind), "{kind:?}");
        }
    }
}
