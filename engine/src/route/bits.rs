//! Addresses as bit strings: the few operations the trie needs, for 32 and for 128 bits.
//!
//! It also owns the marked form of a prefix, which needs no length field: the bits move up by one, the first falls off,
//! and a single 1 follows the last.
//!
//! ```text
//! 10.0.0.0/8 as bits   00001010 00000000 00000000 00000000
//! marked               00010101 00000000 00000000 00000000     lowest 1 = marker, at bit 32 − 8
//! ```
//! The lost first bit is known from the place in the trie where a marked prefix is kept. Marked prefixes have at least
//! one bit; the trie only marks those of [`STRIDE`] bits and more.

/// Bits one node of the trie decides.
pub(super) const STRIDE: u32 = 6;

/// An address, first bit in the highest place.
pub(super) trait Bits: Copy + Eq {
    /// Bits of an address.
    const WIDTH: u32;

    /// The same bits in memory, aligned to 4 bytes or less so that nodes and leaves have no holes.
    type Packed: Copy;

    fn pack(self) -> Self::Packed;
    fn unpack(packed: Self::Packed) -> Self;

    /// The first `len` bits, the rest zero.
    fn truncate(self, len: u32) -> Self;

    /// How many first bits are the same in both.
    fn agreement(self, other: Self) -> u32;

    /// The [`STRIDE`] bits from `pos` on, zeros where the address ends before.
    fn slot(self, pos: u32) -> usize;

    /// The bits that [`Bits::slot`] reads `slot` from, all others zero.
    fn from_slot(slot: usize, pos: u32) -> Self;

    /// Both together.
    fn union(self, other: Self) -> Self;

    /// The marked form of the first `len` bits; `len` is at least 1.
    fn mark(self, len: u32) -> Self;

    /// The length of a marked prefix.
    fn marked_len(self) -> u32;

    /// Whether a marked prefix covers `addr`, given that their first bits agree.
    fn marked_covers(self, addr: Self) -> bool;

    /// The bits of a marked prefix; the first one is taken from `path`.
    fn unmark(self, path: Self) -> Self;
}

macro_rules! bits {
    ($int:ty, $packed:ty, $pack:expr, $unpack:expr) => {
        impl Bits for $int {
            const WIDTH: u32 = <$int>::BITS;
            type Packed = $packed;

            #[inline]
            fn pack(self) -> $packed {
                $pack(self)
            }

            #[inline]
            fn unpack(packed: $packed) -> Self {
                $unpack(packed)
            }

            #[inline]
            fn truncate(self, len: u32) -> Self {
                self & !<$int>::MAX.checked_shr(len).unwrap_or(0)
            }

            #[inline]
            fn agreement(self, other: Self) -> u32 {
                (self ^ other).leading_zeros()
            }

            #[inline]
            fn slot(self, pos: u32) -> usize {
                ((self << pos) >> (Self::WIDTH - STRIDE)) as usize
            }

            #[inline]
            fn from_slot(slot: usize, pos: u32) -> Self {
                ((slot as $int) << (Self::WIDTH - STRIDE)) >> pos
            }

            #[inline]
            fn union(self, other: Self) -> Self {
                self | other
            }

            #[inline]
            fn mark(self, len: u32) -> Self {
                debug_assert!(0 < len && len <= Self::WIDTH);
                (self.truncate(len) << 1) | (1 << (Self::WIDTH - len))
            }

            #[inline]
            fn marked_len(self) -> u32 {
                Self::WIDTH - self.trailing_zeros()
            }

            #[inline]
            fn marked_covers(self, addr: Self) -> bool {
                // The marker and everything below it do not count.
                let ignored = self ^ self.wrapping_sub(1);
                ((addr << 1) ^ self) & !ignored == 0
            }

            #[inline]
            fn unmark(self, path: Self) -> Self {
                ((self & self.wrapping_sub(1)) >> 1) | (path & !(<$int>::MAX >> 1))
            }
        }
    };
}

bits!(u32, u32, |bits| bits, |packed| packed);
bits!(u128, [u8; 16], u128::to_ne_bytes, u128::from_ne_bytes);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// `addr` has the first bit of `bits`.
    fn marked_agrees<B: Bits + std::fmt::Debug>(bits: B, len: u32, addr: B) -> Result<(), TestCaseError> {
        let marked = bits.mark(len);
        prop_assert_eq!(marked.marked_len(), len);
        prop_assert_eq!(marked.unmark(addr), bits.truncate(len));
        prop_assert!(marked.marked_covers(bits));
        prop_assert_eq!(marked.marked_covers(addr), bits.agreement(addr) >= len);
        Ok(())
    }

    proptest! {
        #[test]
        fn marked_v4(bits: u32, len in 1u32..=32, flip in 0u32..31) {
            marked_agrees(bits, len, bits ^ (1 << flip))?;
        }

        #[test]
        fn marked_v6(bits: u128, len in 1u32..=128, flip in 0u32..127) {
            marked_agrees(bits, len, bits ^ (1 << flip))?;
        }

        #[test]
        fn slots_rebuild_the_address(bits: u128) {
            let rebuilt = (0..128).step_by(6).fold(0u128, |sum, pos| sum | u128::from_slot(bits.slot(pos), pos));
            prop_assert_eq!(rebuilt, bits);
        }
    }

    #[test]
    fn the_ends_of_the_range() {
        assert_eq!(u32::MAX.truncate(0), 0);
        assert_eq!(u32::MAX.truncate(32), u32::MAX);
        assert_eq!(u128::MAX.truncate(0), 0);
        assert_eq!(u128::MAX.truncate(128), u128::MAX);
        assert_eq!(u32::MAX.slot(30), 0b11_0000, "two bits left, four zeros");
        assert_eq!(0u32.agreement(0), 32);
    }
}
