//! What tests KubeStack, published for plugin authors.
//!
//! ```text
//!  seed ─► scenario ─► run: real engine ◄─► simulated systems behind the four traits ─► Report
//!                        ▲ crash, restart        ▲ faults        └─ oracle, which knows the truth
//! ```
//!
//! For tests of one plugin alone, [`host`] has what the engine would hand to it, and [`conformance`] tries whether it keeps
//! what the engine relies on. With the feature `fake-jenkins`, `fake_jenkins` is a Jenkins of today on a real socket.
//!
//! What this crate deliberately does not know: how the planner sees things. The oracle judges by what is really the
//! case on the simulated systems.

pub mod conformance;
#[cfg(feature = "fake-jenkins")]
pub mod fake_jenkins;
pub mod host;
pub mod sim;
