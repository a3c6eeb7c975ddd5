//! See `ginnel_fuzz::routes`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| ginnel_fuzz::routes::run(bytes));
