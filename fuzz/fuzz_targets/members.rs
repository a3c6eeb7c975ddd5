//! See `ginnel_fuzz::members`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| ginnel_fuzz::members::run(bytes));
