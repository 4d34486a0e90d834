//! Feeds `heliograph_api::fuzz::websocket`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| heliograph_api::fuzz::websocket(input));
