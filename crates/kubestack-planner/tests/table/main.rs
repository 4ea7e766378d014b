//! The design's rules, row by row.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::expect_used,
    reason = "a test stops where its own set-up fails"
)]

#[path = "../common/mod.rs"]
mod common;

mod leaving;
