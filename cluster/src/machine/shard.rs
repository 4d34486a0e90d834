//! The state machine of a shard: devices, API keys, mailboxes.
//!
//! The Raft group's apply path owns a [`ShardMachine`]. Everything lives in rows; what nearly every
//! message changes (shard time, the deduplication table, mailboxes) is kept in memory too and written by
//! [`ShardMachine::flush`] before rows are frozen for a checkpoint or a snapshot. Until then
//! [`ShardMachine::over`] shows readers the mailboxes as they are. Replicas that applied the same
//! batches and then flushed hold the same rows, bit for bit.

use std::collections::BTreeMap;

use heliograph_storage::{self as storage, RowsRead, RowsWrite};

use super::{
    Command, CommandBatch, CurrentRows, Effect, Enqueue, Limits, Outcome, Removal,
    dedup::{Dedup, Remember, Status},
    layout,
    mailboxes::Mailboxes,
    rows::{self, ClockRow, KEY_ONLY, MessageRow, NumbersRow},
};
use crate::machine::{CONTESTS_MAX, Pending};
use crate::model::{CONTENT_BYTES_MAX, MailboxKey, Message, Priority};

/// The most messages one `Expire` removes, whatever it asks for: keeps an apply below some 10 ms.
const EXPIRE_MAX: u32 = 4096;

/// Bytes of a message's row besides sender, id, contests and content, at most.
const MESSAGE_HEAD_BYTES: usize = 64;

/// How far above their last ones a restored cluster numbers messages: more than any mailbox gets between
/// a backup and its restore (two years at 57 messages a second), and so little that clients who keep
/// numbers as doubles see two million restores.
const NUMBERS_STEP: u64 = 1 << 32;

/// What applying a batch did.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Applied {
    /// One for each command.
    pub outcomes: Vec<Outcome>,
    /// What the leader's actors have to know, in order.
    pub effects: Vec<Effect>,
}

/// See the module.
#[derive(Debug)]
pub struct ShardMachine {
    limits: Limits,
    time_ms: u64,
    /// Numbers up to this one may have been given by the cluster that this one was restored from.
    numbers_above: u64,
    dedup: Dedup,
    mailboxes: Mailboxes,
}

/// What a batch is applied to.
pub(super) struct Target<'a, R: ?Sized> {
    pub(super) rows: &'a mut R,
    pub(super) mailboxes: Mailboxes,
    pub(super) effects: Vec<Effect>,
}

impl ShardMachine {
    /// Reads what [`ShardMachine::flush`] wrote: at start, and after a snapshot was installed.
    ///
    /// # Errors
    /// When rows cannot be read or are damaged.
    pub fn load(rows: &(impl RowsRead + ?Sized), limits: Limits) -> Result<Self, storage::Error> {
        let clock: ClockRow = match rows.get(&layout::clock())? {
            Some(value) => rows::decode(&value)?,
            None => ClockRow::default(),
        };
        let dedup = Dedup::load(rows, &limits, clock.next_part)?;
        let mailboxes = Mailboxes::default();
        let numbers_above = numbers(rows)?.above;
        Ok(Self { limits, time_ms: clock.time_ms, numbers_above, dedup, mailboxes })
    }

    /// For a restored cluster, before anything is applied: messages get numbers that the cluster it
    /// was restored from has given to none. Clients remember what they received by its number.
    ///
    /// # Errors
    /// When rows cannot be read or are damaged.
    pub fn renumber(rows: &mut (impl RowsWrite + ?Sized)) -> Result<(), storage::Error> {
        let above = numbers(rows)?.above + NUMBERS_STEP;
        let row = rows::encode(&NumbersRow { above }, 16);
        rows.put(&layout::numbers(), row);
        Ok(())
    }

    /// Applies a committed batch. Between calls nobody else may change the rows.
    ///
    /// # Errors
    /// When rows cannot be read or are damaged: the replica is not to be used any further.
    pub fn apply(
        &mut self,
        rows: &mut (impl RowsWrite + ?Sized),
        batch: &CommandBatch,
    ) -> Result<Applied, storage::Error> {
        self.time_ms = self.time_ms.max(batch.time_ms);
        self.dedup.expire(self.time_ms, rows);
        let mut target = Target {
            rows,
            mailboxes: std::mem::take(&mut self.mailboxes),
            effects: Vec::with_capacity(batch.commands.len()),
        };
        let mut outcomes = Vec::with_capacity(batch.commands.len());
        for command in &batch.commands {
            outcomes.push(self.apply_one(&mut target, command)?);
        }
        let Target { rows, mut mailboxes, effects } = target;
        mailboxes.settle(rows);
        self.mailboxes = mailboxes;
        Ok(Applied { outcomes, effects })
    }

    /// Writes what is kept in memory and has changed, and lets go of what can be read again. Call it
    /// before rows are frozen.
    ///
    /// # Errors
    /// None today; writing may come to read.
    pub fn flush(&mut self, rows: &mut (impl RowsWrite + ?Sized)) -> Result<(), storage::Error> {
        self.dedup.flush(rows);
        self.mailboxes.flush(rows);
        let clock = ClockRow { time_ms: self.time_ms, next_part: self.dedup.next_part() };
        rows.put(&layout::clock(), rows::encode(&clock, 32));
        Ok(())
    }

    /// The rows with what this machine has not written yet: what to read of them, except by those who
    /// have just flushed.
    pub fn over<'a, R: RowsRead + ?Sized>(&'a self, rows: &'a R) -> CurrentRows<'a, R> {
        CurrentRows::new(rows, &self.mailboxes)
    }

    /// Shard time, milliseconds since the Unix epoch.
    pub fn time_ms(&self) -> u64 {
        self.time_ms
    }

    /// How many message ids are remembered, for a metric.
    pub fn remembered(&self) -> usize {
        self.dedup.len()
    }

    /// When the next message is due; `Expire` is worth proposing from then on.
    ///
    /// # Errors
    /// When rows cannot be read or are damaged.
    pub fn next_expiry(rows: &(impl RowsRead + ?Sized)) -> Result<Option<u64>, storage::Error> {
        let found = rows.scan(&layout::expiry_from(0), &layout::expiry_end(), 1)?;
        let entry = |key: &[u8]| layout::expiry_entry(key).ok_or(rows::damage("expiry key"));
        found.first().map(|(key, _)| entry(key).map(|(due, ..)| due)).transpose()
    }

    fn apply_one<R: RowsWrite + ?Sized>(
        &mut self,
        target: &mut Target<'_, R>,
        command: &Command,
    ) -> Result<Outcome, storage::Error> {
        match command {
            Command::Register(register) => {
                super::devices::register(target, register, &self.limits, self.time_ms)
            }
            Command::RevokeKey { mailbox, key_id } => {
                super::devices::revoke(target, mailbox, *key_id)
            }
            Command::Enqueue(enqueue) => self.enqueue(target, enqueue),
            Command::Acknowledge { mailbox, items } => self.acknowledge(target, mailbox, items),
            Command::Expire { limit } => self.expire(target, (*limit).min(EXPIRE_MAX)),
        }
    }

    fn enqueue<R: RowsWrite + ?Sized>(
        &mut self,
        target: &mut Target<'_, R>,
        enqueue: &Enqueue,
    ) -> Result<Outcome, storage::Error> {
        if enqueue.content.len() > CONTENT_BYTES_MAX {
            return Ok(Outcome::TooLarge);
        }
        let known = self.dedup.known(enqueue.fingerprint, self.time_ms);
        if let Some(own) = known.iter().find(|one| one.entry.sender == enqueue.sender_fingerprint) {
            if own.entry.content != enqueue.content_fingerprint {
                return Ok(Outcome::Conflict);
            }
            let (seq, accepted_ms) = (own.entry.seq, own.accepted_ms);
            return Ok(Outcome::Enqueued { seq, accepted_ms, duplicate: true });
        }
        let pending = known.iter().filter(|one| one.entry.status == Status::Pending);
        let contests: Vec<_> = pending.map(|one| (one.entry.priority, one.entry.seq)).collect();
        let mailbox = target.mailboxes.get(target.rows, &enqueue.mailbox)?;
        let row = MessageRow {
            fingerprint: enqueue.fingerprint,
            ordinal: mailbox.accepted,
            accepted_ms: self.time_ms,
            expires_ms: self
                .time_ms
                .saturating_add(enqueue.ttl_ms.clamp(1, self.limits.ttl_max_ms)),
            contested: !known.is_empty(),
            contests,
            sender: enqueue.sender.as_str(),
            message_id: enqueue.message_id.as_str(),
            content: &enqueue.content,
        };
        let bytes_hint = MESSAGE_HEAD_BYTES
            + row.sender.len()
            + row.message_id.len()
            + row.contests.len() * 11
            + row.content.len();
        let value = rows::encode(&row, bytes_hint);
        let bytes = mailbox.bytes + value.len() as u64;
        if mailbox.pending() >= self.limits.mailbox_messages_max
            || bytes > self.limits.mailbox_bytes_max
            || row.contests.len() >= CONTESTS_MAX
        {
            return Ok(Outcome::MailboxFull);
        }
        mailbox.bytes = bytes;
        mailbox.accepted += 1;
        let lane = mailbox.lane_mut(enqueue.priority);
        lane.last_seq = lane.last_seq.max(self.numbers_above) + 1;
        lane.count += 1;
        let (priority, seq) = (enqueue.priority, lane.last_seq);
        let key = layout::message(&enqueue.mailbox, priority, seq);
        let due = layout::expiry(row.expires_ms, &enqueue.mailbox, priority, seq);
        target.rows.put_new(&key, value);
        target.rows.put_new(&due, KEY_ONLY);
        let remember = Remember {
            fingerprint: enqueue.fingerprint,
            sender: enqueue.sender_fingerprint,
            content: enqueue.content_fingerprint,
            priority,
            seq,
        };
        self.dedup.remember(remember, self.time_ms, target.rows);
        let message = Message {
            seq,
            priority,
            sender: enqueue.sender.clone(),
            message_id: enqueue.message_id.clone(),
            accepted_ms: self.time_ms,
            expires_ms: row.expires_ms,
            content: enqueue.content.clone(),
        };
        let pending = Pending { message: message.into(), contests: row.contests.into() };
        target.effects.push(Effect::Arrived { mailbox: enqueue.mailbox, pending });
        Ok(Outcome::Enqueued { seq, accepted_ms: self.time_ms, duplicate: false })
    }

    fn acknowledge<R: RowsWrite + ?Sized>(
        &mut self,
        target: &mut Target<'_, R>,
        mailbox: &MailboxKey,
        items: &[(Priority, u64)],
    ) -> Result<Outcome, storage::Error> {
        let mut removed = Vec::with_capacity(items.len());
        for &place in items {
            if self.remove(target, mailbox, place, Removal::Acknowledged)? {
                removed.push(place);
            }
            target.mailboxes.forget_gaps(target.rows, mailbox, place)?;
        }
        let count = u32::try_from(removed.len()).unwrap_or(u32::MAX);
        if count > 0 {
            let reason = Removal::Acknowledged;
            target.effects.push(Effect::Removed { mailbox: *mailbox, items: removed, reason });
        }
        Ok(Outcome::Acknowledged { count })
    }

    fn expire<R: RowsWrite + ?Sized>(
        &mut self,
        target: &mut Target<'_, R>,
        limit: u32,
    ) -> Result<Outcome, storage::Error> {
        let end = layout::expiry_from(self.time_ms.saturating_add(1));
        let asked = limit as usize + 1;
        let due = target.rows.scan(&layout::expiry_from(0), &end, asked)?;
        let mut expired: BTreeMap<MailboxKey, Vec<(Priority, u64)>> = BTreeMap::new();
        for (key, _) in due.iter().take(limit as usize) {
            let (_, mailbox, priority, seq) =
                layout::expiry_entry(key).ok_or(rows::damage("expiry key"))?;
            let place = (priority, seq);
            if !self.remove(target, &mailbox, place, Removal::Expired)? {
                return Err(rows::damage("expiry entry without a message"));
            }
            target.mailboxes.add_gap(target.rows, &mailbox, place, self.limits.gaps_max)?;
            expired.entry(mailbox).or_default().push(place);
        }
        let count = u32::try_from(due.len().min(limit as usize)).unwrap_or(u32::MAX);
        let reason = Removal::Expired;
        let effects =
            expired.into_iter().map(|(mailbox, items)| Effect::Removed { mailbox, items, reason });
        target.effects.extend(effects);
        Ok(Outcome::Expired { count, more: due.len() == asked })
    }

    /// Removes a pending message; `false` where there is none.
    fn remove<R: RowsWrite + ?Sized>(
        &mut self,
        target: &mut Target<'_, R>,
        mailbox: &MailboxKey,
        place: (Priority, u64),
        reason: Removal,
    ) -> Result<bool, storage::Error> {
        let (priority, seq) = place;
        let key = layout::message(mailbox, priority, seq);
        let Some(value) = target.rows.take(&key)? else { return Ok(false) };
        let row: MessageRow<'_> = rows::decode(&value)?;
        let due = layout::expiry(row.expires_ms, mailbox, priority, seq);
        target.rows.delete(&due);
        self.dedup.settle(row.fingerprint, place, reason.into());
        let mailbox = target.mailboxes.get(target.rows, mailbox)?;
        mailbox.bytes -= value.len() as u64;
        mailbox.lane_mut(priority).count -= 1;
        Ok(true)
    }
}

fn numbers(rows: &(impl RowsRead + ?Sized)) -> Result<NumbersRow, storage::Error> {
    let row = rows.get(&layout::numbers())?;
    row.map_or(Ok(NumbersRow::default()), |value| rows::decode(&value))
}

#[cfg(test)]
#[path = "shard_test.rs"]
mod tests;
