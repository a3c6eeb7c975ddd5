//! ChaCha20 (RFC 8439 §2.3), vertically: a register holds one word of the state, of 8 or 16 blocks.
//!
//! No shuffle is needed until the end, when the words are transposed into blocks.

use super::memory;
use core::arch::x86_64::*;

/// Bytes in a block.
pub(super) const BLOCK: usize = 64;

/// "expand 32-byte k"
const CONSTANTS: [u32; 4] = [0x6170_7865, 0x3320_646e, 0x7962_2d32, 0x6b20_6574];

/// The state of a message's block 0.
pub(super) struct State([u32; 16]);

/// Defines the twenty rounds for registers of one width; `beside` is called between any two with their number.
macro_rules! rounds {
    ($name:ident, $register:ty, $add:ident, $xor:ident, $rotate:ident) => {
        #[target_feature(enable = "avx512f,avx512vl")]
        #[inline]
        fn $name(x: &mut [$register; 16], mut beside: impl FnMut(usize)) {
            const COLUMNS: [[usize; 4]; 4] = [[0, 4, 8, 12], [1, 5, 9, 13], [2, 6, 10, 14], [3, 7, 11, 15]];
            const DIAGONALS: [[usize; 4]; 4] = [[0, 5, 10, 15], [1, 6, 11, 12], [2, 7, 8, 13], [3, 4, 9, 14]];
            macro_rules! step {
                ($quarters:ident, $a:literal, $b:literal, $d:literal, $bits:literal) => {
                    for q in $quarters {
                        x[q[$a]] = $add(x[q[$a]], x[q[$b]]);
                        x[q[$d]] = $rotate::<$bits>($xor(x[q[$d]], x[q[$a]]));
                    }
                };
            }
            macro_rules! round {
                ($quarters:ident) => {
                    step!($quarters, 0, 1, 3, 16);
                    step!($quarters, 2, 3, 1, 12);
                    step!($quarters, 0, 1, 3, 8);
                    step!($quarters, 2, 3, 1, 7);
                };
            }
            for double in 0..10 {
                round!(COLUMNS);
                beside(2 * double);
                round!(DIAGONALS);
                beside(2 * double + 1);
            }
        }
    };
}

rounds!(rounds16, __m512i, _mm512_add_epi32, _mm512_xor_si512, _mm512_rol_epi32);
rounds!(rounds8, __m256i, _mm256_add_epi32, _mm256_xor_si256, _mm256_rol_epi32);

impl State {
    pub(super) fn new(key: &[u8; 32], counter: u64) -> Self {
        let mut state = [0; 16];
        state[..4].copy_from_slice(&CONSTANTS);
        let (words, _) = key.as_chunks();
        for (word, bytes) in state[4..12].iter_mut().zip(words) {
            *word = u32::from_le_bytes(*bytes);
        }
        state[14] = counter as u32;
        state[15] = (counter >> 32) as u32;
        Self(state)
    }

    /// Sixteen blocks of key stream, from block `first` on.
    #[target_feature(enable = "avx512f,avx512vl")]
    #[inline]
    pub(super) fn blocks16(&self, first: u32) -> [__m512i; 16] {
        let counters = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
        let mut start = self.0.map(|word| _mm512_set1_epi32(word.cast_signed()));
        start[12] = _mm512_add_epi32(_mm512_set1_epi32(first.cast_signed()), counters);
        let mut x = start;
        rounds16(&mut x, |_| {});
        for (word, start) in x.iter_mut().zip(start) {
            *word = _mm512_add_epi32(*word, start);
        }
        let mut blocks = [_mm512_setzero_si512(); 16];
        let rows = [0, 4, 8, 12].map(|w| transpose16([x[w], x[w + 1], x[w + 2], x[w + 3]]));
        for j in 0..4 {
            // Register: four words of the blocks j, 4 + j, 8 + j, 12 + j.
            let even = _mm512_shuffle_i32x4::<0b10_00_10_00>(rows[0][j], rows[1][j]);
            let odd = _mm512_shuffle_i32x4::<0b11_01_11_01>(rows[0][j], rows[1][j]);
            let even_high = _mm512_shuffle_i32x4::<0b10_00_10_00>(rows[2][j], rows[3][j]);
            let odd_high = _mm512_shuffle_i32x4::<0b11_01_11_01>(rows[2][j], rows[3][j]);
            blocks[j] = _mm512_shuffle_i32x4::<0b10_00_10_00>(even, even_high);
            blocks[8 + j] = _mm512_shuffle_i32x4::<0b11_01_11_01>(even, even_high);
            blocks[4 + j] = _mm512_shuffle_i32x4::<0b10_00_10_00>(odd, odd_high);
            blocks[12 + j] = _mm512_shuffle_i32x4::<0b11_01_11_01>(odd, odd_high);
        }
        blocks
    }

    /// Eight blocks of key stream, from block `first` on. `beside`: see [`rounds8`].
    #[target_feature(enable = "avx512f,avx512vl")]
    #[inline]
    pub(super) fn blocks8(&self, first: u32, beside: impl FnMut(usize)) -> [__m512i; 8] {
        let counters = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
        let mut start = self.0.map(|word| _mm256_set1_epi32(word.cast_signed()));
        start[12] = _mm256_add_epi32(_mm256_set1_epi32(first.cast_signed()), counters);
        let mut x = start;
        rounds8(&mut x, beside);
        for (word, start) in x.iter_mut().zip(start) {
            *word = _mm256_add_epi32(*word, start);
        }
        let mut blocks = [_mm512_setzero_si512(); 8];
        let rows = [0, 4, 8, 12].map(|w| transpose8([x[w], x[w + 1], x[w + 2], x[w + 3]]));
        for j in 0..4 {
            // Register: eight words of the blocks j and 4 + j.
            let low = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(rows[0][j]), rows[1][j]);
            let high = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(rows[2][j]), rows[3][j]);
            blocks[j] = _mm512_shuffle_i32x4::<0b10_00_10_00>(low, high);
            blocks[4 + j] = _mm512_shuffle_i32x4::<0b11_01_11_01>(low, high);
        }
        blocks
    }
}

/// Turns four words of 16 blocks into, of every fourth block, four words side by side.
#[target_feature(enable = "avx512f")]
#[inline]
fn transpose16(x: [__m512i; 4]) -> [__m512i; 4] {
    let low = [_mm512_unpacklo_epi32(x[0], x[1]), _mm512_unpacklo_epi32(x[2], x[3])];
    let high = [_mm512_unpackhi_epi32(x[0], x[1]), _mm512_unpackhi_epi32(x[2], x[3])];
    [
        _mm512_unpacklo_epi64(low[0], low[1]),
        _mm512_unpackhi_epi64(low[0], low[1]),
        _mm512_unpacklo_epi64(high[0], high[1]),
        _mm512_unpackhi_epi64(high[0], high[1]),
    ]
}

/// Turns four words of 8 blocks into, of every fourth block, four words side by side.
#[target_feature(enable = "avx512f,avx512vl")]
#[inline]
fn transpose8(x: [__m256i; 4]) -> [__m256i; 4] {
    let low = [_mm256_unpacklo_epi32(x[0], x[1]), _mm256_unpacklo_epi32(x[2], x[3])];
    let high = [_mm256_unpackhi_epi32(x[0], x[1]), _mm256_unpackhi_epi32(x[2], x[3])];
    [
        _mm256_unpacklo_epi64(low[0], low[1]),
        _mm256_unpackhi_epi64(low[0], low[1]),
        _mm256_unpacklo_epi64(high[0], high[1]),
        _mm256_unpackhi_epi64(high[0], high[1]),
    ]
}

/// XORs `from`, continued with zeros, with the key stream into `to`, as far as both go.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
pub(super) fn xor(stream: &[__m512i], from: &[u8], to: &mut [u8]) {
    for (i, &block) in stream.iter().enumerate() {
        let at = i * BLOCK;
        let whole = from.get(at..).and_then(|f| f.first_chunk()).zip(to.get_mut(at..).and_then(|t| t.first_chunk_mut()));
        if let Some((from, to)) = whole {
            memory::store(to, _mm512_xor_si512(block, memory::load(from)));
        } else if at < to.len() {
            let from = from.get(at..).unwrap_or_default();
            let end = to.len().min(at + BLOCK);
            let plain = memory::load_part(&from[..from.len().min(BLOCK)]);
            memory::store_part(&mut to[at..end], _mm512_xor_si512(block, plain));
        } else {
            break;
        }
    }
}
