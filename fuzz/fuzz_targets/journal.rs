//! Feeds `heliograph_storage::fuzz::journal`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| heliograph_storage::fuzz::journal(input));
