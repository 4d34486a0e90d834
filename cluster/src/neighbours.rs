//! What peers said of themselves in their last beats: where clients reach them, and whether they
//! stay.

use std::{collections::BTreeMap, time::Duration};

use heliograph_transport::NodeId;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

/// What a peer said longer ago than this is not sent to clients: it may be gone. Five beats:
/// longer than silence stays unsuspicious.
const FRESH: Duration = Duration::from_millis(2500);
/// Bytes of a client URL in a beat; longer ones are not taken.
const URL_BYTES_MAX: usize = 512;

/// Whether a node takes clients and leaderships.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Stance {
    /// Not yet: it starts, or something is missing.
    #[default]
    Unready,
    /// It serves.
    Ready,
    /// It goes away: it shall lead nothing, and clients shall go elsewhere.
    Draining,
    /// It is short of disk space: it shall lead nothing, and serves clients. Told only once
    /// `Feature::BeatsTellSpace` is on: the release before does not read it.
    Short,
}

/// What a node says of itself in each beat.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct About {
    /// A random number of its process.
    pub(crate) boot: u64,
    /// How long the process runs: the clock by which tickets to it expire.
    pub(crate) uptime_ms: u64,
    /// Whether it takes clients and leaderships.
    pub(crate) stance: Stance,
    /// The WebSocket address of this very node, where its operator gave one.
    pub(crate) client_url: Option<String>,
}

/// A node that a client may be sent to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Home {
    pub(crate) node: NodeId,
    pub(crate) boot: u64,
    /// Its uptime now, as far as its last beat tells: never ahead of its own clock.
    pub(crate) uptime_ms: u64,
    pub(crate) url: Option<String>,
}

#[derive(Debug, Default)]
struct State {
    peers: BTreeMap<NodeId, (About, Instant)>,
    /// Who was named to a client last: they are named in turn.
    last: Option<NodeId>,
}

/// See the module. Bounded by the registry: beats come from its nodes alone.
#[derive(Debug, Default)]
pub(crate) struct Neighbours(Mutex<State>);

impl Neighbours {
    /// Takes a beat.
    pub(crate) fn heard(&self, from: NodeId, mut about: About, now: Instant) {
        about.client_url = about.client_url.filter(|url| url.len() <= URL_BYTES_MAX);
        self.0.lock().peers.insert(from, (about, now));
    }

    /// Whether `node` said that it goes away. A node that comes back says otherwise at once.
    pub(crate) fn is_draining(&self, node: NodeId) -> bool {
        let state = self.0.lock();
        state.peers.get(&node).is_some_and(|(about, _)| about.stance == Stance::Draining)
    }

    /// Whether `node` said that it is short of disk space.
    pub(crate) fn is_short(&self, node: NodeId) -> bool {
        let state = self.0.lock();
        state.peers.get(&node).is_some_and(|(about, _)| about.stance == Stance::Short)
    }

    /// The next node to send a client to: those that serve, in turn.
    pub(crate) fn next_home(&self, now: Instant) -> Option<Home> {
        let mut state = self.0.lock();
        let serves = |(about, heard): &(About, Instant)| {
            matches!(about.stance, Stance::Ready | Stance::Short)
                && now.saturating_duration_since(*heard) < FRESH
        };
        let ready = state.peers.iter().filter(|(_, known)| serves(known));
        let nodes: Vec<NodeId> = ready.map(|(node, _)| *node).collect();
        let after = nodes.iter().find(|node| Some(**node) > state.last);
        let node = *after.or(nodes.first())?;
        state.last = Some(node);
        let (about, heard) = state.peers.get(&node)?;
        let since = now.saturating_duration_since(*heard).as_millis();
        Some(Home {
            node,
            boot: about.boot,
            uptime_ms: about.uptime_ms.saturating_add(u64::try_from(since).unwrap_or(u64::MAX)),
            url: about.client_url.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn about(stance: Stance) -> About {
        About { boot: 7, uptime_ms: 1000, stance, client_url: Some("ws://node/ws".into()) }
    }

    #[test]
    fn clients_are_sent_to_those_that_serve_in_turn() {
        let (neighbours, now) = (Neighbours::default(), Instant::now());
        for (node, stance) in [(1, Stance::Ready), (2, Stance::Draining), (3, Stance::Short)] {
            neighbours.heard(NodeId(node), about(stance), now);
        }
        neighbours.heard(NodeId(4), about(Stance::Unready), now);
        let named: Vec<u16> =
            (0..4).filter_map(|_| neighbours.next_home(now)).map(|home| home.node.0).collect();
        assert_eq!(named, [1, 3, 1, 3]);
        assert!(neighbours.is_draining(NodeId(2)));
        assert!(!neighbours.is_draining(NodeId(1)));
        assert!(neighbours.is_short(NodeId(3)) && !neighbours.is_short(NodeId(1)));
    }

    #[test]
    fn who_was_not_heard_for_long_is_not_named() {
        let (neighbours, now) = (Neighbours::default(), Instant::now());
        neighbours.heard(NodeId(1), about(Stance::Ready), now);
        let later = now + Duration::from_millis(500);
        assert_eq!(neighbours.next_home(later).map(|home| home.uptime_ms), Some(1500));
        assert_eq!(neighbours.next_home(now + FRESH), None);
    }

    #[test]
    fn an_overlong_url_is_not_taken() {
        let (neighbours, now) = (Neighbours::default(), Instant::now());
        let client_url = Some("w".repeat(URL_BYTES_MAX + 1));
        neighbours.heard(NodeId(1), About { client_url, ..about(Stance::Ready) }, now);
        assert_eq!(neighbours.next_home(now).and_then(|home| home.url), None);
    }
}
