//! The trains of one receive call.

use super::{Ecn, Source};
use crate::limits::{INBOX_SLOT_BYTES, INBOX_SLOTS};
use std::net::SocketAddr;

/// Buffers filled by [`crate::port::Link::recv`] and emptied by the worker.
pub struct Inbox {
    slots: Vec<Box<[u8]>>,
    received: Vec<Received>,
}

/// What one slot holds.
#[derive(Clone, Copy, Debug)]
pub struct Received {
    /// Bytes in the slot.
    pub len: usize,
    /// Bytes of each datagram; the last may have fewer. Equal to `len` for a single datagram, and 0 where the port could
    /// not find out.
    pub datagram_bytes: usize,
    /// Who sent it. IPv4 senders are [`SocketAddr::V4`], also on a dual-stack socket.
    pub from: SocketAddr,
    /// The address and interface it came to: answers leave from there.
    pub source: Option<Source>,
    /// The congestion mark of the outer header.
    pub ecn: Ecn,
    /// The kernel cut bytes off the last datagram.
    pub truncated: bool,
}

impl Inbox {
    /// An empty inbox with all its memory.
    #[must_use]
    pub fn new() -> Self {
        Self {
            slots: (0..INBOX_SLOTS).map(|_| vec![0; INBOX_SLOT_BYTES].into_boxed_slice()).collect(),
            received: Vec::with_capacity(INBOX_SLOTS),
        }
    }

    /// The buffers, to be filled from the first one on.
    pub fn slots_mut(&mut self) -> &mut [Box<[u8]>] {
        &mut self.slots
    }

    /// Notes what the next slot holds.
    pub fn push(&mut self, received: Received) {
        debug_assert!(self.received.len() < INBOX_SLOTS && received.len <= INBOX_SLOT_BYTES);
        self.received.push(received);
    }

    /// Slots filled.
    #[must_use]
    pub fn len(&self) -> usize {
        self.received.len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.received.is_empty()
    }

    /// Slot `index`: its facts and its bytes.
    pub fn train(&mut self, index: usize) -> (Received, &mut [u8]) {
        let received = self.received[index];
        (received, &mut self.slots[index][..received.len])
    }

    /// Forgets everything received.
    pub fn clear(&mut self) {
        self.received.clear();
    }
}

impl Default for Inbox {
    fn default() -> Self {
        Self::new()
    }
}
