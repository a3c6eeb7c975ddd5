//! The time stamps of initiations (TAI64N; paper, section 5.1): a responder refuses what is not later than the last it saw
//! of this peer, so that an old initiation cannot be repeated to it.
//!
//! What has to hold is that stamps of one private key always rise, whatever happens at this end:
//!
//! - *within a device*: all workers and all peers draw from one [`Stamps`], where a stamp is the time of day or one more
//!   than the last, whichever is greater. A peer that is removed and added again, moves to another worker, or gets another
//!   preshared key, and a clock that is set back, change nothing.
//! - *over a restart*: the new device starts from the time of day. That is ahead of every stamp before, because stamps only
//!   run ahead of the clock when more than one is drawn in 16.8 ms, and then by a nanosecond each. If the clock was set
//!   back in between, or the machine started without one, peers refuse us until it is set: the backend hands in the time
//!   of day again and again, so that this happens within a second of the clock being set.
//!
//! Stamps are rounded down to 2^24 ns, so that nobody learns the exact clock from them.

use crate::tick::Tick;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes of a stamp.
pub const STAMP_BYTES: usize = 12;

/// The TAI64 label of the Unix epoch; leap seconds are left out, as everywhere.
const EPOCH: u64 = (1 << 62) + 10;

const NANOS_PER_SEC: u64 = 1_000_000_000;

/// What time of day it is, and the last stamp. Shared by the workers of a device.
#[derive(Debug, Default)]
pub struct Stamps {
    /// Nanoseconds since the Unix epoch at tick 0.
    origin: AtomicU64,
    last: AtomicU64,
}

impl Stamps {
    /// Stamps of a device whose tick 0 was `origin` nanoseconds after the Unix epoch.
    #[must_use]
    pub fn new(origin: u64) -> Self {
        Self { origin: AtomicU64::new(origin), last: AtomicU64::new(0) }
    }

    /// The clock was looked at again: tick 0 was `origin` nanoseconds after the Unix epoch.
    pub fn set_origin(&self, origin: u64) {
        self.origin.store(origin, Ordering::Relaxed);
    }

    /// A stamp greater than all before.
    pub fn next(&self, now: Tick) -> Stamp {
        let time = self.origin.load(Ordering::Relaxed).saturating_add(now.0) & !0xff_ffff;
        let later = |last: u64| Some(time.max(last.saturating_add(1)));
        let last = self.last.fetch_update(Ordering::Relaxed, Ordering::Relaxed, later).unwrap_or_default();
        Stamp::of(time.max(last.saturating_add(1)))
    }
}

/// A stamp; the later one is the greater one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stamp(pub [u8; STAMP_BYTES]);

impl Stamp {
    fn of(nanos: u64) -> Self {
        let mut bytes = [0; STAMP_BYTES];
        let (secs, rest) = bytes.split_at_mut(8);
        secs.copy_from_slice(&(EPOCH + nanos / NANOS_PER_SEC).to_be_bytes());
        rest.copy_from_slice(&u32::try_from(nanos % NANOS_PER_SEC).unwrap_or(0).to_be_bytes());
        Self(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn stamps_are_rounded_times_of_day() {
        let stamps = Stamps::new(1_700_000_000 * NANOS_PER_SEC);
        let Stamp(bytes) = stamps.next(Tick(5 * NANOS_PER_SEC + 123));
        assert_eq!(
            bytes[..8],
            ((1_u64 << 62) + 10 + 1_700_000_005 - 1).to_be_bytes(),
            "rounded down into the second before"
        );
        let nanos = u32::from_be_bytes(*bytes.last_chunk().unwrap());
        let exact = 1_700_000_005 * NANOS_PER_SEC + 123;
        assert_eq!(u64::from(nanos), (exact & !0xff_ffff) % NANOS_PER_SEC);
    }

    #[test]
    fn stamps_rise_whatever_the_clock_does() {
        let stamps = Stamps::new(1_700_000_000 * NANOS_PER_SEC);
        let mut last = Stamp::default();
        for round in 0..1_000_u64 {
            if round == 500 {
                stamps.set_origin(10);
            }
            let stamp = stamps.next(Tick(round * 1_000_000));
            assert!(stamp > last);
            last = stamp;
        }
        // It is set right again: stamps follow at once.
        stamps.set_origin(1_800_000_000 * NANOS_PER_SEC);
        assert!(stamps.next(Tick(0)) >= Stamp::of(1_799_999_999 * NANOS_PER_SEC));
    }

    #[test]
    fn a_device_started_anew_is_ahead() {
        let origin = 1_700_000_000 * NANOS_PER_SEC;
        let before = Stamps::new(origin);
        let last = (0..10_000).map(|_| before.next(Tick(NANOS_PER_SEC))).last().unwrap();
        let after = Stamps::new(origin);
        assert!(after.next(Tick(NANOS_PER_SEC + (1 << 24))) > last);
    }

    #[test]
    fn workers_draw_different_stamps() {
        let stamps = Arc::new(Stamps::new(NANOS_PER_SEC));
        let draw = |stamps: Arc<Stamps>| {
            std::thread::spawn(move || (0..10_000).map(|_| stamps.next(Tick(5))).collect::<Vec<_>>())
        };
        let threads = [0; 2].map(|_| draw(Arc::clone(&stamps)));
        let mut drawn: Vec<Stamp> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
        drawn.sort_unstable();
        drawn.dedup();
        assert_eq!(drawn.len(), 20_000);
    }
}
