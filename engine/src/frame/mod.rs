//! Packet memory: every buffer a worker uses, made once at start.
//!
//! ```text
//! TunBatch  units read from TUN          [unit ≤ 64 KiB | room for padding][unit]…
//! Outbox    trains to the network        16 × one buffer of equal slots [hdr|sealed|tag][hdr|sealed|tag]…
//! Inbox     trains from the network      32 × 64 KiB
//! ```
//! The lanes in which inbound packets gather belong to [`crate::offload::coalesce`].

mod inbox;
mod outbox;
mod tun_batch;

pub use inbox::{Inbox, Received};
pub use outbox::{Ecn, Endpoint, Outbox, Outcome, Source, Train};
pub use tun_batch::{TunBatch, Unit};
