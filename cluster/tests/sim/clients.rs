//! Senders and recipients that change nodes, retry, and write down what they were promised.

use std::{cell::RefCell, rc::Rc, sync::Arc, time::Duration};

use heliograph_cluster::{
    AckItem, Fetch, Outgoing, Principal, Push, PushSink, Registration, Relay, Window,
    model::{DeviceId, MessageId, Priority},
};
use rand::{Rng, rngs::SmallRng};
use tokio::{sync::mpsc, time::Instant};

use crate::ledger::Ledger;

/// The nodes' relays; none where a node is down.
pub(crate) type Relays = Rc<RefCell<Vec<Option<Arc<dyn Relay>>>>>;
pub(crate) type SharedLedger = Rc<RefCell<Ledger>>;

/// How long one attempt may take.
const ATTEMPT: Duration = Duration::from_secs(3);

/// The device of a mailbox.
pub(crate) fn device(mailbox: usize) -> DeviceId {
    DeviceId::new(&format!("device-{mailbox}")).unwrap()
}

/// Registers the mailbox's device.
pub(crate) async fn register(relay: &dyn Relay, mailbox: usize) -> Principal {
    let request = Registration { device: device(mailbox), public_key: [1; 32], signed: true };
    let deadline = Instant::now() + Duration::from_secs(30);
    let key = relay.register(request, deadline).await.unwrap();
    relay.authenticate(&key, deadline).await.unwrap()
}

fn any_relay(relays: &Relays, rng: &mut SmallRng) -> Option<Arc<dyn Relay>> {
    let relays = relays.borrow();
    let live: Vec<_> = relays.iter().flatten().collect();
    (!live.is_empty()).then(|| Arc::clone(live[rng.random_range(0..live.len())]))
}

/// Sends messages one after another to random mailboxes until `end`, each until it is accepted or
/// a few attempts failed.
pub(crate) async fn sender(
    name: usize,
    mailboxes: usize,
    relays: Relays,
    ledger: SharedLedger,
    mut rng: SmallRng,
    end: Instant,
) {
    let mut count = 0;
    while Instant::now() < end {
        count += 1;
        let mailbox = rng.random_range(0..mailboxes);
        let id = format!("s{name}-{count}");
        let priority = Priority::try_from(rng.random_range(1..3_u8)).unwrap();
        ledger.borrow_mut().unknown(mailbox, &id);
        for _ in 0..4 {
            let Some(relay) = any_relay(&relays, &mut rng) else {
                tokio::time::sleep(Duration::from_millis(200)).await;
                continue;
            };
            let message = Outgoing {
                sender: DeviceId::new(&format!("sender-{name}")).unwrap(),
                recipient: device(mailbox),
                message_id: MessageId::new(&id).unwrap(),
                priority,
                ttl: None,
                content: id.clone().into_bytes().into(),
            };
            match relay.send(message, Instant::now() + ATTEMPT).await {
                Ok(accepted) => {
                    ledger.borrow_mut().accepted(mailbox, &id, (priority, accepted.seq));
                    break;
                }
                Err(error) => assert!(error.is_retryable(), "{id}: {error}"),
            }
        }
        tokio::time::sleep(Duration::from_millis(rng.random_range(1..120))).await;
    }
}

struct Channel(mpsc::Sender<Push>);

impl PushSink for Channel {
    fn push(&self, push: Push) -> Result<(), Push> {
        self.0.try_send(push).map_err(|error| error.into_inner())
    }
}

/// Listens to one mailbox over connections to changing nodes, acknowledging explicitly, until
/// `end`.
pub(crate) async fn listener(
    mailbox: usize,
    principal: Principal,
    relays: Relays,
    ledger: SharedLedger,
    mut rng: SmallRng,
    end: Instant,
) {
    while Instant::now() < end {
        let Some(relay) = any_relay(&relays, &mut rng) else {
            tokio::time::sleep(Duration::from_millis(200)).await;
            continue;
        };
        let (sink, mut pushes) = mpsc::channel(64);
        let window = Window { messages: 32, bytes: 1024 * 1024 };
        tracing::debug!(mailbox, "a client connects");
        let session = relay.connect(&principal, &[], window, Arc::new(Channel(sink)));
        let until = Instant::now() + Duration::from_millis(rng.random_range(500..6000));
        let mut highest = std::collections::BTreeMap::new();
        while let Ok(Some(push)) = tokio::time::timeout_at(until.min(end), pushes.recv()).await {
            tracing::debug!(mailbox, ?push, "a client hears");
            match push {
                Push::Messages(messages) => {
                    for message in messages {
                        let number = (message.priority, message.seq);
                        let last = highest.entry(message.priority).or_insert(0);
                        assert!(*last < message.seq, "{number:?} twice or late on one connection");
                        *last = message.seq;
                        ledger.borrow_mut().delivered(mailbox, message.message_id.as_str(), number);
                        session.written(&[number]);
                        session.acknowledge(&[AckItem::Seq(number.0, number.1)]);
                    }
                }
                Push::Close(_) => {
                    // As any client should before it comes again.
                    tokio::time::sleep(Duration::from_millis(rng.random_range(50..200))).await;
                    break;
                }
                _ => {}
            }
        }
    }
}

/// Polls one mailbox at changing nodes and acknowledges by id, until `end`.
pub(crate) async fn poller(
    mailbox: usize,
    relays: Relays,
    ledger: SharedLedger,
    mut rng: SmallRng,
    end: Instant,
) {
    let device = device(mailbox);
    while Instant::now() < end {
        let Some(relay) = any_relay(&relays, &mut rng) else {
            tokio::time::sleep(Duration::from_millis(200)).await;
            continue;
        };
        let wait = Duration::from_millis(rng.random_range(0..2000));
        let fetch = Fetch { limit: 16, wait, after: None };
        let Ok(messages) = relay.receive(&device, fetch, Instant::now() + ATTEMPT).await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        tracing::debug!(mailbox, ?messages, "a client receives");
        for message in &messages {
            let number = (message.priority, message.seq);
            ledger.borrow_mut().delivered(mailbox, message.message_id.as_str(), number);
        }
        let items: Vec<_> =
            messages.iter().map(|message| AckItem::Id(message.message_id.clone())).collect();
        if items.is_empty() {
            continue;
        }
        let Some(relay) = any_relay(&relays, &mut rng) else { continue };
        let answer = relay.acknowledge(&device, items, Instant::now() + ATTEMPT).await;
        tracing::debug!(mailbox, ?answer, "a client has acknowledged");
        if answer.is_ok() {
            for message in &messages {
                ledger.borrow_mut().acknowledged(mailbox, message.message_id.as_str());
            }
        }
    }
}
