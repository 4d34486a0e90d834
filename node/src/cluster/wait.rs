//! Waiting until a change is done, with a progress bar.

use std::time::Duration;

use heliograph_api::client::NodeChange;
use heliograph_cluster::ClusterStatus;
use indicatif::ProgressBar;
use tokio::time::Instant;

use super::{goal::Goal, target::Target};
use crate::{
    console,
    exit::{Failure, Reason},
    signals::{Asked, Signals},
};

/// How often the status is asked for: a replica takes seconds at least.
const INTERVAL: Duration = Duration::from_millis(500);
/// How long no node may answer before the waiting ends.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// Why the waiting ended early.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
enum WaitError {
    /// Ctrl-C.
    #[error(
        "stopped waiting; the cluster goes on with it: `heliograph cluster status` shows how far it is"
    )]
    Interrupted,
}

/// Waits until `goal` is reached; answers the status that shows it.
pub(super) async fn wait(
    target: &Target,
    goal: Goal,
    signals: &mut Signals,
) -> Result<ClusterStatus, Failure> {
    tokio::select! {
        biased; // a person's wish first
        () = interrupted(signals) => {
            Err(Failure::new(Reason::Interrupted, WaitError::Interrupted))
        }
        reached = reach(target, goal) => reached,
    }
}

async fn interrupted(signals: &mut Signals) {
    while signals.next().await != Asked::Stop {}
}

async fn reach(target: &Target, goal: Goal) -> Result<ClusterStatus, Failure> {
    let bar = console::progress_bar("{spinner} {bar:30} {pos} of {len} {msg} ({elapsed})", 0);
    let mut heard = Instant::now();
    loop {
        match target.status().await {
            Ok(status) => {
                heard = Instant::now();
                let distance = goal.distance(&status);
                if distance.left == 0 {
                    bar.finish_and_clear();
                    return Ok(status);
                }
                show(&bar, distance.left, distance.what);
                if let Some(node) = goal.to_forget(&status) {
                    // What is in its way is gone; a refusal is asked again.
                    let _ = target.change(node, &NodeChange::Remove).await;
                }
            }
            Err(failure) if heard.elapsed() > SILENCE_MAX => return Err(failure),
            Err(_) => bar.set_message("no node answers"),
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

/// The bar's length is the most that was ever left.
fn show(bar: &ProgressBar, left: u64, what: &'static str) {
    let total = bar.length().unwrap_or(0).max(left);
    bar.set_length(total);
    bar.set_position(total - left);
    bar.set_message(what);
}
