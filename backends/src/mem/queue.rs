//! A queue of byte strings in one piece of memory. Once it has grown to what passes through it, it allocates nothing:
//! ports are measured together with the worker they serve.

/// Byte strings in the order they came, each with a note of type `T`.
#[derive(Debug)]
pub struct ByteQueue<T> {
    bytes: Vec<u8>,
    /// Length and note of each string.
    entries: Vec<(usize, T)>,
    /// First entry that is left, and where its bytes start.
    head: usize,
    head_at: usize,
}

impl<T: Copy> ByteQueue<T> {
    /// An empty queue.
    #[must_use]
    pub fn new() -> Self {
        Self { bytes: Vec::new(), entries: Vec::new(), head: 0, head_at: 0 }
    }

    /// Adds a string at the end.
    pub fn push(&mut self, note: T, bytes: &[u8]) {
        // What was taken is given up once it is the larger part, so that a queue that never runs dry stays small.
        if self.head > self.entries.len() / 2 {
            self.bytes.drain(..self.head_at);
            self.entries.drain(..self.head);
            self.head = 0;
            self.head_at = 0;
        }
        self.bytes.extend_from_slice(bytes);
        self.entries.push((bytes.len(), note));
    }

    /// The first string.
    #[must_use]
    pub fn front(&self) -> Option<(T, &[u8])> {
        let (len, note) = *self.entries.get(self.head)?;
        Some((note, &self.bytes[self.head_at..self.head_at + len]))
    }

    /// Takes the first string away.
    pub fn pop(&mut self) -> Option<(T, &[u8])> {
        let (len, note) = *self.entries.get(self.head)?;
        let at = self.head_at;
        self.head += 1;
        self.head_at += len;
        Some((note, &self.bytes[at..at + len]))
    }

    /// Strings in the queue.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len() - self.head
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.entries.clear();
        self.head = 0;
        self.head_at = 0;
    }
}

impl<T: Copy> Default for ByteQueue<T> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;

    #[test]
    fn agrees_with_a_queue_of_vectors() {
        let mut random = crate::mem::Random::new(3);
        let (mut queue, mut twin) = (ByteQueue::new(), VecDeque::new());
        for note in 0..5_000_u32 {
            let bytes = vec![note as u8; usize::try_from(random.below(40)).unwrap()];
            queue.push(note, &bytes);
            twin.push_back((note, bytes));
            for _ in 0..random.below(3) {
                assert_eq!(queue.front().map(|(note, bytes)| (note, bytes.to_vec())), twin.front().cloned());
                assert_eq!(queue.pop().map(|(note, bytes)| (note, bytes.to_vec())), twin.pop_front());
            }
            assert_eq!((queue.len(), queue.is_empty()), (twin.len(), twin.is_empty()));
        }
        // About as many come as go: taken strings do not pile up.
        assert!(queue.entries.len() < 4 * queue.len() + 200, "{}", queue.entries.len());
        queue.clear();
        assert!(queue.pop().is_none());
    }
}
