//! Feeds `heliograph_cluster::fuzz::node_wire`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| heliograph_cluster::fuzz::node_wire(input));
