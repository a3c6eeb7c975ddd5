//! Walking over every prefix of a [`Trie`].

use super::bits::Bits;
use super::node::{Child, Leaf, Node, Target, end_slot};
use super::removal::bits_of;
use super::trie::{ROOT, Trie};

/// The prefixes of one family as (bits, length, value), node by node, in no order of use to anyone.
pub(super) struct Iter<'a, B: Bits, V> {
    trie: &'a Trie<B, V>,
    /// Nodes not yet looked into.
    pending: Vec<u32>,
    node: Node<B>,
    /// Ends and slots of `node` that are still to come.
    ends: u64,
    slots: u64,
    /// What is left of the bucket in hand, and the bits of the way to it.
    bucket: &'a [Leaf<B, V>],
    path: B,
}

impl<B: Bits, V: Copy + Eq> Trie<B, V> {
    pub(super) fn iter(&self) -> Iter<'_, B, V> {
        let node = *self.nodes.at(ROOT);
        let (ends, slots) = (node.ends, node.slots);
        Iter { trie: self, pending: Vec::new(), node, ends, slots, bucket: &[], path: node.key() }
    }
}

impl<B: Bits, V: Copy + Eq> Iterator for Iter<'_, B, V> {
    type Item = (B, u32, V);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some((leaf, rest)) = self.bucket.split_first() {
                self.bucket = rest;
                return Some((leaf.marked().unmark(self.path), leaf.len(), leaf.value));
            }
            if let Some(end) = bits_of(self.ends).next() {
                self.ends &= self.ends - 1;
                let (slot, rest) = end_slot(end);
                let bits = self.node.key().union(B::from_slot(slot, self.node.pos()));
                let value = self.node.value_index(end)?;
                return Some((bits, self.node.pos() + rest, *self.trie.values.at(value)));
            }
            if let Some(slot) = bits_of(self.slots).next() {
                self.slots &= self.slots - 1;
                let child: Child = *self.trie.children.at(self.node.child_index(slot as usize)?);
                match child.target() {
                    Target::Node(index) => self.pending.push(index),
                    Target::Bucket(base, len) => {
                        self.bucket = self.trie.leaves.block(base, len);
                        self.path = self.node.key().union(B::from_slot(slot as usize, self.node.pos()));
                    }
                }
                continue;
            }
            self.node = *self.trie.nodes.at(self.pending.pop()?);
            (self.ends, self.slots) = (self.node.ends, self.node.slots);
        }
    }
}
