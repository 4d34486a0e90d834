//! The mailbox rows that a batch touches: read once, written once.

use std::collections::BTreeMap;

use heliograph_storage::{self as storage, RowsRead, RowsWrite};

use super::{
    Removal, layout,
    rows::{self, GapsRow, MailboxRow},
};
use crate::model::{MailboxKey, Priority};

/// Bytes of a mailbox row, about.
const MAILBOX_BYTES: usize = 40;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Mailboxes {
    touched: BTreeMap<MailboxKey, MailboxRow>,
}

impl Mailboxes {
    /// The row of `mailbox`, to be changed.
    pub(super) fn get(
        &mut self,
        source: &(impl RowsRead + ?Sized),
        mailbox: &MailboxKey,
    ) -> Result<&mut MailboxRow, storage::Error> {
        use std::collections::btree_map::Entry;
        match self.touched.entry(*mailbox) {
            Entry::Occupied(entry) => Ok(entry.into_mut()),
            Entry::Vacant(entry) => Ok(entry.insert(read(source, mailbox)?)),
        }
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
        target.put(layout::owned(key), rows::encode(&row, 4 + row.ranges.len() * 20));
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
        let key = layout::owned(layout::gaps(mailbox, priority));
        if left == 0 {
            target.delete(key);
        } else {
            target.put(key, rows::encode(&row, 4 + row.ranges.len() * 20));
        }
        Ok(())
    }

    /// Writes the rows that were touched; a mailbox that never got a message has none.
    pub(super) fn write(self, target: &mut (impl RowsWrite + ?Sized)) {
        for (mailbox, row) in self.touched {
            if row.accepted > 0 {
                let key = layout::owned(layout::mailbox(&mailbox));
                target.put(key, rows::encode(&row, MAILBOX_BYTES));
            }
        }
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
