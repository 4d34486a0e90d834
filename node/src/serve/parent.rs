//! Ends with the process that started it: that one holds the other end of our standard input, and
//! whatever ends it closes it.

use std::io::{self, Read as _};

use tokio_util::sync::CancellationToken;

/// Answers a token that falls when standard input ends.
///
/// # Errors
/// When no thread can be started.
pub(super) fn watch() -> io::Result<CancellationToken> {
    let ended = CancellationToken::new();
    let token = ended.clone();
    // A thread of its own, never joined: nothing interrupts a blocking read.
    std::thread::Builder::new().name("stdin".to_owned()).spawn(move || {
        let mut ignored = [0; 64];
        let mut input = io::stdin().lock();
        loop {
            match input.read(&mut ignored) {
                Ok(1..) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(0) | Err(_) => break,
            }
        }
        token.cancel();
    })?;
    Ok(ended)
}
