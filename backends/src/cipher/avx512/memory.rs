//! Loads and stores of registers, from and to slices.

use core::arch::x86_64::*;

/// 64 bytes.
#[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx512ifma,bmi2")]
#[inline]
pub(super) fn load(from: &[u8; 64]) -> __m512i {
    // SAFETY: 64 readable bytes are there; the load asks for no alignment.
    unsafe { _mm512_loadu_si512(from.as_ptr().cast()) }
}

/// Twice 64 bytes.
#[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx512ifma,bmi2")]
#[inline]
pub(super) fn load_two(from: &[u8; 128]) -> [__m512i; 2] {
    let (parts, _) = from.as_chunks();
    [load(&parts[0]), load(&parts[1])]
}

/// Up to 64 bytes, continued with zeros.
#[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx512ifma,bmi2")]
#[inline]
pub(super) fn load_part(from: &[u8]) -> __m512i {
    // No masked load or store: where a page is missing behind the bytes, the CPU takes hundreds of cycles to not touch it.
    let mut bytes = [0; 64];
    bytes[..from.len()].copy_from_slice(from);
    load(&bytes)
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

/// The register's bytes.
#[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx512ifma,bmi2")]
#[inline]
pub(super) fn bytes(value: __m512i) -> [u8; 64] {
    let mut bytes = [0; 64];
    store(&mut bytes, value);
    bytes
}
