//! What is done to one node again and again until it is ended.

use std::time::Duration;

use rustix::process::Signal;
use tokio::{task::JoinHandle, time::sleep};
use tokio_util::sync::CancellationToken;

use super::FaultyClock;
use crate::cluster::Grip;

/// The period of a slow node: so short that no detector calls it dead for one of them.
const PERIOD: Duration = Duration::from_millis(100);
/// How long a strobing clock stays where it is.
const STROBE: Duration = Duration::from_secs(1);

/// A task that goes on until it is ended.
#[derive(Debug)]
pub(super) struct Beat {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Beat {
    fn of(beat: impl Future<Output = ()> + Send + 'static) -> Self {
        let stop = CancellationToken::new();
        let beat = stop.clone().run_until_cancelled_owned(beat);
        Self {
            stop,
            task: tokio::spawn(async move {
                let _stopped: Option<()> = beat.await;
            }),
        }
    }

    /// Ends it, and waits until it has.
    pub(super) async fn end(self) {
        self.stop.cancel();
        // It ends by the token; a panic in it is one of ours and was printed.
        let _ = self.task.await;
    }
}

/// Stops a process for so much of each period.
pub(super) fn slow_beat(process: Grip, stopped_percent: u8) -> Beat {
    let stopped = PERIOD * u32::from(stopped_percent.min(100)) / 100;
    Beat::of(async move {
        // A process that has ended takes no signal, and needs none.
        while process.signal(Signal::STOP).is_ok() {
            sleep(stopped).await;
            let _ = process.signal(Signal::CONT);
            sleep(PERIOD - stopped).await;
        }
    })
}

/// Lets a clock jump there and back.
pub(super) fn clock_beat(clock: FaultyClock, seconds: i64) -> Beat {
    Beat::of(async move {
        while clock.set(seconds).is_ok() {
            sleep(STROBE).await;
            let _ = clock.set(0);
            sleep(STROBE).await;
        }
    })
}
