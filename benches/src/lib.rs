//! Measurements of Ginnel. `versus` compares whole programs over the same virtual cable, `daemon` is what whole daemons are
//! compared by, `names` a name server for a
//! load tool. `soak` is what holds while two daemons are treated badly.

#![forbid(unsafe_code)]

pub mod daemon;
pub mod names;
pub mod null;
pub mod soak;
pub mod versus;
