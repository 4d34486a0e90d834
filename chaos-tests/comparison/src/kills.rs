//! `kill -9` of the node that leads most, and how long until all mailboxes accept again.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use tokio::{
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, timeout},
};

use crate::{
    message::MESSAGE_BYTES,
    peer::{Cluster, NODES, Publisher},
    results::KillResult,
    wait::within,
};

/// Mailboxes that are watched: several of each shard or stream.
pub const MAILBOXES: u32 = 48;
/// A message that is not answered is not waited for: another is sent, so that neither the system's
/// nor the client's own time-outs are what is measured.
const RETRY: Duration = Duration::from_millis(50);
/// How long a mailbox may take to accept.
const DEADLINE: Duration = Duration::from_secs(60);

/// Kills nodes one after another, each once the one before is back and has caught up. Adds what each
/// gave to `results`.
///
/// # Errors
/// When a mailbox does not accept at all any more, or a node does not come back.
pub async fn run<C: Cluster>(
    cluster: &mut C,
    kills: u32,
    results: &mut Vec<KillResult>,
) -> Result<()> {
    for _ in 0..kills {
        let leaders = within("who leads", cluster.leaders(0)).await?;
        let victim = most(&leaders);
        let publishers = within("connections", watchers(cluster, victim)).await?;
        // Everybody's paths are warm, and every mailbox accepts.
        let publishers = accepted(publishers, Instant::now()).await?.0;
        let began = Instant::now();
        tokio::task::block_in_place(|| cluster.kill(victim))?;
        // The node is gone: what is sent from now on is accepted by others.
        let (_, longest) = accepted(publishers, began).await?;
        results.push(KillResult {
            led: leaders[victim],
            of: leaders.iter().sum(),
            all_accept_ms: longest.as_secs_f64() * 1000.0,
        });
        within("the killed node's return", cluster.restart(victim)).await?;
    }
    Ok(())
}

/// The node that leads most.
fn most(leaders: &[u32; NODES]) -> usize {
    (0..NODES).max_by_key(|node| leaders[*node]).unwrap_or_default()
}

/// A publisher for each watched mailbox, at nodes that will stay.
async fn watchers<C: Cluster>(cluster: &C, victim: usize) -> Result<Vec<C::Publisher>> {
    let staying: Vec<usize> = (0..NODES).filter(|node| *node != victim).collect();
    let mut publishers = Vec::new();
    for mailbox in 0..MAILBOXES as usize {
        publishers.push(cluster.publisher(staying[mailbox % staying.len()]).await?);
    }
    Ok(publishers)
}

/// Sends to each mailbox until it accepts; the time from `began` until the last one did.
async fn accepted<P: Publisher>(publishers: Vec<P>, began: Instant) -> Result<(Vec<P>, Duration)> {
    let mut tasks = JoinSet::new();
    for (mailbox, publisher) in (0..).zip(publishers) {
        tasks.spawn(async move {
            let pause = accepts(&publisher, mailbox, began).await?;
            anyhow::Ok((mailbox, publisher, pause))
        });
    }
    let mut all = Vec::new();
    while let Some(ended) = tasks.join_next().await {
        all.push(ended.context("a watcher failed")??);
    }
    all.sort_by_key(|(mailbox, ..)| *mailbox);
    let longest = all.iter().map(|(.., pause)| *pause).max().unwrap_or_default();
    Ok((all.into_iter().map(|(_, publisher, _)| publisher).collect(), longest))
}

/// Sends to a mailbox until it accepts; the time from `began` until then.
async fn accepts<P: Publisher>(publisher: &P, mailbox: u32, began: Instant) -> Result<Duration> {
    let mut answers = FuturesUnordered::new();
    let mut due = interval(RETRY);
    due.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            // An answer that is there counts before another message is sent.
            biased;
            Some(answer) = answers.next() => {
                // Refused or unknown: the next message tells.
                if let Ok(true) = answer {
                    return Ok(began.elapsed());
                }
            }
            _ = due.tick() => {
                ensure!(began.elapsed() < DEADLINE, "mailbox {mailbox} accepts nothing any more");
                let message = Bytes::from_static(&[0; MESSAGE_BYTES]);
                // A connection that takes nothing is an answer as bad as any.
                let sent = timeout(RETRY, publisher.send(mailbox, message)).await;
                if let Ok(Ok(answer)) = sent {
                    answers.push(answer);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;
    use crate::peer::Answer;

    /// Refuses, loses, then accepts.
    #[derive(Default)]
    struct Hesitant(AtomicU32);

    impl Publisher for Hesitant {
        async fn send(&self, _mailbox: u32, _message: Bytes) -> Result<Answer> {
            match self.0.fetch_add(1, Ordering::Relaxed) {
                0 => Ok(Box::pin(async { Ok(false) })),
                1 => Ok(Box::pin(async { anyhow::bail!("gone") })),
                2 => Ok(Box::pin(std::future::pending())),
                3 => anyhow::bail!("gone"),
                _ => Ok(Box::pin(async { Ok(true) })),
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_mailbox_is_asked_until_it_accepts() {
        let began = Instant::now();
        let pause = accepts(&Hesitant::default(), 0, began).await.unwrap();
        assert_eq!(pause, RETRY * 4);
    }

    /// Takes nothing, as a connection whose buffers are full.
    struct Clogged;

    impl Publisher for Clogged {
        async fn send(&self, _mailbox: u32, _message: Bytes) -> Result<Answer> {
            std::future::pending().await
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_takes_nothing_is_given_up() {
        assert!(accepts(&Clogged, 0, Instant::now()).await.is_err());
    }

    struct Deaf;

    impl Publisher for Deaf {
        async fn send(&self, _mailbox: u32, _message: Bytes) -> Result<Answer> {
            Ok(Box::pin(std::future::pending()))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_mailbox_that_never_accepts_is_an_error() {
        assert!(accepts(&Deaf, 0, Instant::now()).await.is_err());
    }

    #[test]
    fn who_leads_most_is_killed() {
        assert_eq!(most(&[1, 5, 2]), 1);
        assert_eq!(most(&[7, 0, 0]), 0);
    }
}
