//! Feeds `heliograph_storage::fuzz::log_reader`, in a directory of its own each time.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let dir = tempfile::TempDir::new().expect("a directory");
    heliograph_storage::fuzz::log_reader(dir.path(), input);
});
