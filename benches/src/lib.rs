//! Measurements of Ginnel. `versus` compares whole programs over the same virtual cable, `daemon` is what whole daemons are
//! compared by, `crowd` the far ends of many tunnels, `names` a name server for a load tool; `uapi` configures devices.
//! `soak` is what holds while two daemons are treated badly.

#![forbid(unsafe_code)]

pub mod crowd;
pub mod daemon;
pub mod names;
pub mod null;
pub mod soak;
pub mod uapi;
pub mod versus;
