//! Feeds `heliograph_cluster::fuzz::rpc`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| heliograph_cluster::fuzz::rpc(input));
