//! A stream of bytes in which every position knows its value, cheap enough to write and check at memory speed.
//!
//! The stream repeats a block of random-looking bytes. The length of the block is a prime, so that no loss, repetition
//! or exchange of whole segments, pages or buffers maps the stream onto itself.

/// Bytes after which the stream repeats: the largest prime below 2^16, which stays in a core's L2 cache.
const PERIOD: usize = 65_521;

/// Bytes that can be taken in one piece, from any position: four periods.
pub const PIECE_MAX: usize = 4 * PERIOD;

/// The stream. One serves any number of writers and readers.
pub struct Pattern(Vec<u8>);

impl Default for Pattern {
    fn default() -> Self {
        Self::new()
    }
}

impl Pattern {
    /// Makes it.
    #[must_use]
    pub fn new() -> Self {
        // xorshift64 (Marsaglia 2003): only equidistribution matters here.
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut block = Vec::with_capacity(PERIOD + PIECE_MAX);
        block.extend((0..PERIOD).map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[7]
        }));
        while block.len() < PERIOD + PIECE_MAX {
            block.extend_from_within(..PERIOD);
        }
        Self(block)
    }

    /// The `len` bytes of stream `stream` from position `position` on; at most `PIECE_MAX`. Streams are the same
    /// bytes, shifted against each other.
    #[must_use]
    pub fn piece(&self, stream: usize, position: u64, len: usize) -> &[u8] {
        let shift = (stream as u64).wrapping_mul(7_919);
        // Below PERIOD, so it fits.
        let start = ((position % PERIOD as u64 + shift % PERIOD as u64) % PERIOD as u64) as usize;
        &self.0[start..start + len.min(PIECE_MAX)]
    }

    /// Whether `bytes` are what the stream has at `position`.
    ///
    /// # Errors
    /// How many are right before the first wrong one.
    pub fn check(&self, stream: usize, position: u64, bytes: &[u8]) -> Result<(), u64> {
        let mut position_now = position;
        for chunk in bytes.chunks(PIECE_MAX) {
            let expected = self.piece(stream, position_now, chunk.len());
            if chunk != expected {
                let good = chunk.iter().zip(expected).take_while(|(a, b)| a == b).count();
                return Err(position_now - position + good as u64);
            }
            position_now += chunk.len() as u64;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The same stream, byte by byte.
    fn naive(pattern: &Pattern, stream: usize, position: u64) -> u8 {
        pattern.piece(stream, position, 1)[0]
    }

    #[test]
    fn pieces_join_without_a_seam() {
        let pattern = Pattern::new();
        for (stream, position) in [(0, 0), (1, 65_520), (5, 3 * 65_521 - 2), (900, u64::MAX / 2)] {
            let piece = pattern.piece(stream, position, PIECE_MAX);
            assert_eq!(piece.len(), PIECE_MAX);
            for step in [0, 1, 2, 65_519, 65_520, 65_521, 200_000, PIECE_MAX - 1] {
                assert_eq!(piece[step], naive(&pattern, stream, position + step as u64), "{stream} {position} {step}");
            }
        }
    }

    #[test]
    fn damage_is_found_where_it_is() {
        let pattern = Pattern::new();
        let mut bytes = pattern.piece(2, 1_000, 200_000).to_vec();
        assert_eq!(pattern.check(2, 1_000, &bytes), Ok(()));
        assert!(pattern.check(2, 1_001, &bytes).is_err());
        assert!(pattern.check(3, 1_000, &bytes).is_err());
        bytes[150_000] ^= 1;
        assert_eq!(pattern.check(2, 1_000, &bytes), Err(150_000));
    }

    #[test]
    fn exchanged_segments_are_found() {
        let pattern = Pattern::new();
        for segment in [64, 1_380, 1_448, 4_096, 65_536] {
            let mut bytes = pattern.piece(0, 0, 3 * segment).to_vec();
            let (first, rest) = bytes.split_at_mut(segment);
            first.swap_with_slice(&mut rest[segment..]);
            assert!(pattern.check(0, 0, &bytes).is_err(), "{segment}");
        }
    }
}
