//! The way from a worker that got a packet to the worker that owns its peer.
//!
//! The kernel delivers to the owner in all but a few cases: the first packets of a flow, one-way flows, initiations. Those
//! travel a whole unit or run at a time, so a hand-off costs one copy of up to 64 KiB (about 4 µs) per 45 packets
//! (about 40 µs of cipher). Buffers circulate between a worker's queue and its spares, so nothing is allocated; a full
//! queue drops and counts, like any full queue.
//!
//! Order holds per sender: what one worker hands over arrives in the order it was handed over.

use crate::frame::Received;
use crate::limits::{HANDOFFS_QUEUED_MAX, UNIT_ROOM};
use crate::port::UnitMeta;
use crossbeam_queue::ArrayQueue;
use std::sync::Arc;

/// What is handed over.
#[derive(Clone, Copy, Debug)]
pub enum Load {
    /// A unit from the TUN.
    Unit(UnitMeta),
    /// A train, or a part of one.
    Train {
        /// Its facts, with `len` that of the part.
        received: Received,
        /// A handshake message that has passed the screen of another worker.
        screened: bool,
    },
}

/// A load and its bytes.
pub struct Parcel {
    /// What it is.
    pub load: Load,
    /// Bytes in `buffer`.
    pub len: usize,
    /// [`UNIT_ROOM`] bytes.
    pub buffer: Box<[u8]>,
}

/// The mailbox of one worker.
struct Mailbox {
    waiting: ArrayQueue<Parcel>,
    spares: ArrayQueue<Box<[u8]>>,
}

/// The mailboxes of all workers of a device.
#[derive(Clone)]
pub struct Mail(Arc<[Mailbox]>);

impl Mail {
    /// Mailboxes for `workers` workers; a worker alone needs none.
    #[must_use]
    pub fn new(workers: u32) -> Self {
        let boxes = if workers > 1 { workers } else { 0 };
        Self((0..boxes).map(|_| Mailbox::new()).collect())
    }

    /// Hands `bytes` to worker `to`. False where its mailbox is full.
    pub fn hand_over(&self, to: u32, load: Load, bytes: &[u8]) -> bool {
        let Some(mailbox) = self.0.get(to as usize) else { return false };
        let Some(mut buffer) = mailbox.spares.pop() else { return false };
        let len = bytes.len().min(buffer.len());
        buffer[..len].copy_from_slice(&bytes[..len]);
        // There are as many places as buffers.
        mailbox.waiting.push(Parcel { load, len, buffer }).is_ok()
    }

    /// The next parcel for worker `of`.
    pub fn take(&self, of: u32) -> Option<Parcel> {
        self.0.get(of as usize)?.waiting.pop()
    }

    /// Gives the buffer of a parcel back.
    pub fn give_back(&self, of: u32, parcel: Parcel) {
        if let Some(mailbox) = self.0.get(of as usize) {
            // It came from there, so there is room.
            let _ = mailbox.spares.push(parcel.buffer);
        }
    }

    /// Whether something waits for worker `of`.
    #[must_use]
    pub fn waits(&self, of: u32) -> bool {
        self.0.get(of as usize).is_some_and(|mailbox| !mailbox.waiting.is_empty())
    }
}

impl Mailbox {
    fn new() -> Self {
        let spares = ArrayQueue::new(HANDOFFS_QUEUED_MAX);
        for _ in 0..HANDOFFS_QUEUED_MAX {
            let _ = spares.push(vec![0; UNIT_ROOM].into_boxed_slice());
        }
        Self { waiting: ArrayQueue::new(HANDOFFS_QUEUED_MAX), spares }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parcels_arrive_in_order_and_buffers_come_back() {
        let mail = Mail::new(2);
        for round in 0..3 {
            for n in 0..HANDOFFS_QUEUED_MAX {
                assert!(mail.hand_over(1, Load::Unit(UnitMeta::default()), &[u8::try_from(n).unwrap(); 9]), "{round}");
            }
            assert!(!mail.hand_over(1, Load::Unit(UnitMeta::default()), &[0]));
            assert!(mail.waits(1) && !mail.waits(0));
            for n in 0..HANDOFFS_QUEUED_MAX {
                let parcel = mail.take(1).unwrap();
                assert_eq!((parcel.len, parcel.buffer[8]), (9, u8::try_from(n).unwrap()));
                mail.give_back(1, parcel);
            }
            assert!(mail.take(1).is_none());
        }
    }

    #[test]
    fn a_worker_alone_has_no_mail() {
        let mail = Mail::new(1);
        assert!(!mail.hand_over(0, Load::Unit(UnitMeta::default()), &[1]) && !mail.waits(0));
    }
}
