//! A rolling restart under traffic, in simulated time: no request waits for a second.

use std::{sync::Arc, time::Duration};

use futures_util::future::join_all;
use heliograph_cluster::{Fetch, Relay, RelayError, model::Priority};
use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{
    cluster::{Cluster, NODES, deadline, eventually},
    device::{Device, by_id, ids},
    simulate,
};

/// What no request may take: the promise.
const PATIENCE: Duration = Duration::from_secs(1);
/// Pairs of sender and recipient: their mailboxes lie in all of the four shards, and a third of them
/// enters at each node.
const PAIRS: usize = 12;
/// The least that traffic flows between two restarts: leaderships return in the meantime.
const BETWEEN: Duration = Duration::from_secs(12);
/// Between two messages of a pair.
const PACE: Duration = Duration::from_millis(50);

/// Where a node is entered; held by each request under way.
type Door = Arc<Arc<dyn Relay>>;
/// The nodes' doors; `None` from when a node lets its clients go until it is ready.
type Doors = Arc<Mutex<Vec<Option<Door>>>>;

/// The longest that a request of each kind took, and how many messages made their way.
#[derive(Debug, Default)]
struct Waits {
    send: Duration,
    receive: Duration,
    acknowledge: Duration,
    messages: usize,
}

/// Asks at `home`, else at the next node that is open, until there is an answer.
async fn ask<T>(
    doors: &Doors,
    home: usize,
    longest: &mut Duration,
    request: impl AsyncFn(Door) -> Result<T, RelayError>,
) -> T {
    let began = Instant::now();
    loop {
        let door = {
            let doors = doors.lock();
            let mut open = (0..NODES).filter_map(|step| doors[(home + step) % NODES].clone());
            open.next().expect("two nodes are always there")
        };
        match request(door).await {
            Ok(answer) => {
                *longest = (*longest).max(began.elapsed());
                return answer;
            }
            Err(error) => assert!(error.is_retryable(), "{error}"),
        }
        assert!(began.elapsed() < PATIENCE * 60, "no answer at all");
    }
}

/// Sends, receives and acknowledges one message after the other; each comes once, in its turn.
async fn converse(
    doors: Doors,
    home: usize,
    (alice, bob): (Device, Device),
    end: CancellationToken,
) -> Waits {
    let mut waits = Waits::default();
    while !end.is_cancelled() {
        let id = format!("m{}", waits.messages);
        let seq = ask(&doors, home, &mut waits.send, async |relay| {
            relay.send(alice.message(&bob, &id, Priority::Normal), deadline()).await
        });
        assert_eq!(seq.await.seq, waits.messages as u64 + 1);
        let fetch = Fetch { limit: 100, wait: Duration::ZERO, after: None };
        let pending = ask(&doors, home, &mut waits.receive, async |relay| {
            relay.receive(&bob.id, fetch, deadline()).await
        });
        assert_eq!(ids(&pending.await), [id.as_str()], "this one and no other");
        ask(&doors, home, &mut waits.acknowledge, async |relay| {
            relay.acknowledge(&bob.id, vec![by_id(&id)], deadline()).await
        })
        .await;
        waits.messages += 1;
        tokio::time::sleep(PACE).await;
    }
    waits
}

/// Restarts one node after the other.
async fn roll(cluster: &mut Cluster, doors: &Doors) {
    for node in 0..NODES {
        tokio::time::sleep(BETWEEN).await;
        // Its clients are served while its leaderships leave; then they go, and it ends.
        cluster.node(node).drain(Duration::from_secs(5)).await;
        let door = doors.lock()[node].take().expect("it was open");
        // What is under way is answered before a process ends its clients' port.
        eventually("requests end", || Arc::strong_count(&door) == 1).await;
        drop(door);
        cluster.stop(node).await;
        cluster.boot(node).await;
        cluster.ready().await;
        doors.lock()[node] = Some(Arc::new(cluster.relay(node)));
    }
    tokio::time::sleep(BETWEEN).await;
}

#[test]
fn sim_a_rolling_restart_keeps_no_request_waiting_for_a_second() {
    simulate(36, |seed| async move {
        let mut cluster = Cluster::start(seed).await;
        let open = (0..NODES).map(|node| Some(Arc::new(cluster.relay(node)))).collect();
        let doors: Doors = Arc::new(Mutex::new(open));
        let end = CancellationToken::new();
        let mut pairs = Vec::new();
        for pair in 0..PAIRS {
            let alice = Device::register(&cluster, 0, &format!("alice-{pair}")).await;
            let bob = Device::register(&cluster, 0, &format!("bob-{pair}")).await;
            pairs.push(converse(doors.clone(), pair % NODES, (alice, bob), end.clone()));
        }
        let rolling = async {
            roll(&mut cluster, &doors).await;
            end.cancel();
        };
        let (all, ()) = tokio::join!(join_all(pairs), rolling);
        for waits in all {
            // Simulated time knows no busy machine.
            let longest = waits.send.max(waits.receive).max(waits.acknowledge);
            assert!(longest < PATIENCE, "{waits:?}");
            assert!(waits.messages > 300, "{waits:?}");
        }
    });
}
