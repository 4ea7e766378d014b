//! The design's rules, row by row: launching and destroying (§6), the order of observations (§4), who serves
//! demand, and everything that stands in the way of a launch.

#[path = "../common/mod.rs"]
mod common;

mod demand;
mod foreign;
mod leaving;
mod limits;
mod operator;
mod ordering;
mod wakes;
