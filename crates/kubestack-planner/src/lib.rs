//! Deciding: from what was seen to what to do next, with the reasons. Pure: no I/O, no clock, no randomness,
//! no async; the same world gives the same plan.
//!
//! ```text
//!  Fact ─► World::apply ─► World ─► plan(&World) ─► Plan { steps, notes, report, next_wake }
//!            ▲                                         │
//!            └──── outcomes come back as facts ◄── check(&World, &Plan), then the engine executes
//! ```
//!
//! * [`world`] and [`facts`]: what is known, and the one way in which it changes. The rules of design §4 on
//!   the order of observations live in [`World::apply`](world::World::apply).
//! * [`agent`]: the state of an agent, derived anew each time.
//! * [`plan`](plan()): the steps. The way of one agent (`lifecycle`), demand and who serves it (`demand`), caps
//!   (`room`), and who gets the scarce capacity (`fill`).
//! * [`check`](check()): a second opinion on a plan, by other means.
//!
//! What this crate deliberately does not know: any CI system, any platform, how a step is carried out, what
//! time it is.

pub mod agent;
pub mod check;
mod demand;
pub mod facts;
mod fill;
mod lifecycle;
pub mod memory;
mod plan;
mod room;
pub mod settings;
pub mod step;
pub mod words;
pub mod world;

pub use check::{Violation, check};
pub use demand::ClassKey;
pub use facts::{Fact, Outcome};
pub use plan::{ClassReport, Plan, plan};
pub use room::{Blocker, Scope};
pub use step::{Launch, PlannedStep, Reason, Step, Target};
pub use world::{Hold, Intent, World};
