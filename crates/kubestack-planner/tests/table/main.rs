//! The design's rules, row by row.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    dead_code,
    reason = "a test stops where its own set-up fails; the stage offers more than is used so far"
)]

#[path = "../common/mod.rs"]
mod common;

mod leaving;
