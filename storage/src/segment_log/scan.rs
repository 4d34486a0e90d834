//! Walks the bytes of one segment, record by record, past damage.
//!
//! Two rules tell an unfinished write from damage. Every record says up to where its file was
//! durable before it was written (`synced`), and a segment says how much of it was durable before
//! it got its name. Bytes below the largest such place were durable: if they are unsound, that is
//! damage. Unsound bytes above it belong to the last write, which never finished: since a disk may
//! write pages of one unsynced write in any order, sound records of that same write may stand
//! behind them, and are cut with it.

use super::format::{ALIGN, Chain, Record, SEGMENT_HEADER_BYTES, SegmentHeader, record_at};

/// What stands in a segment.
#[derive(Clone, Copy, Debug)]
pub(super) enum Item<'a> {
    /// A record and where it starts.
    Record(usize, Record<'a>),
    /// Something else, from here to the next record.
    Gap(usize),
}

/// A segment's records.
#[derive(Debug)]
pub(super) struct Scan<'a> {
    /// In order.
    pub(super) items: Vec<Item<'a>>,
    /// Where the sound part ends: behind the last record that counts.
    pub(super) end: usize,
    /// The checksum of that record.
    pub(super) chain: Chain,
    /// Up to where the segment is known to have been durable.
    pub(super) durable: usize,
    /// The checksum of the last record that ends at or below `durable`.
    pub(super) durable_chain: u32,
    /// An unfinished write was cut at `end`.
    pub(super) torn: bool,
}

/// Walks `bytes` from behind the header. At least `durable_min` bytes are known to have been durable.
pub(super) fn scan<'a>(bytes: &'a [u8], header: &SegmentHeader, durable_min: usize) -> Scan<'a> {
    let chain = Chain::new(header);
    let created = header.created_bytes as usize;
    let mut scan = Scan {
        items: Vec::new(),
        end: SEGMENT_HEADER_BYTES,
        chain,
        durable: created.max(durable_min),
        durable_chain: chain.last,
        torn: false,
    };
    let mut at = SEGMENT_HEADER_BYTES;
    loop {
        let next = record_at(bytes, at, chain.seed).filter(|next| next.chain == scan.chain.last);
        let (found, next) = match next {
            Some(record) => (at, record),
            None => match next_record(bytes, at + ALIGN, chain.seed) {
                Some((found, record)) => {
                    scan.items.push(Item::Gap(at));
                    (found, record)
                }
                None => break,
            },
        };
        scan.items.push(Item::Record(found, next));
        scan.durable = scan.durable.max(next.header.synced as usize);
        scan.chain.last = next.crc;
        at = next.next;
    }
    scan.end = at;
    let rest = bytes.get(at..).unwrap_or_default();
    scan.torn = rest.iter().any(|&byte| byte != 0);
    scan.cut_unfinished();
    scan.settle_durable();
    scan.durable_chain = scan.chain_at(scan.durable);
    scan
}

impl Scan<'_> {
    /// A gap in bytes that were never durable is where an unfinished write begins to fail: nothing
    /// behind it counts.
    fn cut_unfinished(&mut self) {
        let durable = self.durable;
        let unfinished =
            self.items.iter().position(|item| matches!(item, Item::Gap(at) if *at >= durable));
        if let Some(cut) = unfinished {
            let Item::Gap(at) = self.items[cut] else { unreachable!("the position of a gap") };
            self.items.truncate(cut);
            self.end = at;
            self.torn = true;
            self.chain.last = self.chain_at(at);
        }
    }

    /// Syncs end at the end of a record; a file that says otherwise has lied about the last one.
    fn settle_durable(&mut self) {
        let durable = self.durable;
        let straddling = self.items.iter().rev().find_map(|item| match item {
            Item::Record(at, record) if *at < durable && durable < record.next => Some(*at),
            _ => None,
        });
        self.durable = straddling.unwrap_or(durable);
    }

    /// The checksum of the last record that ends at or below `limit`.
    fn chain_at(&self, limit: usize) -> u32 {
        let crc = self.items.iter().rev().find_map(|item| match item {
            Item::Record(_, record) if record.next <= limit => Some(record.crc),
            _ => None,
        });
        crc.unwrap_or(self.chain.seed)
    }
}

fn next_record(bytes: &[u8], from: usize, seed: u32) -> Option<(usize, Record<'_>)> {
    let last = bytes.len().saturating_sub(super::format::RECORD_HEADER_BYTES);
    (from..=last).step_by(ALIGN).find_map(|at| record_at(bytes, at, seed).map(|r| (at, r)))
}
