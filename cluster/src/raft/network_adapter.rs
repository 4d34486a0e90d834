//! openraft's network over [`Network`].

use std::{future::Future, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{Stream, future::BoxFuture, stream::BoxStream};
use heliograph_storage::{GroupId, SnapshotInfo, SnapshotStore};
use heliograph_transport::{CallError, Lane, Network, NodeId};
use openraft::{
    EntryPayload, RaftNetworkFactory, RaftNetworkV2, Snapshot,
    errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable},
    network::{RPCOption, stream_append_sequential},
    raft::StreamAppendResult,
};
use serde::{Serialize, de::DeserializeOwned};
use tokio::{sync::Semaphore, time::Instant};

use super::{
    acquaintance::{Acquaintance, last_of, question},
    bare_commits::without_bare_commits,
    offload::offload,
    rpc::{
        self, AppendAnswer, AppendRequest, Asked, RpcKind, SnapshotAnswer, SnapshotBegin,
        SnapshotChunk, SnapshotEnd, SnapshotOffset, TransferAnswer, TransferRequest, VoteAnswer,
        VoteRequest,
    },
    types::{CommittedLeaderId, Payload, TypeConfig, Vote, incarnation_of, node_of},
};
use crate::context::META;

/// Bytes of a snapshot in one call. 512 KiB: an eighth of a frame; at 10 MB/s a chunk takes 50 ms,
/// far below any deadline.
const CHUNK_BYTES: usize = 512 * 1024;
/// How long one chunk may take. Generous: the bulk connection delays nobody.
const CHUNK_DEADLINE: Duration = Duration::from_secs(20);

/// What a peer takes in of one group at least, in bytes a second. What is not answered in its time is
/// sent again, whole: with a heartbeat's time for a mebibyte a follower that is told much by all
/// groups at once, or whose disk is slow, was told it twice. 512 KiB: 16 groups are 8 MiB.
const INTAKE_BYTES_PER_SECOND: u64 = 512 * 1024;

/// Makes one group's clients to its peers.
#[derive(Clone)]
pub(crate) struct GroupNetworkFactory {
    pub(crate) network: Arc<dyn Network>,
    pub(crate) group: GroupId,
    pub(crate) snapshots: Arc<dyn SnapshotStore>,
    /// How many snapshots the node may send at a time.
    pub(crate) turns: Arc<Semaphore>,
}

impl RaftNetworkFactory<TypeConfig> for GroupNetworkFactory {
    type Network = GroupClient;

    async fn new_client(&mut self, target: u64, _node: &openraft::EmptyNode) -> GroupClient {
        GroupClient {
            factory: self.clone(),
            target: node_of(target),
            incarnation: incarnation_of(target),
            acquaintance: Acquaintance::default(),
        }
    }
}

/// One group's client to one peer.
pub(crate) struct GroupClient {
    factory: GroupNetworkFactory,
    target: NodeId,
    incarnation: u32,
    acquaintance: Acquaintance,
}

type GroupSnapshot = Snapshot<CommittedLeaderId, u64, openraft::EmptyNode, SnapshotInfo>;

fn rpc_error(error: &CallError) -> RPCError<TypeConfig> {
    match error {
        // The peer may have acted; Raft repeats and the peer recognises what it has.
        CallError::Deadline(_) => NetworkError::new(error).into(),
        // Everything else calls for a pause.
        _ => Unreachable::new(error).into(),
    }
}

/// How long a peer may take for the bytes alone.
fn intake_time(bytes: usize) -> Duration {
    Duration::from_millis(bytes as u64 * 1000 / INTAKE_BYTES_PER_SECOND)
}

fn payload_bytes(payload: &Payload) -> usize {
    match payload {
        EntryPayload::Normal(data) => data.0.len(),
        _ => 0,
    }
}

fn unreadable() -> RPCError<TypeConfig> {
    Unreachable::from_string("the peer's answer is of a version this build does not know").into()
}

fn streaming_error(error: RPCError<TypeConfig>) -> StreamingError<TypeConfig> {
    match error {
        RPCError::Timeout(error) => error.into(),
        RPCError::Unreachable(error) => error.into(),
        RPCError::Network(error) => error.into(),
        RPCError::RemoteError(error) => match error.source {},
    }
}

impl GroupClient {
    async fn call<A: DeserializeOwned>(
        &self,
        lane: Lane,
        kind: RpcKind,
        request: &impl Serialize,
        size_hint: usize,
        ttl: Duration,
    ) -> Result<A, RPCError<TypeConfig>> {
        let asked = Asked { group: self.factory.group, incarnation: self.incarnation };
        let request = rpc::encode_request(kind, asked, request, size_hint);
        let deadline = Instant::now() + ttl;
        let answer = self.factory.network.call(self.target, lane, request, deadline).await;
        let answer = answer.map_err(|error| rpc_error(&error))?;
        rpc::decode(&answer).ok_or_else(unreadable)
    }

    async fn append(
        &self,
        request: &AppendRequest,
        bytes: usize,
        option: &RPCOption,
    ) -> Result<AppendAnswer, RPCError<TypeConfig>> {
        let ttl = option.hard_ttl() + intake_time(bytes);
        self.call(self.shared_lane(), RpcKind::Append, request, bytes, ttl).await
    }

    /// The answer to a request, where questions without its entries give it: the peer has them all,
    /// or lacks what they follow on.
    async fn ask(
        &self,
        request: &AppendRequest,
        option: &RPCOption,
    ) -> Result<Option<AppendAnswer>, RPCError<TypeConfig>> {
        if let Some(last) = last_of(request) {
            let answer = self.append(&question(request, last), 0, option).await?;
            if !matches!(answer, AppendAnswer::Conflict) {
                return Ok(Some(answer));
            }
        }
        let Some(previous) = request.prev_log_id else { return Ok(None) };
        let answer = self.append(&question(request, previous), 0, option).await?;
        Ok((!answer.is_success()).then_some(answer))
    }

    fn shared_lane(&self) -> Lane {
        Lane::Shared(self.factory.group.0)
    }

    async fn send_snapshot(
        &self,
        vote: Vote,
        info: &SnapshotInfo,
    ) -> Result<SnapshotAnswer, StreamingError<TypeConfig>> {
        // Whoever waits for long finds its snapshot replaced, and comes again with a newer one.
        let _turn = self.factory.turns.acquire().await.expect("nobody closes it");
        let begin = SnapshotBegin { vote, applied: info.applied.clone(), bytes: info.bytes };
        let begun = self.bulk(RpcKind::SnapshotBegin, &begin, 0);
        let SnapshotOffset(mut offset) = begun.await?;
        while offset < info.bytes {
            let (snapshots, source) = (Arc::clone(&self.factory.snapshots), info.clone());
            let read = offload(move || snapshots.read_chunk(&source, offset, CHUNK_BYTES)).await;
            let chunk: Bytes =
                read.map_err(|error| StreamingError::from(Unreachable::<TypeConfig>::new(&error)))?;
            let size_hint = chunk.len();
            let piece = SnapshotChunk { applied: info.applied.clone(), offset, chunk };
            let SnapshotOffset(next) = self.bulk(RpcKind::SnapshotChunk, &piece, size_hint).await?;
            if next <= offset {
                return Err(
                    Unreachable::<TypeConfig>::from_string("the peer refused a chunk").into()
                );
            }
            offset = next;
        }
        let end = SnapshotEnd { vote, applied: info.applied.clone() };
        self.bulk(RpcKind::SnapshotEnd, &end, 0).await
    }

    async fn bulk<A: DeserializeOwned>(
        &self,
        kind: RpcKind,
        request: &impl Serialize,
        size_hint: usize,
    ) -> Result<A, StreamingError<TypeConfig>> {
        let answer = self.call(Lane::Bulk, kind, request, size_hint, CHUNK_DEADLINE).await;
        answer.map_err(streaming_error)
    }
}

type Answers<'s> = BoxStream<'s, Result<StreamAppendResult<TypeConfig>, RPCError<TypeConfig>>>;

impl RaftNetworkV2<TypeConfig> for GroupClient {
    type SnapshotData = SnapshotInfo;

    async fn append_entries(
        &mut self,
        rpc: AppendRequest,
        option: RPCOption,
    ) -> Result<AppendAnswer, RPCError<TypeConfig>> {
        let bytes = rpc.entries.iter().map(|entry| payload_bytes(&entry.payload) + 32).sum();
        let asked = match self.acquaintance.must_ask(&rpc, bytes) {
            true => self.ask(&rpc, &option).await?,
            false => None,
        };
        let answer = match asked {
            Some(answer) => answer,
            None => self.append(&rpc, bytes, &option).await?,
        };
        self.acquaintance.note(last_of(&rpc), &answer);
        Ok(answer)
    }

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        option: RPCOption,
    ) -> BoxFuture<'s, Result<Answers<'s>, RPCError<TypeConfig>>>
    where
        S: Stream<Item = AppendRequest> + Send + Unpin + 'static,
    {
        match self.factory.group {
            // Its followers act on what it commits.
            META => stream_append_sequential(self, input, option),
            _ => stream_append_sequential(self, without_bare_commits(input), option),
        }
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest,
        option: RPCOption,
    ) -> Result<VoteAnswer, RPCError<TypeConfig>> {
        self.call(Lane::Urgent, RpcKind::Vote, &rpc, 0, option.hard_ttl()).await
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest,
        option: RPCOption,
    ) -> Result<VoteAnswer, RPCError<TypeConfig>> {
        self.call(Lane::Urgent, RpcKind::PreVote, &rpc, 0, option.hard_ttl()).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: GroupSnapshot,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotAnswer, StreamingError<TypeConfig>> {
        tokio::select! {
            biased; // a closed replication must not send one more chunk
            closed = cancel => Err(closed.into()),
            sent = self.send_snapshot(vote, &snapshot.snapshot) => sent,
        }
    }

    async fn transfer_leader(
        &mut self,
        req: TransferRequest,
        option: RPCOption,
    ) -> Result<TransferAnswer, RPCError<TypeConfig>> {
        self.call(Lane::Urgent, RpcKind::TransferLeader, &req, 0, option.hard_ttl()).await
    }
}

#[cfg(test)]
#[path = "network_adapter_test.rs"]
mod tests;
