//! See `ginnel_fuzz::superpackets`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| ginnel_fuzz::superpackets::run(bytes));
