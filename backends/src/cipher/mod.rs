//! Ciphers of data messages beyond the engine's own, for CPUs that have the instructions.

#[cfg(target_arch = "x86_64")]
pub mod avx512;
