//! The in-memory backend: the engine's ports over virtual wires, so that whole workers run in a test without kernel,
//! thread or clock.
//!
//! ```text
//! World ─┬─ Host ── Worker ── Tun   the test injects and takes packets
//!        │             └───── Link ──┐
//!        ├─ Host …                   │  carried between turns
//!        └─ Network ◄────────────────┘  loss, delay, reorder, duplicates, MTU, marks, NAT, filter, capture
//! ```
//! Everything is owned by the [`World`] and moved by it; the only randomness is that of seeds. Left out: more than one
//! worker per host, and the thread that turns it.

mod link;
mod nat;
mod network;
pub mod overlay;
pub mod packet;
mod queue;
mod random;
mod tun;
mod world;

#[cfg(test)]
mod tests;

pub use link::{Arrivals, Link, Oversize, Way};
pub use nat::Nat;
pub use network::{Captured, Conditions, Network, Traffic};
pub use overlay::Overlay;
pub use queue::ByteQueue;
pub use random::Random;
pub use tun::Tun;
pub use world::{Host, HostId, HostOptions, World};
