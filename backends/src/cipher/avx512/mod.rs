//! ChaCha20-Poly1305 (RFC 8439) in 512-bit registers.
//!
//! ```text
//! chacha      ChaCha20: 4 to 24 blocks of key stream at a time
//! transpose   its last step: from registers of words to blocks
//! poly        Poly1305: the one-time key, block by block, powers of r; on the integer units
//! lanes       Poly1305: eight blocks at a time, with 52-bit multiplication
//! memory      loads and stores: with the two calls in this file all `unsafe`
//! ```
//!
//! The first block of key stream is Poly1305's key. A full packet is 24 blocks in all and takes one pass; a longer one goes
//! on by 16.
//!
//! Nothing branches on a secret or indexes by one; lengths are no secret. The key is wiped on drop, and the powers of r
//! after each message. What else a message leaves in registers and on the stack, its key stream and one-time key, is
//! overwritten by the next one or not at all.
//!
//! All functions on registers have the same features, and none hands a closure over registers to the standard library:
//! what lacks a feature is not inlined and passes registers through memory. That alone made this slower than ring.

mod chacha;
mod lanes;
mod memory;
mod poly;
#[cfg(test)]
mod tests;
mod transpose;

use core::arch::x86_64::__m512i;
use ginnel_engine::noise::Aead;
use zeroize::Zeroizing;

/// Bytes of a tag.
const TAG_BYTES: usize = 16;

/// ChaCha20-Poly1305 with AVX-512. Exists only on a processor that has what it needs.
pub struct Avx512 {
    key: Zeroizing<[u32; 8]>,
}

impl Avx512 {
    /// Whether this processor has what it needs.
    pub fn supported() -> bool {
        is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512ifma")
            && is_x86_feature_detected!("bmi2")
    }
}

impl Aead for Avx512 {
    const NAME: &'static str = "avx512";

    /// Panics where [`Avx512::supported`] is false.
    fn new(key: &[u8; 32]) -> Self {
        assert!(Self::supported(), "a cipher with AVX-512 was chosen for a processor without it");
        let mut words = Zeroizing::new([0; 8]);
        for (word, bytes) in words.iter_mut().zip(key.as_chunks().0) {
            *word = u32::from_le_bytes(*bytes);
        }
        Self { key: words }
    }

    fn seal(&self, counter: u64, plain: &[u8], sealed: &mut [u8]) {
        let sealed_bytes = sealed.len();
        let Some((text, tag)) = sealed.split_last_chunk_mut().filter(|(text, _)| text.len() >= plain.len()) else {
            debug_assert!(false, "no room for a packet of {} bytes in {sealed_bytes}", plain.len());
            return sealed.fill(0);
        };
        // SAFETY: `new` has seen that the processor has the features of `crypt`.
        *tag = unsafe { crypt::<true>(&self.key, counter, plain, text) };
    }

    fn open(&self, counter: u64, sealed: &[u8], plain: &mut [u8]) -> bool {
        let Some((text, tag)) = sealed.split_last_chunk() else { return false };
        let Some(plain) = plain.get_mut(..text.len()) else { return false };
        // SAFETY: `new` has seen that the processor has the features of `crypt`.
        let expected = unsafe { crypt::<false>(&self.key, counter, text, plain) };
        // All bits at once: it takes as long wherever they differ.
        u128::from_ne_bytes(expected) ^ u128::from_ne_bytes(*tag) == 0
    }
}

/// XORs `from`, continued with zeros, with the key stream into `to`; returns the tag of `to` when sealing, of `from` when
/// opening.
#[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx512ifma,bmi2")]
fn crypt<const SEAL: bool>(key: &[u32; 8], counter: u64, from: &[u8], to: &mut [u8]) -> [u8; TAG_BYTES] {
    let message = chacha::Message { key, counter };
    match 1 + to.len().div_ceil(chacha::BLOCK) {
        ..=4 => short::<SEAL>(&message.blocks4(0), from, to),
        ..=8 => short::<SEAL>(&message.blocks8(0), from, to),
        ..=12 => short::<SEAL>(&message.blocks12(0), from, to),
        ..=16 => short::<SEAL>(&message.blocks16(0), from, to),
        _ => long::<SEAL>(&message, from, to),
    }
}

/// A message for which `stream` is long enough.
#[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx512ifma,bmi2")]
#[inline]
fn short<const SEAL: bool>(stream: &[__m512i], from: &[u8], to: &mut [u8]) -> [u8; TAG_BYTES] {
    let mac = poly::Poly1305::new(&memory::bytes(stream[0]));
    if !poly::lanes_pay(to.len()) {
        chacha::xor(&stream[1..], from, to);
        return mac.tag(if SEAL { to } else { from });
    }
    let mut powers = lanes::Powers::new();
    mac.fill(&mut powers);
    chacha::xor(&stream[1..], from, to);
    mac.tag_by_lanes(&powers, if SEAL { to } else { from })
}

/// A message of more than sixteen blocks.
#[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx512ifma,bmi2")]
#[inline]
fn long<const SEAL: bool>(message: &chacha::Message<'_>, from: &[u8], to: &mut [u8]) -> [u8; TAG_BYTES] {
    let mut powers = lanes::Powers::new();
    let mut mac = None;
    let (head, rest) = to.split_at_mut(15 * chacha::BLOCK);
    let stream = message.blocks24(0, |stream| {
        // On the integer units, beside the rest of this pass.
        let begun = mac.insert(poly::Poly1305::new(&memory::bytes(stream[0])));
        begun.fill(&mut powers);
        chacha::xor(&stream[1..], from, head);
    });
    let mut from_rest = from.get(15 * chacha::BLOCK..).unwrap_or_default();
    chacha::xor(&stream, from_rest, rest);
    from_rest = from_rest.get(8 * chacha::BLOCK..).unwrap_or_default();
    let mut rest = rest.get_mut(8 * chacha::BLOCK..).unwrap_or_default();
    let mut block = 24;
    while !rest.is_empty() {
        chacha::xor(&message.blocks16(block), from_rest, rest);
        from_rest = from_rest.get(16 * chacha::BLOCK..).unwrap_or_default();
        rest = rest.get_mut(16 * chacha::BLOCK..).unwrap_or_default();
        // Would wrap at 256 GiB.
        block += 16;
    }
    mac.expect("blocks24 has begun").tag_by_lanes(&powers, if SEAL { to } else { from })
}
