//! Writes the outlines of sealed segments, reading each once, a part at a time; and takes away those
//! whose segment went or turned out unsound.

use std::{
    collections::BTreeSet,
    io::{self, ErrorKind},
    sync::Arc,
};

use super::{
    disk::{Disk, DiskFile},
    format::{
        Chain, RECORD_HEADER_BYTES, SEGMENT_HEADER_BYTES, SegmentHeader, record_at, record_len_at,
    },
    outline::{OutlineWriter, outline_path},
    replay::segment_path,
    shared::Shared,
};
use crate::{Error, error::io_error};

/// Who has an outline, and which is being written.
pub(super) struct Outliner {
    disk: Arc<dyn Disk>,
    outlined: BTreeSet<u64>,
    /// Segments that are not outlined by this process: unsound, or the disk did not take theirs.
    passed_over: BTreeSet<u64>,
    current: Option<Reading>,
}

/// The segment being read.
struct Reading {
    sequence: u64,
    file: Arc<dyn DiskFile>,
    /// How much of it counts.
    limit: u64,
    at: u64,
    /// None before its header is read.
    outline: Option<(Chain, OutlineWriter)>,
}

impl Outliner {
    /// Nothing is being read; the segments in `outlined` have outlines.
    pub(super) fn new(disk: Arc<dyn Disk>, outlined: BTreeSet<u64>) -> Outliner {
        Outliner { disk, outlined, passed_over: BTreeSet::new(), current: None }
    }

    /// Reads on, about `bytes_max` bytes; answers how many, 0 where every sealed segment has its
    /// outline.
    pub(super) fn step(&mut self, shared: &Shared, bytes_max: usize) -> Result<u64, Error> {
        let reading = match self.current.take() {
            Some(reading) => Some(reading),
            None => {
                self.withdraw(shared)?;
                self.next(shared)
            }
        };
        let Some(mut reading) = reading else { return Ok(0) };
        // If it fails below, it is not tried again.
        self.passed_over.insert(reading.sequence);
        let read = reading.read(shared, bytes_max)?;
        if reading.at < reading.limit {
            self.passed_over.remove(&reading.sequence);
            self.current = Some(reading);
        } else if let Some((chain, outline)) = reading.outline {
            let bytes = outline.finish(reading.limit, chain.last);
            self.write(shared, reading.sequence, &bytes)?;
            self.passed_over.remove(&reading.sequence);
            self.outlined.insert(reading.sequence);
        }
        Ok(read)
    }

    /// The first sealed segment without an outline.
    fn next(&self, shared: &Shared) -> Option<Reading> {
        let inner = shared.inner.lock();
        let (active, _) = inner.segments.last_key_value()?;
        let mut sealed = inner.segments.range(..active);
        let is_left = |sequence: &u64| {
            !self.outlined.contains(sequence) && !self.passed_over.contains(sequence)
        };
        let (sequence, segment) = sealed.find(|(sequence, _)| is_left(sequence))?;
        Some(Reading {
            sequence: *sequence,
            file: Arc::clone(&segment.file),
            limit: segment.bytes,
            at: 0,
            outline: None,
        })
    }

    /// Takes away outlines that no segment is left for, or one that is to be read whole next time.
    fn withdraw(&mut self, shared: &Shared) -> Result<(), Error> {
        let gone: Vec<u64> = {
            let mut inner = shared.inner.lock();
            self.passed_over.append(&mut inner.unsound);
            let segments = &inner.segments;
            self.passed_over.retain(|sequence| segments.contains_key(sequence));
            let outlined = self.outlined.iter().copied();
            let counts = |sequence: &u64| {
                segments.contains_key(sequence) && !self.passed_over.contains(sequence)
            };
            outlined.filter(|sequence| !counts(sequence)).collect()
        };
        for sequence in gone {
            let path = outline_path(&shared.config.dir, sequence);
            match self.disk.remove(&path) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(io_error("remove", &path, error));
                }
                _ => self.outlined.remove(&sequence),
            };
        }
        Ok(())
    }

    fn write(&self, shared: &Shared, sequence: u64, bytes: &[u8]) -> Result<(), Error> {
        let path = outline_path(&shared.config.dir, sequence);
        let new = path.with_extension("outline.new");
        let write = || -> io::Result<()> {
            let file = self.disk.create(&new, bytes.len() as u64)?;
            file.write_at(bytes, 0)?;
            self.disk.rename(&new, &path)
        };
        write().map_err(|source| {
            // It has no name that counts; the next open would remove it.
            let _ = self.disk.remove(&new);
            io_error("write", &path, source)
        })
    }
}

impl Reading {
    /// Reads a part; answers how many bytes it read. A segment that is unsound is read no further, and
    /// gets no outline.
    fn read(&mut self, shared: &Shared, bytes_max: usize) -> Result<u64, Error> {
        let mut read = 0;
        let mut want = bytes_max.max(SEGMENT_HEADER_BYTES + RECORD_HEADER_BYTES);
        loop {
            let left = usize::try_from(self.limit - self.at).unwrap_or(usize::MAX);
            let mut bytes = vec![0; want.min(left)];
            match self.file.read_at(&mut bytes, self.at) {
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => {
                    self.give_up();
                    return Ok(read);
                }
                result => result.map_err(|source| {
                    io_error("read", &segment_path(&shared.config.dir, self.sequence), source)
                })?,
            }
            read += bytes.len() as u64;
            let parsed = self.parse(&bytes);
            self.at += parsed as u64;
            if parsed > 0 {
                return Ok(read);
            }
            match record_len_at(&bytes, 0) {
                // One record that is larger than a part.
                Some(record)
                    if self.outline.is_some() && (bytes.len() + 1..=left).contains(&record) =>
                {
                    want = record;
                }
                _ => {
                    self.give_up();
                    return Ok(read);
                }
            }
        }
    }

    /// Takes the records that are whole in `bytes`, which stand at `self.at`; answers where they end.
    fn parse(&mut self, bytes: &[u8]) -> usize {
        let mut at = 0;
        if self.at == 0 {
            let header = SegmentHeader::decode(bytes).ok();
            let header = header.filter(|header| header.sequence == self.sequence);
            self.outline = header.map(|header| (Chain::new(&header), OutlineWriter::new(&header)));
            at = SEGMENT_HEADER_BYTES;
        }
        let Some((chain, outline)) = &mut self.outline else { return 0 };
        while let Some(record) =
            record_at(bytes, at, chain.seed).filter(|record| record.chain == chain.last)
        {
            let place = u32::try_from(self.at + at as u64).expect("segments are below 4 GiB");
            if outline.record(place, &record).is_none() {
                self.outline = None;
                return 0;
            }
            chain.last = record.crc;
            at = record.next;
        }
        at
    }

    /// The segment gets no outline: the next open reads all of it, and says what is wrong.
    fn give_up(&mut self) {
        self.outline = None;
        self.at = self.limit;
    }
}
