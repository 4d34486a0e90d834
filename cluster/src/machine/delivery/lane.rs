//! One priority of a mailbox, as read ahead for the active subscription.

use std::collections::VecDeque;

use super::{DeliveryLimits, LaneRead, Pending};
use crate::{
    machine::{Gap, Removal},
    model::Priority,
};

/// Removals remembered while a read is under way; past it the read's answer is thrown away and
/// asked for again. 1,024: a few full acknowledgements.
const REMOVALS_MAX: usize = 1024;

#[derive(Debug)]
enum Entry {
    Message(Pending),
    Skip(Gap),
}

impl Entry {
    fn first(&self) -> u64 {
        match self {
            Self::Message(pending) => pending.message.seq,
            Self::Skip(gap) => gap.from,
        }
    }
}

/// A read under way.
#[derive(Debug)]
struct Awaited {
    ticket: u64,
    from: u64,
    /// What left since it was asked for; the answer may not know.
    removed: Vec<(Priority, u64, Removal)>,
}

/// What a lane has next.
#[derive(Debug)]
pub(super) enum Next<'a> {
    /// Nothing, or nothing that may be pushed yet.
    Nothing,
    /// An answer is on its way.
    Awaited,
    /// Rows have to be read.
    Unread,
    /// Numbers that will never come.
    Skip(Gap),
    /// A message that may be pushed.
    Message(&'a Pending),
}

/// See the module.
#[derive(Debug)]
pub(super) struct Lane {
    /// The number the next message to be accepted gets.
    tail: u64,
    /// `buffer` tells all there is below this number; the rows are read from here.
    covered: u64,
    buffer: VecDeque<Entry>,
    /// Bytes of contents in `buffer`.
    bytes: usize,
    /// How many in `buffer` wait for other copies.
    contested: usize,
    awaited: Option<Awaited>,
}

impl Lane {
    pub(super) fn new(tail: u64) -> Self {
        Self { tail, covered: tail, buffer: VecDeque::new(), bytes: 0, contested: 0, awaited: None }
    }

    /// The number the next message to be accepted gets.
    pub(super) fn tail(&self) -> u64 {
        self.tail
    }

    /// Whether nothing is buffered, awaited or left to read.
    pub(super) fn is_at_rest(&self) -> bool {
        self.buffer.is_empty() && self.awaited.is_none() && self.covered == self.tail
    }

    /// Starts anew at `next`, or rests where there is no active subscription.
    pub(super) fn restart(&mut self, next: Option<u64>) {
        self.buffer.clear();
        self.bytes = 0;
        self.contested = 0;
        self.awaited = None;
        self.covered = next.unwrap_or(self.tail);
    }

    pub(super) fn arrived(&mut self, pending: Pending, limits: &DeliveryLimits) {
        let seq = pending.message.seq;
        if seq < self.tail {
            // The rows that told of it were read ahead of this event.
            return;
        }
        let adjoins = self.covered == seq && self.awaited.is_none();
        self.tail = seq + 1;
        let room =
            self.buffer.len() < limits.read_messages_max && self.bytes < limits.read_bytes_max;
        if adjoins && room {
            self.covered = self.tail;
            self.push(Entry::Message(pending));
        }
    }

    /// Takes note that `seq` of this lane left.
    pub(super) fn removed(&mut self, seq: u64, reason: Removal) {
        if let Ok(at) = self.buffer.binary_search_by_key(&seq, Entry::first)
            && let Entry::Message(_) = self.buffer[at]
        {
            self.take(at);
            if reason.reason().is_some() {
                self.insert_skip(at, Gap { from: seq, to: seq, reason });
            }
        }
    }

    /// Takes note that a message of any lane left: copies that waited for it wait no more.
    pub(super) fn settled(&mut self, place: (Priority, u64), reason: Removal) {
        if let Some(awaited) = &mut self.awaited {
            awaited.removed.push((place.0, place.1, reason));
            if awaited.removed.len() > REMOVALS_MAX {
                self.awaited = None;
            }
        }
        if self.contested == 0 {
            return;
        }
        for entry in &mut self.buffer {
            if let Entry::Message(pending) = entry
                && pending.contests.contains(&place)
            {
                pending.contests =
                    pending.contests.iter().copied().filter(|one| *one != place).collect();
                self.contested -= usize::from(pending.contests.is_empty());
            }
        }
    }

    /// The message at the front, whether or not it may be pushed.
    pub(super) fn front(&self) -> Option<(Priority, u64)> {
        match self.buffer.front() {
            Some(Entry::Message(pending)) => Some(pending.place()),
            _ => None,
        }
    }

    pub(super) fn next(&self, now_ms: u64) -> Next<'_> {
        match self.buffer.front() {
            Some(Entry::Skip(gap)) => Next::Skip(*gap),
            // A due message waits to be expired; a contested one for the other copies.
            Some(Entry::Message(pending))
                if pending.message.expires_ms <= now_ms || !pending.contests.is_empty() =>
            {
                Next::Nothing
            }
            Some(Entry::Message(pending)) => Next::Message(pending),
            None if self.covered >= self.tail => Next::Nothing,
            None if self.awaited.is_some() => Next::Awaited,
            None => Next::Unread,
        }
    }

    /// Removes what [`Lane::next`] showed.
    pub(super) fn pop(&mut self) {
        self.take(0);
    }

    /// Notes that a read is under way; answers from which number.
    pub(super) fn ask(&mut self, ticket: u64) -> u64 {
        self.awaited = Some(Awaited { ticket, from: self.covered, removed: Vec::new() });
        self.covered
    }

    pub(super) fn is_awaited(&self, ticket: u64) -> bool {
        self.awaited.as_ref().is_some_and(|awaited| awaited.ticket == ticket)
    }

    /// Takes the answer to the awaited read.
    pub(super) fn rows(&mut self, priority: Priority, read: LaneRead) {
        let Some(awaited) = self.awaited.take() else { return };
        assert_eq!(awaited.from, read.from, "the answer is to what was asked");
        let mut gaps = read.gaps.into_iter().peekable();
        for item in read.items {
            while let Some(gap) = gaps.next_if(|gap| gap.from < item.message.seq) {
                self.push(Entry::Skip(gap));
            }
            self.push(Entry::Message(item));
        }
        for gap in gaps {
            self.push(Entry::Skip(gap));
        }
        self.covered = read.end;
        // The rows may be ahead of the events.
        self.tail = self.tail.max(read.end);
        for (lane, seq, reason) in awaited.removed {
            if lane == priority {
                self.removed(seq, reason);
            }
            self.settled((lane, seq), reason);
        }
    }

    fn push(&mut self, entry: Entry) {
        if let Entry::Message(pending) = &entry {
            self.bytes += pending.message.content.len();
            self.contested += usize::from(!pending.contests.is_empty());
        }
        self.buffer.push_back(entry);
    }

    fn take(&mut self, at: usize) {
        if let Some(Entry::Message(pending)) = self.buffer.remove(at) {
            self.bytes -= pending.message.content.len();
            self.contested -= usize::from(!pending.contests.is_empty());
        }
    }

    /// Puts a range where the message at `at` was, joined to its neighbours.
    fn insert_skip(&mut self, mut at: usize, mut gap: Gap) {
        if let Some(Entry::Skip(after)) = self.buffer.get(at)
            && after.reason == gap.reason
            && after.from == gap.to + 1
        {
            gap.to = after.to;
            self.buffer.remove(at);
        }
        if at > 0
            && let Entry::Skip(before) = &self.buffer[at - 1]
            && before.reason == gap.reason
            && before.to + 1 == gap.from
        {
            gap.from = before.from;
            at -= 1;
            self.buffer.remove(at);
        }
        self.buffer.insert(at, Entry::Skip(gap));
    }
}
