//! The loop around the planner.
pub mod audit;
mod breach;
mod builder;
mod caught;
pub mod clock;
pub mod command;
pub mod config;
pub mod coordination;
mod engine;
mod execute;
mod explain;
pub mod failures;
pub mod look;
mod observe;
mod redact;
mod retry;
pub mod secrets;
pub mod status;
mod systems;
mod tasks;
mod templates;

pub use builder::Builder;
pub use command::{Command, Handle};
pub use engine::{End, Engine, Setup};
pub use look::Outlook;
pub use status::Status;
pub use templates::KeptTemplate;
