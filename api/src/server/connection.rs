//! One client connection while it speaks HTTP; afterwards its new owner runs in the same task.

use std::{
    convert::Infallible,
    future::{Future, poll_fn},
    panic::AssertUnwindSafe,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{FutureExt as _, future::BoxFuture};
use http::{HeaderValue, Request, StatusCode, header};
use http_body_util::BodyExt as _;
use hyper::{body::Incoming, server::conn::http1, service::Service};
use hyper_util::rt::{TokioIo, TokioTimer};
use metrics::counter;
use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::task_tracker::TaskTrackerToken};

use super::{
    config::Limits,
    departure::Departures,
    guarded::Guarded,
    handler::{Answer, Handler, Reply, Takeover},
    step::Step,
};
use crate::{
    metrics::PANICS,
    problem::{Code, Problem},
    stream::Stream,
};

/// hyper's own limits lie above ours, so that ours can answer in full.
const HYPER_HEADER_FIELDS: usize = 128;
/// How long a refused upload may go on after its answer, so that the client reads the answer
/// instead of a reset.
const LINGER_TIMEOUT: Duration = Duration::from_secs(5);
/// How long it may pause meanwhile.
const LINGER_PAUSE: Duration = Duration::from_secs(1);
/// How much of it is thrown away: twice the 100 MB somebody may well try.
const LINGER_BYTES_MAX: usize = 200 * 1024 * 1024;

/// Counts, tokens and limits of all connections.
pub(crate) struct Shared {
    pub(crate) limits: Limits,
    pub(crate) handler: Arc<dyn Handler>,
    /// Finish what is under way.
    pub(crate) drain: CancellationToken,
    /// Who has to go before that.
    pub(crate) departures: Arc<Departures>,
    /// End now.
    pub(crate) kill: CancellationToken,
}

#[derive(Default)]
struct Slot {
    takeover: Mutex<Option<Takeover>>,
    linger: AtomicBool,
}

struct HttpService {
    shared: Arc<Shared>,
    slot: Arc<Slot>,
}

impl Service<Request<Incoming>> for HttpService {
    type Response = Answer;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Answer, Infallible>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let shared = Arc::clone(&self.shared);
        let slot = Arc::clone(&self.slot);
        Box::pin(async move { Ok(answer(&shared, &slot, request).await) })
    }
}

async fn answer(shared: &Arc<Shared>, slot: &Slot, request: Request<Incoming>) -> Answer {
    if let Err(problem) = check_head(&shared.limits, &request) {
        slot.linger.store(true, Ordering::Relaxed);
        return problem.into_response();
    }
    let handled = Arc::clone(&shared.handler).handle(request);
    let mut response = match AssertUnwindSafe(handled).catch_unwind().await {
        Ok(Reply::Answer(response)) => response,
        Ok(Reply::Upgrade(response, takeover)) => {
            *slot.takeover.lock() = Some(takeover);
            return response;
        }
        Err(_panic) => {
            counter!(PANICS).increment(1);
            tracing::error!("a request handler panicked; this is a defect");
            Problem::from(Code::Internal).into_response()
        }
    };
    let closes = response.headers().get(header::CONNECTION).is_some();
    if closes {
        slot.linger.store(true, Ordering::Relaxed);
    } else if shared.departures.is_leaving() {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

fn check_head(limits: &Limits, request: &Request<Incoming>) -> Result<(), Problem> {
    let headers = request.headers();
    let line = request.method().as_str().len() + request.uri().path().len();
    let query = request.uri().query().map_or(0, str::len);
    let fields: usize =
        headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
    if headers.len() > limits.header_fields_max || line + query + fields > limits.head_bytes_max {
        return Err(Problem::from(Code::HeadTooLarge).detail(format!(
            "Send at most {} header fields and {} bytes of head.",
            limits.header_fields_max, limits.head_bytes_max
        )));
    }
    Ok(())
}

/// What is left to do when HTTP is over.
enum Next {
    Nothing,
    Takeover(Stream, Bytes, Takeover),
    Linger(Stream),
}

/// Serves one connection to its end.
pub(crate) fn serve(stream: Stream, shared: Arc<Shared>) -> Step {
    Step::new(async move {
        match serve_http(stream, &shared).await {
            Next::Nothing => None,
            Next::Linger(stream) => Some(Step::last(linger(stream))),
            Next::Takeover(stream, read, takeover) => {
                let counted = shared.departures.websocket();
                let owner = takeover(stream, read, shared.departures.current());
                Some(Step::last(until_killed(owner, shared.kill.clone(), counted)))
            }
        }
    })
}

/// Runs `owner` until it ends or the server must.
async fn until_killed(
    mut owner: BoxFuture<'static, ()>,
    kill: CancellationToken,
    _counted: TaskTrackerToken,
) {
    let mut killed = pin!(kill.cancelled());
    poll_fn(|cx: &mut Context<'_>| {
        if killed.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        owner.as_mut().poll(cx)
    })
    .await;
}

async fn serve_http(stream: Stream, shared: &Arc<Shared>) -> Next {
    let limits = &shared.limits;
    let slot = Arc::new(Slot::default());
    let service = HttpService { shared: Arc::clone(shared), slot: Arc::clone(&slot) };
    let io = TokioIo::new(Guarded::new(stream, limits.write_timeout));
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head_timeout)
        .max_headers(HYPER_HEADER_FIELDS.max(limits.header_fields_max * 2))
        .max_buf_size(limits.head_bytes_max.saturating_mul(2).max(16 * 1024))
        .serve_connection(io, service);
    let result = {
        let mut drain = pin!(shared.drain.cancelled());
        let mut kill = pin!(shared.kill.cancelled());
        let mut draining = false;
        poll_fn(|cx| {
            if kill.as_mut().poll(cx).is_ready() {
                return Poll::Ready(None);
            }
            if !draining && drain.as_mut().poll(cx).is_ready() {
                draining = true;
                Pin::new(&mut connection).graceful_shutdown();
            }
            Pin::new(&mut connection).poll(cx).map(Some)
        })
        .await
    };
    let parts = connection.into_parts();
    let stream = parts.io.into_inner().into_inner();
    let takeover = slot.takeover.lock().take();
    match (result, takeover) {
        (Some(Ok(())), Some(takeover)) => Next::Takeover(stream, parts.read_buf, takeover),
        (Some(Ok(())), None) if slot.linger.load(Ordering::Relaxed) => Next::Linger(stream),
        (Some(Err(error)), None) if error.is_timeout() && !parts.read_buf.is_empty() => {
            refuse_slow_head(stream).await
        }
        // hyper answered 400 or 431 itself; let the client read that.
        (Some(Err(error)), None) if error.is_parse() => Next::Linger(stream),
        _ => Next::Nothing,
    }
}

/// Answers 408 to a head that began and did not end.
async fn refuse_slow_head(mut stream: Stream) -> Next {
    let response = Problem::from(Code::RequestTimeout).into_response();
    match timeout(LINGER_PAUSE, write_bare(&mut stream, response)).await {
        Ok(Ok(())) => Next::Linger(stream),
        _ => Next::Nothing,
    }
}

/// Writes a response to a connection that hyper has given up.
async fn write_bare(
    stream: &mut (impl AsyncWrite + Unpin),
    response: Answer,
) -> std::io::Result<()> {
    let (head, body) = response.into_parts();
    let Ok(body) = body.collect().await.map(http_body_util::Collected::to_bytes);
    let mut text = format!("HTTP/1.1 {}\r\n", status_line(head.status)).into_bytes();
    for (name, value) in &head.headers {
        text.extend_from_slice(name.as_str().as_bytes());
        text.extend_from_slice(b": ");
        text.extend_from_slice(value.as_bytes());
        text.extend_from_slice(b"\r\n");
    }
    text.extend_from_slice(format!("content-length: {}\r\n\r\n", body.len()).as_bytes());
    text.extend_from_slice(&body);
    stream.write_all(&text).await?;
    stream.shutdown().await
}

fn status_line(status: StatusCode) -> String {
    format!("{} {}", status.as_u16(), status.canonical_reason().unwrap_or(""))
}

/// Throws away what the client still sends, so that closing does not reset the connection before
/// the client has read its answer.
async fn linger(mut stream: impl AsyncRead + Unpin) {
    let discard = async {
        let mut scratch = vec![0; 64 * 1024];
        let mut bytes = 0;
        while bytes < LINGER_BYTES_MAX {
            match timeout(LINGER_PAUSE, stream.read(&mut scratch)).await {
                Ok(Ok(read)) if read > 0 => bytes += read,
                _ => break,
            }
        }
    };
    // Past the time the client has had its chance: closing is all that is left.
    let _ = timeout(LINGER_TIMEOUT, discard).await;
}
