//! Taking prefixes out of a [`Trie`], and folding the nodes that are then not needed.

use super::bits::{Bits, STRIDE};
use super::node::{Child, FOLD_MAX, Leaf, Target, end_index, end_slot, rank};
use super::trie::{ROOT, Trie};

/// Where in its node a prefix is kept.
enum Place {
    /// This bit of `ends`.
    End(u32),
    /// This position in the bucket of this slot.
    Bucket { slot: usize, child: u32, base: u32, len: usize, at: usize },
}

impl<B: Bits, V: Copy + Eq> Trie<B, V> {
    /// Takes a prefix out and returns its value. Where `holder` is given, only if that is its value.
    pub(super) fn remove(&mut self, bits: B, len: u32, holder: Option<V>) -> Option<V> {
        let (parent, last, place) = self.find(bits.truncate(len), len)?;
        let value = match place {
            Place::End(end) => *self.values.at(self.nodes.at(last).value_index(end)?),
            Place::Bucket { base, at, .. } => self.leaves.at(base + at as u32).value,
        };
        if holder.is_some_and(|holder| holder != value) {
            return None;
        }
        match place {
            Place::End(end) => {
                let node = self.nodes.at_mut(last);
                node.values = self.values.remove(node.values, node.ends_len(), rank(node.ends, end) as usize);
                node.ends &= !(1 << end);
            }
            Place::Bucket { slot, base, len: 1, .. } => {
                self.leaves.release(base, 1);
                let node = self.nodes.at_mut(last);
                let at = rank(node.slots, slot as u32) as usize;
                node.children = self.children.remove(node.children, node.slots_len(), at);
                node.slots &= !(1 << slot);
            }
            Place::Bucket { child, base, len, at, .. } => {
                let base = self.leaves.remove(base, len, at);
                *self.children.at_mut(child) = Child::bucket(base, len - 1);
            }
        }
        self.len -= 1;
        // Once is enough: above a node that folds there are more than FOLD_MAX prefixes still, and as many things.
        if last != ROOT {
            self.fold(parent, last);
        }
        self.compact_if_wasteful();
        Some(value)
    }

    /// Follows a prefix down: the last node, the one above it (the root is above itself) and the place in the last.
    fn find(&self, bits: B, len: u32) -> Option<(u32, u32, Place)> {
        let (mut parent, mut last) = (ROOT, ROOT);
        loop {
            let node = self.nodes.at(last);
            let slot = bits.slot(node.pos());
            if len < node.pos() + STRIDE {
                let end = end_index(slot, len - node.pos());
                return node.value_index(end).map(|_| (parent, last, Place::End(end)));
            }
            let child = node.child_index(slot)?;
            match self.children.at(child).target() {
                Target::Node(below) => {
                    let node = self.nodes.at(below);
                    if !node.covers(bits) || len < node.pos() {
                        return None;
                    }
                    (parent, last) = (last, below);
                }
                Target::Bucket(base, n) => {
                    let marked = bits.mark(len);
                    let at = self.leaves.block(base, n).iter().position(|leaf| leaf.marked() == marked)?;
                    return Some((parent, last, Place::Bucket { slot, child, base, len: n, at }));
                }
            }
        }
    }

    /// Replaces node `index`, a child of node `parent`, by less where that will do.
    fn fold(&mut self, parent: u32, index: u32) {
        let node = *self.nodes.at(index);
        let things = node.ends_len() + node.slots_len();
        if things > FOLD_MAX {
            return;
        }
        if let (1, Some(&child)) = (things, self.children.block(node.children, node.slots_len()).first()) {
            return self.replace(parent, index, child);
        }
        let mut bucket = Vec::with_capacity(FOLD_MAX);
        for child in self.children.block(node.children, node.slots_len()) {
            match child.target() {
                Target::Node(_) => return,
                Target::Bucket(base, len) => bucket.extend_from_slice(self.leaves.block(base, len)),
            }
        }
        if node.ends_len() + bucket.len() > FOLD_MAX {
            return;
        }
        for child in self.children.block(node.children, node.slots_len()) {
            if let Target::Bucket(base, len) = child.target() {
                self.leaves.release(base, len);
            }
        }
        for (end, value) in bits_of(node.ends).zip(self.values.block(node.values, node.ends_len())) {
            let (slot, rest) = end_slot(end);
            let bits = node.key().union(B::from_slot(slot, node.pos()));
            bucket.push(Leaf::new(bits, node.pos() + rest, *value));
        }
        bucket.sort_unstable_by_key(|leaf| std::cmp::Reverse(leaf.len()));
        let child = Child::bucket(self.leaves.place(&bucket), bucket.len());
        self.replace(parent, index, child);
    }

    /// Lets `parent` point to `child` where it pointed to node `index`, and gives that node back.
    fn replace(&mut self, parent: u32, index: u32, child: Child) {
        let node = *self.nodes.at(index);
        let parent = *self.nodes.at(parent);
        if let Some(at) = parent.child_index(node.key().slot(parent.pos())) {
            *self.children.at_mut(at) = child;
        }
        self.values.release(node.values, node.ends_len());
        self.children.release(node.children, node.slots_len());
        self.nodes.release(index, 1);
    }
}

/// The indexes of the bits set, lowest first.
pub(super) fn bits_of(mut map: u64) -> impl Iterator<Item = u32> {
    std::iter::from_fn(move || {
        let lowest = (map != 0).then(|| map.trailing_zeros())?;
        map &= map - 1;
        Some(lowest)
    })
}
