//! The invariants of `trie`, checked from the root down.

use super::AllowedIps;
use super::arena::room;
use super::bits::{Bits, STRIDE};
use super::node::{BUCKET_MAX, FOLD_MAX, Leaf, Target};
use super::trie::{ROOT, Trie};

/// Checks every invariant of both tries.
///
/// # Panics
/// Where one does not hold.
pub fn check<V: Copy + Eq>(table: &AllowedIps<V>) {
    check_trie(&table.v4);
    check_trie(&table.v6);
}

fn check_trie<B: Bits, V: Copy + Eq>(trie: &Trie<B, V>) {
    let mut room_used = Rooms::default();
    let len = check_node(trie, ROOT, &mut room_used);
    assert_eq!(len, trie.len);
    assert_eq!(room_used.nodes * size_of_val(trie.nodes.at(ROOT)) + trie.nodes.idle_bytes(), trie.nodes.room_bytes());
    assert_eq!(room_used.children * 4 + trie.children.idle_bytes(), trie.children.room_bytes());
    assert_eq!(room_used.values * size_of::<V>() + trie.values.idle_bytes(), trie.values.room_bytes());
    let leaf = size_of::<Leaf<B, V>>();
    assert_eq!(room_used.leaves * leaf + trie.leaves.idle_bytes(), trie.leaves.room_bytes());
}

/// Room of the blocks the trie points to.
#[derive(Default)]
struct Rooms {
    nodes: usize,
    children: usize,
    leaves: usize,
    values: usize,
}

/// Checks a node and everything below; answers the number of prefixes.
fn check_node<B: Bits, V: Copy + Eq>(trie: &Trie<B, V>, index: u32, rooms: &mut Rooms) -> usize {
    let node = *trie.nodes.at(index);
    let mut prefixes = node.ends_len();
    assert!(node.pos().is_multiple_of(STRIDE) && node.key() == node.key().truncate(node.pos()));
    assert!(index == ROOT || node.ends_len() + node.slots_len() >= 2, "nothing to decide");
    rooms.nodes += 1;
    rooms.children += room(node.slots_len());
    rooms.values += room(node.ends_len());
    for slot in 0..64 {
        let Some(child) = node.child_index(slot) else { continue };
        let path = node.key().union(B::from_slot(slot, node.pos()));
        match trie.children.at(child).target() {
            Target::Node(below) => {
                let child = trie.nodes.at(below);
                assert!(child.pos() >= node.pos() + STRIDE);
                assert!(child.key().agreement(path) >= node.pos() + STRIDE);
                prefixes += check_node(trie, below, rooms);
            }
            Target::Bucket(base, len) => {
                assert!(len <= BUCKET_MAX);
                rooms.leaves += room(len);
                prefixes += len;
                let bucket = trie.leaves.block(base, len);
                assert!(bucket.is_sorted_by(|a, b| a.len() >= b.len()));
                for (at, leaf) in bucket.iter().enumerate() {
                    assert!(leaf.len() >= node.pos() + STRIDE);
                    assert!(leaf.marked().unmark(path).agreement(path) >= node.pos() + STRIDE);
                    assert!(bucket[..at].iter().all(|other| other.marked() != leaf.marked()));
                }
            }
        }
    }
    assert!(index == ROOT || prefixes > FOLD_MAX, "should be a bucket");
    prefixes
}
