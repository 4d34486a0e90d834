//! How frames travel on simulated lanes: sent, delayed, delivered in order, answered.

use std::{collections::VecDeque, hash::Hasher, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::{sync::oneshot, time::Instant};

use super::state::{
    Action, Event, InFlight, Packet, Process, Rejected, Reply, Served, State, StreamKey,
};
use crate::network::{Lane, NodeId};

impl State {
    pub(crate) fn is_connected(&self, id: NodeId, life: u64, peer: NodeId) -> bool {
        self.nodes.get(&id).is_some_and(|node| node.life == life)
            && self.sides.contains_key(&(id, peer))
    }

    /// Puts a request on its way; the receiver ends with the reply or with the connection.
    pub(crate) fn request(
        &mut self,
        (id, life): (NodeId, u64),
        to: NodeId,
        lane: Lane,
        payload: Bytes,
        remaining: Duration,
    ) -> Result<(u64, oneshot::Receiver<Reply>), Rejected> {
        let call = self.count();
        self.send((id, life), to, lane, Packet::Request { id: call, remaining, payload })?;
        let (sender, receiver) = oneshot::channel();
        let side = self.sides.get_mut(&(id, to)).expect("a frame was just sent on it");
        side.calls.insert(call, sender);
        Ok((call, receiver))
    }

    pub(crate) fn forget(&mut self, id: NodeId, to: NodeId, call: u64) {
        if let Some(side) = self.sides.get_mut(&(id, to)) {
            side.calls.remove(&call);
        }
    }

    pub(crate) fn send(
        &mut self,
        (id, life): (NodeId, u64),
        to: NodeId,
        lane: Lane,
        packet: Packet,
    ) -> Result<(), Rejected> {
        if !self.is_connected(id, life, to) {
            return Err(Rejected::NotConnected);
        }
        let key = (id, to, lane.number());
        let depth = self.streams.get(&key).map_or(0, VecDeque::len);
        if depth >= self.config.lane_frames_max {
            return Err(Rejected::Full);
        }
        self.put(key, packet);
        Ok(())
    }

    /// Ends a served call. Replies are bounded by the calls a peer may have under way.
    pub(crate) fn reply(&mut self, call: Served, reply: Reply) {
        if self.abandon(call) {
            let packet = Packet::Reply { id: call.id, reply };
            self.put((call.local, call.from, call.stream), packet);
        }
    }

    fn put(&mut self, key: StreamKey, packet: Packet) {
        let ready = Instant::now() + self.delay();
        let side = &self.sides[&(key.0, key.1)];
        let (connection, ready) = (side.connection, ready.max(side.not_before));
        let stream = self.streams.entry(key).or_default();
        let ready = stream.back().map_or(ready, |last| last.ready.max(ready));
        stream.push_back(InFlight { ready, connection, packet });
        self.schedule(ready, Event::Stream(key));
    }

    pub(super) fn arrive(&mut self, key: StreamKey, now: Instant) {
        let (from, to, number) = key;
        if self.is_cut(from, to) {
            return;
        }
        let Some(stream) = self.streams.get_mut(&key) else { return };
        if stream.front().is_none_or(|frame| frame.ready > now) {
            return;
        }
        let frame = stream.pop_front().expect("checked above");
        self.deliver(from, to, number, frame, now);
        // Frames that were ready behind a late one have lost their own event's turn.
        if self.streams[&key].front().is_some_and(|frame| frame.ready <= now) {
            self.schedule(now, Event::Stream(key));
        }
    }

    fn deliver(&mut self, from: NodeId, to: NodeId, number: u8, frame: InFlight, now: Instant) {
        let Some(node) = self.nodes.get(&to) else { return };
        let Some(handler) = &node.handler else { return };
        let process = Process { handler: Arc::clone(handler), alive: node.alive.clone() };
        let lane = Lane::from_number(number);
        let Some(side) = self.sides.get_mut(&(to, from)) else { return };
        if side.connection != frame.connection {
            return;
        }
        if let Packet::Notice(bytes)
        | Packet::Request { payload: bytes, .. }
        | Packet::Reply { reply: Reply::Answer(bytes), .. } = &frame.packet
        {
            self.trace.write(bytes);
        }
        match frame.packet {
            Packet::Notice(payload) => {
                self.actions.push_back(Action::Notify { to: process, from, lane, payload });
            }
            Packet::Reply { id, reply } => {
                if let Some(caller) = side.calls.remove(&id) {
                    // The caller may have given up in this instant.
                    let _ = caller.send(reply);
                }
            }
            Packet::Request { id, remaining, payload } => {
                let connection = side.connection;
                side.served += 1;
                let busy = side.served > self.config.calls_per_peer_max;
                let call = Served { local: to, from, connection, id, stream: number };
                if busy {
                    self.reply(call, Reply::Busy);
                    return;
                }
                let deadline = now + remaining;
                let action = Action::Call { to: process, call, lane, request: payload, deadline };
                self.actions.push_back(action);
            }
        }
    }

    /// Ends a served call without a reply: its deadline passed. False if its connection is gone.
    pub(crate) fn abandon(&mut self, call: Served) -> bool {
        match self.sides.get_mut(&(call.local, call.from)) {
            Some(side) if side.connection == call.connection => {
                side.served -= 1;
                true
            }
            _ => false,
        }
    }
}
