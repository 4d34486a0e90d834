//! What a backup asks for: copies of groups, and their bytes.

use std::time::Duration;

use bytes::Bytes;
use heliograph_cluster::{ClusterAdmin, GroupCopy};
use http::{HeaderValue, Response, StatusCode, header, request::Parts};
use http_body_util::Full;
use hyper::body::Incoming;
use serde::Deserialize;
use tokio::time::Instant;

use super::door::problem;
use crate::{
    mosa::json,
    problem::{Code, Problem},
    server::{Limits, body, handler::Answer},
};

/// How long a group's leader may take to write a copy: at 20 MB/s it is one of 12 GB.
pub(super) const COPY_TIMEOUT: Duration = Duration::from_secs(600);

/// The body of a request for a piece.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Piece {
    copy: GroupCopy,
    offset: u64,
}

/// Lets a group's leader write a copy.
pub(super) async fn copy(admin: &dyn ClusterAdmin, group: u32) -> Result<Answer, Problem> {
    match admin.copy(group, Instant::now() + COPY_TIMEOUT).await {
        Ok(copy) => {
            tracing::info!(group, node = %copy.node, bytes = copy.bytes, "copied for a backup");
            Ok(json(StatusCode::OK, &copy))
        }
        Err(error) => {
            tracing::warn!(group, %error, "a copy for a backup was not made");
            Err(problem(error))
        }
    }
}

/// Reads a piece of a copy.
pub(super) async fn piece(
    admin: &dyn ClusterAdmin,
    limits: &Limits,
    parts: &Parts,
    body: Incoming,
    deadline: Instant,
) -> Result<Answer, Problem> {
    body::check_declared(&parts.headers, limits.body_bytes_max)?;
    let body = body::read(body, limits.body_bytes_max, limits.body_timeout).await?;
    let Piece { copy, offset } = serde_json::from_slice(&body).map_err(|_| {
        Problem::from(Code::BadJson)
            .detail("Send {\"copy\": …, \"offset\": …} with a copy as it was answered.")
    })?;
    let piece = admin.piece(copy, offset, deadline).await.map_err(problem)?;
    Ok(bytes(piece))
}

fn bytes(body: Bytes) -> Answer {
    let mut response = Response::new(Full::new(body));
    let headers = response.headers_mut();
    let binary = HeaderValue::from_static("application/octet-stream");
    headers.insert(header::CONTENT_TYPE, binary);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
