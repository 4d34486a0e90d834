//! Waiting for something that tells nobody of itself.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use tokio::time::{Instant, sleep, timeout};

/// How long anything may take: a cluster of RabbitMQ on a busy machine needs most of a minute.
const DEADLINE: Duration = Duration::from_secs(120);
/// How long one question may take. RabbitMQ takes connections while it starts that it never answers.
const ANSWER: Duration = Duration::from_secs(10);
/// Between two looks.
const POLL: Duration = Duration::from_millis(20);

/// Waits for an answer that a dead node may never give.
///
/// # Errors
/// When there is none for two minutes, or it is a failure.
pub async fn within<T>(what: &str, answer: impl Future<Output = Result<T>>) -> Result<T> {
    timeout(DEADLINE, answer).await.with_context(|| format!("waited in vain for: {what}"))?
}

/// Asks until the answer is yes. A question that fails, or is not answered, is asked again: who starts
/// is not there yet.
///
/// # Errors
/// When the answer is not yes for two minutes, or there is none; with the last failure.
pub async fn until(what: &str, mut holds: impl AsyncFnMut() -> Result<bool>) -> Result<()> {
    let began = Instant::now();
    loop {
        let left = DEADLINE.saturating_sub(began.elapsed()).min(ANSWER);
        let answer = timeout(left, holds()).await.context("no answer").flatten();
        if let Ok(true) = answer {
            return Ok(());
        }
        if began.elapsed() >= DEADLINE {
            let _ = answer.with_context(|| format!("waited in vain for: {what}"))?;
            bail!("waited in vain for: {what}");
        }
        sleep(POLL).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_question_is_asked_until_the_answer_is_yes() {
        let mut answers =
            [Ok(true), Ok(false), Err(anyhow::anyhow!("not there"))].into_iter().rev();
        until("yes", async || answers.next().unwrap()).await.unwrap();
        assert!(answers.next().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_question_without_an_answer_is_given_up() {
        let began = Instant::now();
        let error = until("yes", async || std::future::pending().await).await.unwrap_err();
        assert!(
            format!("{error:#}").starts_with("waited in vain for: yes: no answer"),
            "{error:#}"
        );
        assert!(began.elapsed() <= DEADLINE + POLL);
    }

    #[tokio::test(start_paused = true)]
    async fn a_question_without_an_answer_is_asked_again() {
        let mut asked = 0;
        let question = async || {
            asked += 1;
            if asked == 1 { std::future::pending().await } else { Ok(true) }
        };
        until("yes", question).await.unwrap();
        assert_eq!(asked, 2);
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_failure_is_told() {
        let error = until("yes", async || bail!("deaf")).await.unwrap_err();
        assert_eq!(format!("{error:#}"), "waited in vain for: yes: deaf");
        assert!(until("yes", async || Ok(false)).await.is_err());
    }
}
