//! What the server asks a front door for.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;

use super::departure::Departure;
use crate::stream::Stream;

/// A whole response.
pub(crate) type Answer = Response<Full<Bytes>>;

/// Owns a connection after its upgrade: gets the stream, what was read beyond the request, and
/// what tells it to say goodbye.
pub(crate) type Takeover =
    Box<dyn FnOnce(Stream, Bytes, Arc<Departure>) -> BoxFuture<'static, ()> + Send>;

/// What becomes of a request.
pub(crate) enum Reply {
    /// A response.
    Answer(Answer),
    /// `101 Switching Protocols`, then the connection belongs to another.
    Upgrade(Answer, Takeover),
}

/// Whether the client port is encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scheme {
    Plain,
    Tls,
}

/// Answers requests.
pub(crate) trait Handler: Send + Sync + 'static {
    /// Answers one request. The future is dropped when the client goes away.
    fn handle(self: Arc<Self>, request: Request<Incoming>) -> BoxFuture<'static, Reply>;
}
