//! What [`crate::allocations_test`] counts of Raft: a batch on its way to a follower and its log.

use bytes::Bytes;
use heliograph_storage::GroupId;
use openraft::{EntryPayload, entry::RaftEntry};

use super::{
    log_adapter::{decode_payload, encode_payload},
    rpc::*,
    types::{CommittedLeaderId, Entry, EntryData, LogId, Vote},
};
use crate::envelope;

fn log_id(index: u64) -> LogId {
    LogId { leader_id: CommittedLeaderId::new(3), index }
}

/// The call that takes a batch to a follower.
pub(crate) fn append(group: GroupId, batch: Bytes) -> Bytes {
    let size_hint = batch.len() + 64;
    let request = AppendRequest {
        vote: Vote::new(3, 1),
        prev_log_id: Some(log_id(6)),
        entries: vec![Entry::new(log_id(7), EntryPayload::Normal(EntryData(batch)))],
        leader_commit: Some(log_id(6)),
    };
    encode_request(RpcKind::Append, Asked { group, incarnation: 1 }, &request, size_hint)
}

/// The batches that a follower reads from such a call.
pub(crate) fn read(request: Bytes) -> Vec<Bytes> {
    let (_, body) = envelope::open(request).unwrap();
    let (_, _, body) = decode_head(body).unwrap();
    let request: AppendRequest = decode(&body).unwrap();
    let batch = |entry: Entry| match entry.payload {
        EntryPayload::Normal(EntryData(bytes)) => bytes,
        other => panic!("not a batch: {other:?}"),
    };
    request.entries.into_iter().map(batch).collect()
}

/// A batch becomes what the log holds, and is read from it.
pub(crate) fn through_the_log(batch: &Bytes) {
    let payload = encode_payload(EntryPayload::Normal(EntryData(batch.clone()))).unwrap();
    assert!(matches!(decode_payload(payload), Ok(EntryPayload::Normal(EntryData(_)))));
}
