//! Measurements of Ginnel. `versus` compares whole programs over the same virtual cable.

#![forbid(unsafe_code)]

pub mod null;
pub mod versus;
