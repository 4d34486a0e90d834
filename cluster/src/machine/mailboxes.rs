//! The mailbox rows that batches touch: read once while they are busy, written once a batch.

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

#[derive(Debug)]
struct Remembered {
    row: MailboxRow,
    /// Whether it is in `touched`.
    touched: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Mailboxes {
    remembered: MailboxMap<Remembered>,
    /// In the order in which the batch came to them.
    touched: Vec<MailboxKey>,
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
                entry.insert_with_key(*mailbox, Remembered { row, touched: false })
            }
        };
        if !remembered.touched {
            remembered.touched = true;
            self.touched.push(*mailbox);
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

    /// Writes the rows that were touched; a mailbox that never got a message has none.
    pub(super) fn write(&mut self, target: &mut (impl RowsWrite + ?Sized)) {
        for mailbox in self.touched.drain(..) {
            let remembered = self.remembered.get_mut(&mailbox).expect("what is touched is here");
            remembered.touched = false;
            if remembered.row.accepted > 0 {
                let key = &layout::mailbox(&mailbox);
                target.put(key, rows::encode(&remembered.row, MAILBOX_BYTES));
            }
        }
        if self.remembered.len() > REMEMBERED_MAX {
            self.remembered.clear();
        }
    }

    /// Gives the memory of what is remembered back. Not within a batch.
    pub(super) fn forget(&mut self) {
        assert!(self.touched.is_empty(), "rows that a batch has touched are not written yet");
        self.remembered = MailboxMap::default();
        self.touched = Vec::new();
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

    #[test]
    fn what_was_forgotten_takes_no_memory_and_is_read_again() {
        let mut rows = MemoryRows::default();
        let mut mailboxes = Mailboxes::default();
        for number in 0..100 {
            mailboxes.get(&rows, &MailboxKey([number; 16])).unwrap().accepted =
                1 + u64::from(number);
        }
        mailboxes.write(&mut rows);
        mailboxes.forget();
        assert_eq!((mailboxes.remembered.capacity(), mailboxes.touched.capacity()), (0, 0));
        for number in 0..100 {
            let row = mailboxes.get(&rows, &MailboxKey([number; 16])).unwrap();
            assert_eq!(row.accepted, 1 + u64::from(number));
        }
    }

    #[test]
    #[should_panic(expected = "not written yet")]
    fn what_a_batch_has_changed_is_not_forgotten() {
        let mut mailboxes = Mailboxes::default();
        mailboxes.get(&MemoryRows::default(), &MailboxKey([1; 16])).unwrap().accepted = 1;
        mailboxes.forget();
    }
}
