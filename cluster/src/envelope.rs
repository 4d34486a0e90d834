//! The first byte of everything nodes send each other: which part of the node it is for.

use bytes::{BufMut, Bytes, BytesMut};

/// Raft's own calls.
pub(crate) const RAFT: u8 = 1;
/// Requests and notices of the relay (delivery).
pub(crate) const RELAY: u8 = 2;
/// Forming, joining, beats: between node actors.
pub(crate) const NODE: u8 = 3;
/// What operators ask, passed on between nodes.
pub(crate) const ADMIN: u8 = 4;

/// Splits the envelope from the body; `None` for an empty payload.
pub(crate) fn open(mut payload: Bytes) -> Option<(u8, Bytes)> {
    let kind = *payload.first()?;
    let body = payload.split_off(1);
    Some((kind, body))
}

/// A writer into which `kind` is already written.
pub(crate) fn writer(kind: u8, capacity: usize) -> bytes::buf::Writer<BytesMut> {
    let mut bytes = BytesMut::with_capacity(capacity + 1);
    bytes.put_u8(kind);
    bytes.writer()
}
