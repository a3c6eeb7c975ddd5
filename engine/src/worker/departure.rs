//! The way from sealed datagrams to the link: fills trains, sends them when none is left, counts.

use crate::drops::DropReason;
use crate::frame::{Ecn, Endpoint, Outbox, Outcome};
use crate::peer::noise;
use crate::port::Link;
use crate::stats::{WorkerStats, bump};
use crate::wire::message::INITIATION_BYTES;

/// The owner of trains that belong to no peer.
pub const NOBODY: u32 = u32::MAX;

/// Where the datagrams of one peer go during one batch.
pub struct Departure<'a, L> {
    /// Filled here.
    pub outbox: &'a mut Outbox,
    /// Asked to send when the outbox is full.
    pub link: &'a mut L,
    /// Counted here.
    pub stats: &'a WorkerStats,
    /// Number of the peer.
    pub owner: u32,
    /// Its endpoint.
    pub endpoint: Endpoint,
    /// Mark for the outer header.
    pub ecn: Ecn,
    /// Its path takes trains.
    pub whole: bool,
    /// Datagrams and bytes that went this way.
    pub sent: Sent,
}

/// What has gone through a [`Departure`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Sent {
    /// Datagrams.
    pub datagrams: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl<L: Link> noise::Departure for Departure<'_, L> {
    fn slot(&mut self, bytes: usize) -> &mut [u8] {
        if !self.outbox.open(self.owner, &self.endpoint, self.ecn, self.whole, bytes) {
            flush(self.outbox, self.link, self.stats);
            self.outbox.open(self.owner, &self.endpoint, self.ecn, self.whole, bytes);
        }
        self.outbox.slot()
    }

    fn push(&mut self, bytes: usize) {
        self.outbox.push(bytes);
        self.sent.datagrams += 1;
        self.sent.bytes += bytes as u64;
    }

    fn dropped(&mut self, reason: DropReason) {
        self.stats.drops.add(reason, 1);
    }
}

/// A departure for a peer that nothing can be sent to.
pub struct Nowhere([u8; INITIATION_BYTES]);

impl Default for Nowhere {
    fn default() -> Self {
        Self([0; INITIATION_BYTES])
    }
}

impl noise::Departure for Nowhere {
    fn slot(&mut self, bytes: usize) -> &mut [u8] {
        debug_assert!(bytes <= INITIATION_BYTES, "only timers run here");
        &mut self.0
    }

    fn push(&mut self, _: usize) {}

    fn dropped(&mut self, _: DropReason) {}
}

/// Sends and empties the outbox. What the engine has to know of it stays behind as remarks.
pub fn flush(outbox: &mut Outbox, link: &mut impl Link, stats: &WorkerStats) {
    if outbox.is_empty() {
        return;
    }
    link.send(outbox);
    let (mut trains, mut datagrams) = (0, 0);
    for train in outbox.trains() {
        let count = train.len() as u64;
        match train.outcome {
            Outcome::Sent | Outcome::SentSingly | Outcome::SentUnsourced => {
                trains += 1;
                datagrams += count;
            }
            Outcome::Overflow | Outcome::Pending => stats.drops.add(DropReason::OutboundOverflow, count),
            Outcome::Refused(_) => stats.drops.add(DropReason::OutboundRefused, count),
        }
    }
    bump(&stats.link_tx_trains, trains);
    bump(&stats.link_tx_datagrams, datagrams);
    outbox.settle();
}
