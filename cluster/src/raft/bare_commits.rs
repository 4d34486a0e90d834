//! Requests that carry nothing but how far is committed ride with the next entries.
//!
//! openraft sends one after each entry, to each follower. Nothing waits for it: what is held back is a
//! follower's knowledge of what is committed, and a follower that comes to lead commits anew.

use std::time::Duration;

use futures_util::{Stream, StreamExt as _, stream};

use super::rpc::AppendRequest;

/// How long the news of a commit may wait for entries to ride with. An eighth of the time between
/// heartbeats, which carry it as well: a follower is never much behind.
const LINGER: Duration = Duration::from_millis(60);

/// What a stream of requests has sent.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sent {
    Nothing,
    Something,
}

/// Leaves out of `input` what the next request, if it comes within [`LINGER`], says as well. An answer
/// to a later request answers the earlier ones: openraft matches answers to requests by log position.
pub(super) fn without_bare_commits(
    input: impl Stream<Item = AppendRequest> + Send + Unpin + 'static,
) -> impl Stream<Item = AppendRequest> + Send + Unpin + 'static {
    let start = (input.fuse(), Sent::Nothing);
    let merged = stream::unfold(start, |(mut input, sent)| async move {
        let mut request = input.next().await?;
        // The first request of a stream may be a probe, for whose answer openraft waits.
        while sent == Sent::Something && request.entries.is_empty() {
            match tokio::time::timeout(LINGER, input.next()).await {
                Ok(Some(next)) => request = next,
                // The stream's end comes again with the next look.
                Ok(None) | Err(_) => break,
            }
        }
        Some((request, (input, Sent::Something)))
    });
    Box::pin(merged)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use futures_util::FutureExt as _;
    use openraft::{EntryPayload, entry::RaftEntry as _};
    use tokio::{sync::mpsc, time::Instant};

    use super::*;
    use crate::raft::types::{CommittedLeaderId, Entry, EntryData, LogId, Vote};

    fn log_id(index: u64) -> LogId {
        LogId { leader_id: CommittedLeaderId::new(1), index }
    }

    /// With an entry at each of `entries`; everything up to `commit` is committed.
    fn request(entries: std::ops::Range<u64>, commit: u64) -> AppendRequest {
        let payload = || EntryPayload::Normal(EntryData(Bytes::from_static(&[1])));
        AppendRequest {
            vote: Vote::new(1, 1),
            prev_log_id: Some(log_id(entries.start - 1)),
            leader_commit: Some(log_id(commit)),
            entries: entries.map(|index| Entry::new(log_id(index), payload())).collect(),
        }
    }

    fn said(request: &AppendRequest) -> (usize, u64) {
        (request.entries.len(), request.leader_commit.map_or(0, |log_id| log_id.index))
    }

    /// What goes in, and what comes out.
    fn pipe() -> (mpsc::UnboundedSender<AppendRequest>, impl Stream<Item = AppendRequest> + Unpin) {
        let (input, mut output) = mpsc::unbounded_channel();
        let output = stream::poll_fn(move |cx| output.poll_recv(cx));
        (input, without_bare_commits(output))
    }

    #[tokio::test(start_paused = true)]
    async fn a_commit_rides_with_the_next_entries() {
        let (input, mut output) = pipe();
        let began = Instant::now();
        input.send(request(1..2, 0)).unwrap();
        assert_eq!(said(&output.next().await.unwrap()), (1, 0));
        input.send(request(2..2, 1)).unwrap();
        assert!(output.next().now_or_never().is_none(), "held back");
        input.send(request(2..4, 1)).unwrap();
        assert_eq!(said(&output.next().await.unwrap()), (2, 1));
        assert_eq!(Instant::now(), began);
    }

    #[tokio::test(start_paused = true)]
    async fn a_commit_without_company_goes_by_itself() {
        let (input, mut output) = pipe();
        input.send(request(1..2, 0)).unwrap();
        output.next().await.unwrap();
        let began = Instant::now();
        input.send(request(2..2, 1)).unwrap();
        assert_eq!(said(&output.next().await.unwrap()), (0, 1));
        assert_eq!(began.elapsed(), LINGER);
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_waits_for_nothing() {
        let (input, mut output) = pipe();
        let began = Instant::now();
        input.send(request(1..1, 0)).unwrap();
        assert_eq!(said(&output.next().await.unwrap()), (0, 0));
        assert_eq!(Instant::now(), began);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_held_back_comes_before_the_end() {
        let (input, mut output) = pipe();
        input.send(request(1..2, 0)).unwrap();
        output.next().await.unwrap();
        input.send(request(2..2, 1)).unwrap();
        drop(input);
        assert_eq!(said(&output.next().await.unwrap()), (0, 1));
        assert!(output.next().await.is_none());
    }
}
