//! The packet engine of Ginnel: WireGuard, IP and memory, and nothing else.
//!
//! A [`worker::Worker`] owns one TUN queue, one UDP socket and the peers whose session index names it. Each call of
//! [`worker::Worker::turn`] moves one batch each way, runs the timers that are due and applies waiting commands. The
//! kernel is behind the two traits of [`port`]; the protocol's own core, [`noise`], is behind [`peer::noise::Noise`].
//!
//! ```text
//! outbound  Tun::recv ─superpacket─► route → peer → segment + seal into one Train ─► Link::send
//! inbound   Link::recv ─train─► index → peer → open, source check → coalesce into a Lane ─► Tun::send
//! ```
//!
//! Left out on purpose: system calls, clocks, threads, async, logging. Those live in the backends.

#![forbid(unsafe_code)]

pub mod command;
pub mod drops;
pub mod event;
pub mod frame;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
pub mod key;
pub mod limits;
pub mod noise;
pub mod offload;
pub mod peer;
pub mod port;
pub mod route;
pub mod stats;
pub mod tick;
pub mod wire;
pub mod worker;
