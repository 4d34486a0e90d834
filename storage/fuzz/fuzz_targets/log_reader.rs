//! Opens a log whose segment files are the fuzzer's: it must answer, and open again to the same.
//!
//! The input is cut into two files. Checksums, which a fuzzer cannot hit, are put right in most
//! headers and records, so that it gets to what they protect.

#![no_main]

use heliograph_storage::{LogStore, SegmentLog, SegmentLogConfig};
use libfuzzer_sys::fuzz_target;

/// CRC-32C of `bytes` before the last inversion, going on from `crc`.
fn crc32c(crc: u32, bytes: &[u8]) -> u32 {
    let step = |crc: u32| if crc & 1 == 1 { (crc >> 1) ^ 0x82f6_3b78 } else { crc >> 1 };
    bytes.iter().fold(crc, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), |c, _| step(c)))
}

/// Puts the header right, and then records as long as the fuzzer's bytes allow.
fn mended(sequence: u64, bytes: &[u8]) -> Vec<u8> {
    let mut file = bytes.to_vec();
    if file.len() < 64 || file[12] % 8 == 7 {
        return file;
    }
    file[..8].copy_from_slice(b"HGSEGLOG");
    file[8..12].copy_from_slice(&1u32.to_le_bytes());
    file[16..24].copy_from_slice(&sequence.to_le_bytes());
    let crc = crc32c(!0, &file[..60]);
    file[60..64].copy_from_slice(&(!crc).to_le_bytes());
    let seed = !crc32c(!0, &file[..64]);
    let (mut at, mut chain) = (64, seed);
    while file.len() >= at + 40 {
        let body = usize::from(file[at + 4]).min(file.len() - at - 40);
        let end = (at + 40 + body).next_multiple_of(8).min(file.len());
        if file[at + 9] % 8 != 7 {
            file[at..at + 4].copy_from_slice(&(0x3152_4748 ^ seed).to_le_bytes());
            file[at + 4..at + 8].copy_from_slice(&(body as u32).to_le_bytes());
            file[at + 32..at + 36].copy_from_slice(&chain.to_le_bytes());
            let crc = crc32c(!seed, &file[at..at + 36]);
            chain = !crc32c(crc, &file[at + 40..at + 40 + body]);
            file[at + 36..at + 40].copy_from_slice(&chain.to_le_bytes());
            file[at + 40 + body..end].fill(0);
        }
        at = end;
    }
    file
}

fuzz_target!(|input: &[u8]| {
    let dir = tempfile::TempDir::new().expect("a directory");
    let cut = input.first().map_or(0, |first| usize::from(*first) * input.len() / 256);
    for (sequence, bytes) in [(1, &input[..cut]), (2, &input[cut..])] {
        let path = dir.path().join(format!("{sequence:016x}.log"));
        std::fs::write(path, mended(sequence, bytes)).expect("a file");
    }
    let open = || {
        let mut config = SegmentLogConfig::new(dir.path(), 1);
        config.segment_bytes = 16 << 10;
        SegmentLog::open(config)
    };
    let Ok((log, report)) = open() else { return };
    let groups = log.groups();
    drop(log);
    let (log, again) = open().expect("what was opened once opens again");
    assert_eq!(log.groups(), groups);
    assert!(report.damaged.keys().all(|group| again.damaged.contains_key(group)));
});
