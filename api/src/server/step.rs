//! The parts of a connection's life: handshake, HTTP, what comes after an upgrade. Each is boxed and
//! gone when it is over, so that the task of a connection is as large as its present part.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use futures_util::future::BoxFuture;

/// A part, and in its turn what follows from it. As a future it is all of them.
pub(crate) struct Step(BoxFuture<'static, Option<Step>>);

impl Step {
    /// The part that `future` is; it answers what follows.
    pub(crate) fn new(future: impl Future<Output = Option<Self>> + Send + 'static) -> Self {
        Self(Box::pin(future))
    }

    /// A last part.
    pub(crate) fn last(future: impl Future<Output = ()> + Send + 'static) -> Self {
        Self::new(async move {
            future.await;
            None
        })
    }
}

impl Future for Step {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            match ready!(self.0.as_mut().poll(cx)) {
                Some(next) => *self = next,
                None => return Poll::Ready(()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures_util::FutureExt as _;

    use super::*;

    #[test]
    fn parts_follow_each_other_and_what_is_over_is_gone() {
        let (first, second) = (Arc::new(()), Arc::new(()));
        let (held, held_too) = (Arc::clone(&first), Arc::clone(&second));
        let (go, waits) = tokio::sync::oneshot::channel::<()>();
        let mut life = Step::new(async move {
            let _held = held;
            Some(Step::last(async move {
                let _held = held_too;
                assert!(waits.await.is_ok());
            }))
        });
        assert_eq!((&mut life).now_or_never(), None);
        assert_eq!((Arc::strong_count(&first), Arc::strong_count(&second)), (1, 2));
        assert!(go.send(()).is_ok());
        assert_eq!((&mut life).now_or_never(), Some(()));
        assert_eq!(Arc::strong_count(&second), 1);
    }
}
