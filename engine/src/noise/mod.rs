//! The WireGuard protocol: handshake, sessions, timers and the defence against floods, for one peer at a time.
//!
//! ```text
//! peer ─┬─ keyring ── session ── aead, replay   data messages
//!       ├─ handshake ── hash, aead              initiation and response; stamp says when
//!       ├─ cookie, budget, identity             what strangers may cost
//!       └─ timers, staged                       when to ask, what waits
//! ```
//! It is handed the time, random numbers and the time of day, and asks nobody for them: no clock, no system call. It sees
//! messages, never addresses or trains; those are the worker's, on the other side of [`crate::peer::noise`].
//!
//! "Paper" is the WireGuard whitepaper, revision e2da747.

pub mod aead;
mod budget;
mod cookie;
mod handshake;
mod hash;
mod identity;
mod keyring;
mod peer;
pub mod random;
mod replay;
mod session;
mod staged;
pub mod stamp;
mod timers;

pub use aead::{Aead, Ring};
pub use identity::Identity;
pub use peer::Core;

#[cfg(test)]
mod tests;
