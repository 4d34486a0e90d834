//! A value that many watch change. What `tokio::sync::watch` is, but those who wait are woken in the
//! order in which they came: tokio's draws the order from randomness that nothing can seed, and no
//! simulation could be repeated.
//!
//! Nothing waits for a slow watcher: it sees the newest value, not each.

use std::{
    ops::Deref,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use parking_lot::{MappedRwLockReadGuard, RwLock, RwLockReadGuard};
use tokio::{sync::Notify, task::coop};

/// All senders are gone: no change will come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("nobody will change the watched value any more")]
pub struct Closed;

#[derive(Debug)]
struct Watched<T> {
    value: T,
    /// How often it was changed.
    changes: u64,
    senders: usize,
}

#[derive(Debug)]
struct Shared<T> {
    watched: RwLock<Watched<T>>,
    receivers: AtomicUsize,
    changed: Notify,
}

/// Changes the value.
#[derive(Debug)]
pub struct Sender<T> {
    shared: Arc<Shared<T>>,
}

/// Sees the value, and waits for changes.
#[derive(Debug)]
pub struct Receiver<T> {
    shared: Arc<Shared<T>>,
    /// Up to which change it has seen the value.
    seen: u64,
}

/// The value, which cannot change while this lives: never keep it across an `.await`.
pub struct Ref<'a, T>(MappedRwLockReadGuard<'a, T>);

impl<T> Deref for Ref<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> Shared<T> {
    /// Recursive: who has a look at the value may take another one, though somebody waits to change
    /// it. A fair lock would let that one go first, and both would wait for ever.
    fn value(&self) -> Ref<'_, T> {
        Ref(RwLockReadGuard::map(self.watched.read_recursive(), |watched| &watched.value))
    }
}

impl<T> Sender<T> {
    /// The first value.
    pub fn new(value: T) -> Self {
        let watched = RwLock::new(Watched { value, changes: 0, senders: 1 });
        let receivers = AtomicUsize::new(0);
        Self { shared: Arc::new(Shared { watched, receivers, changed: Notify::new() }) }
    }

    /// A watcher that has seen the value as it is.
    pub fn subscribe(&self) -> Receiver<T> {
        self.shared.receivers.fetch_add(1, Ordering::Relaxed);
        let seen = self.shared.watched.read_recursive().changes;
        Receiver { shared: Arc::clone(&self.shared), seen }
    }

    /// The value as it is.
    pub fn borrow(&self) -> Ref<'_, T> {
        self.shared.value()
    }

    /// Whether somebody watches.
    pub fn is_watched(&self) -> bool {
        self.shared.receivers.load(Ordering::Relaxed) > 0
    }

    /// Changes the value where `change` says that it did; then all who wait are woken.
    pub fn send_if_modified(&self, change: impl FnOnce(&mut T) -> bool) -> bool {
        let is_changed = {
            let mut watched = self.shared.watched.write();
            let is_changed = change(&mut watched.value);
            watched.changes += u64::from(is_changed);
            is_changed
        };
        if is_changed {
            self.shared.changed.notify_waiters();
        }
        is_changed
    }

    /// Changes the value.
    pub fn send_modify(&self, change: impl FnOnce(&mut T)) {
        self.send_if_modified(|value| {
            change(value);
            true
        });
    }

    /// Puts another value in the place of this one, which is handed back.
    pub fn send_replace(&self, mut value: T) -> T {
        self.send_modify(|known| std::mem::swap(known, &mut value));
        value
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.shared.watched.write().senders += 1;
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        let left = {
            let mut watched = self.shared.watched.write();
            watched.senders -= 1;
            watched.senders
        };
        if left == 0 {
            self.shared.changed.notify_waiters();
        }
    }
}

impl<T> Receiver<T> {
    /// The value as it is.
    pub fn borrow(&self) -> Ref<'_, T> {
        self.shared.value()
    }

    /// The value as it is, which counts as seen.
    pub fn borrow_and_update(&mut self) -> Ref<'_, T> {
        let watched = self.shared.watched.read_recursive();
        self.seen = watched.changes;
        Ref(RwLockReadGuard::map(watched, |watched| &watched.value))
    }

    /// Waits until the value is another than seen; it counts as seen then. May be dropped at any
    /// time: no change is missed.
    pub async fn changed(&mut self) -> Result<(), Closed> {
        // As tokio's: a task whose watched value changes all the time must yield, too.
        coop::consume_budget().await;
        loop {
            // Counts from here on, so that no change slips between the look and the wait.
            let changed = self.shared.changed.notified();
            {
                let watched = self.shared.watched.read_recursive();
                if watched.changes != self.seen {
                    self.seen = watched.changes;
                    return Ok(());
                }
                if watched.senders == 0 {
                    return Err(Closed);
                }
            }
            changed.await;
        }
    }

    /// Waits until the value is as `wanted`.
    pub async fn wait_for(
        &mut self,
        mut wanted: impl FnMut(&T) -> bool,
    ) -> Result<Ref<'_, T>, Closed> {
        loop {
            let is_wanted = wanted(&self.borrow_and_update());
            if is_wanted {
                return Ok(self.shared.value());
            }
            self.changed().await?;
        }
    }
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Self {
        self.shared.receivers.fetch_add(1, Ordering::Relaxed);
        Self { shared: Arc::clone(&self.shared), seen: self.seen }
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        self.shared.receivers.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;

    use super::*;

    #[tokio::test]
    async fn who_waits_sees_the_newest_value_then_the_end() {
        let sender = Sender::new(0);
        let mut receiver = sender.subscribe();
        let waiting = tokio::spawn(async move {
            receiver.changed().await.unwrap();
            let seen = *receiver.borrow();
            (seen, receiver)
        });
        tokio::task::yield_now().await;
        sender.send_replace(1);
        sender.send_replace(2);
        let (seen, mut receiver) = waiting.await.unwrap();
        assert_eq!(seen, 2);
        sender.send_replace(3);
        drop(sender);
        assert_eq!(receiver.changed().await, Ok(()), "the last change is not swallowed by the end");
        assert_eq!(receiver.changed().await, Err(Closed));
        assert_eq!(*receiver.borrow(), 3);
    }

    #[test]
    fn who_looks_may_look_again_while_somebody_waits_to_change_the_value() {
        let sender = Arc::new(Sender::new(1));
        let (first_look, looked_again) = std::sync::mpsc::channel();
        let reader = Arc::clone(&sender);
        std::thread::spawn(move || {
            let look = reader.borrow();
            let writer = Arc::clone(&reader);
            std::thread::spawn(move || writer.send_replace(2));
            // A lock that somebody waits for to write gives no fair look any more.
            while reader.shared.watched.try_read().is_some() {
                std::thread::yield_now();
            }
            first_look.send((*look, *reader.borrow())).unwrap();
        });
        let looks = looked_again.recv_timeout(std::time::Duration::from_secs(20));
        assert_eq!(looks, Ok((1, 1)), "it waits for ever");
    }

    #[tokio::test]
    async fn what_is_wanted_may_be_there_already() {
        let sender = Sender::new(5);
        let mut receiver = sender.subscribe();
        assert_eq!(*receiver.wait_for(|value| *value == 5).await.unwrap(), 5);
        let other = sender.clone();
        drop(sender);
        let waiting = tokio::spawn(async move { receiver.wait_for(|v| *v > 9).await.map(|v| *v) });
        tokio::task::yield_now().await;
        assert!(!other.send_if_modified(|_| false));
        other.send_modify(|value| *value = 10);
        assert_eq!(waiting.await.unwrap(), Ok(10));
    }

    #[tokio::test]
    async fn watchers_are_counted() {
        let sender = Sender::new(());
        assert!(!sender.is_watched());
        let receiver = sender.subscribe();
        let another = receiver.clone();
        drop(receiver);
        assert!(sender.is_watched());
        drop(another);
        assert!(!sender.is_watched());
    }

    #[tokio::test]
    async fn waiters_are_woken_in_the_order_they_came() {
        let sender = Sender::new(0);
        let woken = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = Vec::new();
        // Fewer than tokio runs before it comes back to this task: all wait when it does.
        for number in 0..32 {
            let (mut receiver, woken) = (sender.subscribe(), Arc::clone(&woken));
            tasks.push(tokio::spawn(async move {
                receiver.changed().await.unwrap();
                woken.lock().push(number);
            }));
        }
        tokio::task::yield_now().await;
        sender.send_replace(1);
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(*woken.lock(), (0..32).collect::<Vec<_>>());
    }
}
