//! What is kept of each release's bytes of Raft: see [`crate::fixtures_test`].

use bytes::Bytes;
use heliograph_storage::GroupId;
use openraft::{EmptyNode, EntryPayload, Membership, entry::RaftEntry};
use serde::{Serialize, de::DeserializeOwned};

use super::{
    core::Applied,
    log_adapter::{decode_payload, encode_payload},
    rpc::*,
    types::{CommittedLeaderId, Entry, EntryData, LogId, StoredMembership, Vote, raft_id},
};
use crate::fixtures_test::kept::Format;
use heliograph_transport::NodeId;

/// One sample: its bytes, and what today's code makes of bytes: the sample's again.
struct Sample {
    written: Bytes,
    again: fn(&[u8]) -> Option<Bytes>,
}

fn format(name: &'static str, samples: Vec<Sample>) -> Format {
    let written = samples.iter().map(|sample| sample.written.to_vec()).collect();
    let reads = Box::new(move |number: usize, bytes: &[u8]| {
        let sample: &Sample = &samples[number];
        (sample.again)(bytes).as_ref() == Some(&sample.written)
    });
    Format { name, written, reads }
}

fn sample<T: Serialize + DeserializeOwned>(message: &T) -> Sample {
    Sample { written: encode(message), again: |bytes| Some(encode(&decode::<T>(bytes)?)) }
}

fn request<T: Serialize + DeserializeOwned>(kind: RpcKind, message: &T) -> Sample {
    let again = |bytes: &[u8]| {
        let (kind, asked, body) = decode_head(Bytes::copy_from_slice(bytes))?;
        Some(encode_request(kind, asked, &decode::<T>(&body)?, 0).slice(1..))
    };
    let asked = Asked { group: GroupId(7), incarnation: 1 };
    Sample { written: encode_request(kind, asked, message, 0).slice(1..), again }
}

fn replica(node: u16) -> u64 {
    raft_id(NodeId(node), 1)
}

fn log_id(index: u64) -> LogId {
    LogId { leader_id: CommittedLeaderId::new(3), index }
}

fn membership() -> Membership<u64, EmptyNode> {
    let voters = [replica(1), replica(2), replica(3)].into_iter().collect();
    Membership::new_with_defaults(vec![voters], [replica(4)])
}

fn payloads() -> Vec<EntryPayload<EntryData, u64, EmptyNode>> {
    let batch = EntryData(Bytes::from_static(&[1, 2, 3]));
    vec![EntryPayload::Blank, EntryPayload::Normal(batch), EntryPayload::Membership(membership())]
}

fn requests(vote: Vote, applied: &Bytes) -> Vec<Sample> {
    let entry = |(index, payload)| Entry::new(log_id(index), payload);
    let append = AppendRequest {
        vote,
        prev_log_id: Some(log_id(6)),
        entries: (7..).zip(payloads()).map(entry).collect(),
        leader_commit: Some(log_id(5)),
    };
    let begin = SnapshotBegin { vote, applied: applied.clone(), bytes: 300 };
    let chunk = Bytes::from_static(b"rows");
    let piece = SnapshotChunk { applied: applied.clone(), offset: 9, chunk };
    let end = SnapshotEnd { vote, applied: applied.clone() };
    let transfer = TransferRequest::new(vote, replica(2), Some(log_id(9)));
    vec![
        request(RpcKind::Append, &append),
        request(RpcKind::Vote, &VoteRequest::new(vote, Some(log_id(9)))),
        request(RpcKind::PreVote, &VoteRequest::new(vote, None)),
        request(RpcKind::TransferLeader, &transfer),
        request(RpcKind::SnapshotBegin, &begin),
        request(RpcKind::SnapshotChunk, &piece),
        request(RpcKind::SnapshotEnd, &end),
    ]
}

/// The formats of this module.
pub(crate) fn formats() -> Vec<Format> {
    let mut vote = Vote::new(3, replica(1));
    vote.committed = true;
    let stored = StoredMembership::new(Some(log_id(2)), membership());
    let applied = Applied { log_id: Some(log_id(8)), membership: stored };
    let answers = vec![
        sample(&AppendAnswer::Success),
        sample(&AppendAnswer::PartialSuccess(Some(log_id(7)))),
        sample(&AppendAnswer::Conflict),
        sample(&AppendAnswer::HigherVote(vote)),
        sample(&VoteAnswer::new(vote, Some(log_id(9)), true)),
        sample(&SnapshotOffset(9)),
        sample(&SnapshotAnswer::new(vote)),
    ];
    let payload = |payload| Sample {
        written: encode_payload(payload).unwrap(),
        again: |bytes| encode_payload(decode_payload(Bytes::copy_from_slice(bytes)).ok()?).ok(),
    };
    vec![
        format("raft-request", requests(vote, &encode(&applied))),
        format("raft-answer", answers),
        format("raft-vote", vec![sample(&vote)]),
        format("raft-applied", vec![sample(&applied)]),
        format("log-payload", payloads().into_iter().map(payload).collect()),
    ]
}
