//! The keys actor: ends key epochs, and sees to it that what lives moves on and old storage keys go
//! (ADR 3).

use std::{sync::Arc, time::Duration};

use heliograph_storage::Keyring;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::time::Instant;

use crate::{
    context::Context,
    key_retirement::{KeyRetirement, Step},
    metrics,
    raft::offload,
};

/// A key epoch is looked at so often, within the two bounds.
const LOOKS_PER_EPOCH: u32 = 50;
const LOOK_MIN: Duration = Duration::from_millis(50);
const LOOK_MAX: Duration = Duration::from_secs(5);
/// A node that starts with keys to retire waits so long for its shards to open: only with them can
/// it drop what was acknowledged, rather than carry it on.
const SHARDS_PATIENCE: Duration = Duration::from_secs(120);

/// What the keys actor is told.
pub(crate) enum KeysMessage {
    /// Do what is due.
    Look,
}

/// The keys actor. Owned and supervised by the node actor.
pub(crate) struct KeysActor;

pub(crate) struct KeysState {
    context: Arc<Context>,
    keys: Keyring,
    started: Instant,
    epoch: Epoch,
    retirement: Option<KeyRetirement>,
}

/// How old the key epoch is. The wall clock counts only for what was before this process.
struct Epoch {
    since: Instant,
    before: Duration,
}

impl Actor for KeysActor {
    type Msg = KeysMessage;
    type State = KeysState;
    type Arguments = Arc<Context>;

    async fn pre_start(
        &self,
        myself: ActorRef<KeysMessage>,
        context: Arc<Context>,
    ) -> Result<KeysState, ActorProcessingErr> {
        myself.send_after(LOOK_MIN, || KeysMessage::Look);
        Ok(KeysState::new(context))
    }

    async fn handle(
        &self,
        myself: ActorRef<KeysMessage>,
        KeysMessage::Look: KeysMessage,
        state: &mut KeysState,
    ) -> Result<(), ActorProcessingErr> {
        let pause = state.look().await;
        // The next look starts after this one has ended: at most one message is under way.
        myself.send_after(pause, || KeysMessage::Look);
        Ok(())
    }
}

impl KeysState {
    fn new(context: Arc<Context>) -> KeysState {
        let keys = context.storages.keys.clone();
        let (since, now_ms) = (Instant::now(), context.surroundings.clock.wall_ms());
        let began_ms = keys.status().map_or(now_ms, |status| status.epoch_began_ms);
        // A clock that was set back makes the epoch longer, never endless.
        let before = Duration::from_millis(now_ms.saturating_sub(began_ms));
        let epoch = Epoch { since, before };
        KeysState { context, keys, started: since, epoch, retirement: None }
    }

    /// Does what is due; answers when to look again.
    async fn look(&mut self) -> Duration {
        let length = self.context.config.key_epoch;
        let pause = (length / LOOKS_PER_EPOCH).clamp(LOOK_MIN, LOOK_MAX);
        let now_ms = self.context.surroundings.clock.wall_ms();
        self.keys.report(now_ms);
        let Some(status) = self.keys.status() else { return LOOK_MAX };
        if !self.is_open() {
            return pause;
        }
        if !status.is_retiring() {
            let age = self.epoch.since.elapsed().saturating_add(self.epoch.before);
            if age < length {
                return pause;
            }
            let keys = self.keys.clone();
            if let Err(error) = offload(move || keys.rotate(now_ms)).await {
                tracing::error!(%error, "no storage key can be made: the old one seals on");
                return LOOK_MAX;
            }
            self.epoch = Epoch { since: Instant::now(), before: Duration::ZERO };
            // What is to be dropped now is not what was to be dropped then.
            self.retirement = None;
        }
        let context = &self.context;
        let retirement = self.retirement.get_or_insert_with(|| KeyRetirement::new(context));
        match retirement.step(context).await {
            Ok(Step::Pause(pause)) => pause,
            Ok(Step::Complete(took)) => {
                ::metrics::histogram!(metrics::KEY_RETIREMENT_SECONDS).record(took.as_secs_f64());
                self.retirement = None;
                self.keys.report(now_ms);
                pause
            }
            Err(error) => {
                tracing::error!(
                    %error,
                    "storage keys cannot be retired: what was acknowledged stays readable here"
                );
                LOOK_MAX
            }
        }
    }

    /// Whether the shards are open, or it makes no sense to wait for them.
    fn is_open(&self) -> bool {
        self.context.has_opened_shards() || self.started.elapsed() > SHARDS_PATIENCE
    }
}
