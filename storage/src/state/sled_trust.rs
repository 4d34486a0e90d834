//! Whether a start may do without reading all rows, and what it costs to keep that so.

use std::{fs::File, path::Path};

use super::{
    sled_log::{Survey, replay_start},
    sled_open::DATABASE_FILE,
    sled_record::{Record, RecordFile},
    sled_store::{SledStore, Writer},
    verify,
};
use crate::{Error, error::io_error, metrics};

/// What a start may have to read of sled's log: a fifth of a second from the page cache, half a second
/// from a disk.
const REPLAY_BYTES: u64 = 256 * 1024 * 1024;
/// Of a large file it may read this part: reopening also clears the free segments, which may be as
/// much again.
const REPLAY_PART: u64 = 4;

/// What a database looks like before sled opens it, and clears what it takes for torn.
pub(super) struct Found {
    record: Record,
    end: u64,
}

impl Found {
    /// `None` where something may be missing of what sled will read. sled then clears what it cannot
    /// read, and the next start would not notice: so the record goes first.
    pub(super) fn before_open(dir: &Path) -> Result<Option<Self>, Error> {
        let found = Self::look(dir)?;
        if found.is_none() {
            RecordFile::open(dir)?.forget()?;
        }
        Ok(found)
    }

    fn look(dir: &Path) -> Result<Option<Self>, Error> {
        let Some(record) = Record::read(dir)? else { return Ok(None) };
        let path = dir.join(DATABASE_FILE);
        let look = || -> std::io::Result<Option<u64>> {
            let file = File::open(&path)?;
            let survey = Survey::of(&file)?;
            let is_whole = survey.is_whole(&file, &record, replay_start(dir)?)?;
            Ok(is_whole.then_some(survey.end))
        };
        match look() {
            Ok(end) => Ok(end.map(|end| Self { record, end })),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(io_error("read", &path, error)),
        }
    }

    /// Whether sled read its log to the end, and what it found is what the record was written after.
    pub(super) fn is_what_opened(&self, dir: &Path, sequence: u64) -> Result<bool, Error> {
        let opened = replay_start(dir).map_err(|error| io_error("read", dir, error))?;
        let next = self.record.sequence + 1;
        Ok(opened >= self.end && (sequence == self.record.sequence || sequence == next))
    }
}

impl SledStore {
    /// Syncs the database and records which of its segments stands where.
    pub(super) fn sync_database(&self, writer: &mut Writer, sequence: u64) -> Result<(), Error> {
        self.call(|db| db.flush())?;
        // What is recorded is durable before it is recorded.
        let survey = self.survey(writer.end)?;
        let synced = writer.database.sync_data();
        synced.map_err(|error| io_error("fdatasync", &self.path, error))?;
        writer.end = survey.end;
        self.write_record(Record::new(sequence, survey))
    }

    /// Records how the database was opened, or closed.
    pub(super) fn record_as_is(&self, sequence: u64) -> Result<(), Error> {
        self.write_record(Record::new(sequence, self.survey(0)?))
    }

    /// Of a log that ended at `known` before; 0 where that is not known.
    fn survey(&self, known: u64) -> Result<Survey, Error> {
        Survey::since(&self.file, known).map_err(|error| io_error("read", &self.path, error))
    }

    fn write_record(&self, record: Record) -> Result<(), Error> {
        let file = self.record.lock();
        // What failed has taken the record away, and what is not yet found sound has none.
        if self.has_failed() || !self.is_serving() { Ok(()) } else { file.write(&record) }
    }

    /// The next start reads all rows.
    pub(super) fn doubt(&self) {
        if let Err(error) = self.record.lock().forget() {
            tracing::error!(%error, "cannot take the record of the state database back");
        }
    }

    /// Reopens the database where a start would have much of its log to read: that writes down
    /// where each page is.
    pub(super) fn bound_replay(&self, writer: &mut Writer) -> Result<(), Error> {
        let bytes_max = self.config.replay_bytes_max;
        let bytes_max =
            bytes_max.unwrap_or_else(|| REPLAY_BYTES.max(self.file_bytes() / REPLAY_PART));
        if writer.end.saturating_sub(writer.replay) < bytes_max {
            return Ok(());
        }
        let mut found = None;
        self.reopen(|| {
            found = Found::look(&self.dir)?;
            Ok(())
        })?;
        metrics::state_reopened();
        writer.replay = self.replay_start()?;
        let is_sound = match found {
            Some(found) => found.is_what_opened(&self.dir, writer.sequence)?,
            None => false,
        };
        if !is_sound {
            self.record.lock().forget()?;
            verify::all(self, &writer.groups)?;
        }
        self.record_as_is(writer.sequence)
    }

    pub(super) fn replay_start(&self) -> Result<u64, Error> {
        replay_start(&self.dir).map_err(|error| io_error("read", &self.dir, error))
    }

    fn file_bytes(&self) -> u64 {
        self.file.metadata().map_or(0, |metadata| metadata.len())
    }
}
