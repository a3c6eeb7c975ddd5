//! Loads and stores of registers, from and to slices.

use core::arch::x86_64::*;

/// 64 bytes.
#[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx512ifma,bmi2")]
#[inline]
pub(super) fn load(from: &[u8; 64]) -> __m512i {
    // SAFETY: 64 readable bytes are there; the load asks for no alignment.
    unsafe { _mm512_loadu_si512(from.as_ptr().cast()) }
}

/// Up to 64 bytes, continued with zeros.
#[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx512ifma,bmi2")]
#[inline]
pub(super) fn load_part(from: &[u8]) -> __m512i {
    let mask = mask(from.len());
    // SAFETY: the mask has no bit beyond `from`, and a masked byte is not touched.
    unsafe { _mm512_maskz_loadu_epi8(mask, from.as_ptr().cast()) }
}

/// Eight numbers.
#[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx512ifma,bmi2")]
#[inline]
pub(super) fn load_words(from: &[u64; 8]) -> __m512i {
    // SAFETY: 64 readable bytes are there; the load asks for no alignment.
    unsafe { _mm512_loadu_si512(from.as_ptr().cast()) }
}

/// 64 bytes.
#[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx512ifma,bmi2")]
#[inline]
pub(super) fn store(to: &mut [u8; 64], value: __m512i) {
    // SAFETY: 64 writable bytes are there; the store asks for no alignment.
    unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), value) }
}

/// The first `to.len()` bytes, at most 64.
#[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx512ifma,bmi2")]
#[inline]
pub(super) fn store_part(to: &mut [u8], value: __m512i) {
    let mask = mask(to.len());
    // SAFETY: the mask has no bit beyond `to`, and a masked byte is not touched.
    unsafe { _mm512_mask_storeu_epi8(to.as_mut_ptr().cast(), mask, value) }
}

/// The register's bytes.
#[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx512ifma,bmi2")]
#[inline]
pub(super) fn bytes(value: __m512i) -> [u8; 64] {
    let mut bytes = [0; 64];
    store(&mut bytes, value);
    bytes
}

/// A bit for each of the first `bytes`.
fn mask(bytes: usize) -> u64 {
    if bytes >= 64 { u64::MAX } else { (1 << bytes) - 1 }
}
