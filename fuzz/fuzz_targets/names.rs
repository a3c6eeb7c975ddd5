//! See `ginnel_fuzz::names`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| ginnel_fuzz::names::run(bytes));
