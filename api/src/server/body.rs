//! Reading a request's body: bounded in bytes and time.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, header};
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};
use tokio::time::timeout;

use crate::problem::{Code, Problem};

/// Bytes reserved for a body of unknown length.
const FIRST_BYTES: usize = 4 * 1024;

fn too_large(bytes_max: usize) -> Problem {
    Problem::from(Code::BodyTooLarge).detail(format!("Send at most {bytes_max} bytes."))
}

/// Refuses a declared length over the limit, before anything is read.
pub(crate) fn check_declared(headers: &HeaderMap, bytes_max: usize) -> Result<(), Problem> {
    let Some(declared) = headers.get(header::CONTENT_LENGTH) else { return Ok(()) };
    let declared = declared.to_str().ok().and_then(|text| text.parse::<u64>().ok());
    match declared {
        Some(bytes) if bytes <= bytes_max as u64 => Ok(()),
        Some(_) => Err(too_large(bytes_max)),
        // hyper refuses such a request itself.
        None => Err(Code::BadRequest.into()),
    }
}

/// Whether the request announces a body.
pub(crate) fn is_announced(headers: &HeaderMap) -> bool {
    headers.contains_key(header::CONTENT_LENGTH) || headers.contains_key(header::TRANSFER_ENCODING)
}

/// Reads the whole body.
pub(crate) async fn read(
    body: Incoming,
    bytes_max: usize,
    time_max: Duration,
) -> Result<Bytes, Problem> {
    match timeout(time_max, collect(body, bytes_max)).await {
        Ok(result) => result,
        Err(_) => Err(Code::RequestTimeout.into()),
    }
}

async fn collect(mut body: Incoming, bytes_max: usize) -> Result<Bytes, Problem> {
    let hint = usize::try_from(body.size_hint().lower()).unwrap_or(bytes_max);
    let mut first: Option<Bytes> = None;
    let mut all: Option<BytesMut> = None;
    let mut bytes = 0;
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else {
            return Err(Problem::from(Code::BadRequest).detail("The body ended early."));
        };
        let Ok(data) = frame.into_data() else { continue };
        bytes += data.len();
        if bytes > bytes_max {
            return Err(too_large(bytes_max));
        }
        match (first.take(), &mut all) {
            (None, None) => first = Some(data),
            (Some(before), _) => {
                let mut buffer = BytesMut::with_capacity(hint.clamp(FIRST_BYTES, bytes_max));
                buffer.extend_from_slice(&before);
                buffer.extend_from_slice(&data);
                all = Some(buffer);
            }
            (None, Some(buffer)) => buffer.extend_from_slice(&data),
        }
    }
    Ok(first.unwrap_or_else(|| all.map(BytesMut::freeze).unwrap_or_default()))
}
