//! What is between nodes: a proxy in front of each, for UDP (QUIC) and TCP (tripwires).
//!
//! Who talks to node j talks to 127.20.9.j, and the proxy there to 127.20.0.j: from another socket for
//! each who talks, so that answers find their way. What becomes of a datagram is decided by
//! [`Impairment`] and a seed; a tripwire is only delayed, and ends when either end does.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result};
use rand::{SeedableRng as _, rngs::SmallRng};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpSocket, TcpStream, UdpSocket},
    sync::Semaphore,
    time::{Instant, sleep_until},
};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{Fate, Impairment};
use crate::cluster::{address_of, proxy_of};

/// The largest datagram.
const DATAGRAM_BYTES_MAX: usize = 65_535;
/// How many datagrams may be on their way at a time; more are lost, as in a full queue.
const IN_FLIGHT_MAX: usize = 4096;
/// How long a datagram may wait for its turn where the rate is bounded; what would wait longer is
/// lost.
const BACKLOG_MAX: Duration = Duration::from_millis(500);

/// What happened on all links.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkCounts {
    /// Datagrams that came.
    pub came: u64,
    /// Datagrams that were lost, delayed, doubled or changed.
    pub impaired: u64,
}

/// The links of a cluster.
#[derive(Debug)]
pub struct Links {
    state: Arc<State>,
    _stop: DropGuard,
}

#[derive(Debug)]
struct State {
    links: Mutex<(Impairment, SmallRng)>,
    came: AtomicU64,
    impaired: AtomicU64,
    in_flight: Arc<Semaphore>,
    stop: CancellationToken,
}

impl Links {
    /// Sound links to nodes whose peers know them by these addresses.
    ///
    /// # Errors
    /// When an address is taken.
    pub async fn start(peers: Vec<(u16, SocketAddr)>) -> Result<Self> {
        let stop = CancellationToken::new();
        let state = Arc::new(State {
            links: Mutex::new((Impairment::default(), SmallRng::seed_from_u64(0))),
            came: AtomicU64::new(0),
            impaired: AtomicU64::new(0),
            in_flight: Arc::new(Semaphore::new(IN_FLIGHT_MAX)),
            stop: stop.clone(),
        });
        for (id, address) in peers {
            let node = SocketAddr::new(address_of(id), address.port());
            let udp = UdpSocket::bind(address).await.context("a proxy's UDP port")?;
            let tcp = TcpListener::bind(address).await.context("a proxy's TCP port")?;
            let way = Way { state: state.clone(), from: Arc::new(udp), node, id };
            tokio::spawn(stop.clone().run_until_cancelled_owned(way.datagrams()));
            tokio::spawn(stop.clone().run_until_cancelled_owned(wires(
                state.clone(),
                tcp,
                id,
                node,
            )));
        }
        Ok(Self { state, _stop: stop.drop_guard() })
    }

    /// From now on all links are so.
    pub fn set(&self, impairment: Impairment, seed: u64) {
        let mut links = self.state.links.lock().unwrap_or_else(PoisonError::into_inner);
        *links = (impairment, SmallRng::seed_from_u64(seed));
    }

    /// What has happened so far.
    pub fn counts(&self) -> LinkCounts {
        LinkCounts {
            came: self.state.came.load(Ordering::Relaxed),
            impaired: self.state.impaired.load(Ordering::Relaxed),
        }
    }
}

impl State {
    /// What becomes of a datagram, and whether that is anything.
    fn decide(&self, bytes: usize, turn: &mut Instant) -> Fate {
        self.came.fetch_add(1, Ordering::Relaxed);
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        let (impairment, rng) = &mut *links;
        let mut fate = impairment.decide(bytes, rng);
        if impairment.rate_bytes > 0 {
            let now = Instant::now();
            let waits = turn.saturating_duration_since(now);
            if waits > BACKLOG_MAX {
                fate.copies.clear();
            } else {
                let takes = Duration::from_secs_f64(bytes as f64 / impairment.rate_bytes as f64);
                *turn = now.max(*turn) + takes;
                fate.copies.iter_mut().for_each(|delay| *delay += waits);
            }
        }
        let is_sound = fate.copies == [Duration::ZERO] && fate.flipped_bit.is_none();
        self.impaired.fetch_add(u64::from(!is_sound), Ordering::Relaxed);
        fate
    }

    /// Sends a datagram, now or later.
    async fn pass(&self, mut bytes: Vec<u8>, fate: Fate, socket: &Arc<UdpSocket>, to: SocketAddr) {
        if let Some(bit) = fate.flipped_bit {
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        for delay in fate.copies {
            if delay.is_zero() {
                // An error is that of an earlier datagram, to a node that is gone.
                let _ = socket.send_to(&bytes, to).await;
                continue;
            }
            let Ok(permit) = self.in_flight.clone().try_acquire_owned() else { continue };
            let (bytes, socket) = (bytes.clone(), socket.clone());
            let at = Instant::now() + delay;
            let later = async move {
                sleep_until(at).await;
                let _ = socket.send_to(&bytes, to).await;
                drop(permit);
            };
            tokio::spawn(self.stop.clone().run_until_cancelled_owned(later));
        }
    }
}

/// The way to one node.
struct Way {
    state: Arc<State>,
    from: Arc<UdpSocket>,
    node: SocketAddr,
    id: u16,
}

impl Way {
    async fn datagrams(self) {
        let mut sessions: HashMap<SocketAddr, Arc<UdpSocket>> = HashMap::new();
        let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
        let mut turn = Instant::now();
        loop {
            // An error is that of an earlier answer, to a node that is gone.
            let Ok((length, peer)) = self.from.recv_from(&mut buffer).await else { continue };
            let session = match sessions.get(&peer) {
                Some(session) => session.clone(),
                None => {
                    let Ok(session) = self.session(peer).await else { continue };
                    sessions.insert(peer, session.clone());
                    session
                }
            };
            let fate = self.state.decide(length, &mut turn);
            self.state.pass(buffer[..length].to_vec(), fate, &session, self.node).await;
        }
    }

    /// A socket for who talks from `peer`, and the way back. There are as many as nodes have sockets:
    /// one each, and a new one a restart at most.
    async fn session(&self, peer: SocketAddr) -> Result<Arc<UdpSocket>> {
        let session = Arc::new(UdpSocket::bind(SocketAddr::new(proxy_of(self.id), 0)).await?);
        let (socket, state, from) = (session.clone(), self.state.clone(), self.from.clone());
        let back = async move {
            let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
            let mut turn = Instant::now();
            loop {
                let Ok((length, _)) = socket.recv_from(&mut buffer).await else { continue };
                let fate = state.decide(length, &mut turn);
                state.pass(buffer[..length].to_vec(), fate, &from, peer).await;
            }
        };
        tokio::spawn(self.state.stop.clone().run_until_cancelled_owned(back));
        Ok(session)
    }
}

/// Tripwires to one node: what ends at one end ends at the other.
async fn wires(state: Arc<State>, listener: TcpListener, id: u16, node: SocketAddr) {
    loop {
        let Ok((mut wire, _)) = listener.accept().await else { continue };
        let wire = async move {
            if let Ok(mut onward) = dial(id, node).await {
                // Either end's end is what is passed on.
                let _ = copy_bidirectional(&mut wire, &mut onward).await;
            }
        };
        tokio::spawn(state.stop.clone().run_until_cancelled_owned(wire));
    }
}

async fn dial(id: u16, node: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::new(proxy_of(id), 0))?;
    socket.connect(node).await
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Node 4 of no cluster, the links to it, and somebody who talks.
    async fn world() -> (UdpSocket, Links, UdpSocket, SocketAddr) {
        let node = UdpSocket::bind(SocketAddr::new(address_of(4), 0)).await.unwrap();
        let port = node.local_addr().unwrap().port();
        let address = SocketAddr::new(proxy_of(4), port);
        let links = Links::start(vec![(4, address)]).await.unwrap();
        let peer = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        (node, links, peer, address)
    }

    async fn receive(socket: &UdpSocket) -> (Vec<u8>, SocketAddr) {
        let mut buffer = [0; 100];
        let received = tokio::time::timeout(Duration::from_secs(20), socket.recv_from(&mut buffer));
        let (length, from) = received.await.unwrap().unwrap();
        (buffer[..length].to_vec(), from)
    }

    #[tokio::test]
    async fn a_datagram_and_its_answer_find_their_way() {
        let (node, links, peer, address) = world().await;
        peer.send_to(b"question", address).await.unwrap();
        let (question, from) = receive(&node).await;
        assert_eq!(question, b"question");
        assert_eq!(from.ip(), proxy_of(4));
        node.send_to(b"answer", from).await.unwrap();
        assert_eq!(receive(&peer).await, (b"answer".to_vec(), address));
        assert_eq!(links.counts(), LinkCounts { came: 2, impaired: 0 });
    }

    #[tokio::test]
    async fn what_is_asked_for_is_done_to_datagrams() {
        let (node, links, peer, address) = world().await;
        let doubled = Impairment {
            duplicate_per_mille: 1000,
            corrupt_per_mille: 1000,
            delay_ms: 1,
            ..Impairment::default()
        };
        links.set(doubled, 1);
        peer.send_to(b"text", address).await.unwrap();
        let (first, _) = receive(&node).await;
        assert_eq!((receive(&node).await.0, first.len()), (first.clone(), 4));
        assert_ne!(first, b"text");
        links.set(Impairment { loss_per_mille: 1000, ..Impairment::default() }, 1);
        peer.send_to(b"lost", address).await.unwrap();
        while links.counts().came < 2 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        links.set(Impairment::default(), 1);
        peer.send_to(b"whole", address).await.unwrap();
        assert_eq!(receive(&node).await.0, b"whole");
        assert_eq!(links.counts(), LinkCounts { came: 3, impaired: 2 });
    }
}
