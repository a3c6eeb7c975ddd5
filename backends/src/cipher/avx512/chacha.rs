//! ChaCha20 (RFC 8439 §2.3): the states of a message's blocks, the rounds, the key stream XORed with a text.
//!
//! ```text
//! rows     4 blocks: a register holds a row of four words of each; the least to do for a short message
//! narrow   8 blocks: a register of 256 bits holds one word of each
//! wide    16 blocks: one of 512 bits does
//! ```
//!
//! The steps of two kinds alternate where one alone leaves the vector units idle: 8 + 4 blocks take little longer than 8,
//! 16 + 8 fill all 32 registers.

use super::memory;
use super::transpose::{narrow_blocks, rows_blocks, wide_blocks};
use core::arch::x86_64::*;

/// Bytes in a block.
pub(super) const BLOCK: usize = 64;

/// "expand 32-byte k"
const CONSTANTS: [u32; 4] = [0x6170_7865, 0x3320_646e, 0x7962_2d32, 0x6b20_6574];

/// By one word to the left, to the right, and by two.
const LEFT: i32 = 0b00_11_10_01;
const RIGHT: i32 = 0b10_01_00_11;
const HALF: i32 = 0b01_00_11_10;

/// What the key stream of a message depends on.
pub(super) struct Message<'a> {
    pub(super) key: &'a [u32; 8],
    pub(super) counter: u64,
}

const COLUMNS: [[usize; 4]; 4] = [[0, 4, 8, 12], [1, 5, 9, 13], [2, 6, 10, 14], [3, 7, 11, 15]];
const DIAGONALS: [[usize; 4]; 4] = [[0, 5, 10, 15], [1, 6, 11, 12], [2, 7, 8, 13], [3, 4, 9, 14]];

/// A step of four quarter rounds, side by side: a += b, d ^= a, d <<<= bits; or the same with c, d, b.
macro_rules! step {
    ($add:ident, $xor:ident, $rotate:ident, $x:ident, $quarters:ident, $a:literal, $b:literal, $d:literal, $bits:literal) => {
        for q in $quarters {
            $x[q[$a]] = $add($x[q[$a]], $x[q[$b]]);
            $x[q[$d]] = $rotate::<$bits>($xor($x[q[$d]], $x[q[$a]]));
        }
    };
}

/// Of sixteen blocks, a word a register.
macro_rules! wide {
    ($($step:tt)*) => { step!(_mm512_add_epi32, _mm512_xor_si512, _mm512_rol_epi32, $($step)*) };
}

/// Of eight blocks, a word a register.
macro_rules! narrow {
    ($($step:tt)*) => { step!(_mm256_add_epi32, _mm256_xor_si256, _mm256_rol_epi32, $($step)*) };
}

/// Of four blocks, a row of four words a register: rows are turned before and after a step over diagonals. The second row
/// stays, as it is the last to be ready.
macro_rules! rows {
    ($x:ident, DIAGONALS, 0, 1, 3, 16) => {
        $x[0] = _mm512_shuffle_epi32::<RIGHT>($x[0]);
        $x[2] = _mm512_shuffle_epi32::<LEFT>($x[2]);
        $x[3] = _mm512_shuffle_epi32::<HALF>($x[3]);
        rows!($x, COLUMNS, 0, 1, 3, 16);
    };
    ($x:ident, DIAGONALS, 2, 3, 1, 7) => {
        rows!($x, COLUMNS, 2, 3, 1, 7);
        $x[0] = _mm512_shuffle_epi32::<LEFT>($x[0]);
        $x[2] = _mm512_shuffle_epi32::<RIGHT>($x[2]);
        $x[3] = _mm512_shuffle_epi32::<HALF>($x[3]);
    };
    ($x:ident, $quarters:ident, $a:literal, $b:literal, $d:literal, $bits:literal) => {
        $x[$a] = _mm512_add_epi32($x[$a], $x[$b]);
        $x[$d] = _mm512_rol_epi32::<$bits>(_mm512_xor_si512($x[$d], $x[$a]));
    };
}

/// The twenty rounds of some states, the steps of which alternate.
macro_rules! rounds {
    ($($width:ident $x:ident),*) => {
        for _ in 0..10 {
            $($width!($x, COLUMNS, 0, 1, 3, 16);)*
            $($width!($x, COLUMNS, 2, 3, 1, 12);)*
            $($width!($x, COLUMNS, 0, 1, 3, 8);)*
            $($width!($x, COLUMNS, 2, 3, 1, 7);)*
            $($width!($x, DIAGONALS, 0, 1, 3, 16);)*
            $($width!($x, DIAGONALS, 2, 3, 1, 12);)*
            $($width!($x, DIAGONALS, 0, 1, 3, 8);)*
            $($width!($x, DIAGONALS, 2, 3, 1, 7);)*
        }
    };
}

impl Message<'_> {
    /// Four blocks of key stream, from block `first` on.
    #[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx512ifma,bmi2")]
    #[inline]
    pub(super) fn blocks4(&self, first: u32) -> [__m512i; 4] {
        let start = self.rows(first);
        let mut x = start;
        rounds!(rows x);
        rows_blocks(x, start)
    }

    /// Eight blocks of key stream, from block `first` on.
    #[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx512ifma,bmi2")]
    #[inline]
    pub(super) fn blocks8(&self, first: u32) -> [__m512i; 8] {
        let start = self.narrow(first);
        let mut x = start;
        rounds!(narrow x);
        narrow_blocks(x, start)
    }

    /// Twelve blocks of key stream, from block `first` on.
    #[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx512ifma,bmi2")]
    #[inline]
    pub(super) fn blocks12(&self, first: u32) -> [__m512i; 12] {
        let (start, start_rows) = (self.narrow(first), self.rows(first + 8));
        let (mut x, mut y) = (start, start_rows);
        rounds!(narrow x, rows y);
        let mut blocks = [_mm512_setzero_si512(); 12];
        blocks[..8].copy_from_slice(&narrow_blocks(x, start));
        blocks[8..].copy_from_slice(&rows_blocks(y, start_rows));
        blocks
    }

    /// Sixteen blocks of key stream, from block `first` on.
    #[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx512ifma,bmi2")]
    #[inline]
    pub(super) fn blocks16(&self, first: u32) -> [__m512i; 16] {
        let start = self.wide(first);
        let mut x = start;
        rounds!(wide x);
        wide_blocks(x, start)
    }

    /// Twenty-four blocks of key stream, from block `first` on: the two above in the time of little more than the longer,
    /// in all 32 registers. The first sixteen go to `begin`, then the others are returned.
    #[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx512ifma,bmi2")]
    #[inline]
    pub(super) fn blocks24(&self, first: u32, begin: impl FnOnce([__m512i; 16])) -> [__m512i; 8] {
        let (start, start_narrow) = (self.wide(first), self.narrow(first + 16));
        let (mut x, mut y) = (start, start_narrow);
        rounds!(wide x, narrow y);
        begin(wide_blocks(x, start));
        narrow_blocks(y, start_narrow)
    }

    /// The states of four blocks.
    #[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx512ifma,bmi2")]
    #[inline]
    fn rows(&self, first: u32) -> [__m512i; 4] {
        let words = self.words(first);
        let mut x = [_mm512_setzero_si512(); 4];
        for (register, [w0, w1, w2, w3]) in x.iter_mut().zip(words.as_chunks().0) {
            let row = _mm_setr_epi32(w0.cast_signed(), w1.cast_signed(), w2.cast_signed(), w3.cast_signed());
            *register = _mm512_broadcast_i32x4(row);
        }
        x[3] = _mm512_add_epi32(x[3], _mm512_setr_epi32(0, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0));
        x
    }

    /// The states of eight blocks.
    #[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx512ifma,bmi2")]
    #[inline]
    fn narrow(&self, first: u32) -> [__m256i; 16] {
        let mut x = [_mm256_setzero_si256(); 16];
        for (register, word) in x.iter_mut().zip(self.words(first)) {
            *register = _mm256_set1_epi32(word.cast_signed());
        }
        x[12] = _mm256_add_epi32(x[12], _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
        x
    }

    /// The states of sixteen blocks.
    #[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx512ifma,bmi2")]
    #[inline]
    fn wide(&self, first: u32) -> [__m512i; 16] {
        let mut x = [_mm512_setzero_si512(); 16];
        for (register, word) in x.iter_mut().zip(self.words(first)) {
            *register = _mm512_set1_epi32(word.cast_signed());
        }
        x[12] = _mm512_add_epi32(x[12], _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
        x
    }

    #[inline(always)]
    fn words(&self, block: u32) -> [u32; 16] {
        let [c0, c1, c2, c3] = CONSTANTS;
        let [k0, k1, k2, k3, k4, k5, k6, k7] = *self.key;
        let [low, high] = [self.counter as u32, (self.counter >> 32) as u32];
        [c0, c1, c2, c3, k0, k1, k2, k3, k4, k5, k6, k7, block, 0, low, high]
    }
}

/// XORs `from`, continued with zeros, with the key stream into `to`, as far as both go.
#[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx512ifma,bmi2")]
#[inline]
pub(super) fn xor(stream: &[__m512i], from: &[u8], to: &mut [u8]) {
    let plain = from.as_chunks::<BLOCK>().0;
    let text = to.as_chunks_mut::<BLOCK>().0;
    let whole = plain.len().min(text.len()).min(stream.len());
    for ((&block, plain), text) in stream.iter().zip(plain).zip(text) {
        memory::store(text, _mm512_xor_si512(block, memory::load(plain)));
    }
    for (i, &block) in stream.iter().enumerate().skip(whole) {
        match to.get_mut(i * BLOCK..) {
            Some(text @ [_, ..]) => xor_part(block, from.get(i * BLOCK..).unwrap_or_default(), text),
            _ => break,
        }
    }
}

/// One block, of which not all is there.
#[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx512ifma,bmi2")]
#[inline(never)]
fn xor_part(block: __m512i, from: &[u8], to: &mut [u8]) {
    let plain = memory::load_part(&from[..from.len().min(BLOCK)]);
    let text = memory::bytes(_mm512_xor_si512(block, plain));
    let to_len = to.len().min(BLOCK);
    to[..to_len].copy_from_slice(&text[..to_len]);
}
