//! The way from a worker that got a packet to the worker that owns its peer.
//!
//! The kernel delivers to the owner in all but a few cases: the first packets of a flow, one-way flows, initiations. Those
//! travel a whole turn's worth at a time, up to 64 KiB: one copy (about 4 µs) per 45 packets of full size (about 40 µs of
//! cipher), or per 64 small ones. Parcels circulate between a worker's queue and its spares, so nothing is allocated; a
//! full queue drops and counts, like any full queue.
//!
//! Order holds per sender: what one worker hands over arrives in the order it was handed over.

use crate::frame::Received;
use crate::limits::{PARCELS_MAX, TUN_BATCH_UNITS_MAX, UNIT_ROOM};
use crate::offload::segment::TAIL_ROOM;
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

/// Loads for one worker, side by side in one buffer.
pub struct Parcel {
    buffer: Box<[u8]>,
    items: Vec<Item>,
    end: usize,
}

#[derive(Clone, Copy)]
struct Item {
    load: Load,
    start: usize,
    len: usize,
}

impl Parcel {
    fn new() -> Self {
        Self { buffer: vec![0; UNIT_ROOM].into_boxed_slice(), items: Vec::with_capacity(TUN_BATCH_UNITS_MAX), end: 0 }
    }

    /// Adds a load. False where it does not fit any more.
    fn add(&mut self, load: Load, bytes: &[u8]) -> bool {
        let end = self.end + bytes.len() + TAIL_ROOM;
        if self.items.len() == TUN_BATCH_UNITS_MAX || end > self.buffer.len() {
            return false;
        }
        self.buffer[self.end..self.end + bytes.len()].copy_from_slice(bytes);
        self.items.push(Item { load, start: self.end, len: bytes.len() });
        // Checksums are summed over whole words.
        self.end = end.next_multiple_of(8);
        true
    }

    /// Loads in it.
    #[must_use]
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Load `index`: what it is, its length, and its bytes with room to pad the last packet behind them.
    pub fn item(&mut self, index: usize) -> (Load, usize, &mut [u8]) {
        let Item { load, start, len } = self.items[index];
        (load, len, &mut self.buffer[start..start + len + TAIL_ROOM])
    }
}

/// The mailbox of one worker.
struct Mailbox {
    waiting: ArrayQueue<Parcel>,
    spares: ArrayQueue<Parcel>,
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

    fn spare(&self, of: u32) -> Option<Parcel> {
        self.0.get(of as usize)?.spares.pop()
    }

    fn post(&self, to: u32, parcel: Parcel) {
        if let Some(mailbox) = self.0.get(to as usize) {
            // There are as many places as parcels, so there is room.
            let _ = mailbox.waiting.push(parcel);
        }
    }

    /// The next parcel for worker `of`.
    #[must_use]
    pub fn take(&self, of: u32) -> Option<Parcel> {
        self.0.get(of as usize)?.waiting.pop()
    }

    /// Gives a parcel of worker `of` back, to be used again.
    pub fn give_back(&self, of: u32, mut parcel: Parcel) {
        parcel.items.clear();
        parcel.end = 0;
        if let Some(mailbox) = self.0.get(of as usize) {
            // It came from there, so there is room.
            let _ = mailbox.spares.push(parcel);
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
        let spares = ArrayQueue::new(PARCELS_MAX);
        while spares.push(Parcel::new()).is_ok() {}
        Self { waiting: ArrayQueue::new(PARCELS_MAX), spares }
    }
}

/// The parcels one worker is packing for the others. They leave when they are full, and at the end of a turn.
pub struct Dispatch {
    mail: Mail,
    open: Vec<Option<Parcel>>,
    posted: Vec<bool>,
}

impl Dispatch {
    /// Nothing packed yet.
    #[must_use]
    pub fn new(mail: Mail, workers: u32) -> Self {
        let workers = workers as usize;
        Self { mail, open: (0..workers).map(|_| None).collect(), posted: vec![false; workers] }
    }

    /// Packs `bytes` for worker `to`. False where its mailbox is full.
    pub fn hand_over(&mut self, to: u32, load: Load, bytes: &[u8]) -> bool {
        let Some(open) = self.open.get_mut(to as usize) else { return false };
        if let Some(parcel) = open {
            if parcel.add(load, bytes) {
                return true;
            }
            self.post(to);
        }
        let Some(mut parcel) = self.mail.spare(to) else { return false };
        let fits = parcel.add(load, bytes);
        self.open[to as usize] = Some(parcel);
        fits
    }

    /// Sends all parcels off.
    pub fn post_all(&mut self) {
        for to in 0..u32::try_from(self.open.len()).unwrap_or(0) {
            self.post(to);
        }
    }

    fn post(&mut self, to: u32) {
        if let Some(parcel) = self.open.get_mut(to as usize).and_then(Option::take) {
            self.mail.post(to, parcel);
            self.posted[to as usize] = true;
        }
    }

    /// Passes on the numbers of the workers that have been sent something since the last call.
    pub fn wake_others(&mut self, mut wake: impl FnMut(u32)) {
        for (worker, posted) in (0..).zip(&mut self.posted) {
            if std::mem::take(posted) {
                wake(worker);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNIT: Load = Load::Unit(UnitMeta { gso: None, partial_checksum: None });

    #[test]
    fn loads_share_a_parcel_and_arrive_in_order() {
        let mail = Mail::new(2);
        let mut dispatch = Dispatch::new(mail.clone(), 2);
        for round in 0..3 {
            for n in 0..100_u8 {
                assert!(dispatch.hand_over(1, UNIT, &[n; 9]), "{round}");
            }
            dispatch.post_all();
            let mut woken = Vec::new();
            dispatch.wake_others(|worker| woken.push(worker));
            assert_eq!(woken, [1]);
            assert!(mail.waits(1) && !mail.waits(0));
            let mut seen = Vec::new();
            while let Some(mut parcel) = mail.take(1) {
                for index in 0..parcel.len() {
                    let (_, len, bytes) = parcel.item(index);
                    assert_eq!((len, bytes.len()), (9, 9 + TAIL_ROOM));
                    seen.push(bytes[8]);
                }
                mail.give_back(1, parcel);
            }
            assert_eq!(seen, (0..100).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_full_mailbox_says_so_and_recovers() {
        let mail = Mail::new(2);
        let mut dispatch = Dispatch::new(mail.clone(), 2);
        let large = vec![1; crate::limits::SUPERPACKET_BYTES_MAX];
        let taken = (0..100).filter(|_| dispatch.hand_over(1, UNIT, &large)).count();
        assert_eq!(taken, PARCELS_MAX);
        dispatch.post_all();
        mail.give_back(1, mail.take(1).unwrap());
        assert!(dispatch.hand_over(1, UNIT, &large));
        assert!(!dispatch.hand_over(1, UNIT, &large));
    }

    #[test]
    fn a_worker_alone_has_no_mail() {
        let mail = Mail::new(1);
        assert!(!Dispatch::new(mail.clone(), 1).hand_over(0, UNIT, &[1]) && !mail.waits(0));
    }
}
