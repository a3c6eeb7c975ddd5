//! Measurements of Ginnel. `versus` compares whole programs over the same virtual cable, `daemon` is what whole daemons are
//! compared by, `crowd` the far ends of many tunnels, `names` a name server for a load tool; `uapi` configures devices.

#![forbid(unsafe_code)]

pub mod crowd;
pub mod daemon;
pub mod names;
pub mod null;
pub mod uapi;
pub mod versus;
