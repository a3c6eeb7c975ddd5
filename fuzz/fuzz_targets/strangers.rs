//! See `ginnel_fuzz::strangers`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| ginnel_fuzz::strangers::run(bytes));
