//! A shard's rows as they are: what is written, and the mailbox rows that wait for it.

use std::collections::BTreeMap;

use bytes::Bytes;
use heliograph_storage::{Error, RowsRead};

use super::{layout, mailboxes::Mailboxes};

/// See the module. Made by [`ShardMachine::over`](super::ShardMachine::over).
#[derive(Debug)]
pub struct CurrentRows<'a, R: ?Sized> {
    written: &'a R,
    mailboxes: &'a Mailboxes,
}

impl<'a, R: RowsRead + ?Sized> CurrentRows<'a, R> {
    pub(super) fn new(written: &'a R, mailboxes: &'a Mailboxes) -> Self {
        Self { written, mailboxes }
    }
}

impl<R: RowsRead + ?Sized> RowsRead for CurrentRows<'_, R> {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Error> {
        let waiting =
            layout::mailbox_of(key).and_then(|mailbox| self.mailboxes.unwritten(&mailbox));
        waiting.map_or_else(|| self.written.get(key), |value| Ok(Some(value)))
    }

    /// A range with mailbox rows in it costs a look at all that wait: it is for those who read all.
    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<(Bytes, Bytes)>, Error> {
        let written = self.written.scan(from, to, limit)?;
        if !layout::may_hold_mailboxes(from, to) {
            return Ok(written);
        }
        let mut rows: BTreeMap<_, _> = written.into_iter().collect();
        for (mailbox, value) in self.mailboxes.all_unwritten() {
            let key = layout::mailbox(mailbox);
            if from <= &key[..] && &key[..] < to {
                rows.insert(Bytes::copy_from_slice(&key), value);
            }
        }
        Ok(rows.into_iter().take(limit).collect())
    }
}

#[cfg(test)]
mod tests {
    use heliograph_storage::{MemoryRows, RowsWrite};

    use super::*;
    use crate::model::MailboxKey;

    fn key(number: u8) -> MailboxKey {
        MailboxKey([number; 16])
    }

    /// Mailboxes 1 to 9, the odd ones written with another message than the last.
    fn mailboxes() -> (MemoryRows, Mailboxes) {
        let (mut rows, mut mailboxes) = (MemoryRows::default(), Mailboxes::default());
        for number in (1..10).step_by(2) {
            mailboxes.get(&rows, &key(number)).unwrap().accepted = 1;
        }
        mailboxes.flush(&mut rows);
        for number in 1..10 {
            mailboxes.get(&rows, &key(number)).unwrap().accepted += 1;
        }
        (rows, mailboxes)
    }

    #[test]
    fn a_reader_sees_what_it_would_after_a_flush() {
        let (written, mut mailboxes) = mailboxes();
        let mut flushed = written.clone();
        let current = CurrentRows::new(&written, &mailboxes);
        let ends = [&b""[..], &layout::mailbox(&key(3)), &layout::mailbox(&key(6)), &[0xff; 20]];
        let mut seen = Vec::new();
        for from in ends {
            for to in ends {
                for limit in [0, 1, 3, 100] {
                    seen.push(((from, to, limit), current.scan(from, to, limit).unwrap()));
                }
            }
        }
        let rows = (1..10).map(|number| current.get(&layout::mailbox(&key(number))).unwrap());
        let rows: Vec<_> = rows.collect();
        mailboxes.flush(&mut flushed);
        for ((from, to, limit), seen) in seen {
            assert_eq!(seen, flushed.scan(from, to, limit).unwrap(), "{from:?} {to:?} {limit}");
        }
        let after = (1..10).map(|number| flushed.get(&layout::mailbox(&key(number))).unwrap());
        assert_eq!(rows, after.collect::<Vec<_>>());
    }

    #[test]
    fn other_rows_are_those_that_are_written() {
        let (mut written, mailboxes) = mailboxes();
        let message = layout::message(&key(1), crate::model::Priority::Low, 1);
        written.put(&message, Bytes::from_static(b"message"));
        let current = CurrentRows::new(&written, &mailboxes);
        assert_eq!(current.get(&message).unwrap().as_deref(), Some(&b"message"[..]));
        let end = layout::messages_end(&key(1));
        assert_eq!(current.scan(&message, &end, 9).unwrap().len(), 1);
    }
}
