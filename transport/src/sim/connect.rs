//! How simulated connections come and go: dialling, replacing, closing, timing out.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::Instant;

use super::state::{Ending, Event, Side, State};
use crate::network::{NodeId, PeerEvent};

impl State {
    pub(super) fn dial_missing(&mut self, id: NodeId) {
        let peers: Vec<_> = match self.nodes.get(&id) {
            Some(node) => node.peers.iter().copied().filter(|&peer| id < peer).collect(),
            None => return,
        };
        for peer in peers {
            self.dial_soon(id, peer, Duration::ZERO);
        }
    }

    /// Starts a dial, unless one is under way or there is no need.
    pub(super) fn dial_soon(&mut self, low: NodeId, high: NodeId, pause: Duration) {
        let Some(node) = self.nodes.get(&low) else { return };
        let wanted = node.handler.is_some() && node.peers.contains(&high);
        let life = node.life;
        let under_way = self.dialing.get(&(low, high)) == Some(&life);
        if wanted && !under_way && !self.sides.contains_key(&(low, high)) {
            self.dialing.insert((low, high), life);
            self.schedule(Instant::now() + pause, Event::Dial { low, high, life });
        }
    }

    pub(super) fn accepts(&self, id: NodeId, peer: NodeId) -> Option<u64> {
        let node = self.nodes.get(&id)?;
        (node.handler.is_some() && node.peers.contains(&peer)).then_some(node.life)
    }

    pub(super) fn dial(&mut self, low: NodeId, high: NodeId, life: u64) {
        if self.dialing.get(&(low, high)) != Some(&life) {
            return;
        }
        if self.accepts(low, high) != Some(life) || self.sides.contains_key(&(low, high)) {
            self.dialing.remove(&(low, high));
            return;
        }
        match self.accepts(high, low) {
            Some(other)
                if !self.is_cut(low, high)
                    && !self.is_cut(high, low)
                    && self.agree(low, high).is_some() =>
            {
                let connection = self.count();
                // Two round trips: the TLS handshake, then ours.
                let pause = self.delay() + self.delay() + self.delay() + self.delay();
                let lives = (life, other);
                let event = Event::Welcomed { low, high, lives, connection };
                self.schedule(Instant::now() + pause, event);
            }
            _ => self.dial_again(low, high, life),
        }
    }

    fn dial_again(&mut self, low: NodeId, high: NodeId, life: u64) {
        let backoff = self.backoffs.entry((low, high)).or_default();
        let pause = backoff.next(&mut self.rng);
        self.schedule(Instant::now() + pause, Event::Dial { low, high, life });
    }

    pub(super) fn welcomed(
        &mut self,
        low: NodeId,
        high: NodeId,
        lives: (u64, u64),
        connection: u64,
    ) {
        let ends = (self.accepts(low, high), self.accepts(high, low));
        if ends.0 != Some(lives.0) {
            if self.dialing.get(&(low, high)) == Some(&lives.0) {
                self.dialing.remove(&(low, high));
            }
            return;
        }
        if ends.1 != Some(lives.1) || self.is_cut(high, low) || self.is_cut(low, high) {
            self.dial_again(low, high, lives.0);
            return;
        }
        self.dialing.remove(&(low, high));
        self.streams
            .retain(|(from, to, _), _| (*from, *to) != (low, high) && (*from, *to) != (high, low));
        // The acceptor is ready when the dialler's first lane frame has come: no later one is there
        // before.
        let ready = Instant::now() + self.delay();
        self.open(low, high, connection, ready);
        self.schedule(ready, Event::Accepted { low, high, connection });
    }

    pub(super) fn accepted(&mut self, low: NodeId, high: NodeId, connection: u64) {
        if self.accepts(high, low).is_some() && !self.is_cut(low, high) {
            // A newer connection replaces the older one.
            if self.sides.remove(&(high, low)).is_some() {
                self.tell(high, PeerEvent::Disconnected(low));
            }
            self.open(high, low, connection, Instant::now());
        } else {
            let at = Instant::now() + self.config.idle_timeout;
            self.schedule(at, Event::Silent { local: low, peer: high, connection });
        }
    }

    fn open(&mut self, local: NodeId, peer: NodeId, connection: u64, not_before: Instant) {
        let since = Instant::now();
        // The other process may have died in this instant: then there is nothing to open.
        let Some(info) = self.agree(local, peer) else { return };
        let side = Side { connection, since, info, not_before, calls: BTreeMap::new(), served: 0 };
        self.sides.insert((local, peer), side);
        self.tell(local, PeerEvent::Connected(peer));
    }

    /// `local` closes its side and its peer learns of it, unless the way is cut. Calls under way
    /// end as their senders are dropped.
    pub(super) fn close(&mut self, local: NodeId, peer: NodeId, ending: Ending) -> bool {
        let Some(side) = self.sides.remove(&(local, peer)) else { return false };
        let connection = side.connection;
        let at = if self.is_cut(local, peer) {
            let event = Event::Silent { local: peer, peer: local, connection };
            self.schedule(Instant::now() + self.config.idle_timeout, event);
            return true;
        } else {
            Instant::now() + self.delay()
        };
        self.schedule(at, Event::Closed { local: peer, peer: local, connection, ending });
        true
    }

    pub(super) fn closed(&mut self, local: NodeId, peer: NodeId, connection: u64, ending: Ending) {
        if self.sides.get(&(local, peer)).is_none_or(|side| side.connection != connection) {
            return;
        }
        if self.is_cut(peer, local) {
            let at = Instant::now() + self.config.idle_timeout;
            self.schedule(at, Event::Silent { local, peer, connection });
            return;
        }
        if ending == Ending::Process {
            self.tell(local, PeerEvent::TripwireBroken(peer));
        }
        self.lose(local, peer);
    }

    pub(super) fn time_out(&mut self, local: NodeId, peer: NodeId) {
        let Some(connection) = self.lose(local, peer) else { return };
        // QUIC gives an idle connection up without a word: the other side finds out the same way.
        let at = Instant::now() + self.config.idle_timeout;
        self.schedule(at, Event::Silent { local: peer, peer: local, connection });
    }

    fn lose(&mut self, local: NodeId, peer: NodeId) -> Option<u64> {
        let side = self.sides.remove(&(local, peer))?;
        self.tell(local, PeerEvent::Disconnected(peer));
        if local < peer {
            let backoff = self.backoffs.entry((local, peer)).or_default();
            backoff.lost_after(side.since.elapsed());
            let pause = backoff.next(&mut self.rng);
            self.dial_soon(local, peer, pause);
        }
        Some(side.connection)
    }
}
