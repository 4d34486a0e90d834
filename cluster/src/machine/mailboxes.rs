//! The mailbox rows that batches touch: read once while they are busy, and written before the rows are
//! frozen. Until then readers find them here, by way of [`CurrentRows`](super::CurrentRows).

use bytes::Bytes;
use hashbrown::hash_map::EntryRef;
use heliograph_storage::{self as storage, RowsRead, RowsWrite};

use super::{
    Removal, layout,
    rows::{self, GapsRow, MailboxRow},
};
use crate::model::{MailboxKey, MailboxMap, Priority};

/// Bytes of a mailbox row, about.
const MAILBOX_BYTES: usize = 40;

/// Rows remembered between batches: 16,384 take some 2 MB, and are the mailboxes of several seconds
/// at full load. Past it all are forgotten, and read again; so they are at each checkpoint, since a
/// shard that was busy once must not keep that memory.
const REMEMBERED_MAX: usize = 16_384;
/// Rows that wait to be written: past it they are, after the batch. Writing 4,096 takes some 3 ms, the
/// longest that the batch before a checkpoint is held up by them.
const UNWRITTEN_MAX: usize = 4_096;

#[derive(Debug)]
struct Remembered {
    row: MailboxRow,
    /// Whether it is in `unwritten`.
    is_unwritten: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Mailboxes {
    remembered: MailboxMap<Remembered>,
    /// In the order in which batches came to them.
    unwritten: Vec<MailboxKey>,
}

impl Mailboxes {
    /// The row of `mailbox`, to be changed.
    pub(super) fn get(
        &mut self,
        source: &(impl RowsRead + ?Sized),
        mailbox: &MailboxKey,
    ) -> Result<&mut MailboxRow, storage::Error> {
        let remembered = match self.remembered.entry_ref(mailbox) {
            EntryRef::Occupied(entry) => entry.into_mut(),
            EntryRef::Vacant(entry) => {
                let row = read(source, mailbox)?;
                entry.insert_with_key(*mailbox, Remembered { row, is_unwritten: false })
            }
        };
        if !remembered.is_unwritten {
            remembered.is_unwritten = true;
            self.unwritten.push(*mailbox);
        }
        Ok(&mut remembered.row)
    }

    /// Notes that the number of an expired message will never come.
    pub(super) fn add_gap(
        &mut self,
        target: &mut (impl RowsWrite + ?Sized),
        mailbox: &MailboxKey,
        (priority, seq): (Priority, u64),
        gaps_max: usize,
    ) -> Result<(), storage::Error> {
        let lane = self.get(target, mailbox)?.lane_mut(priority);
        let key = layout::gaps(mailbox, priority);
        let mut row = match lane.gaps {
            0 => GapsRow::default(),
            _ => read_gaps(target, mailbox, priority)?,
        };
        row.add(seq, Removal::Expired, gaps_max);
        lane.gaps = u32::try_from(row.ranges.len()).expect("ranges are bounded");
        target.put(&key, rows::encode(&row, 4 + row.ranges.len() * 20));
        Ok(())
    }

    /// The recipient has come past `seq`, so it was told of the skipped ranges before.
    pub(super) fn forget_gaps(
        &mut self,
        target: &mut (impl RowsWrite + ?Sized),
        mailbox: &MailboxKey,
        (priority, seq): (Priority, u64),
    ) -> Result<(), storage::Error> {
        let lane = self.get(target, mailbox)?.lane_mut(priority);
        if lane.gaps == 0 || seq > lane.last_seq {
            return Ok(());
        }
        let mut row = read_gaps(target, mailbox, priority)?;
        row.forget(seq);
        let left = u32::try_from(row.ranges.len()).expect("ranges are bounded");
        if left == lane.gaps {
            return Ok(());
        }
        lane.gaps = left;
        let key = &layout::gaps(mailbox, priority);
        if left == 0 {
            target.delete(key);
        } else {
            target.put(key, rows::encode(&row, 4 + row.ranges.len() * 20));
        }
        Ok(())
    }

    /// The row of `mailbox` where it waits to be written.
    pub(super) fn unwritten(&self, mailbox: &MailboxKey) -> Option<Bytes> {
        self.remembered.get(mailbox).and_then(Remembered::unwritten)
    }

    /// All rows that wait to be written, in no order.
    pub(super) fn all_unwritten(&self) -> impl Iterator<Item = (&MailboxKey, Bytes)> {
        self.unwritten.iter().filter_map(|mailbox| Some((mailbox, self.unwritten(mailbox)?)))
    }

    /// Keeps to the bounds, after a batch.
    pub(super) fn settle(&mut self, target: &mut (impl RowsWrite + ?Sized)) {
        let is_full = self.remembered.len() > REMEMBERED_MAX;
        if is_full || self.unwritten.len() > UNWRITTEN_MAX {
            self.write(target);
        }
        if is_full {
            self.remembered.clear();
        }
    }

    /// Writes all rows that wait for it, and gives the memory of what is remembered back.
    pub(super) fn flush(&mut self, target: &mut (impl RowsWrite + ?Sized)) {
        self.write(target);
        *self = Self::default();
    }

    fn write(&mut self, target: &mut (impl RowsWrite + ?Sized)) {
        for mailbox in self.unwritten.drain(..) {
            let remembered = self.remembered.get_mut(&mailbox).expect("what is unwritten is here");
            if let Some(value) = remembered.unwritten() {
                target.put(&layout::mailbox(&mailbox), value);
            }
            remembered.is_unwritten = false;
        }
    }
}

impl Remembered {
    /// The row's value where it is to be written; a mailbox that never got a message has none.
    fn unwritten(&self) -> Option<Bytes> {
        let has_row = self.is_unwritten && self.row.accepted > 0;
        has_row.then(|| rows::encode(&self.row, MAILBOX_BYTES))
    }
}

/// The row of `mailbox`; the default for one that never got a message.
pub(super) fn read(
    source: &(impl RowsRead + ?Sized),
    mailbox: &MailboxKey,
) -> Result<MailboxRow, storage::Error> {
    match source.get(&layout::mailbox(mailbox))? {
        Some(value) => rows::decode(&value),
        None => Ok(MailboxRow::default()),
    }
}

/// The skipped ranges of one priority.
pub(super) fn read_gaps(
    source: &(impl RowsRead + ?Sized),
    mailbox: &MailboxKey,
    priority: Priority,
) -> Result<GapsRow, storage::Error> {
    match source.get(&layout::gaps(mailbox, priority))? {
        Some(value) => rows::decode(&value),
        None => Ok(GapsRow::default()),
    }
}

#[cfg(test)]
mod tests {
    use heliograph_storage::MemoryRows;

    use super::*;

    fn accept(mailboxes: &mut Mailboxes, rows: &MemoryRows, number: u64) {
        mailboxes.get(rows, &key(number)).unwrap().accepted += 1;
    }

    fn key(number: u64) -> MailboxKey {
        MailboxKey(u128::from(number).to_be_bytes())
    }

    #[test]
    fn what_was_flushed_takes_no_memory_and_is_read_again() {
        let mut rows = MemoryRows::default();
        let mut mailboxes = Mailboxes::default();
        for number in 0..100 {
            accept(&mut mailboxes, &rows, number);
        }
        assert!(rows.is_empty(), "rows wait for the flush");
        mailboxes.flush(&mut rows);
        assert_eq!((mailboxes.remembered.capacity(), mailboxes.unwritten.capacity()), (0, 0));
        for number in 0..100 {
            assert_eq!(mailboxes.get(&rows, &key(number)).unwrap().accepted, 1);
        }
    }

    #[test]
    fn rows_that_wait_are_told_until_they_are_written() {
        let mut rows = MemoryRows::default();
        let mut mailboxes = Mailboxes::default();
        accept(&mut mailboxes, &rows, 1);
        // Looked at, and never sent anything.
        mailboxes.get(&rows, &key(2)).unwrap();
        let told: Vec<_> = mailboxes.all_unwritten().map(|(mailbox, _)| *mailbox).collect();
        assert_eq!(told, [key(1)]);
        let value = mailboxes.unwritten(&key(1)).unwrap();
        mailboxes.flush(&mut rows);
        assert_eq!(rows.get(&layout::mailbox(&key(1))).unwrap(), Some(value));
        assert_eq!((rows.len(), mailboxes.unwritten(&key(1))), (1, None));
    }

    #[test]
    fn rows_past_the_bounds_are_written_after_the_batch() {
        let mut rows = MemoryRows::default();
        let mut mailboxes = Mailboxes::default();
        let mut sent = 0;
        for (until, written) in [
            (UNWRITTEN_MAX, 0),
            (UNWRITTEN_MAX + 1, UNWRITTEN_MAX + 1),
            (REMEMBERED_MAX, REMEMBERED_MAX),
        ] {
            while sent < until {
                accept(&mut mailboxes, &rows, sent as u64);
                sent += 1;
            }
            mailboxes.settle(&mut rows);
            assert_eq!((rows.len(), mailboxes.remembered.len()), (written, until));
        }
        accept(&mut mailboxes, &rows, sent as u64);
        mailboxes.settle(&mut rows);
        assert_eq!((rows.len(), mailboxes.remembered.len()), (REMEMBERED_MAX + 1, 0));
    }
}
