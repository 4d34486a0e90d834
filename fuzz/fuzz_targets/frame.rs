//! Feeds `heliograph_transport::fuzz::frame`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| heliograph_transport::fuzz::frame(input));
