//! See `ginnel_fuzz::orders`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| ginnel_fuzz::orders::run(bytes));
