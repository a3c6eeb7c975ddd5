//! Small runs of equal items in one growing vector: the memory under the trie.
//!
//! A block is known by its first index and its length, both kept by the caller; its room follows from the length
//! ([`room`]). A block that outgrows its room moves, and what it leaves is kept for the next block of that room. Rooms
//! are never split or joined, so left-over room can pile up while a table grows; the trie watches
//! [`Arena::idle_bytes`] and copies itself into fresh arenas when it becomes too much.

/// Rooms of a block. A third to a half apart: closer ones would move blocks more often, wider ones waste more.
const ROOMS: [u8; 12] = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64];

/// Longest block.
pub(super) const BLOCK_MAX: usize = 64;

/// For a block length, the index of its room in [`ROOMS`].
const ROOM_OF_LEN: [u8; BLOCK_MAX + 1] = {
    let mut table = [0; BLOCK_MAX + 1];
    let (mut len, mut class) = (1, 0);
    while len <= BLOCK_MAX {
        if len > ROOMS[class] as usize {
            class += 1;
        }
        table[len] = class as u8;
        len += 1;
    }
    table
};

/// Items of room a block of `len` items takes.
pub(super) fn room(len: usize) -> usize {
    if len == 0 { 0 } else { usize::from(ROOMS[class(len)]) }
}

fn class(len: usize) -> usize {
    usize::from(ROOM_OF_LEN[len])
}

/// Blocks of `T`. An empty block has no place: its index is ignored and it need not be released.
#[derive(Clone)]
pub(super) struct Arena<T> {
    items: Vec<T>,
    free: [Vec<u32>; ROOMS.len()],
    idle: usize,
}

impl<T: Copy> Arena<T> {
    pub(super) fn new() -> Self {
        Self { items: Vec::new(), free: Default::default(), idle: 0 }
    }

    /// An empty arena with memory for exactly the blocks of another.
    pub(super) fn sized_for(other: &Self) -> Self {
        Self { items: Vec::with_capacity(other.items.len() - other.idle), ..Self::new() }
    }

    /// Item at an index.
    #[inline]
    pub(super) fn at(&self, index: u32) -> &T {
        &self.items[index as usize]
    }

    /// Item at an index.
    #[inline]
    pub(super) fn at_mut(&mut self, index: u32) -> &mut T {
        &mut self.items[index as usize]
    }

    /// The block of `len` items at `base`.
    #[inline]
    pub(super) fn block(&self, base: u32, len: usize) -> &[T] {
        &self.items[base as usize..][..len]
    }

    /// Puts a new block down and returns its base.
    pub(super) fn place(&mut self, block: &[T]) -> u32 {
        let Some(&last) = block.last() else { return 0 };
        let room = room(block.len());
        if let Some(base) = self.free[class(block.len())].pop() {
            self.idle -= room;
            self.items[base as usize..][..block.len()].copy_from_slice(block);
            return base;
        }
        let base = self.items.len();
        self.reserve(room);
        self.items.extend_from_slice(block);
        self.items.resize(base + room, last);
        u32::try_from(base).expect("the trie allows fewer than 2^28 leaves and fewer other items")
    }

    /// Gives a block back.
    pub(super) fn release(&mut self, base: u32, len: usize) {
        if len > 0 {
            self.idle += room(len);
            self.free[class(len)].push(base);
        }
    }

    /// Makes a block of `len` items one longer, with `item` at `at`; returns its base, which may have moved.
    pub(super) fn insert(&mut self, base: u32, len: usize, at: usize, item: T) -> u32 {
        if room(len) > len {
            let block = &mut self.items[base as usize..][..=len];
            block.copy_within(at..len, at + 1);
            block[at] = item;
            return base;
        }
        let mut longer = [item; BLOCK_MAX];
        let block = self.block(base, len);
        longer[..at].copy_from_slice(&block[..at]);
        longer[at + 1..=len].copy_from_slice(&block[at..]);
        let moved = self.place(&longer[..=len]);
        self.release(base, len);
        moved
    }

    /// Makes a block of `len` items one shorter by the one at `at`; returns its base, which may have moved.
    pub(super) fn remove(&mut self, base: u32, len: usize, at: usize) -> u32 {
        self.items[base as usize..][..len].copy_within(at + 1.., at);
        if room(len - 1) == room(len) {
            return base;
        }
        let mut shorter = [*self.at(base); BLOCK_MAX];
        shorter[..len - 1].copy_from_slice(self.block(base, len - 1));
        self.release(base, len);
        self.place(&shorter[..len - 1])
    }

    /// Items of room, in blocks or not.
    pub(super) fn len(&self) -> usize {
        self.items.len()
    }

    /// Bytes of room, in blocks or not.
    pub(super) fn room_bytes(&self) -> usize {
        self.items.len() * size_of::<T>()
    }

    /// Bytes of room in no block.
    pub(super) fn idle_bytes(&self) -> usize {
        self.idle * size_of::<T>()
    }

    /// Heap bytes held.
    pub(super) fn heap_bytes(&self) -> usize {
        let free: usize = self.free.iter().map(Vec::capacity).sum();
        self.items.capacity() * size_of::<T>() + free * size_of::<u32>()
    }

    /// Grows by an eighth where `Vec` would double: a large table shall not hold as much unused memory again.
    fn reserve(&mut self, room: usize) {
        if self.items.capacity() - self.items.len() < room {
            self.items.reserve_exact(room.max(self.items.len() / 8));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn rooms_hold_their_lengths() {
        for len in 1..=BLOCK_MAX {
            assert!(room(len) >= len && (len == 1 || room(len) >= room(len - 1)));
            assert!(len < 4 || room(len) * 2 <= len * 3, "at most half as much again");
        }
        assert_eq!(room(0), 0);
    }

    proptest! {
        /// Several blocks in one arena against as many vectors.
        #[test]
        fn behaves_like_vectors(steps in prop::collection::vec((0usize..5, any::<bool>(), any::<u16>()), 0..600)) {
            let mut arena = Arena::new();
            let mut twins: [(u32, Vec<u16>); 5] = Default::default();
            for (which, grow, item) in steps {
                let (base, twin) = &mut twins[which];
                let at = usize::from(item) % (twin.len() + 1);
                if grow && twin.len() < BLOCK_MAX {
                    *base = arena.insert(*base, twin.len(), at, item);
                    twin.insert(at, item);
                } else if at < twin.len() {
                    *base = arena.remove(*base, twin.len(), at);
                    twin.remove(at);
                }
                for (base, twin) in &twins {
                    prop_assert_eq!(arena.block(*base, twin.len()), &twin[..]);
                }
                let live: usize = twins.iter().map(|(_, twin)| room(twin.len())).sum();
                prop_assert_eq!(live + arena.idle, arena.len());
            }
        }
    }
}
