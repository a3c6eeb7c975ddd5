//! Tidying: when too much of the arenas is room that no block uses, the whole trie is copied into fresh ones.
//!
//! The copy goes level by level, so the nodes every lookup passes lie together. It is what keeps memory bounded, and it
//! is also the one step of an update whose cost follows the size of the table: see the weaknesses in the module header.

use super::arena::Arena;
use super::bits::Bits;
use super::node::{Child, Target};
use super::trie::{ROOT, Trie};

/// Waste below this is left alone: a page, which small tables may have and which no copy is worth.
const WASTE_BYTES_MIN: usize = 4_096;

/// The waste that starts a copy, as one part in so many of all bytes. At 1/4 each wasted byte pays for four copied; at
/// 1/2 memory would double before anything happens, at 1/8 a growing table would copy itself twice as often.
const WASTE_PART: usize = 4;

impl<B: Bits, V: Copy + Eq> Trie<B, V> {
    /// Bytes on the heap.
    pub(super) fn heap_bytes(&self) -> usize {
        self.nodes.heap_bytes() + self.children.heap_bytes() + self.leaves.heap_bytes() + self.values.heap_bytes()
    }

    pub(super) fn compact_if_wasteful(&mut self) {
        let Self { nodes, children, leaves, values, .. } = self;
        let idle = nodes.idle_bytes() + children.idle_bytes() + leaves.idle_bytes() + values.idle_bytes();
        let all = nodes.room_bytes() + children.room_bytes() + leaves.room_bytes() + values.room_bytes();
        if idle > WASTE_BYTES_MIN && idle > all / WASTE_PART {
            self.compact();
        }
    }

    /// Copies the trie into arenas of just the room it needs.
    pub(super) fn compact(&mut self) {
        let mut fresh = Self {
            nodes: Arena::sized_for(&self.nodes),
            children: Arena::sized_for(&self.children),
            leaves: Arena::sized_for(&self.leaves),
            values: Arena::sized_for(&self.values),
            len: self.len,
        };
        fresh.nodes.place(&[*self.nodes.at(ROOT)]);
        // Nodes copied but not yet looked into still point into the old arenas; they wait in the new arena itself.
        let mut next = ROOT;
        while (next as usize) < fresh.nodes.len() {
            let old = *fresh.nodes.at(next);
            let values = fresh.values.place(self.values.block(old.values, old.ends_len()));
            let children = fresh.children.place(self.children.block(old.children, old.slots_len()));
            for index in (children..).take(old.slots_len()) {
                let child = fresh.children.at_mut(index);
                *child = match child.target() {
                    Target::Node(below) => Child::node(fresh.nodes.place(&[*self.nodes.at(below)])),
                    Target::Bucket(base, len) => Child::bucket(fresh.leaves.place(self.leaves.block(base, len)), len),
                };
            }
            let node = fresh.nodes.at_mut(next);
            (node.values, node.children) = (values, children);
            next += 1;
        }
        *self = fresh;
    }
}
