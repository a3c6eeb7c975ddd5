//! Packets that wait for a session: a few of the newest, so that the first ones of a connection are not lost.

use crate::limits::{STAGED_BYTES_MAX, STAGED_PACKETS_MAX};
use std::collections::VecDeque;

/// The queue of one peer. The oldest gives way.
#[derive(Default)]
pub struct Staged {
    packets: VecDeque<Box<[u8]>>,
    bytes: usize,
}

impl Staged {
    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }

    /// Adds a packet. Returns how many older ones had to go.
    pub fn push(&mut self, packet: &[u8]) -> u64 {
        self.packets.push_back(packet.into());
        self.bytes += packet.len();
        let mut gone = 0;
        while self.packets.len() > STAGED_PACKETS_MAX || self.bytes > STAGED_BYTES_MAX {
            self.pop();
            gone += 1;
        }
        gone
    }

    /// The oldest packet.
    pub fn front(&self) -> Option<&[u8]> {
        self.packets.front().map(|packet| &**packet)
    }

    /// Removes the oldest packet. An empty queue keeps no memory.
    pub fn pop(&mut self) {
        let Some(packet) = self.packets.pop_front() else { return };
        self.bytes -= packet.len();
        if self.packets.is_empty() {
            self.packets = VecDeque::new();
        }
    }

    /// Removes everything. Returns how many packets that was.
    pub fn clear(&mut self) -> u64 {
        let gone = self.packets.len() as u64;
        *self = Self::default();
        gone
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_stay_in_order() {
        let mut staged = Staged::default();
        let number = |n: usize| n.to_le_bytes();
        let gone: u64 = (0..STAGED_PACKETS_MAX + 10).map(|n| staged.push(&number(n))).sum();
        assert_eq!(gone, 10);
        for n in 10..STAGED_PACKETS_MAX + 10 {
            assert_eq!(staged.front(), Some(&number(n)[..]));
            staged.pop();
        }
        assert!(staged.is_empty() && staged.bytes == 0);
    }

    #[test]
    fn large_packets_are_bounded_by_their_bytes() {
        let mut staged = Staged::default();
        let gone: u64 = (0..100).map(|_| staged.push(&[0; 60_000])).sum();
        let kept = STAGED_BYTES_MAX as u64 / 60_000;
        assert_eq!(gone, 100 - kept);
        assert_eq!(staged.clear(), kept);
        assert!(staged.is_empty() && staged.front().is_none());
    }
}
