//! The bytes of a small log, as `docs/reference/log-format.md` tells them: first those of version 1,
//! then those of today. A change here is a change of the format: it needs a new version, and the old
//! bytes must still be read.

use std::{path::Path, sync::Arc};

use bytes::Bytes;

use super::{
    format::{Chain, Kind, Record, RecordHeader, SegmentHeader, record_at},
    replay::segment_path,
    sim_disk::SimDisk,
    test_support::{answer, config, keys, see_all},
};
use crate::{
    Error, GroupId, Keyring, LogEntry, LogStore, MemoryKeyDisk, OpenReport, Position, SegmentLog,
};

/// The documentation that shows these bytes.
const REFERENCE: &str = include_str!("../../../docs/reference/log-format.md");

fn hex(bytes: &[u8]) -> String {
    let rows = bytes.chunks(16).enumerate().map(|(row, bytes)| {
        let digits: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{:04x}  {}\n", row * 16, digits.join(" "))
    });
    rows.collect()
}

fn open(disk: &SimDisk, key_disk: &MemoryKeyDisk) -> (SegmentLog, OpenReport) {
    let mut config = config(Path::new("/log"));
    config.keys = keys(key_disk, 7);
    SegmentLog::open_on(Arc::new(disk.clone()), config).expect("it opens")
}

fn small_log(key_disk: &MemoryKeyDisk) -> SimDisk {
    let disk = SimDisk::new(1);
    let (log, _) = open(&disk, key_disk);
    let group = GroupId(5);
    let vote = Bytes::from_static(b"vote");
    answer(&log, |log, done| log.save_vote(group, vote, done)).expect("durable");
    let payloads = [&b"first"[..], b"second"];
    let entries = payloads.iter().zip(1..).map(|(payload, index)| LogEntry {
        position: Position { term: 3, index },
        payload: Bytes::from_static(payload),
    });
    let entries = entries.collect();
    answer(&log, |log, done| log.append(group, entries, done)).expect("durable");
    disk
}

#[test]
fn small_log_has_the_documented_bytes() {
    let disk = small_log(&MemoryKeyDisk::new());
    let mut bytes = disk.contents()[&segment_path(Path::new("/log"), 1)].clone();
    let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last / 8 * 8 + 8);
    bytes.truncate(end);
    let header = SegmentHeader::decode(&bytes).expect("a header");
    let mut shown = header.encode().to_vec();
    let (mut chain, mut at) = (Chain::new(&header), 64);
    // How many marks there are is up to the threads: they are left out, the rest is chained anew.
    while let Some(Record { header, body, next, .. }) = record_at(&bytes, at, chain.seed) {
        at = next;
        if header.kind != Kind::Mark {
            let header = RecordHeader { synced: shown.len() as u32, ..header };
            chain.record(&mut shown, header, |out| out.extend_from_slice(body));
        }
    }
    let hex = hex(&shown);
    assert!(REFERENCE.contains(&hex), "the reference does not show these bytes:\n{hex}");
}

fn shown(block: usize) -> Vec<u8> {
    let block = REFERENCE.split("```hex\n").nth(block).and_then(|rest| rest.split("```").next());
    let rows = block.expect("the reference shows a log").lines();
    let digits = rows.flat_map(|row| row.split_whitespace().skip(1));
    digits.map(|byte| u8::from_str_radix(byte, 16).expect("a byte")).collect()
}

/// What version 1 wrote, unsealed, is read for ever, and so is version 2.
#[test]
fn documented_bytes_are_read() {
    let closed = MemoryKeyDisk::new();
    let disk = small_log(&closed);
    disk.power_cut();
    let expected = see_all(&open(&disk, &closed).0);
    for block in [1, 2] {
        let path = segment_path(Path::new("/log"), 1);
        let disk = SimDisk::with(&[(path, shown(block))].into(), 1);
        let (log, report) = open(&disk, &closed);
        assert!(report.damage.is_empty() && report.tear.is_none(), "{report:?}");
        assert_eq!(see_all(&log), expected);
        assert_eq!(log.group(GroupId(5)).last, Some(Position { term: 3, index: 2 }));
    }
}

#[test]
fn payloads_are_sealed_and_opened_with_their_key_alone() {
    let key_disk = MemoryKeyDisk::new();
    let disk = small_log(&key_disk);
    for bytes in disk.contents().values() {
        assert!(![&b"first"[..], b"second"].iter().any(|text| contains(bytes, text)));
    }
    disk.power_cut();
    let mut config = config(Path::new("/log"));
    config.keys = keys(&MemoryKeyDisk::new(), 9);
    let refused = SegmentLog::open_on(Arc::new(disk.clone()), config.clone()).map(|_| ());
    assert!(matches!(refused, Err(Error::KeysMissing { .. })), "nothing is given up: {refused:?}");
    config.keys = Keyring::unsealed();
    let refused = SegmentLog::open_on(Arc::new(disk.clone()), config).map(|_| ());
    assert!(matches!(refused, Err(Error::KeysMissing { .. })), "{refused:?}");
    assert!(open(&disk, &key_disk).1.damaged.is_empty());

    disk.power_cut();
    let lost = key_disk.files().into_keys().next().expect("the first key sealed the log");
    key_disk.remove(lost);
    let (log, report) = open(&disk, &key_disk);
    assert_eq!(report.damaged.into_keys().collect::<Vec<_>>(), [GroupId(5)]);
    let refused = answer(&log, |log, done| log.save_vote(GroupId(5), Bytes::new(), done));
    assert!(matches!(refused, Err(Error::Damage { .. })), "{refused:?}");
}

#[test]
fn seeds_depend_on_the_salt() {
    let header = |version, salt| SegmentHeader {
        version,
        sequence: 1,
        epoch: 1,
        salt,
        previous_bytes: 0,
        previous_chain: 0,
        created_bytes: 120,
    };
    assert_ne!(header(2, 1).seed(), header(2, 2).seed());
    assert_eq!(header(1, 1).seed(), 0x4867_4bc7, "as version 1 was written");
    assert_eq!(header(1, 2).seed(), 0x4867_4bc7);
}

fn contains(bytes: &[u8], text: &[u8]) -> bool {
    bytes.windows(text.len()).any(|window| window == text)
}
