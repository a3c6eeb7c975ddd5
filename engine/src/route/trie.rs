//! One family's prefixes: looking up and adding. Taking away is in `removal`, tidying in `compact`.
//!
//! Invariants, checked by `tests::sound`:
//! - Node 0 is the root, at position 0. Every other node has at least two things (ends or children), and more than
//!   [`FOLD_MAX`](super::node::FOLD_MAX) prefixes at or below it.
//! - A child of slot *s* of a node at position *p* has only prefixes that begin with the node's *p* bits and *s*; a
//!   child node has a position of at least `p + STRIDE`.
//! - A bucket is sorted by length, longest first, and no prefix is in the trie twice.

use super::arena::Arena;
use super::bits::{Bits, STRIDE};
use super::node::{BUCKET_MAX, COVERING, Child, Leaf, Node, Target, end_index, rank};

/// Index of the root node.
pub(super) const ROOT: u32 = 0;

/// Longest-prefix table of one family.
#[derive(Clone)]
pub(super) struct Trie<B: Bits, V> {
    pub(super) nodes: Arena<Node<B>>,
    pub(super) children: Arena<Child>,
    pub(super) leaves: Arena<Leaf<B, V>>,
    pub(super) values: Arena<V>,
    pub(super) len: usize,
}

impl<B: Bits, V: Copy + Eq> Trie<B, V> {
    pub(super) fn new() -> Self {
        let mut nodes = Arena::new();
        nodes.place(&[Node::new(B::from_slot(0, 0), 0)]);
        Self { nodes, children: Arena::new(), leaves: Arena::new(), values: Arena::new(), len: 0 }
    }

    /// The value of the longest prefix that covers `addr`.
    #[inline]
    pub(super) fn lookup(&self, addr: B) -> Option<V> {
        // The longest prefix seen so far, as (ends, end, values) of its node: counting waits until it is known to win.
        let mut best = (0, 0, 0);
        let mut node = self.nodes.at(ROOT);
        loop {
            let slot = addr.slot(node.pos());
            let covering = node.ends & COVERING[slot];
            if covering != 0 {
                best = (node.ends, covering.ilog2(), node.values);
            }
            let Some(child) = node.child_index(slot) else { break };
            match self.children.at(child).target() {
                Target::Node(index) => {
                    node = self.nodes.at(index);
                    if !node.covers(addr) {
                        break;
                    }
                }
                Target::Bucket(base, len) => {
                    // Longest first, and longer than anything on the way here: the first that covers is the longest.
                    // Going backwards without leaving early needs no branch the processor could guess wrong.
                    let bucket = self.leaves.block(base, len);
                    let first = (0..len).rev().fold(len, |first, at| if bucket[at].covers(addr) { at } else { first });
                    match bucket.get(first) {
                        Some(leaf) => return Some(leaf.value),
                        None => break,
                    }
                }
            }
        }
        let (ends, end, values) = best;
        (ends != 0).then(|| *self.values.at(values + rank(ends, end)))
    }

    /// Adds a prefix, or gives it a new value and returns the old one.
    pub(super) fn insert(&mut self, bits: B, len: u32, value: V) -> Option<V> {
        let old = self.insert_below(ROOT, bits.truncate(len), len, value);
        if old.is_none() {
            self.len += 1;
            self.compact_if_wasteful();
        }
        old
    }

    /// [`Trie::insert`] where `index` is a node that covers the prefix.
    fn insert_below(&mut self, mut index: u32, bits: B, len: u32, value: V) -> Option<V> {
        loop {
            let node = *self.nodes.at(index);
            let slot = bits.slot(node.pos());
            if len < node.pos() + STRIDE {
                return self.insert_end(index, end_index(slot, len - node.pos()), value);
            }
            let leaf = Leaf::new(bits, len, value);
            let Some(child) = node.child_index(slot) else {
                let base = self.leaves.place(&[leaf]);
                self.insert_child(index, slot, Child::bucket(base, 1));
                return None;
            };
            match self.children.at(child).target() {
                Target::Node(below) => index = self.descend_or_split(child, below, bits, len),
                Target::Bucket(base, n) => {
                    let bucket = self.leaves.block(base, n);
                    if let Some(at) = bucket.iter().position(|other| other.marked() == leaf.marked()) {
                        let held = &mut self.leaves.at_mut(base + at as u32).value;
                        return Some(std::mem::replace(held, value));
                    }
                    if n < BUCKET_MAX {
                        let at = bucket.partition_point(|other| other.len() > len);
                        let base = self.leaves.insert(base, n, at, leaf);
                        *self.children.at_mut(child) = Child::bucket(base, n + 1);
                        return None;
                    }
                    index = self.burst(child, base, bits, len);
                }
            }
        }
    }

    /// Sets one of the ends of a node.
    fn insert_end(&mut self, index: u32, end: u32, value: V) -> Option<V> {
        let node = self.nodes.at_mut(index);
        if let Some(held) = node.value_index(end) {
            return Some(std::mem::replace(self.values.at_mut(held), value));
        }
        node.values = self.values.insert(node.values, node.ends_len(), rank(node.ends, end) as usize, value);
        node.ends |= 1 << end;
        None
    }

    /// Gives an empty slot of a node a child.
    pub(super) fn insert_child(&mut self, index: u32, slot: usize, child: Child) {
        let node = self.nodes.at_mut(index);
        let at = rank(node.slots, slot as u32) as usize;
        node.children = self.children.insert(node.children, node.slots_len(), at, child);
        node.slots |= 1 << slot;
    }

    /// The next node on the way to a prefix: the node `below` that `child` leads to, or a new one between, where the
    /// two part or the prefix ends.
    fn descend_or_split(&mut self, child: u32, below: u32, bits: B, len: u32) -> u32 {
        let node = self.nodes.at(below);
        let key = node.key();
        let shared = bits.agreement(key).min(len);
        if shared >= node.pos() {
            return below;
        }
        let between = Node::new(bits, shared);
        let slot = key.slot(between.pos());
        let index = self.nodes.place(&[between]);
        self.insert_child(index, slot, Child::node(below));
        *self.children.at_mut(child) = Child::node(index);
        index
    }

    /// Makes a node of a full bucket that one more prefix has to join, and returns it without that prefix. It decides
    /// the first bits in which the leaves and the prefix differ, so that they cannot all land in one bucket again.
    fn burst(&mut self, child: u32, base: u32, bits: B, len: u32) -> u32 {
        let mut full = [*self.leaves.at(base); BUCKET_MAX];
        full.copy_from_slice(self.leaves.block(base, BUCKET_MAX));
        self.leaves.release(base, BUCKET_MAX);
        // Only the first bit of the path matters to `unmark`, and all prefixes of a bucket have it in common.
        let shared = full
            .iter()
            .fold(len, |shared, leaf| shared.min(leaf.len()).min(bits.agreement(leaf.marked().unmark(bits))));
        let index = self.nodes.place(&[Node::new(bits, shared)]);
        *self.children.at_mut(child) = Child::node(index);
        for leaf in full {
            self.insert_below(index, leaf.marked().unmark(bits), leaf.len(), leaf.value);
        }
        index
    }
}
