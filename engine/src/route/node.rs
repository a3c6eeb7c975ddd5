//! The parts the trie is made of: [`Node`], [`Child`] and [`Leaf`], and the bitmaps that find them.

use super::bits::{Bits, STRIDE};

/// Leaves in one bucket. More save nodes, which cost up to 48 bytes, but every lookup that ends in the bucket scans it:
/// 8 IPv4 leaves fill one cache line, 8 IPv6 leaves two and a half.
pub(super) const BUCKET_MAX: usize = 8;

/// A node of this many prefixes and no child nodes becomes a bucket again. Half of [`BUCKET_MAX`], so that one prefix
/// coming and going does not make and unmake a node each time.
pub(super) const FOLD_MAX: usize = BUCKET_MAX / 2;

/// Decides the [`STRIDE`] bits from `pos` on, for all prefixes that begin with the first `pos` bits of `key`.
#[derive(Clone, Copy)]
pub(super) struct Node<B: Bits> {
    /// Prefixes that end here, that is with a length in `pos..pos + STRIDE`: see [`end_index`].
    pub(super) ends: u64,
    /// Slots that have a child.
    pub(super) slots: u64,
    /// Base of the values of `ends`, in the order of its bits.
    pub(super) values: u32,
    /// Base of the children of `slots`, in the order of its bits.
    pub(super) children: u32,
    key: B::Packed,
    pos: u8,
}

impl<B: Bits> Node<B> {
    /// An empty node for the prefixes that begin with the first `shared` bits of `key`, and perhaps a few fewer:
    /// positions are multiples of [`STRIDE`].
    pub(super) fn new(key: B, shared: u32) -> Self {
        let pos = shared - shared % STRIDE;
        Self { ends: 0, slots: 0, values: 0, children: 0, key: key.truncate(pos).pack(), pos: pos as u8 }
    }

    #[inline]
    pub(super) fn pos(&self) -> u32 {
        u32::from(self.pos)
    }

    #[inline]
    pub(super) fn key(&self) -> B {
        B::unpack(self.key)
    }

    /// Whether `addr` begins with what all prefixes below this node begin with.
    #[inline]
    pub(super) fn covers(&self, addr: B) -> bool {
        addr.agreement(self.key()) >= self.pos()
    }

    /// Number of values.
    pub(super) fn ends_len(&self) -> usize {
        self.ends.count_ones() as usize
    }

    /// Number of children.
    pub(super) fn slots_len(&self) -> usize {
        self.slots.count_ones() as usize
    }

    /// Where the value of the prefix ending at `end` is, if there is one.
    #[inline]
    pub(super) fn value_index(&self, end: u32) -> Option<u32> {
        (self.ends >> end & 1 == 1).then(|| self.values + rank(self.ends, end))
    }

    /// Where the child of a slot is, if there is one.
    #[inline]
    pub(super) fn child_index(&self, slot: usize) -> Option<u32> {
        (self.slots >> slot & 1 == 1).then(|| self.children + rank(self.slots, slot as u32))
    }
}

/// How many bits of `map` are set below bit `index`.
#[inline]
pub(super) fn rank(map: u64, index: u32) -> u32 {
    (map & ((1 << index) - 1)).count_ones()
}

/// Bit of [`Node::ends`] for a prefix with `rest` bits (0 to 5) behind the node's position, the first bits of `slot`:
/// the numbering of a binary heap, level by level.
pub(super) fn end_index(slot: usize, rest: u32) -> u32 {
    debug_assert!(rest < STRIDE);
    (1 << rest) - 1 + (slot as u32 >> (STRIDE - rest))
}

/// The reverse of [`end_index`]: the slot (zeros behind the prefix) and `rest`.
pub(super) fn end_slot(end: u32) -> (usize, u32) {
    let rest = (end + 1).ilog2();
    (((end + 1 - (1 << rest)) << (STRIDE - rest)) as usize, rest)
}

/// For a slot, the bits of [`Node::ends`] whose prefixes cover it. The highest set one is the longest prefix.
pub(super) const COVERING: [u64; 1 << STRIDE] = {
    let mut table = [0; 1 << STRIDE];
    let mut slot = 0;
    while slot < table.len() {
        let mut rest = 0;
        while rest < STRIDE {
            table[slot] |= 1 << ((1 << rest) - 1 + (slot >> (STRIDE - rest)));
            rest += 1;
        }
        slot += 1;
    }
    table
};

/// What a slot leads to, in 32 bits: the index of a node, or (highest bit set) the base and length of a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Child(u32);

/// [`Child`] taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// A node that decides more bits.
    Node(u32),
    /// One to [`BUCKET_MAX`] leaves, longest prefix first.
    Bucket(u32, usize),
}

impl Child {
    const BUCKET: u32 = 1 << 31;
    const LEN_SHIFT: u32 = 28;
    const BASE_MASK: u32 = (1 << Self::LEN_SHIFT) - 1;

    pub(super) fn node(index: u32) -> Self {
        assert!(index < Self::BUCKET, "the table holds too many prefixes: at most 2^28");
        Self(index)
    }

    pub(super) fn bucket(base: u32, len: usize) -> Self {
        assert!(base <= Self::BASE_MASK, "the table holds too many prefixes: at most 2^28");
        debug_assert!(0 < len && len <= BUCKET_MAX);
        Self(Self::BUCKET | (len as u32 - 1) << Self::LEN_SHIFT | base)
    }

    #[inline]
    pub(super) fn target(self) -> Target {
        if self.0 & Self::BUCKET == 0 {
            Target::Node(self.0)
        } else {
            let len = (self.0 & !Self::BUCKET) >> Self::LEN_SHIFT;
            Target::Bucket(self.0 & Self::BASE_MASK, len as usize + 1)
        }
    }
}

const _: () = assert!(BUCKET_MAX <= 8, "three bits of a child hold the length");

/// One prefix of a bucket. Its first bits are those of the way to the bucket.
#[derive(Clone, Copy)]
pub(super) struct Leaf<B: Bits, V> {
    marked: B::Packed,
    pub(super) value: V,
}

impl<B: Bits, V> Leaf<B, V> {
    pub(super) fn new(bits: B, len: u32, value: V) -> Self {
        Self { marked: bits.mark(len).pack(), value }
    }

    #[inline]
    pub(super) fn marked(&self) -> B {
        B::unpack(self.marked)
    }

    #[inline]
    pub(super) fn covers(&self, addr: B) -> bool {
        self.marked().marked_covers(addr)
    }

    pub(super) fn len(&self) -> u32 {
        self.marked().marked_len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_number_every_short_prefix_once() {
        let mut seen = 0u64;
        for rest in 0..STRIDE {
            for first in 0..1usize << rest {
                let slot = first << (STRIDE - rest);
                let end = end_index(slot, rest);
                assert_eq!(seen >> end & 1, 0);
                seen |= 1 << end;
                assert_eq!(end_slot(end), (slot, rest));
                for (other, covering) in COVERING.iter().enumerate() {
                    let covers = (other ^ slot) >> (STRIDE - rest) == 0;
                    assert_eq!(covering >> end & 1 == 1, covers, "{rest} bits of {slot:06b} and {other:06b}");
                }
            }
        }
        assert_eq!(seen, u64::MAX >> 1);
    }

    #[test]
    fn children_come_apart_as_put_together() {
        for len in 1..=BUCKET_MAX {
            for base in [0, 1, (1 << 28) - 1] {
                assert_eq!(Child::bucket(base, len).target(), Target::Bucket(base, len));
            }
        }
        for index in [0, 1, (1 << 31) - 1] {
            assert_eq!(Child::node(index).target(), Target::Node(index));
        }
    }

    #[test]
    fn the_parts_have_no_holes() {
        assert_eq!(size_of::<Node<u32>>(), 32, "half a cache line");
        assert_eq!(size_of::<Node<u128>>(), 48);
        assert_eq!(size_of::<Leaf<u32, u32>>(), 8);
        assert_eq!(size_of::<Leaf<u128, u32>>(), 20);
    }
}
