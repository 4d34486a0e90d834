//! What the relay does while nothing breaks.

use std::{sync::Arc, time::Duration};

use heliograph_cluster::{
    AckItem, ApiKey, CloseReason, Condition, LiveFrame, LiveOutcome, Push, PushSink, Registration,
    RelayError, RevokeScope, Window, model::Priority,
};
use tokio::time::Instant;

use crate::{
    cluster::{Cluster, NODES, deadline, eventually},
    device::{Device, Queue, WINDOW, by_id, ids},
    simulate,
};

#[test]
fn sim_two_devices_talk_in_every_mix_of_nodes_and_roads() {
    simulate(1, |seed| async move {
        let cluster = Cluster::start(seed).await;
        let alice = Device::register(&cluster, 0, "alice").await;
        for at in 0..NODES {
            for to in 0..NODES {
                let bob = Device::register(&cluster, at, &format!("bob-{at}-{to}")).await;
                // What waits is read over REST and stays until it is acknowledged.
                alice.send(&cluster, at, &bob, "waits").await.unwrap();
                for _ in 0..2 {
                    let read = bob.receive(&cluster, to, Duration::ZERO).await;
                    assert_eq!(ids(&read), ["waits"]);
                }
                assert_eq!(bob.acknowledge(&cluster, at, &["waits"]).await, 1);
                assert!(bob.receive(&cluster, to, Duration::ZERO).await.is_empty());
                // What comes while connected is pushed.
                let mut connection = bob.connect(&cluster, to, WINDOW).await;
                alice.send(&cluster, at, &bob, "comes").await.unwrap();
                connection.read_to(1).await;
                assert_eq!(connection.ids(), ["comes"]);
                assert_eq!(connection.session.acknowledge(&[by_id("comes")]), 1);
                assert_eq!(connection.session.acknowledge(&[by_id("comes")]), 0);
                drop(connection);
                wait_empty(&cluster, to, &bob).await;
            }
        }
    });
}

/// An entry costs nearly the same whatever it carries: acknowledgements wait for the next message.
#[test]
fn sim_acknowledgements_ride_with_the_messages_that_come_soon() {
    const MESSAGES: u64 = 50;
    simulate(1, |seed| async move {
        let cluster = Cluster::start(seed).await;
        let alice = Device::register(&cluster, 0, "alice").await;
        let bob = Device::register(&cluster, 0, "bob").await;
        let leader = cluster.leader_of(&bob.id).await;
        let mut connection = bob.connect(&cluster, leader, WINDOW).await;
        let before = cluster.applied(leader, &bob.id);
        let mut next = Instant::now();
        for number in 1..=MESSAGES {
            tokio::time::sleep_until(next).await;
            // Longer apart than an acknowledgement is on its way, and less than it waits in all.
            next += Duration::from_millis(14);
            let id = number.to_string();
            alice.send(&cluster, leader, &bob, &id).await.unwrap();
            connection.read_to(number as usize).await;
            assert_eq!(connection.session.acknowledge(&[by_id(&id)]), 1);
        }
        wait_empty(&cluster, leader, &bob).await;
        let entries = cluster.applied(leader, &bob.id) - before;
        // The last acknowledgement comes alone.
        assert!(entries <= MESSAGES + 5, "{entries} entries for {MESSAGES} messages");
    });
}

/// Waits until nothing is pending for the device.
async fn wait_empty(cluster: &Cluster, at: usize, device: &Device) {
    let end = deadline();
    while !device.receive(cluster, at, Duration::ZERO).await.is_empty() {
        assert!(Instant::now() < end, "acknowledged messages are forgotten");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[test]
fn sim_a_device_that_moves_finds_its_backlog_in_order() {
    simulate(2, |seed| async move {
        let cluster = Cluster::start(seed).await;
        let alice = Device::register(&cluster, 0, "alice").await;
        let bob = Device::register(&cluster, 1, "bob").await;
        for number in 0..20 {
            alice.send(&cluster, number % NODES, &bob, &format!("m{number}")).await.unwrap();
        }
        let urgent = alice.message(&bob, "urgent", Priority::Urgent);
        cluster.relay(2).send(urgent, deadline()).await.unwrap();
        let mut acknowledged = 0;
        for at in 0..NODES {
            let mut connection = bob.connect(&cluster, at, WINDOW).await;
            connection.read_to(21 - acknowledged).await;
            let expected: Vec<_> = std::iter::once("urgent".to_owned())
                .chain((0..20).map(|number| format!("m{number}")))
                .skip(acknowledged)
                .collect();
            assert_eq!(connection.ids(), expected);
            let first = by_id(&expected[0]);
            assert_eq!(connection.session.acknowledge(&[first]), 1);
            acknowledged += 1;
            // What it said last counts although it is gone.
            drop(connection);
            eventually_pending(&cluster, at, &bob, 21 - acknowledged).await;
        }
    });
}

async fn eventually_pending(cluster: &Cluster, at: usize, device: &Device, count: usize) {
    let end = deadline();
    while device.receive(cluster, at, Duration::ZERO).await.len() != count {
        assert!(Instant::now() < end, "{count} messages are pending");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[test]
fn sim_a_window_bounds_what_is_pushed_and_a_full_queue_closes() {
    simulate(3, |seed| async move {
        let cluster = Cluster::start(seed).await;
        let alice = Device::register(&cluster, 0, "alice").await;
        let bob = Device::register(&cluster, 0, "bob").await;
        for number in 0..10 {
            alice.send(&cluster, 0, &bob, &format!("m{number}")).await.unwrap();
        }
        let window = Window { messages: 3, bytes: 1_000 };
        let principal = bob.authenticate(&cluster, 1).await.unwrap();
        let queue = Arc::new(Queue::new(usize::MAX));
        let sink: Arc<dyn PushSink> = queue.clone();
        let session = cluster.relay(1).connect(&principal, &[], window, sink);
        tokio::time::sleep(Duration::from_secs(3)).await;
        let pushed: usize = queue.take().iter().map(messages_in).sum();
        assert_eq!(pushed, 3, "no more than the window");
        session.written(&[(Priority::Normal, 1), (Priority::Normal, 2)]);
        tokio::time::sleep(Duration::from_secs(3)).await;
        let pushed: usize = queue.take().iter().map(messages_in).sum();
        assert_eq!(pushed, 2, "as many as were written");
        drop(session);
        // A connection whose queue has no room is told to close once it has, and loses nothing.
        let queue = Arc::new(Queue::new(1));
        queue.push(Push::Live(bytes::Bytes::new())).unwrap();
        let sink: Arc<dyn PushSink> = queue.clone();
        let session = cluster.relay(2).connect(&principal, &[], window, sink);
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert!(matches!(queue.take()[..], [Push::Live(_)]));
        let mut told = None;
        eventually("it is told to close", || {
            told = queue.take().pop();
            told.is_some()
        })
        .await;
        assert!(matches!(told, Some(Push::Close(CloseReason::SlowReader))));
        drop(session);
        assert_eq!(bob.receive(&cluster, 0, Duration::ZERO).await.len(), 10);
    });
}

fn messages_in(push: &Push) -> usize {
    match push {
        Push::Messages(messages) => messages.len(),
        other => panic!("{other:?} is not messages"),
    }
}

#[test]
fn sim_only_what_was_offered_to_the_device_is_acknowledged() {
    simulate(4, |seed| async move {
        let cluster = Cluster::start(seed).await;
        let alice = Device::register(&cluster, 0, "alice").await;
        let bob = Device::register(&cluster, 0, "bob").await;
        let mut connection = bob.connect(&cluster, 1, WINDOW).await;
        alice.send(&cluster, 0, &bob, "first").await.unwrap();
        connection.read_to(1).await;
        let strange = [AckItem::Seq(Priority::Normal, 2), by_id("second")];
        assert_eq!(connection.session.acknowledge(&strange), 0);
        drop(connection);
        // What comes now is offered to nobody.
        tokio::time::sleep(Duration::from_secs(1)).await;
        alice.send(&cluster, 0, &bob, "second").await.unwrap();
        assert_eq!(bob.acknowledge(&cluster, 2, &["second", "never sent"]).await, 0);
        let read = bob.receive(&cluster, 2, Duration::ZERO).await;
        assert_eq!(ids(&read), ["first", "second"]);
        assert_eq!(bob.acknowledge(&cluster, 1, &["second"]).await, 1);
        assert_eq!(bob.acknowledge(&cluster, 1, &["second"]).await, 0);
        // Long after, when nobody remembers what was offered, but it was accepted long before.
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(bob.acknowledge(&cluster, 1, &["first"]).await, 1);
    });
}

#[test]
fn sim_a_newer_connection_takes_over_and_gives_back() {
    simulate(5, |seed| async move {
        let cluster = Cluster::start(seed).await;
        let alice = Device::register(&cluster, 0, "alice").await;
        let bob = Device::register(&cluster, 0, "bob").await;
        let mut older = bob.connect(&cluster, 1, WINDOW).await;
        alice.send(&cluster, 0, &bob, "a").await.unwrap();
        older.read_to(1).await;
        tokio::time::sleep(Duration::from_millis(10)).await;
        let mut newer = bob.connect(&cluster, 2, WINDOW).await;
        newer.read_to(1).await;
        alice.send(&cluster, 0, &bob, "b").await.unwrap();
        newer.read_to(2).await;
        newer.session.acknowledge(&[by_id("a"), by_id("b")]);
        drop(newer);
        wait_empty(&cluster, 0, &bob).await;
        alice.send(&cluster, 0, &bob, "c").await.unwrap();
        older.read_to(2).await;
        assert_eq!(older.ids(), ["a", "c"]);
    });
}

#[test]
fn sim_a_long_poll_answers_when_something_comes_or_in_the_end() {
    simulate(6, |seed| async move {
        let cluster = Cluster::start(seed).await;
        let alice = Device::register(&cluster, 0, "alice").await;
        let bob = Device::register(&cluster, 0, "bob").await;
        for at in 0..NODES {
            let began = Instant::now();
            assert!(bob.receive(&cluster, at, Duration::from_secs(25)).await.is_empty());
            let waited = began.elapsed();
            assert!(waited >= Duration::from_secs(25) && waited < Duration::from_secs(26));
            let send = async {
                tokio::time::sleep(Duration::from_secs(15)).await;
                alice.send(&cluster, 0, &bob, &format!("m{at}")).await.unwrap();
                Instant::now()
            };
            let poll = bob.receive(&cluster, at, Duration::from_secs(60));
            let (sent, read) = tokio::join!(send, poll);
            assert_eq!(ids(&read), [format!("m{at}")]);
            assert!(sent.elapsed() < Duration::from_millis(100));
            bob.acknowledge(&cluster, at, &[&format!("m{at}")]).await;
        }
    });
}

#[test]
fn sim_a_long_poll_of_a_fraction_of_a_millisecond_ends() {
    simulate(12, |seed| async move {
        let cluster = Cluster::start(seed).await;
        let bob = Device::register(&cluster, 0, "bob").await;
        // At the leader itself nothing takes any time but the wait.
        let leader = cluster.leader_of(&bob.id).await;
        for micros in [1, 999, 1_001, 10_000_500] {
            let began = Instant::now();
            let wait = Duration::from_micros(micros);
            assert!(bob.receive(&cluster, leader, wait).await.is_empty());
            assert!(began.elapsed() < wait + Duration::from_millis(5), "{:?}", began.elapsed());
        }
    });
}

#[test]
fn sim_keys_are_honoured_by_all_nodes_until_revoked_and_by_none_after() {
    simulate(7, |seed| async move {
        let cluster = Cluster::start(seed).await;
        let bob = Device::register(&cluster, 0, "bob").await;
        let second = Device::register(&cluster, 1, "bob").await;
        let mut connections = Vec::new();
        for at in 0..NODES {
            connections.push(bob.connect(&cluster, at, WINDOW).await);
            assert!(second.authenticate(&cluster, at).await.is_ok());
        }
        let mut kept = second.connect(&cluster, 0, WINDOW).await;
        let principal = bob.authenticate(&cluster, 0).await.unwrap();
        cluster.relay(1).revoke(&principal, RevokeScope::ThisKey, deadline()).await.unwrap();
        for (at, connection) in connections.iter_mut().enumerate() {
            // At once, without waiting for anything.
            assert_eq!(bob.authenticate(&cluster, at).await, Err(RelayError::Unauthenticated));
            assert!(second.authenticate(&cluster, at).await.is_ok());
            assert_eq!(connection.closed().await, CloseReason::KeyRevoked);
        }
        assert!(kept.read().is_empty(), "the other key's connection lives");
        let mut late = {
            let queue = Arc::new(Queue::new(usize::MAX));
            let sink: Arc<dyn PushSink> = queue.clone();
            let session = cluster.relay(2).connect(&principal, &[], WINDOW, sink);
            crate::device::Connection { queue, session, got: Vec::new() }
        };
        assert_eq!(late.closed().await, CloseReason::KeyRevoked);
        let principal = second.authenticate(&cluster, 2).await.unwrap();
        cluster.relay(0).revoke(&principal, RevokeScope::EveryKey, deadline()).await.unwrap();
        assert_eq!(kept.closed().await, CloseReason::KeyRevoked);
        for at in 0..NODES {
            assert_eq!(second.authenticate(&cluster, at).await, Err(RelayError::Unauthenticated));
        }
    });
}

#[test]
fn sim_wrong_keys_and_taken_devices_are_refused() {
    simulate(8, |seed| async move {
        let cluster = Cluster::start(seed).await;
        let bob = Device::register(&cluster, 0, "bob").await;
        let text = bob.key.expose();
        let last = if text.ends_with('A') { "B" } else { "A" };
        let forged = format!("{}{last}", &text[..text.len() - 1]);
        for wrong in [forged.as_str(), "", "hg1_", &format!("hg1_{}", "A".repeat(56))] {
            for at in 0..NODES {
                let key = ApiKey::from_text(wrong);
                let answer = cluster.relay(at).authenticate(&key, deadline()).await;
                assert_eq!(answer, Err(RelayError::Unauthenticated));
            }
        }
        let thief = Registration { device: bob.id.clone(), public_key: [1; 32], signed: true };
        let answer = cluster.relay(2).register(thief, deadline()).await;
        assert_eq!(answer, Err(RelayError::DeviceTaken));
        assert!(bob.authenticate(&cluster, 1).await.is_ok());
    });
}

#[test]
fn sim_a_message_id_is_taken_once() {
    simulate(9, |seed| async move {
        let cluster = Cluster::start(seed).await;
        let alice = Device::register(&cluster, 0, "alice").await;
        let bob = Device::register(&cluster, 0, "bob").await;
        let message = alice.message(&bob, "m", Priority::Low);
        let first = cluster.relay(0).send(message, deadline()).await.unwrap();
        assert!(!first.duplicate);
        for at in 0..NODES {
            let again = alice.message(&bob, "m", Priority::Low);
            let again = cluster.relay(at).send(again, deadline()).await.unwrap();
            assert_eq!((again.seq, again.duplicate), (first.seq, true));
            let mut other = alice.message(&bob, "m", Priority::Low);
            other.content = b"something else".to_vec().into();
            let answer = cluster.relay(at).send(other, deadline()).await;
            assert_eq!(answer, Err(RelayError::MessageConflict));
        }
        let mut large = alice.message(&bob, "large", Priority::Low);
        large.content = vec![0; heliograph_cluster::model::CONTENT_BYTES_MAX + 1].into();
        assert_eq!(cluster.relay(0).send(large, deadline()).await, Err(RelayError::TooLarge));
    });
}

#[test]
fn sim_live_frames_reach_connections_wherever_they_are_and_are_never_stored() {
    simulate(10, |seed| async move {
        let cluster = Cluster::start(seed).await;
        let alice = Device::register(&cluster, 0, "alice").await;
        let bob = Device::register(&cluster, 0, "bob").await;
        let frame = |number: u8| LiveFrame {
            sender: alice.id.clone(),
            recipient: bob.id.clone(),
            payload: vec![number].into(),
        };
        for at in 0..NODES {
            let answer = cluster.relay(at).live(frame(0), deadline()).await;
            assert_eq!(answer, Ok(LiveOutcome::Unavailable));
        }
        for to in 0..NODES {
            let connection = bob.connect(&cluster, to, WINDOW).await;
            // Absence is believed for a moment, and so is a former place.
            tokio::time::sleep(Duration::from_millis(1500)).await;
            for at in 0..NODES {
                for number in 1..=3 {
                    let answer = cluster.relay(at).live(frame(number), deadline()).await;
                    assert_eq!(answer, Ok(LiveOutcome::Forwarded), "from {at} to {to}");
                }
                let mut got = Vec::new();
                eventually("frames arrive", || {
                    got.extend(connection.queue.take().into_iter().map(|push| match push {
                        Push::Live(payload) => payload[0],
                        other => panic!("{other:?} is not a live frame"),
                    }));
                    got.len() >= 3
                })
                .await;
                assert_eq!(got, [1, 2, 3], "from {at} to {to}");
            }
            drop(connection);
            tokio::time::sleep(Duration::from_millis(1500)).await;
            for at in 0..NODES {
                let answer = cluster.relay(at).live(frame(9), deadline()).await;
                assert_eq!(answer, Ok(LiveOutcome::Unavailable));
            }
        }
        assert!(bob.receive(&cluster, 0, Duration::ZERO).await.is_empty());
    });
}

#[test]
fn sim_idle_connections_stay_and_status_is_online() {
    simulate(11, |seed| async move {
        let cluster = Cluster::start(seed).await;
        let alice = Device::register(&cluster, 0, "alice").await;
        let bob = Device::register(&cluster, 0, "bob").await;
        let mut connection = bob.connect(&cluster, 1, WINDOW).await;
        tokio::time::sleep(Duration::from_secs(120)).await;
        assert!(connection.read().is_empty());
        let began = Instant::now();
        alice.send(&cluster, 2, &bob, "after a while").await.unwrap();
        connection.read_to(1).await;
        assert!(began.elapsed() < Duration::from_millis(100), "{:?}", began.elapsed());
        for at in 0..NODES {
            let status = cluster.relay(at).status();
            assert_eq!((status.condition, status.not_ready), (Condition::Online, None));
        }
    });
}
