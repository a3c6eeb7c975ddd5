//! The units of one turn's TUN reads, packed one behind the other so that small packets stay close together.

use crate::limits::{TUN_BATCH_BYTES_SOFT, TUN_BATCH_UNITS_MAX, UNIT_ROOM};
use crate::port::UnitMeta;

/// A batch being filled by [`crate::port::Tun::recv`] and emptied by the worker.
pub struct TunBatch {
    buffer: Box<[u8]>,
    units: Vec<Unit>,
    end: usize,
}

/// One unit of the batch.
#[derive(Clone, Copy, Debug)]
pub struct Unit {
    start: usize,
    len: usize,
    /// What the kernel said of it.
    pub meta: UnitMeta,
}

/// A unit starts at a multiple of a cache line, at least this far behind the one before: the last segment of a unit is
/// padded in place.
const TAIL_ROOM: usize = 16;
const ALIGN: usize = 64;

impl TunBatch {
    /// An empty batch with all its memory.
    #[must_use]
    pub fn new() -> Self {
        Self {
            buffer: vec![0; TUN_BATCH_BYTES_SOFT + 2 * UNIT_ROOM].into_boxed_slice(),
            units: Vec::with_capacity(TUN_BATCH_UNITS_MAX),
            end: 0,
        }
    }

    /// Room for one more unit of any size, or `None` where the batch is full.
    pub fn room(&mut self) -> Option<&mut [u8]> {
        let full = self.units.len() == TUN_BATCH_UNITS_MAX || self.end >= TUN_BATCH_BYTES_SOFT;
        (!full).then(|| &mut self.buffer[self.end..self.end + UNIT_ROOM - TAIL_ROOM])
    }

    /// Takes the first `len` bytes of [`Self::room`] as a unit.
    pub fn push(&mut self, len: usize, meta: UnitMeta) {
        debug_assert!(len <= UNIT_ROOM - TAIL_ROOM && self.units.len() < TUN_BATCH_UNITS_MAX);
        self.units.push(Unit { start: self.end, len, meta });
        self.end = (self.end + len + TAIL_ROOM).next_multiple_of(ALIGN);
    }

    /// Units in the batch.
    #[must_use]
    pub fn len(&self) -> usize {
        self.units.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.units.is_empty()
    }

    /// Unit `index`: its metadata, its length, and its bytes with `TAIL_ROOM` bytes of room behind them.
    pub fn unit(&mut self, index: usize) -> (UnitMeta, usize, &mut [u8]) {
        let Unit { start, len, meta } = self.units[index];
        (meta, len, &mut self.buffer[start..start + len + TAIL_ROOM])
    }

    /// Forgets all units.
    pub fn clear(&mut self) {
        self.units.clear();
        self.end = 0;
    }
}

impl Default for TunBatch {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_units_up_to_both_limits() {
        let mut batch = TunBatch::new();
        while let Some(room) = batch.room() {
            assert!(room.len() >= crate::limits::SUPERPACKET_BYTES_MAX);
            room[0] = 7;
            batch.push(100, UnitMeta::default());
        }
        assert_eq!(batch.len(), TUN_BATCH_UNITS_MAX);
        let (_, len, bytes) = batch.unit(63);
        assert_eq!((len, bytes[0], bytes.len()), (100, 7, 116));
        batch.clear();
        batch.room().unwrap();
        batch.push(crate::limits::SUPERPACKET_BYTES_MAX, UnitMeta::default());
        assert!(batch.room().is_none() && !batch.is_empty());
    }
}
