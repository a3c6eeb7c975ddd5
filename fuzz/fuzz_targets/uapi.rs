//! See `ginnel_fuzz::uapi`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| ginnel_fuzz::uapi::run(bytes));
