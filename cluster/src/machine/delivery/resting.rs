//! A [`Delivery`] with nothing under way, in as few bytes as it takes to go on from there: what a
//! mailbox that is listened to costs while nothing comes.

use std::collections::BTreeMap;

use super::{Delivery, DeliveryLimits, Lane, Offers, Subscription, SubscriptionId};
use crate::{Window, model::PRIORITIES};

/// A subscription that has nothing unacknowledged.
#[derive(Clone, Copy, Debug)]
struct RestingSubscription {
    id: SubscriptionId,
    connected_ms: u64,
    next: [u64; PRIORITIES],
    window: Window,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Resting {
    complete_since_ms: u64,
    ticket: u64,
    /// By priority level: the number the next message to be accepted gets.
    tails: [u64; PRIORITIES],
    subscriptions: Box<[RestingSubscription]>,
}

impl Delivery {
    /// What is left of it where nothing is under way: all that was accepted is settled, all that
    /// was asked for is answered. `None` otherwise, and where nobody subscribes.
    pub fn rest(&self) -> Option<Resting> {
        let is_at_rest = !self.subscriptions.is_empty()
            && self.offers.is_empty()
            && !self.has_waiting()
            && self.subscriptions.values().all(Subscription::is_at_rest);
        is_at_rest.then(|| Resting {
            complete_since_ms: self.complete_since_ms,
            ticket: self.ticket,
            tails: std::array::from_fn(|level| self.lanes[level].tail()),
            subscriptions: self.subscriptions.iter().map(|(id, one)| one.rest(*id)).collect(),
        })
    }

    /// Goes on where `resting` was taken, as if it had never been.
    pub fn wake(limits: DeliveryLimits, resting: &Resting) -> Self {
        let subscriptions: BTreeMap<_, _> =
            resting.subscriptions.iter().map(|one| (one.id, Subscription::wake(one))).collect();
        let mut delivery = Self {
            limits,
            complete_since_ms: resting.complete_since_ms,
            // Whoever is served has had everything: a lane begins at its tail.
            lanes: resting.tails.map(Lane::new),
            subscriptions,
            active: None,
            offers: Offers::new(limits.offers_max),
            ticket: resting.ticket,
        };
        delivery.active = delivery.newest();
        delivery
    }
}

impl Subscription {
    fn rest(&self, id: SubscriptionId) -> RestingSubscription {
        let Self { connected_ms, next, window, .. } = *self;
        RestingSubscription { id, connected_ms, next, window }
    }

    fn wake(resting: &RestingSubscription) -> Self {
        let RestingSubscription { connected_ms, next, window, .. } = *resting;
        let mut subscription = Self::new(connected_ms, window, super::Resume::default());
        subscription.next = next;
        subscription
    }
}
