//! See `ginnel_fuzz::merging`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| ginnel_fuzz::merging::run(bytes));
