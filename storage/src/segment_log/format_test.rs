//! The bytes of a small log, as `docs/reference/log-format.md` tells them. A change here is a change
//! of the format: it needs a new version, and the old bytes must still be read.

use std::path::Path;

use bytes::Bytes;

use super::{
    format::{Chain, Kind, Record, RecordHeader, SegmentHeader, record_at},
    replay::segment_path,
    sim_disk::SimDisk,
    test_support::{answer, open, see_all},
};
use crate::{GroupId, LogEntry, LogStore, Position};

/// The documentation that shows these bytes.
const REFERENCE: &str = include_str!("../../../docs/reference/log-format.md");

fn hex(bytes: &[u8]) -> String {
    let rows = bytes.chunks(16).enumerate().map(|(row, bytes)| {
        let digits: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{:04x}  {}\n", row * 16, digits.join(" "))
    });
    rows.collect()
}

fn small_log() -> SimDisk {
    let disk = SimDisk::new(1);
    let (log, _) = open(&disk).expect("it opens");
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
    let disk = small_log();
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

/// What version 1 wrote is read for ever.
#[test]
fn documented_bytes_are_read() {
    let shown = REFERENCE.split("```hex\n").nth(1).and_then(|rest| rest.split("```").next());
    let digits = shown.expect("the reference shows a log").lines().flat_map(|line| {
        line.split_whitespace().skip(1).map(|byte| u8::from_str_radix(byte, 16).expect("a byte"))
    });
    let path = segment_path(Path::new("/log"), 1);
    let disk = SimDisk::with(&[(path, digits.collect())].into(), 1);
    let (log, report) = open(&disk).expect("it opens");
    assert!(report.damage.is_empty() && report.tear.is_none(), "{report:?}");
    assert_eq!(see_all(&log), see_all(&open(&small_log_closed()).expect("it opens").0));
    assert_eq!(log.group(GroupId(5)).last, Some(Position { term: 3, index: 2 }));
}

fn small_log_closed() -> SimDisk {
    let disk = small_log();
    disk.power_cut();
    disk
}
