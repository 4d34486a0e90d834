//! The one task that makes time pass in the simulated network: it does what is due, in order, and
//! tells handlers what happened.

use std::{
    future::poll_fn,
    pin::pin,
    sync::{Arc, Weak},
    task::Poll,
};

use bytes::Bytes;
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until, timeout_at},
};

use super::{
    Inner,
    state::{Action, Reply, Served},
};
use crate::network::{BoxFuture, FRAME_BYTES_MAX};

/// Runs until the last [`super::SimFabric`] and [`super::SimNetwork`] are gone.
pub(super) async fn run(inner: Weak<Inner>, wake: Arc<Notify>) {
    loop {
        let due = match inner.upgrade() {
            Some(inner) => catch_up(&inner).await,
            None => return,
        };
        match due {
            // Whether the clock or a change comes first does not matter: both lead here.
            Some(due) => {
                let mut changed = pin!(wake.notified());
                let mut clock = pin!(sleep_until(due));
                poll_fn(|context| {
                    let ready = changed.as_mut().poll(context).is_ready()
                        || clock.as_mut().poll(context).is_ready();
                    if ready { Poll::Ready(()) } else { Poll::Pending }
                })
                .await;
            }
            None => wake.notified().await,
        }
    }
}

/// Does all that is due and returns when the next thing is.
async fn catch_up(inner: &Arc<Inner>) -> Option<Instant> {
    loop {
        let action = {
            let mut state = inner.state.lock();
            loop {
                if let Some(action) = state.actions.pop_front() {
                    break action;
                }
                if !state.step(Instant::now()) {
                    return state.next_due();
                }
            }
        };
        perform(inner, action).await;
    }
}

async fn perform(inner: &Arc<Inner>, action: Action) {
    match action {
        Action::Peer { to, event } if !to.alive.is_cancelled() => to.handler.peer(event),
        Action::Notify { to, from, lane, payload } if !to.alive.is_cancelled() => {
            to.handler.notify(from, lane, payload);
        }
        Action::Call { to, call, lane, request, deadline } if !to.alive.is_cancelled() => {
            let mut answer = to.handler.call(call.from, lane, request, deadline);
            // Begun here, so that calls of a lane begin in order.
            match futures_util::poll!(&mut answer) {
                Poll::Ready(answer) => finish(inner, call, Some(answer)),
                Poll::Pending => {
                    let inner = Arc::downgrade(inner);
                    tokio::spawn(to.alive.run_until_cancelled_owned(async move {
                        serve(inner, call, answer, deadline).await;
                    }));
                }
            }
        }
        // The process died between the decision and now.
        Action::Peer { .. } | Action::Notify { .. } | Action::Call { .. } => {}
    }
}

async fn serve(
    inner: Weak<Inner>,
    call: Served,
    answer: BoxFuture<'static, Option<Bytes>>,
    deadline: Instant,
) {
    let answer = timeout_at(deadline, answer).await.ok();
    if let Some(inner) = inner.upgrade() {
        finish(&inner, call, answer);
    }
}

/// `None`: the deadline passed; `Some(None)`: the handler declined.
fn finish(inner: &Arc<Inner>, call: Served, answer: Option<Option<Bytes>>) {
    inner.change(|state| match answer {
        Some(Some(answer)) if answer.len() > FRAME_BYTES_MAX => state.reply(call, Reply::Failed),
        Some(Some(answer)) => state.reply(call, Reply::Answer(answer)),
        Some(None) => state.reply(call, Reply::Declined),
        None => {
            state.abandon(call);
        }
    });
}
