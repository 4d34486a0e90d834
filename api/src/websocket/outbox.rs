//! Frames on their way to a socket: encoded at once, written in one go.

use metrics::gauge;

use super::{
    codec::{CloseCode, Opcode, write_close, write_frame},
    scratch,
};
use crate::metrics::QUEUED_BYTES;

/// Above this no further frames are encoded and none are read from the client: one large message
/// (82 KiB) or hundreds of small ones make one write.
const HIGH_WATER_BYTES: usize = 64 * 1024;

/// Encoded frames that the socket has not taken yet, and the wish to close.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    bytes: Vec<u8>,
    /// How much of `bytes` the socket has taken.
    written: usize,
    close: Option<CloseCode>,
    /// How much of this outbox the gauge of queued bytes counts.
    counted: usize,
}

impl Outbox {
    fn buffer(&mut self) -> &mut Vec<u8> {
        if self.bytes.capacity() == 0 {
            self.bytes = scratch::take_write_buffer();
        }
        &mut self.bytes
    }

    /// Adds a text frame.
    pub(crate) fn text(&mut self, text: &[u8]) {
        write_frame(self.buffer(), Opcode::Text, text);
    }

    /// Adds a Ping.
    pub(crate) fn ping(&mut self, nonce: u64) {
        write_frame(self.buffer(), Opcode::Ping, &nonce.to_be_bytes());
    }

    /// Adds a Pong.
    pub(crate) fn pong(&mut self, payload: &[u8]) {
        write_frame(self.buffer(), Opcode::Pong, payload);
    }

    /// Asks for the connection to be closed after what was added so far. The first wish counts.
    pub(crate) fn close(&mut self, code: CloseCode) {
        self.close.get_or_insert(code);
    }

    /// The wish to close.
    pub(super) fn closing(&self) -> Option<CloseCode> {
        self.close
    }

    /// Whether the socket has taken everything.
    pub(crate) fn is_empty(&self) -> bool {
        self.pending().is_empty()
    }

    /// Adds the close frame itself; `None` echoes a close frame without a code.
    pub(super) fn write_close(&mut self, close: Option<(u16, &str)>) {
        match close {
            Some((code, reason)) => write_close(self.buffer(), code, reason, None),
            None => write_frame(self.buffer(), Opcode::Close, &[]),
        }
    }

    /// Whether more frames should be added.
    pub(crate) fn has_room(&self) -> bool {
        self.pending().len() < HIGH_WATER_BYTES
    }

    /// What the socket must still take.
    pub(super) fn pending(&self) -> &[u8] {
        &self.bytes[self.written..]
    }

    /// The socket took so many bytes. Answers whether that was all.
    pub(super) fn advance(&mut self, bytes: usize) -> bool {
        self.written += bytes;
        assert!(self.written <= self.bytes.len(), "a socket takes no more than it was given");
        if self.counted > 0 {
            self.count(self.pending().len());
        }
        if self.written < self.bytes.len() {
            return false;
        }
        self.written = 0;
        scratch::return_write_buffer(std::mem::take(&mut self.bytes));
        true
    }

    /// The socket takes no more for now: what is left counts as queued.
    pub(super) fn stalled(&mut self) {
        self.count(self.pending().len());
    }

    fn count(&mut self, bytes: usize) {
        if bytes != self.counted {
            gauge!(QUEUED_BYTES).increment(bytes as f64 - self.counted as f64);
            self.counted = bytes;
        }
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        self.count(0);
    }
}
