//! See `ginnel_fuzz::journal`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| ginnel_fuzz::journal::run(bytes));
