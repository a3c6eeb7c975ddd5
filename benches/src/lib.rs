//! Measurements of Ginnel. `versus` compares whole programs over the same virtual cable, `daemon` is what whole daemons are
//! compared by.

#![forbid(unsafe_code)]

pub mod daemon;
pub mod null;
pub mod versus;
