//! Poly1305, eight blocks at a time: the sums of every eighth block side by side, each times r⁸, and at the end times the
//! power of r that its place in the text asks for.
//!
//! A number is three registers, its limbs at 2⁰, 2⁴⁴ and 2⁸⁸. Between steps limbs stay below 2⁴⁶, so that the 52 bits that
//! the multiplication looks at are all there is, and 64 bits take the sums of products.

use super::{memory, poly};
use core::arch::x86_64::*;
use core::hint::black_box;

/// Blocks at a time.
pub(super) const LANES: usize = 8;
/// The bytes of those.
const GROUP: usize = LANES * poly::BLOCK;
/// The powers of r that are needed end here.
pub(super) const EXPONENT_MAX: usize = 8;

/// From as many groups left on, taking them by two pays for r¹⁶. Measured.
const DOUBLE_MIN: usize = 4;

const BITS: u32 = 44;
const LIMB: u64 = (1 << BITS) - 1;
/// The last limb's: 130 − 2 · 44.
const BITS_LAST: u32 = 42;
const LIMB_LAST: u64 = (1 << BITS_LAST) - 1;
/// 2¹³² mod p: what a limb past the last amounts to at 2⁰.
const WRAPPED: u64 = 20;
/// 2¹²⁸, behind each block, in its last limb.
const BEHIND: u64 = 1 << 40;

/// The powers r to r⁸ in limbs, each in the lane of the block it is for: the last block's is r.
pub(super) struct Powers([[u64; LANES]; 3]);

impl Powers {
    pub(super) const fn new() -> Self {
        Self([[0; LANES]; 3])
    }

    #[inline(always)]
    pub(super) fn set(&mut self, exponent: usize, power: poly::Number) {
        let block = LANES - exponent;
        // As interleaving two registers of four blocks puts them: 0, 4, 1, 5, 2, 6, 3, 7.
        let lane = 2 * (block % 4) + block / 4;
        for (limbs, limb) in self.0.iter_mut().zip(limbs(power)) {
            limbs[lane] = limb;
        }
    }
}

impl Drop for Powers {
    fn drop(&mut self) {
        self.0 = [[0; LANES]; 3];
        // Or the compiler would leave that out.
        black_box(&self.0);
    }
}

/// A number to multiply by, the last two limbs also times [`WRAPPED`].
struct Multiplier {
    r: [__m512i; 3],
    wrapped: [__m512i; 2],
}

impl Multiplier {
    #[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx512ifma,bmi2")]
    #[inline]
    fn new(r: [__m512i; 3]) -> Self {
        // 16 + 4 times.
        let wrapped = [
            _mm512_add_epi64(_mm512_slli_epi64::<4>(r[1]), _mm512_slli_epi64::<2>(r[1])),
            _mm512_add_epi64(_mm512_slli_epi64::<4>(r[2]), _mm512_slli_epi64::<2>(r[2])),
        ];
        Self { r, wrapped }
    }

    #[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx512ifma,bmi2")]
    #[inline]
    fn times(&self, h: [__m512i; 3]) -> [__m512i; 3] {
        let [r0, r1, r2] = self.r;
        let [w1, w2] = self.wrapped;
        let columns = [[r0, w2, w1], [r1, r0, w2], [r2, r1, r0]];
        let zero = _mm512_setzero_si512();
        let mut low = [zero; 3];
        let mut high = [zero; 3];
        for i in 0..3 {
            for (column, factors) in columns.iter().enumerate() {
                low[column] = _mm512_madd52lo_epu64(low[column], h[i], factors[i]);
                high[column] = _mm512_madd52hi_epu64(high[column], h[i], factors[i]);
            }
        }
        // The high halves are at 2⁵², a limb and 8 bits on; the last one's wraps.
        let wrapped = broadcast(WRAPPED << 8);
        let d0 = _mm512_madd52lo_epu64(low[0], high[2], wrapped);
        let d1 = _mm512_add_epi64(low[1], _mm512_slli_epi64::<8>(high[0]));
        let d2 = _mm512_add_epi64(low[2], _mm512_slli_epi64::<8>(high[1]));
        // One carry each, side by side, is enough.
        let limb = broadcast(LIMB);
        let limb_last = broadcast(LIMB_LAST);
        let five = broadcast(5);
        [
            _mm512_madd52lo_epu64(_mm512_and_si512(d0, limb), _mm512_srli_epi64::<BITS_LAST>(d2), five),
            _mm512_add_epi64(_mm512_and_si512(d1, limb), _mm512_srli_epi64::<BITS>(d0)),
            _mm512_add_epi64(_mm512_and_si512(d2, limb_last), _mm512_srli_epi64::<BITS>(d1)),
        ]
    }
}

/// `start` and `text`, at least eight blocks, and a multiple of that if the last block counts that may be short.
#[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx512ifma,bmi2")]
#[inline]
pub(super) fn sum(start: poly::Number, powers: &Powers, text: &[u8]) -> poly::Number {
    let [p0, p1, p2] = &powers.0;
    // r⁸ is the first block's.
    let step = Multiplier::new([broadcast(p0[0]), broadcast(p1[0]), broadcast(p2[0])]);
    let [s0, s1, s2] = limbs(start);
    let (groups, part) = text.as_chunks();
    let (first, mut groups) = groups.split_first().expect("eight blocks");
    let mut sums = add([first_lane(s0), first_lane(s1), first_lane(s2)], first);
    // Two sums in turn: the multiplication takes longer than the units are busy with it.
    if groups.len() >= DOUBLE_MIN {
        if groups.len() % 2 == 0 {
            sums = add(step.times(sums), &groups[0]);
            groups = &groups[1..];
        }
        let double = Multiplier::new(step.times(step.r));
        let mut odd = add([_mm512_setzero_si512(); 3], &groups[0]);
        for [group, next] in groups[1..].as_chunks().0 {
            sums = add(double.times(sums), group);
            odd = add(double.times(odd), next);
        }
        sums = step.times(sums);
        for (sum, odd) in sums.iter_mut().zip(odd) {
            *sum = _mm512_add_epi64(*sum, odd);
        }
        groups = &[];
    }
    for group in groups {
        sums = add(step.times(sums), group);
    }
    if !part.is_empty() {
        let mut group = [0; GROUP];
        group[..part.len()].copy_from_slice(part);
        sums = add(step.times(sums), &group);
    }
    let last = Multiplier::new([memory::load_words(p0), memory::load_words(p1), memory::load_words(p2)]);
    let [l0, l1, l2] = last.times(sums);
    let (l0, l1, l2) = (total(l0), total(l1), total(l2));
    // Back to words of 64 bits.
    let l0 = l0 + 5 * (l2 >> BITS_LAST);
    let l2 = l2 & LIMB_LAST;
    let (low, carry) = (u128::from(l0) + (u128::from(l1) << BITS)).overflowing_add(u128::from(l2) << (2 * BITS));
    [low as u64, (low >> 64) as u64, (l2 >> 40) + u64::from(carry)]
}

/// Adds eight blocks, one a lane.
#[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx512ifma,bmi2")]
#[inline]
fn add(sums: [__m512i; 3], group: &[u8; GROUP]) -> [__m512i; 3] {
    let [four, others] = memory::load_two(group);
    let low = _mm512_unpacklo_epi64(four, others);
    let high = _mm512_unpackhi_epi64(four, others);
    let limb = broadcast(LIMB);
    // The table of (a | b) & c.
    let middle = _mm512_ternarylogic_epi64::<0xa8>(_mm512_srli_epi64::<44>(low), _mm512_slli_epi64::<20>(high), limb);
    [
        _mm512_add_epi64(sums[0], _mm512_and_si512(low, limb)),
        _mm512_add_epi64(sums[1], middle),
        _mm512_add_epi64(sums[2], _mm512_or_si512(_mm512_srli_epi64::<24>(high), broadcast(BEHIND))),
    ]
}

#[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx512ifma,bmi2")]
#[inline]
fn broadcast(limb: u64) -> __m512i {
    _mm512_set1_epi64(limb.cast_signed())
}

/// `limb` in the first lane, zeros elsewhere.
#[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx512ifma,bmi2")]
#[inline]
fn first_lane(limb: u64) -> __m512i {
    _mm512_zextsi128_si512(_mm_cvtsi64_si128(limb.cast_signed()))
}

/// The sum of all lanes.
#[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx512ifma,bmi2")]
#[inline]
fn total(limb: __m512i) -> u64 {
    _mm512_reduce_add_epi64(limb).cast_unsigned()
}

/// The limbs of a number.
#[inline(always)]
fn limbs(n: poly::Number) -> [u64; 3] {
    [n[0] & LIMB, (n[0] >> 44 | n[1] << 20) & LIMB, n[1] >> 24 | n[2] << 40]
}
