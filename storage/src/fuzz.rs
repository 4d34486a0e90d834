//! What fuzzers feed: each function takes any bytes as a file would hold them, and panics where a
//! promise is broken. `fuzz/` runs them under libFuzzer, the tests below on a kept corpus.
//!
//! Checksums, which a fuzzer cannot hit, are put right in most inputs, so that it gets to what they
//! protect.

use std::{fs, path::Path, sync::Arc};

use crate::{
    FileSnapshots, GroupId, GroupState, LogStore, MemoryStateDisk, MemoryStore, SegmentLog,
    SegmentLogConfig, SnapshotStore, StateStore,
};

/// Puts the header right, and then records as long as the fuzzer's bytes allow.
fn mended_log(sequence: u64, bytes: &[u8]) -> Vec<u8> {
    let mut file = bytes.to_vec();
    if file.len() < 64 || file[12] % 8 == 7 {
        return file;
    }
    file[..8].copy_from_slice(b"HGSEGLOG");
    file[8..12].copy_from_slice(&1u32.to_le_bytes());
    file[16..24].copy_from_slice(&sequence.to_le_bytes());
    let crc = crc32c::crc32c(&file[..60]);
    file[60..64].copy_from_slice(&crc.to_le_bytes());
    let seed = crc32c::crc32c(&file[..64]);
    let (mut at, mut chain) = (64, seed);
    while file.len() >= at + 40 {
        let body = usize::from(file[at + 4]).min(file.len() - at - 40);
        let end = (at + 40 + body).next_multiple_of(8).min(file.len());
        if file[at + 9] % 8 != 7 {
            file[at..at + 4].copy_from_slice(&(0x3152_4748 ^ seed).to_le_bytes());
            file[at + 4..at + 8].copy_from_slice(&(body as u32).to_le_bytes());
            file[at + 32..at + 36].copy_from_slice(&chain.to_le_bytes());
            let crc = crc32c::crc32c_append(seed, &file[at..at + 36]);
            chain = crc32c::crc32c_append(crc, &file[at + 40..at + 40 + body]);
            file[at + 36..at + 40].copy_from_slice(&chain.to_le_bytes());
            file[at + 40 + body..end].fill(0);
        }
        at = end;
    }
    file
}

/// Opens a log in the empty directory `dir` whose two segment files are the input's: it must answer,
/// and open again to the same, by outlines of what was sound.
pub fn log_reader(dir: &Path, input: &[u8]) {
    let cut = input.first().map_or(0, |first| usize::from(*first) * input.len() / 256);
    for (sequence, bytes) in [(1, &input[..cut]), (2, &input[cut..])] {
        let path = dir.join(format!("{sequence:016x}.log"));
        fs::write(path, mended_log(sequence, bytes)).expect("the directory takes files");
    }
    let open = || {
        let mut config = SegmentLogConfig::new(dir, 1);
        config.segment_bytes = 16 << 10;
        SegmentLog::open(config)
    };
    let Ok((log, report)) = open() else { return };
    let groups = log.groups();
    // The second time by outlines, as far as there is something sound.
    while log.outline(4 << 10).expect("the directory takes files") > 0 {}
    drop(log);
    let (log, again) = open().expect("what was opened once opens again");
    assert_eq!(log.groups(), groups);
    assert!(report.damaged.keys().all(|group| again.damaged.contains_key(group)));
}

/// Puts the head and the checksums of the blocks right.
fn mended_snapshot(input: &[u8]) -> Vec<u8> {
    const BLOCK_BYTES: usize = 64 * 1024;
    let mut file = input.to_vec();
    if file.last().is_none_or(|last| last % 8 == 7) {
        return file;
    }
    if file.len() >= 16 && file[11] % 8 != 7 {
        file[..8].copy_from_slice(b"HELIOSNP");
        file[8..12].copy_from_slice(&1u32.to_be_bytes());
        file[12..16].copy_from_slice(&GROUP.0.to_be_bytes());
    }
    for (number, block) in (0u64..).zip(file.chunks_mut(BLOCK_BYTES)) {
        let payload = block.len().saturating_sub(4);
        let crc = crc32c::crc32c(&number.to_be_bytes());
        let crc = crc32c::crc32c_append(crc, &block[..payload]);
        let end = block.len() - payload;
        block[payload..].copy_from_slice(&crc.to_be_bytes()[..end]);
    }
    file
}

/// The group of the snapshots.
const GROUP: GroupId = GroupId(2);

/// Installs the input as a snapshot found in the empty directory `dir`: it is taken whole or
/// refused, and one that verifies gives rows that are written to the same bytes again.
pub fn snapshot_reader(dir: &Path, input: &[u8]) {
    let file = mended_snapshot(input);
    fs::write(dir.join(format!("{}-1.snapshot", GROUP.0)), &file).expect("a file");
    let snapshots = FileSnapshots::open(dir).expect("the directory opens");
    let Some(info) = snapshots.current(GROUP) else { return };
    let verified = snapshots.verify(&info).is_ok();
    let store: Arc<dyn StateStore> = Arc::new(MemoryStore::open(&MemoryStateDisk::new()));
    let state = GroupState::open(store, GROUP).expect("an empty state opens");
    let installed = snapshots.install(&state, &info);
    assert_eq!(installed.is_ok(), verified, "{installed:?}");
    if installed.is_err() {
        assert_eq!(state.applied(), None, "nothing is taken from a refused snapshot");
        return;
    }
    assert_eq!(state.applied().as_ref(), Some(&info.applied));
    let frozen = state.write().freeze();
    let Some(frozen) = frozen else { return };
    let again = snapshots.write(&state, frozen).expect("what was read is written");
    let bytes = snapshots.read_chunk(&again, 0, file.len()).expect("and read");
    assert_eq!(bytes, file[..bytes.len()]);
}

/// Reads the input as a checkpoint journal.
pub fn journal(input: &[u8]) {
    crate::state::fuzz_journal(input);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn corpus(target: &str, run: impl Fn(&[u8])) {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(target);
        let mut files: Vec<_> =
            fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        assert!(!files.is_empty(), "{} is empty", dir.display());
        for file in files {
            let input = fs::read(&file).unwrap();
            println!("{}", file.display());
            run(&input);
        }
    }

    fn in_dir(run: impl Fn(&Path, &[u8])) -> impl Fn(&[u8]) {
        move |input| run(tempfile::tempdir().unwrap().path(), input)
    }

    #[test]
    fn corpus_of_the_log_reader_passes() {
        corpus("log_reader", in_dir(log_reader));
    }

    #[test]
    fn corpus_of_the_snapshot_reader_passes() {
        corpus("snapshot_reader", in_dir(snapshot_reader));
    }

    #[test]
    fn corpus_of_the_journal_passes() {
        corpus("journal", journal);
    }
}
