//! The channel between the daemon and whoever gives it orders: length-prefixed JSON over a Unix socket.
//!
//! ```text
//! client ──► frame (u32 LE + JSON) ──► wire (types) ──► server ──► a Handler (the node)
//! ```
//!
//! [`frame`] knows bytes, [`wire`] words, [`socket`] the file, [`server`] connections, [`access`] who may what,
//! [`events`] and [`health`] what is told unasked, [`sync`] what is to be there, [`tally`] what was asked, [`client`] the
//! other end, [`blocking`] the same for code without a runtime. What a request does is not known here.

pub mod access;
pub mod blocking;
pub mod client;
pub mod events;
pub mod frame;
pub mod health;
pub mod live;
pub mod server;
pub mod socket;
pub mod stop;
pub mod sync;
pub mod tally;
pub mod wire;
