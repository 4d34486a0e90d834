//! Buffers of the thread, lent to whichever connection is at work: an idle one holds none.

use std::cell::{Cell, RefCell};

/// Bytes read at once: a full frame of 80 KiB comes in two reads, many small ones in one.
const READ_BYTES: usize = 64 * 1024;
/// Write buffers kept a thread: one is in use at a time, others belong to blocked connections.
const WRITE_BUFFERS_MAX: usize = 4;
/// A write buffer that grew beyond this is not kept.
const WRITE_BYTES_KEPT_MAX: usize = 256 * 1024;

thread_local! {
    static READ: Cell<Option<Box<[u8]>>> = const { Cell::new(None) };
    static WRITE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// Lends the thread's read buffer.
pub(crate) fn with_read_buffer<R>(work: impl FnOnce(&mut [u8]) -> R) -> R {
    let mut buffer = READ.take().unwrap_or_else(|| vec![0; READ_BYTES].into_boxed_slice());
    let result = work(&mut buffer);
    READ.set(Some(buffer));
    result
}

/// An empty write buffer, with capacity where the thread has one.
pub(crate) fn take_write_buffer() -> Vec<u8> {
    WRITE.with_borrow_mut(Vec::pop).unwrap_or_default()
}

/// Gives a write buffer back.
pub(crate) fn return_write_buffer(mut buffer: Vec<u8>) {
    if buffer.capacity() == 0 || buffer.capacity() > WRITE_BYTES_KEPT_MAX {
        return;
    }
    buffer.clear();
    WRITE.with_borrow_mut(|buffers| {
        if buffers.len() < WRITE_BUFFERS_MAX {
            buffers.push(buffer);
        }
    });
}
