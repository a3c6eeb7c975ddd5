//! The control side of Ginnel: the daemon that takes orders over IPC and the command line of its operators.

#![forbid(unsafe_code)]

// Models that unit tests and those of the programs share name this crate as the latter do.
#[cfg(test)]
extern crate self as ginnel_control;

pub mod attach;
pub mod bare;
pub mod cli;
pub mod config;
pub mod daemon;
pub mod demo;
pub mod dns;
pub mod firewall;
mod flags;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
pub mod host;
pub mod ipam;
pub mod ipc;
pub mod lab;
mod log_budget;
mod metrics;
pub mod node;
mod private_file;
mod socket_file;
pub mod state;
#[cfg(any(test, feature = "fuzzing"))]
mod temp_dir;
pub mod uapi;
mod utc;
