//! Sending until it is done.

use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout_at};

use super::{Client, ClientError, Letter, Receipt};
use crate::entropy::Entropy;

/// First and longest pause after every endpoint has failed once. An election takes 2–4 s.
const PAUSE: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// Sends `letter`, at one gateway after the other, until one has accepted it, one refuses it for
/// good, or `deadline` passes. Each attempt carries the same message id, so the letter is
/// accepted once however often it is sent.
///
/// # Errors
/// The refusal, or what the last attempt met when the time was up.
///
/// # Panics
/// When `clients` is empty.
pub async fn send_until_accepted(
    clients: &[Client],
    letter: &Letter,
    deadline: Instant,
) -> Result<Receipt, ClientError> {
    assert!(!clients.is_empty(), "there is a gateway to send to");
    let mut entropy = Entropy::from_system();
    let mut pause = PAUSE;
    let mut last = ClientError::Deadline;
    for attempt in 0usize.. {
        let client = &clients[attempt % clients.len()];
        match timeout_at(deadline, client.send(letter)).await {
            Ok(Ok(receipt)) => return Ok(receipt),
            Ok(Err(error)) if !error.is_retryable() => return Err(error),
            Ok(Err(error)) => last = error,
            Err(_) => break,
        }
        let wait = last.retry_after();
        // Another endpoint is tried at once, unless the trouble is the mailbox's or the device's.
        if wait.is_none() && (attempt + 1) % clients.len() != 0 {
            continue;
        }
        let jitter = entropy.between(50, 100) as u32;
        let until = Instant::now() + wait.unwrap_or(pause * jitter / 100);
        if until >= deadline {
            break;
        }
        sleep_until(until).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
    Err(last)
}
