//! From the states after their rounds to blocks of key stream: `start`, the states before, added; then what lies across
//! registers brought together.

use core::arch::x86_64::*;

/// Of two registers, the quarters 0 and 2, or 1 and 3.
const EVEN: i32 = 0b10_00_10_00;
const ODD: i32 = 0b11_01_11_01;

/// Ends the rounds: `start` added, transposed into blocks.
#[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx512ifma,bmi2")]
#[inline]
pub(super) fn rows_blocks(mut x: [__m512i; 4], start: [__m512i; 4]) -> [__m512i; 4] {
    for (row, start) in x.iter_mut().zip(start) {
        *row = _mm512_add_epi32(*row, start);
    }
    transpose_quarters(x)
}

/// Ends the rounds: `start` added, transposed into blocks.
#[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx512ifma,bmi2")]
#[inline]
pub(super) fn narrow_blocks(mut x: [__m256i; 16], start: [__m256i; 16]) -> [__m512i; 8] {
    for (word, start) in x.iter_mut().zip(start) {
        *word = _mm256_add_epi32(*word, start);
    }
    let rows = [
        transpose8([x[0], x[1], x[2], x[3]]),
        transpose8([x[4], x[5], x[6], x[7]]),
        transpose8([x[8], x[9], x[10], x[11]]),
        transpose8([x[12], x[13], x[14], x[15]]),
    ];
    let mut blocks = [_mm512_setzero_si512(); 8];
    for j in 0..4 {
        // Register: eight words of the blocks j and 4 + j.
        let low = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(rows[0][j]), rows[1][j]);
        let high = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(rows[2][j]), rows[3][j]);
        blocks[j] = _mm512_shuffle_i32x4::<EVEN>(low, high);
        blocks[4 + j] = _mm512_shuffle_i32x4::<ODD>(low, high);
    }
    blocks
}

/// Ends the rounds: `start` added, transposed into blocks.
#[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx512ifma,bmi2")]
#[inline]
pub(super) fn wide_blocks(mut x: [__m512i; 16], start: [__m512i; 16]) -> [__m512i; 16] {
    for (word, start) in x.iter_mut().zip(start) {
        *word = _mm512_add_epi32(*word, start);
    }
    let rows = [
        transpose16([x[0], x[1], x[2], x[3]]),
        transpose16([x[4], x[5], x[6], x[7]]),
        transpose16([x[8], x[9], x[10], x[11]]),
        transpose16([x[12], x[13], x[14], x[15]]),
    ];
    let mut blocks = [_mm512_setzero_si512(); 16];
    for j in 0..4 {
        // Register: four words of the blocks j, 4 + j, 8 + j, 12 + j.
        let four = transpose_quarters([rows[0][j], rows[1][j], rows[2][j], rows[3][j]]);
        for (l, block) in four.into_iter().enumerate() {
            blocks[4 * l + j] = block;
        }
    }
    blocks
}

/// Transposes the quarters of four registers.
#[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx512ifma,bmi2")]
#[inline]
fn transpose_quarters(x: [__m512i; 4]) -> [__m512i; 4] {
    let (even, even_high) = (_mm512_shuffle_i32x4::<EVEN>(x[0], x[1]), _mm512_shuffle_i32x4::<EVEN>(x[2], x[3]));
    let (odd, odd_high) = (_mm512_shuffle_i32x4::<ODD>(x[0], x[1]), _mm512_shuffle_i32x4::<ODD>(x[2], x[3]));
    [
        _mm512_shuffle_i32x4::<EVEN>(even, even_high),
        _mm512_shuffle_i32x4::<EVEN>(odd, odd_high),
        _mm512_shuffle_i32x4::<ODD>(even, even_high),
        _mm512_shuffle_i32x4::<ODD>(odd, odd_high),
    ]
}

/// Turns four words of 16 blocks into, of every fourth block, four words side by side.
#[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx512ifma,bmi2")]
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
#[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx512ifma,bmi2")]
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
