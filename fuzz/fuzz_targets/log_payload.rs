//! Feeds `heliograph_cluster::fuzz::log_payload`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| heliograph_cluster::fuzz::log_payload(input));
