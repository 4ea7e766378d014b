//! The whole engine in virtual time, against systems that fail in every way that one seed can draw.

mod clock;
mod oracle;
mod plugins;
mod rng;
mod run;
mod scenario;
mod truth;

pub use clock::{START, SimClock};
pub use rng::Rng;
pub use run::{Report, run};
pub use scenario::{Archetype, Scenario};
pub use truth::Violation;
