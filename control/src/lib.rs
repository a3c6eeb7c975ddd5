//! The control side of Ginnel: the daemon that takes orders over IPC and the command line of its operators.

#![forbid(unsafe_code)]

pub mod bare;
pub mod cli;
pub mod config;
pub mod daemon;
pub mod demo;
mod flags;
pub mod host;
pub mod ipc;
pub mod lab;
mod log_budget;
pub mod node;
mod socket_file;
#[cfg(test)]
mod temp_dir;
pub mod uapi;
mod utc;
