//! What was sent, and what of it arrived.

use std::collections::HashMap;

/// Every packet of a world by its number.
#[derive(Default)]
pub struct Ledger {
    sent: HashMap<u64, Entry>,
    next: u64,
    delivered: u64,
}

struct Entry {
    from: usize,
    to: usize,
    bytes: usize,
    /// Its source address is not its sender's.
    forged: bool,
    delivered: bool,
}

/// Payloads start with their number.
pub const NUMBER_BYTES: usize = 8;

impl Ledger {
    /// A payload of at least [`NUMBER_BYTES`] from node to node. What follows the number follows from it.
    pub fn write(&mut self, from: usize, to: usize, bytes: usize, forged: bool) -> Vec<u8> {
        let number = self.next;
        self.next += 1;
        self.sent.insert(number, Entry { from, to, bytes, forged, delivered: false });
        payload(number, bytes)
    }

    /// The number of the packet to be written next.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Packets delivered so far.
    pub fn delivered(&self) -> u64 {
        self.delivered
    }

    /// Whether a packet was delivered.
    pub fn arrived(&self, number: u64) -> bool {
        self.sent[&number].delivered
    }

    /// Checks a payload that node `to` received from node `from`.
    pub fn check(&mut self, from: usize, to: usize, received: &[u8]) {
        let number = received.first_chunk().map(|number| u64::from_le_bytes(*number)).expect("a packet nobody sent");
        let entry = self.sent.get_mut(&number).expect("a packet nobody sent");
        assert!(!entry.forged, "node {to} believed a forged source");
        assert_eq!((entry.from, entry.to), (from, to), "packet {number} took a wrong turn");
        assert!(!entry.delivered, "packet {number} was delivered twice");
        assert!(received == payload(number, entry.bytes), "packet {number} was changed on the way");
        entry.delivered = true;
        self.delivered += 1;
    }
}

fn payload(number: u64, bytes: usize) -> Vec<u8> {
    let mut payload = ginnel_backends::mem::packet::pattern(bytes.max(NUMBER_BYTES), number);
    payload[..NUMBER_BYTES].copy_from_slice(&number.to_le_bytes());
    payload
}
