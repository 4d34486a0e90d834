//! From an address, or from somebody at the door, to a connection whose other end has proven who it
//! is and whose lanes are open.

use std::{io, net::SocketAddr, sync::Arc};

use quinn::{Connection, Incoming, RecvStream, SendStream};
use rustls_pki_types::CertificateDer;
use tokio::{
    net::TcpStream,
    time::{Duration, Instant, timeout, timeout_at},
};

use super::{
    CloseCode, HANDSHAKE_TIMEOUT, Shared,
    hello::{Hello, HelloError, HelloVersion, LinkKind, PREFIX_BYTES},
    link::lane_count,
    peer::Peer,
    tls,
};
use crate::{
    identity::{node_dns_name, proven_node},
    network::NodeId,
    protocol::{Disagreement, PeerInfo},
    tripwire::{self, Expectation, Token},
};

/// The first byte on each lane: its version. The lane's index follows.
const LANE_VERSION: u8 = 1;

/// How long a new connection waits for its tripwire; it is laid later then. 500 ms: where TCP is
/// blocked, each new connection pays it once.
const WIRE_TIMEOUT: Duration = Duration::from_millis(500);

/// A connection that is ready for use.
pub(super) struct Established {
    pub(super) connection: Connection,
    pub(super) kind: LinkKind,
    pub(super) streams: Vec<(SendStream, RecvStream)>,
    pub(super) info: PeerInfo,
    /// For control connections.
    pub(super) wire: Option<WireSource>,
}

/// Where the tripwire comes from.
pub(super) enum WireSource {
    /// The peer lays it.
    Accept(Expectation),
    /// We lay it; the first is laid already, if all went well.
    Dial(SocketAddr, Token, Option<TcpStream>),
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum HandshakeError {
    #[error("the address does not resolve")]
    Resolve(#[source] io::Error),
    #[error("the address resolves to nothing")]
    NoAddress,
    #[error("cannot dial: {0}")]
    Dial(#[from] quinn::ConnectError),
    #[error("{0}")]
    Connection(#[from] quinn::ConnectionError),
    #[error("timeout")]
    Timeout,
    #[error("refused: {}", .0.reason())]
    Refused(CloseCode),
    #[error("refused: {0}")]
    Protocol(#[from] Disagreement),
    #[error("a handshake stream ended early")]
    Stream,
    #[error("no randomness for a token")]
    Randomness,
    #[error("a peer asks to be dialled")]
    Knock,
}

impl From<CloseCode> for HandshakeError {
    fn from(code: CloseCode) -> Self {
        Self::Refused(code)
    }
}

impl From<HelloError> for HandshakeError {
    fn from(error: HelloError) -> Self {
        Self::Refused(match error {
            HelloError::Version => CloseCode::Version,
            HelloError::Malformed => CloseCode::BadHandshake,
        })
    }
}

/// Dials `peer` at `address` ("host:port").
pub(super) async fn dial(
    shared: &Shared,
    peer: &Peer,
    address: &str,
    kind: LinkKind,
) -> Result<Established, HandshakeError> {
    let deadline = Instant::now() + HANDSHAKE_TIMEOUT;
    let connect = async {
        let address = resolve(shared, address).await?;
        let name = node_dns_name(peer.node, shared.cluster_id);
        Ok(shared.endpoint.connect(address, &name)?.await?)
    };
    let connection: Connection = within(deadline, connect).await?;
    let greet = greet_as_dialler(shared, peer, &connection, kind);
    conclude(shared, &connection, within(deadline, greet).await)
}

/// Has `peer`, which is the one to dial, do so at once: it refuses a connection from here for that
/// reason, which tells that it has heard.
pub(super) async fn knock(
    shared: &Shared,
    peer: &Peer,
    address: &str,
) -> Result<(), HandshakeError> {
    match dial(shared, peer, address, LinkKind::Control).await {
        Ok(_) => Err(CloseCode::Direction.into()),
        Err(HandshakeError::Connection(error)) if CloseCode::Direction.is_in(&error) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Takes in whoever comes to the door: an established connection and its peer.
pub(super) async fn accept(
    shared: &Shared,
    incoming: Incoming,
) -> Result<(Arc<Peer>, Established), HandshakeError> {
    let deadline = Instant::now() + HANDSHAKE_TIMEOUT;
    let connection = within(deadline, async { Ok(incoming.accept()?.await?) }).await?;
    let greet = greet_as_acceptor(shared, &connection);
    conclude(shared, &connection, within(deadline, greet).await)
}

async fn within<T>(
    deadline: Instant,
    step: impl Future<Output = Result<T, HandshakeError>>,
) -> Result<T, HandshakeError> {
    timeout_at(deadline, step).await.unwrap_or(Err(HandshakeError::Timeout))
}

/// Tells the other end why, if it was refused.
fn conclude<T>(
    shared: &Shared,
    connection: &Connection,
    result: Result<T, HandshakeError>,
) -> Result<T, HandshakeError> {
    match &result {
        Ok(_) => {}
        Err(HandshakeError::Refused(code)) => {
            shared.metrics.refused_handshake(code.reason());
            code.close(connection);
        }
        Err(HandshakeError::Protocol(disagreement)) => {
            shared.metrics.refused_handshake(CloseCode::Protocol.reason());
            CloseCode::Protocol.close_saying(connection, &disagreement.to_string());
        }
        Err(HandshakeError::Knock) => CloseCode::Direction.close(connection),
        Err(HandshakeError::Timeout) => CloseCode::HandshakeTimeout.close(connection),
        Err(_) => CloseCode::BadHandshake.close(connection),
    }
    result
}

async fn resolve(shared: &Shared, address: &str) -> Result<SocketAddr, HandshakeError> {
    let addresses = tokio::net::lookup_host(address).await.map_err(HandshakeError::Resolve)?;
    let ours = shared.local_addr;
    let mut usable = addresses.filter(|address| ours.is_ipv6() || address.is_ipv4());
    let address = usable.next().ok_or(HandshakeError::NoAddress)?;
    Ok(match address {
        // A dual-stack socket speaks IPv4 in IPv6 form.
        SocketAddr::V4(v4) if ours.is_ipv6() => (v4.ip().to_ipv6_mapped(), v4.port()).into(),
        address => address,
    })
}

async fn greet_as_dialler(
    shared: &Shared,
    peer: &Peer,
    connection: &Connection,
    kind: LinkKind,
) -> Result<Established, HandshakeError> {
    if certified_node(shared, connection)? != peer.node {
        return Err(CloseCode::Identity.into());
    }
    let version = tls::negotiated(connection).ok_or(CloseCode::Version)?;
    let (mut send, mut receive) = connection.open_bi().await?;
    let hello = shared.hello(kind, None);
    send.write_all(&hello.encode(version)).await.map_err(|_| HandshakeError::Stream)?;
    send.finish().map_err(|_| HandshakeError::Stream)?;
    let welcome = read_hello(connection, &mut receive, version).await?;
    check(shared, &welcome, peer.node)?;
    if welcome.kind != kind {
        return Err(CloseCode::BadHandshake.into());
    }
    let info = PeerInfo::agree(&shared.announced, welcome.announced)?;
    peer.admit(welcome.incarnation, &info.announced)?;
    // Before the lanes: when either side is told of the connection, the wire stands.
    let wire = match welcome.tripwire {
        Some((port, token)) => {
            let address = (connection.remote_address().ip(), port).into();
            let wire = tripwire::dial(address, shared.local_addr, &token);
            let laid = timeout(WIRE_TIMEOUT, wire).await;
            Some(WireSource::Dial(address, token, laid.ok().and_then(Result::ok)))
        }
        None => None,
    };
    let mut streams = Vec::with_capacity(lane_count(kind));
    for index in 0..lane_count(kind) {
        let (mut send, receive) = connection.open_bi().await?;
        let preface = [LANE_VERSION, index as u8];
        send.write_all(&preface).await.map_err(|_| HandshakeError::Stream)?;
        streams.push((send, receive));
    }
    Ok(Established { connection: connection.clone(), kind, streams, info, wire })
}

async fn greet_as_acceptor(
    shared: &Shared,
    connection: &Connection,
) -> Result<(Arc<Peer>, Established), HandshakeError> {
    let node = certified_node(shared, connection)?;
    let version = tls::negotiated(connection).ok_or(CloseCode::Version)?;
    let (mut send, mut receive) = connection.accept_bi().await?;
    let hello = read_hello(connection, &mut receive, version).await?;
    check(shared, &hello, node)?;
    if node >= shared.node {
        let peer = shared.peer(node).ok_or(CloseCode::Direction)?;
        peer.knocked();
        return Err(HandshakeError::Knock);
    }
    let peer = shared.peer(node).ok_or(CloseCode::NotAPeer)?;
    let info = PeerInfo::agree(&shared.announced, hello.announced)?;
    peer.admit(hello.incarnation, &info.announced)?;
    let wire = match hello.kind {
        LinkKind::Control => {
            let token = Token::random().map_err(|_| HandshakeError::Randomness)?;
            Some((shared.tripwires.expect(token.clone()), token))
        }
        LinkKind::Bulk => None,
    };
    let offer = wire.as_ref().map(|(_, token)| (shared.local_addr.port(), token.clone()));
    let welcome = shared.hello(hello.kind, offer);
    send.write_all(&welcome.encode(version)).await.map_err(|_| HandshakeError::Stream)?;
    send.finish().map_err(|_| HandshakeError::Stream)?;
    let mut streams = Vec::with_capacity(lane_count(hello.kind));
    for index in 0..lane_count(hello.kind) {
        let (send, mut receive) = connection.accept_bi().await?;
        let mut preface = [0; 2];
        receive.read_exact(&mut preface).await.map_err(|_| HandshakeError::Stream)?;
        if preface != [LANE_VERSION, index as u8] {
            return Err(CloseCode::BadHandshake.into());
        }
        streams.push((send, receive));
    }
    let wire = wire.map(|(expectation, _)| WireSource::Accept(expectation));
    let established =
        Established { connection: connection.clone(), kind: hello.kind, streams, info, wire };
    Ok((peer, established))
}

/// The node the other end's certificate is of. rustls has checked the chain.
fn certified_node(shared: &Shared, connection: &Connection) -> Result<NodeId, HandshakeError> {
    let identity = connection.peer_identity().ok_or(CloseCode::Identity)?;
    let chain =
        identity.downcast::<Vec<CertificateDer<'static>>>().map_err(|_| CloseCode::Identity)?;
    let certificate = chain.first().ok_or(CloseCode::Identity)?;
    let node = proven_node(certificate, shared.cluster_id).map_err(|_| CloseCode::Identity)?;
    Ok(node)
}

/// Checks what every handshake frame must say.
fn check(shared: &Shared, hello: &Hello, node: NodeId) -> Result<(), CloseCode> {
    if hello.cluster_id != shared.cluster_id {
        return Err(CloseCode::Cluster);
    }
    if hello.node != node {
        return Err(CloseCode::Identity);
    }
    Ok(())
}

async fn read_hello(
    connection: &Connection,
    stream: &mut RecvStream,
    version: HelloVersion,
) -> Result<Hello, HandshakeError> {
    let mut prefix = [0; PREFIX_BYTES];
    read(connection, stream, &mut prefix).await?;
    let mut body = vec![0; Hello::body_bytes(prefix)?];
    read(connection, stream, &mut body).await?;
    Ok(Hello::decode(version, &body)?)
}

async fn read(
    connection: &Connection,
    stream: &mut RecvStream,
    bytes: &mut [u8],
) -> Result<(), HandshakeError> {
    stream.read_exact(bytes).await.map_err(|_| match connection.close_reason() {
        // The other end refused: its reason is the one to report.
        Some(reason) => HandshakeError::Connection(reason),
        None => HandshakeError::Stream,
    })
}
