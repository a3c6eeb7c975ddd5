//! Poly1305 (RFC 8439 §2.5) over one ciphertext without associated data: what runs on the integer units.

use super::{TAG_BYTES, lanes};

/// Bytes in a block.
pub(super) const BLOCK: usize = 16;
/// The bits of r that may be set.
const CLAMP: u128 = 0x0fff_fffc_0fff_fffc_0fff_fffc_0fff_ffff;
/// The bit behind each block.
const BEHIND: u64 = 1;
/// From as many blocks on, [`lanes`] pay for the powers of r they need. Measured.
const BLOCKS_MIN: usize = 20;

/// A number modulo p = 2¹³⁰ − 5, in words of 64 bits, the least first; not fully reduced, the last word stays below 8.
pub(super) type Number = [u64; 3];

/// The key, and the sum of the blocks so far.
pub(super) struct Poly1305 {
    r: Multiplier,
    s: u128,
    sum: Number,
}

/// The clamped r. The bits that are zero keep products and sums in range.
#[derive(Clone, Copy)]
struct Multiplier {
    low: u64,
    high: u64,
    /// 5/4 of `high`, a multiple of 4: what `high` at 2¹²⁸ amounts to, as 2¹³⁰ is 5.
    wrapped: u64,
}

impl Poly1305 {
    /// `key`: a block of key stream, of which the first 32 bytes are r and s.
    #[inline(always)]
    pub(super) fn new(key: &[u8; 64]) -> Self {
        let (parts, _) = key.as_chunks::<BLOCK>();
        let r = u128::from_le_bytes(parts[0]) & CLAMP;
        Self { r: Multiplier::new(r), s: u128::from_le_bytes(parts[1]), sum: [0; 3] }
    }

    #[inline(always)]
    pub(super) fn add(&mut self, block: &[u8; BLOCK]) {
        self.sum = self.r.times(add(self.sum, u128::from_le_bytes(*block), BEHIND));
    }

    /// Computes what [`lanes`] need.
    #[inline(always)]
    pub(super) fn fill(&self, powers: &mut lanes::Powers) {
        let mut power = [self.r.low, self.r.high, 0];
        powers.set(1, power);
        for exponent in 2..=lanes::EXPONENT_MAX {
            power = self.r.times(power);
            powers.set(exponent, power);
        }
    }

    /// The tag of `text`, nothing of which was added.
    #[inline(always)]
    pub(super) fn tag(mut self, text: &[u8]) -> [u8; TAG_BYTES] {
        let (blocks, part) = text.as_chunks();
        for block in blocks {
            self.add(block);
        }
        if !part.is_empty() {
            let mut block = [0; BLOCK];
            block[..part.len()].copy_from_slice(part);
            self.add(&block);
        }
        self.end_text(text.len())
    }

    /// The same for a text for which [`lanes_pay`].
    #[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx512ifma,bmi2")]
    #[inline]
    pub(super) fn tag_by_lanes(mut self, powers: &lanes::Powers, text: &[u8]) -> [u8; TAG_BYTES] {
        let (blocks, _) = text.as_chunks();
        let odd = text.len().div_ceil(BLOCK) % lanes::LANES;
        for block in &blocks[..odd] {
            self.add(block);
        }
        self.sum = lanes::sum(self.sum, powers, &text[odd * BLOCK..]);
        self.end_text(text.len())
    }

    #[inline(always)]
    fn end_text(mut self, text_bytes: usize) -> [u8; TAG_BYTES] {
        let lengths = u128::from(text_bytes as u64) << 64;
        self.add(&lengths.to_le_bytes());
        self.end()
    }

    /// The tag of what was added.
    #[inline(always)]
    pub(super) fn end(self) -> [u8; TAG_BYTES] {
        reduce(self.sum).wrapping_add(self.s).to_le_bytes()
    }
}

/// Whether [`lanes`] are the faster for a text of so many bytes, with the powers of r they need.
pub(super) fn lanes_pay(text_len: usize) -> bool {
    text_len.div_ceil(BLOCK) >= BLOCKS_MIN
}

impl Multiplier {
    fn new(r: u128) -> Self {
        let (low, high) = (r as u64, (r >> 64) as u64);
        Self { low, high, wrapped: high + (high >> 2) }
    }

    #[inline(always)]
    fn times(&self, n: Number) -> Number {
        let [r0, r1, wrapped] = [self.low, self.high, self.wrapped].map(u128::from);
        let [n0, n1, _] = n.map(u128::from);
        let low = n0 * r0 + n1 * wrapped;
        // The last word of a number is small: no carry out of these 64 bits.
        let middle = n0 * r1 + n1 * r0 + u128::from(n[2] * self.wrapped) + (low >> 64);
        let high = n[2] * self.low + (middle >> 64) as u64;
        // All above 2¹³⁰ comes back times 5.
        add([low as u64, middle as u64, high & 3], u128::from((high & !3) + (high >> 2)), 0)
    }
}

/// `n` + `block` + `behind` · 2¹²⁸.
#[inline(always)]
fn add(n: Number, block: u128, behind: u64) -> Number {
    let (low, carry) = (u128::from(n[0]) | u128::from(n[1]) << 64).overflowing_add(block);
    [low as u64, (low >> 64) as u64, n[2] + behind + u64::from(carry)]
}

/// `n` modulo p, modulo 2¹²⁸.
fn reduce(n: Number) -> u128 {
    // First below 2¹³⁰ plus a little, then p off if it is at least p: adding 5 carries into bit 130 then.
    let [n0, n1, n2] = add([n[0], n[1], n[2] & 3], u128::from(5 * (n[2] >> 2)), 0);
    let low = u128::from(n0) | u128::from(n1) << 64;
    let [m0, m1, m2] = add([n0, n1, n2], 5, 0);
    let less = u128::from(m0) | u128::from(m1) << 64;
    let mask = u128::from(m2 >> 2).wrapping_neg();
    (less & mask) | (low & !mask)
}
