//! Superpackets to packets and back: pure functions over bytes, no kernel in sight.

pub mod coalesce;
mod merge;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod naive;
pub mod segment;
#[cfg(test)]
mod twin;

/// Single packets in a row, each contiguous and padded, valid until the next one is asked for.
pub trait Plaintexts {
    /// The next packet.
    fn next(&mut self) -> Option<&[u8]>;
}
