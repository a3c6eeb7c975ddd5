//! Taking prefixes out of a [`Trie`], and folding the nodes that are then not needed.

use super::bits::{Bits, STRIDE};
use super::node::{Child, FOLD_MAX, Leaf, Target, end_index, end_slot, rank};
use super::trie::{ROOT, Trie};

/// Nodes on the longest way down: one for each six of 128 bits, rounded up.
const DEPTH_MAX: usize = 128_usize.div_ceil(STRIDE as usize);

/// Where a prefix is kept.
enum Place {
    /// Bit of the `ends` of the last node of the way.
    End(u32),
    /// Position in the bucket of this slot of the last node of the way.
    Bucket { slot: usize, child: u32, base: u32, len: usize, at: usize },
}

impl<B: Bits, V: Copy + Eq> Trie<B, V> {
    /// Takes a prefix out and returns its value. Where `holder` is given, only if that is its value.
    pub(super) fn remove(&mut self, bits: B, len: u32, holder: Option<V>) -> Option<V> {
        let mut way = [ROOT; DEPTH_MAX];
        let (depth, place) = self.find(bits.truncate(len), len, &mut way)?;
        let last = way[depth];
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
        for pair in way[..=depth].windows(2).rev() {
            if !self.fold(pair[0], pair[1]) {
                break;
            }
        }
        self.compact_if_wasteful();
        Some(value)
    }

    /// Follows a prefix down; `way` gets the nodes, the answer says how many follow the root and where the prefix is.
    fn find(&self, bits: B, len: u32, way: &mut [u32; DEPTH_MAX]) -> Option<(usize, Place)> {
        let mut depth = 0;
        loop {
            let node = self.nodes.at(way[depth]);
            let slot = bits.slot(node.pos());
            if len < node.pos() + STRIDE {
                let end = end_index(slot, len - node.pos());
                return node.value_index(end).map(|_| (depth, Place::End(end)));
            }
            let child = node.child_index(slot)?;
            match self.children.at(child).target() {
                Target::Node(below) => {
                    let node = self.nodes.at(below);
                    if !node.covers(bits) || len < node.pos() {
                        return None;
                    }
                    depth += 1;
                    way[depth] = below;
                }
                Target::Bucket(base, n) => {
                    let marked = bits.mark(len);
                    let at = self.leaves.block(base, n).iter().position(|leaf| leaf.marked() == marked)?;
                    return Some((depth, Place::Bucket { slot, child, base, len: n, at }));
                }
            }
        }
    }

    /// Replaces node `index`, a child of node `parent`, by less where that will do. Whether the parent may fold too.
    fn fold(&mut self, parent: u32, index: u32) -> bool {
        let node = *self.nodes.at(index);
        let things = node.ends_len() + node.slots_len();
        if things > FOLD_MAX {
            return false;
        }
        if let (1, Some(&child)) = (things, self.children.block(node.children, node.slots_len()).first()) {
            self.replace(parent, index, child);
            // Above a child node nothing changes; a bucket may join its new neighbours.
            return matches!(child.target(), Target::Bucket(..));
        }
        let mut bucket = Vec::with_capacity(FOLD_MAX);
        for child in self.children.block(node.children, node.slots_len()) {
            match child.target() {
                Target::Node(_) => return false,
                Target::Bucket(base, len) => bucket.extend_from_slice(self.leaves.block(base, len)),
            }
        }
        if node.ends_len() + bucket.len() > FOLD_MAX {
            return false;
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
        true
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
