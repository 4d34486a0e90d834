//! What a leader knows of a follower's log, and what it asks before it sends much. Pure.
//!
//! A leader looks for the place where a follower's log ends by sending entries from the middle of
//! what it does not know, again and again: to a follower that has them, or that has nothing to follow
//! them on. Both are found out by a question without entries.

use super::{
    rpc::{AppendAnswer, AppendRequest},
    types::LogId,
};

/// What is less than this is sent unasked: a question takes as long as the bytes.
const ASK_BYTES: usize = 16 * 1024;

/// Up to where a follower's log is known to be the leader's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Acquaintance {
    /// `None` while nothing is known, `Some(None)` for an empty log.
    matched: Option<Option<LogId>>,
}

impl Acquaintance {
    /// Whether to ask before entries of so many bytes are sent: they do not follow on what is known.
    pub(super) fn must_ask(self, request: &AppendRequest, bytes: usize) -> bool {
        bytes >= ASK_BYTES && self.matched != Some(request.prev_log_id)
    }

    /// Takes the answer to a request that led from `prev` to `last`.
    pub(super) fn note(&mut self, last: Option<LogId>, answer: &AppendAnswer) {
        self.matched = match answer {
            AppendAnswer::Success => Some(last),
            AppendAnswer::PartialSuccess(last) => Some(*last),
            AppendAnswer::Conflict | AppendAnswer::HigherVote(_) => None,
        };
    }
}

/// The last entry that a request is about.
pub(super) fn last_of(request: &AppendRequest) -> Option<LogId> {
    request.entries.last().map(|entry| entry.log_id).or(request.prev_log_id)
}

/// Whether the follower's log holds `at`. Nothing is committed by it: what follows on `at` there may be
/// another leader's.
pub(super) fn question(request: &AppendRequest, at: LogId) -> AppendRequest {
    AppendRequest {
        vote: request.vote,
        prev_log_id: Some(at),
        leader_commit: None,
        entries: Vec::new(),
    }
}
