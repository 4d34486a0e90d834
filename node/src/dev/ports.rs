//! Loopback ports, checked before anything starts.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket},
};

use super::layout::Layout;
use crate::exit::{Failure, Reason};

/// Where peer ports are looked for: below the range that systems hand out to outgoing connections
/// (32768 on Linux), so that a remembered port is still free at the next start.
const FIRST: u16 = 20_000;
/// The end of that range.
const END: u16 = 32_000;
/// How many ports are tried for each node before giving up.
const TRIES: usize = 200;
/// Ports that a process looks at first: another one that starts a cluster at the same moment looks
/// at others, or both might find the same one free.
const BLOCK: u16 = 48;

/// A port that is taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum PortError {
    /// Clients could not reach a node.
    #[error("node {node} needs port {} for HTTP, and it is taken ({source}); stop what uses it, or choose other ports with --http-port", .address.port())]
    Http {
        /// The node.
        node: u16,
        /// The address.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// Operators could not reach a node.
    #[error("node {node} needs port {} for its operators, and it is taken ({source}); stop what uses it (a node of an earlier run?)", .address.port())]
    Admin {
        /// The node.
        node: u16,
        /// The address.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// Peers could not reach a node.
    #[error("node {node} needs port {} to talk to its peers, and it is taken ({source}); stop what uses it (a node of an earlier run?)", .address.port())]
    Peer {
        /// The node.
        node: u16,
        /// The address.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
}

/// Refuses to start when any port of the cluster is taken.
pub(super) fn refuse_taken(layout: &Layout) -> Result<(), Failure> {
    for node in &layout.nodes {
        let (node, http, peer, admin) = (node.id, node.http, node.peer, node.admin);
        TcpListener::bind(http)
            .map(drop)
            .map_err(|source| PortError::Http { node, address: http, source })
            .and_then(|()| {
                bind_both(peer).map_err(|source| PortError::Peer { node, address: peer, source })
            })
            .and_then(|()| {
                let taken = |source| PortError::Admin { node, address: admin, source };
                TcpListener::bind(admin).map(drop).map_err(taken)
            })
            .map_err(|error| Failure::new(Reason::AddressInUse, error))?;
    }
    Ok(())
}

/// Picks `count` ports that are free for UDP and TCP.
pub(super) fn pick(count: u16) -> Option<Vec<u16>> {
    let mut picked = Vec::with_capacity(usize::from(count));
    let blocks = u32::from((END - FIRST) / BLOCK);
    let own = u16::try_from(std::process::id() % blocks).expect("fewer blocks than ports");
    let mut ranges = vec![(FIRST + own * BLOCK, BLOCK); TRIES / 2];
    ranges.resize(usize::from(count) * TRIES, (FIRST, END - FIRST));
    for (first, length) in ranges {
        if picked.len() == usize::from(count) {
            break;
        }
        let mut bytes = [0; 2];
        getrandom::fill(&mut bytes).expect("the operating system gives randomness");
        let port = first + u16::from_le_bytes(bytes) % length;
        if !picked.contains(&port) && bind_both((Ipv4Addr::LOCALHOST, port).into()).is_ok() {
            picked.push(port);
        }
    }
    (picked.len() == usize::from(count)).then_some(picked)
}

fn bind_both(address: SocketAddr) -> io::Result<()> {
    let _tcp = TcpListener::bind(address)?;
    UdpSocket::bind(address).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn picked_ports_are_distinct_and_free() {
        let ports = pick(9).unwrap();
        let distinct: std::collections::BTreeSet<_> = ports.iter().collect();
        assert_eq!(distinct.len(), 9);
        assert!(ports.iter().all(|port| (FIRST..END).contains(port)));
    }

    #[test]
    fn a_port_taken_by_either_protocol_is_taken() {
        let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        assert!(bind_both(tcp.local_addr().unwrap()).is_err());
        let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        assert!(bind_both(udp.local_addr().unwrap()).is_err());
    }
}
