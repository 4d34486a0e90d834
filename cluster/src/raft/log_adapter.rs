//! openraft's log over [`LogStore`].
//!
//! A payload on disk is: nothing for a blank entry; the command batch itself (its first byte is the
//! batch version, below 0x80); or [`MEMBERSHIP_TAG`] and the membership as MessagePack.
//!
//! A vote on disk is its MessagePack, and for a replica that is not as formed the pair of it and the
//! replica's incarnation: that tells whose log this is. Raft saves a vote before it takes any entry.

use std::{
    fmt::Debug,
    io,
    ops::{Bound, RangeBounds},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::{BufMut, Bytes, BytesMut};
use heliograph_storage::{Done, Error, GroupId, Health, LogEntry, LogGroup, LogStore, Position};
use openraft::{
    EntryPayload, LogState, RaftLogReader,
    entry::RaftEntry,
    storage::{IOFlushed, RaftLogStorage},
};
use tokio::sync::oneshot;

use super::types::{CommittedLeaderId, Entry, EntryData, LogId, Payload, TypeConfig, Vote};

/// Leads a membership payload; command batches begin with a version below it.
const MEMBERSHIP_TAG: u8 = 0x80;

/// How many bytes of entries one read brings at most. 1 MiB: a quarter of a frame, so that an
/// append request with its headers always fits one.
const READ_BYTES_MAX: usize = 1024 * 1024;

/// One group's part of the node's log.
#[derive(Clone)]
pub(crate) struct GroupLog {
    store: Arc<dyn LogStore>,
    group: GroupId,
    incarnation: u32,
    appended_bytes: Arc<AtomicU64>,
}

impl Debug for GroupLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("GroupLog").field(&self.group).finish()
    }
}

impl GroupLog {
    pub(crate) fn new(store: Arc<dyn LogStore>, group: GroupId, incarnation: u32) -> Self {
        Self { store, group, incarnation, appended_bytes: Arc::default() }
    }

    /// What `store` holds of `group`, as the replica that wrote it.
    pub(crate) fn held(store: Arc<dyn LogStore>, group: GroupId) -> Result<Self, io::Error> {
        let incarnation = Self::held_incarnation(store.as_ref(), group)?.unwrap_or(0);
        Ok(Self::new(store, group, incarnation))
    }

    /// The incarnation of the replica that wrote what `store` holds of `group`; `None` for a
    /// pristine one.
    pub(crate) fn held_incarnation(
        store: &dyn LogStore,
        group: GroupId,
    ) -> Result<Option<u32>, io::Error> {
        let held = store.group(group);
        match held.vote {
            Some(bytes) => Ok(Some(decode_vote(&bytes)?.1)),
            None => Ok(held.last.map(|_| 0)),
        }
    }

    /// Bytes of payload appended since this handle's group was opened.
    pub(crate) fn appended_bytes(&self) -> u64 {
        self.appended_bytes.load(Ordering::Relaxed)
    }

    /// About how many bytes the entries after `index` take.
    pub(crate) fn bytes_after(&self, index: u64) -> u64 {
        self.store.bytes_after(self.group, index)
    }

    /// The index of the last entry that is not among the last `bytes` bytes; 0 where all are.
    pub(crate) fn index_before(&self, bytes: u64) -> u64 {
        self.store.index_before(self.group, bytes)
    }

    /// Whether nothing was ever written for the group here.
    pub(crate) fn is_pristine(&self) -> bool {
        let group = self.store.group(self.group);
        group.vote.is_none() && group.last.is_none()
    }

    /// The last index the log holds or has purged.
    pub(crate) fn last_index(&self) -> Option<u64> {
        self.store.group(self.group).last.map(|position| position.index)
    }

    /// What the log holds of the group.
    pub(crate) fn holds(&self) -> LogGroup {
        self.store.group(self.group)
    }

    /// How many records of the group are durable.
    pub(crate) fn durable_records(&self) -> u64 {
        self.store.durable_records(self.group)
    }

    /// Whether the log still takes writes.
    pub(crate) fn is_sound(&self) -> bool {
        matches!(self.store.health(), Health::Sound)
    }

    /// Appends entries of a term that no Raft ever had, as if `raft_id` had led it: see
    /// [`crate::recovery`]. The caller is the only one who has the log open.
    pub(crate) async fn force(
        &self,
        raft_id: u64,
        term: u64,
        payloads: Vec<Payload>,
    ) -> Result<(), io::Error> {
        let mut vote = Vote::new(term, raft_id);
        // Led, not only stood for: entries of a term are its leader's.
        vote.committed = true;
        self.clone().save_vote(&vote).await?;
        let next = self.last_index().map_or(0, |last| last + 1);
        let entries: Result<Vec<_>, io::Error> = (next..)
            .zip(payloads)
            .map(|(index, payload)| {
                let position = Position { term, index };
                Ok(LogEntry { position, payload: encode_payload(payload)? })
            })
            .collect();
        let entries = entries?;
        let appended = self.durably(|store, done| store.append(self.group, entries, done));
        appended.await.map_err(io_error)
    }

    /// Makes an empty log begin behind `position`, as if `raft_id` had led its term and all entries up
    /// to there were purged: see [`crate::backup`].
    pub(crate) async fn begin_at(&self, raft_id: u64, position: &LogId) -> Result<(), io::Error> {
        let mut vote = Vote::new(*position.leader_id, raft_id);
        vote.committed = true;
        self.clone().save_vote(&vote).await?;
        self.purge_upto(position).await.map_err(io_error)
    }

    /// The last index that is purged.
    pub(crate) fn purged_index(&self) -> Option<u64> {
        self.store.group(self.group).purged.map(|position| position.index)
    }

    async fn durably(&self, write: impl FnOnce(&dyn LogStore, Done)) -> Result<(), Error> {
        durably(self.store.as_ref(), write).await
    }

    /// Waits until all that was appended so far is durable here. An entry may be applied before,
    /// once a majority of others has it.
    pub(crate) async fn durable(&self) -> Result<(), Error> {
        // Answers of a group come in the order of its calls.
        self.durably(|store, done| store.append(self.group, Vec::new(), done)).await
    }

    /// Forgets entries up to `upto`, durably.
    pub(crate) async fn purge_upto(&self, upto: &LogId) -> Result<(), Error> {
        let upto = position(upto);
        self.durably(|store, done| store.purge(self.group, upto, done)).await
    }
}

/// Writes to the log and waits until that is durable.
pub(crate) async fn durably(
    store: &dyn LogStore,
    write: impl FnOnce(&dyn LogStore, Done),
) -> Result<(), Error> {
    let (done, durable) = oneshot::channel();
    // The waiting side is gone only when the node is shutting down.
    write(store, Box::new(move |result| drop(done.send(result))));
    durable.await.unwrap_or(Err(Error::Closed))
}

/// openraft speaks `io::Error`.
pub(crate) fn io_error(error: Error) -> io::Error {
    io::Error::other(error)
}

pub(crate) fn log_id(position: Position) -> LogId {
    LogId { leader_id: CommittedLeaderId::new(position.term), index: position.index }
}

pub(crate) fn position(log_id: &LogId) -> Position {
    Position { term: *log_id.leader_id, index: log_id.index }
}

fn encode_vote(vote: &Vote, incarnation: u32) -> Result<Bytes, io::Error> {
    let bytes = match incarnation {
        0 => rmp_serde::to_vec(vote),
        _ => rmp_serde::to_vec(&(vote, incarnation)),
    };
    bytes.map(Bytes::from).map_err(io::Error::other)
}

fn decode_vote(bytes: &[u8]) -> Result<(Vote, u32), io::Error> {
    match rmp_serde::from_slice(bytes) {
        Ok(vote) => Ok((vote, 0)),
        Err(_) => rmp_serde::from_slice(bytes).map_err(io::Error::other),
    }
}

pub(super) fn encode_payload(payload: Payload) -> Result<Bytes, io::Error> {
    match payload {
        EntryPayload::Blank => Ok(Bytes::new()),
        EntryPayload::Normal(EntryData(bytes)) => Ok(bytes),
        EntryPayload::Membership(membership) => {
            let mut bytes = BytesMut::new().writer();
            bytes.get_mut().put_u8(MEMBERSHIP_TAG);
            rmp_serde::encode::write(&mut bytes, &membership).map_err(io::Error::other)?;
            Ok(bytes.into_inner().freeze())
        }
    }
}

pub(super) fn decode_payload(bytes: Bytes) -> Result<Payload, io::Error> {
    match bytes.first() {
        None => Ok(EntryPayload::Blank),
        Some(&MEMBERSHIP_TAG) => {
            let membership = rmp_serde::from_slice(&bytes[1..]).map_err(io::Error::other)?;
            Ok(EntryPayload::Membership(membership))
        }
        Some(_) => Ok(EntryPayload::Normal(EntryData(bytes))),
    }
}

fn encode_entry(entry: Entry) -> Result<LogEntry, io::Error> {
    Ok(LogEntry { position: position(&entry.log_id), payload: encode_payload(entry.payload)? })
}

fn decode_entry(entry: LogEntry) -> Result<Entry, io::Error> {
    Ok(Entry::new(log_id(entry.position), decode_payload(entry.payload)?))
}

/// Reads the input as an entry's payload; one that decodes encodes to a payload that says the same.
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz(input: &[u8]) {
    let Ok(payload) = decode_payload(Bytes::copy_from_slice(input)) else { return };
    let once = encode_payload(payload).expect("what was read is written");
    let read = decode_payload(once.clone()).expect("and read");
    assert_eq!(encode_payload(read).expect("again"), once);
    if let Ok(applied) = super::core::Applied::decode(input) {
        let _ = applied.snapshot_meta();
    }
}

impl RaftLogReader<TypeConfig> for GroupLog {
    async fn try_get_log_entries<RB>(&mut self, range: RB) -> Result<Vec<Entry>, io::Error>
    where
        RB: RangeBounds<u64> + Clone + Debug + Send,
    {
        let from = match range.start_bound() {
            Bound::Included(index) => *index,
            Bound::Excluded(index) => index + 1,
            Bound::Unbounded => 0,
        };
        let to = match range.end_bound() {
            Bound::Included(index) => index + 1,
            Bound::Excluded(index) => *index,
            Bound::Unbounded => u64::MAX,
        };
        // This call has to answer the whole range; openraft bounds the range where it can be long.
        let mut entries = Vec::new();
        let mut next = from;
        while next < to {
            let part = match self.store.read(self.group, next..to, READ_BYTES_MAX).await {
                Err(Error::Purged { purged }) => {
                    // openraft asks for what there is of a range.
                    next = purged + 1;
                    continue;
                }
                part => part.map_err(io_error)?,
            };
            let Some(last) = part.last() else { break };
            next = last.position.index + 1;
            for entry in part {
                entries.push(decode_entry(entry)?);
            }
        }
        Ok(entries)
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<Entry>, io::Error> {
        let entries = self.store.read(self.group, start..end, READ_BYTES_MAX).await;
        entries.map_err(io_error)?.into_iter().map(decode_entry).collect()
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        let vote = self.store.group(self.group).vote;
        vote.map(|bytes| Ok(decode_vote(&bytes)?.0)).transpose()
    }
}

impl RaftLogStorage<TypeConfig> for GroupLog {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let group = self.store.group(self.group);
        Ok(LogState {
            last_purged_log_id: group.purged.map(log_id),
            last_log_id: group.last.map(log_id),
        })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        let bytes = encode_vote(vote, self.incarnation)?;
        let saved = self.durably(|store, done| store.save_vote(self.group, bytes, done));
        saved.await.map_err(io_error)
    }

    async fn append<I>(
        &mut self,
        entries: I,
        callback: IOFlushed<TypeConfig>,
    ) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + Send,
        I::IntoIter: Send,
    {
        let entries: Vec<_> =
            entries.into_iter().map(encode_entry).collect::<Result<_, io::Error>>()?;
        let bytes: usize = entries.iter().map(|entry| entry.payload.len()).sum();
        self.appended_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        self.store.append(
            self.group,
            entries,
            Box::new(move |result| callback.io_completed(result.map_err(io_error))),
        );
        Ok(())
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> Result<(), io::Error> {
        let index = last_log_id.map(|log_id| log_id.index);
        let truncated = self.durably(|store, done| store.truncate_after(self.group, index, done));
        truncated.await.map_err(io_error)
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), io::Error> {
        self.purge_upto(&log_id).await.map_err(io_error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vote_tells_whose_it_is() {
        let vote = Vote::new(3, 1 << 32);
        let plain = encode_vote(&vote, 0).unwrap();
        assert_eq!(plain.as_ref(), rmp_serde::to_vec(&vote).unwrap(), "as version 1 wrote");
        assert_eq!(decode_vote(&plain).unwrap(), (vote, 0));
        assert_eq!(decode_vote(&encode_vote(&vote, 7).unwrap()).unwrap(), (vote, 7));
        assert!(decode_vote(&[0xC1]).is_err());
    }
}
