//! Raft's calls between nodes.
//!
//! A request is: envelope byte, head, then the request as positional MessagePack. The head names the
//! replica that is asked: kind byte, group (u32 BE) for one of incarnation 0, which is how version
//! 1 spoke; or [`HEAD_TWO`], kind, group, incarnation (u32 BE). The answer is MessagePack alone.

use bytes::{Buf, BufMut, Bytes};
use heliograph_storage::GroupId;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::types::{TypeConfig, Vote};
use crate::envelope;

/// Begins a head that carries an incarnation; no kind has this code.
const HEAD_TWO: u8 = 0x82;

/// The replica that is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) group: GroupId,
    /// A node refuses what is not for the replica it runs: a replica that began anew and its dead
    /// former self must not count twice.
    pub(crate) incarnation: u32,
}

/// What a peer asks of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RpcKind {
    Append,
    Vote,
    PreVote,
    TransferLeader,
    SnapshotBegin,
    SnapshotChunk,
    SnapshotEnd,
}

impl RpcKind {
    const ALL: [Self; 7] = [
        Self::Append,
        Self::Vote,
        Self::PreVote,
        Self::TransferLeader,
        Self::SnapshotBegin,
        Self::SnapshotChunk,
        Self::SnapshotEnd,
    ];

    fn code(self) -> u8 {
        match self {
            Self::Append => 1,
            Self::Vote => 2,
            Self::PreVote => 3,
            Self::TransferLeader => 4,
            Self::SnapshotBegin => 5,
            Self::SnapshotChunk => 6,
            Self::SnapshotEnd => 7,
        }
    }

    fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.code() == code)
    }
}

/// Announces a snapshot.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct SnapshotBegin {
    pub(crate) vote: Vote,
    /// The applied position and membership it holds, as its file has them.
    pub(crate) applied: Bytes,
    /// Its length.
    pub(crate) bytes: u64,
}

/// A piece of the announced snapshot.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct SnapshotChunk {
    pub(crate) applied: Bytes,
    pub(crate) offset: u64,
    pub(crate) chunk: Bytes,
}

/// From where the receiver wants the next piece.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct SnapshotOffset(pub(crate) u64);

/// All pieces were sent: install.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct SnapshotEnd {
    pub(crate) vote: Vote,
    pub(crate) applied: Bytes,
}

pub(crate) type AppendRequest = openraft::raft::AppendEntriesRequest<TypeConfig>;
pub(crate) type AppendAnswer = openraft::raft::AppendEntriesResponse<TypeConfig>;
pub(crate) type VoteRequest = openraft::raft::VoteRequest<TypeConfig>;
pub(crate) type VoteAnswer = openraft::raft::VoteResponse<TypeConfig>;
pub(crate) type TransferRequest = openraft::raft::TransferLeaderRequest<TypeConfig>;
pub(crate) type TransferAnswer = openraft::raft::TransferLeaderResponse<TypeConfig>;
pub(crate) type SnapshotAnswer = openraft::raft::SnapshotResponse<TypeConfig>;

/// Encodes a request; `size_hint` spares the growing of large ones.
pub(crate) fn encode_request(
    kind: RpcKind,
    asked: Asked,
    request: &impl Serialize,
    size_hint: usize,
) -> Bytes {
    let mut writer = envelope::writer(envelope::RAFT, size_hint + 10);
    let head = writer.get_mut();
    if asked.incarnation > 0 {
        head.put_u8(HEAD_TWO);
    }
    head.put_u8(kind.code());
    head.put_u32(asked.group.0);
    if asked.incarnation > 0 {
        head.put_u32(asked.incarnation);
    }
    rmp_serde::encode::write(&mut writer, request).expect("plain data encodes into memory");
    writer.into_inner().freeze()
}

/// Splits a request whose envelope is already off; `None` for bytes this build does not know.
pub(crate) fn decode_head(mut body: Bytes) -> Option<(RpcKind, Asked, Bytes)> {
    let has_incarnation = body.first() == Some(&HEAD_TWO);
    if has_incarnation {
        body.advance(1);
    }
    let kind = RpcKind::from_code(body.try_get_u8().ok()?)?;
    let group = GroupId(body.try_get_u32().ok()?);
    let incarnation = if has_incarnation { body.try_get_u32().ok()? } else { 0 };
    Some((kind, Asked { group, incarnation }, body))
}

/// Encodes an answer.
pub(crate) fn encode(answer: &impl Serialize) -> Bytes {
    rmp_serde::to_vec(answer).expect("plain data encodes into memory").into()
}

/// Reads a request or an answer; `None` for bytes this build does not know.
pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    rmp_serde::from_slice(bytes).ok()
}

/// Reads `body` as a call without its envelope, and as an answer.
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz(body: Bytes) {
    fn again<T: Serialize + DeserializeOwned>(bytes: &[u8]) {
        let Some(message) = decode::<T>(bytes) else { return };
        let once = encode(&message);
        let read = decode::<T>(&once).expect("what was encoded decodes");
        assert_eq!(encode(&read), once, "and says the same");
    }
    again::<AppendAnswer>(&body);
    again::<VoteAnswer>(&body);
    again::<TransferAnswer>(&body);
    again::<SnapshotAnswer>(&body);
    again::<SnapshotOffset>(&body);
    let Some((kind, _, request)) = decode_head(body) else { return };
    match kind {
        RpcKind::Append => again::<AppendRequest>(&request),
        RpcKind::Vote | RpcKind::PreVote => again::<VoteRequest>(&request),
        RpcKind::TransferLeader => again::<TransferRequest>(&request),
        RpcKind::SnapshotBegin => again::<SnapshotBegin>(&request),
        RpcKind::SnapshotChunk => again::<SnapshotChunk>(&request),
        RpcKind::SnapshotEnd => again::<SnapshotEnd>(&request),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head_of(incarnation: u32) -> Vec<u8> {
        let asked = Asked { group: GroupId(258), incarnation };
        let bytes = encode_request(RpcKind::PreVote, asked, &SnapshotOffset(7), 0);
        let (_, body) = envelope::open(bytes.clone()).unwrap();
        let (kind, read, rest) = decode_head(body).unwrap();
        assert_eq!((kind, read), (RpcKind::PreVote, asked));
        assert_eq!(decode::<SnapshotOffset>(&rest).unwrap().0, 7);
        bytes.to_vec()
    }

    #[test]
    fn a_head_names_the_replica() {
        assert_eq!(head_of(0), [1, 3, 0, 0, 1, 2, 7], "as version 1 spoke");
        assert_eq!(head_of(5), [1, 0x82, 3, 0, 0, 1, 2, 0, 0, 0, 5, 7]);
    }

    #[test]
    fn what_is_cut_off_is_refused() {
        for bytes in
            [&[][..], &[1], &[1, 0, 0, 0], &[9, 0, 0, 0, 1], &[0x82], &[0x82, 1, 0, 0, 0, 1]]
        {
            assert!(decode_head(Bytes::copy_from_slice(bytes)).is_none(), "{bytes:?}");
        }
    }
}
