//! The TLS and QUIC settings of the node-to-node protocol.

use std::{sync::Arc, time::Duration};

use quinn::{
    AckFrequencyConfig, ClientConfig, Connection, EndpointConfig, IdleTimeout, MtuDiscoveryConfig,
    ServerConfig, TransportConfig, VarInt,
    congestion::CubicConfig,
    crypto::rustls::{HandshakeData, QuicClientConfig, QuicServerConfig},
};
use rustls::{
    RootCertStore,
    client::{Resumption, WebPkiServerVerifier},
    crypto::CryptoProvider,
    server::{NoServerSessionStorage, WebPkiClientVerifier},
    version::TLS13,
};

use super::{
    BindError, Limits, QuicConfig,
    hello::{HelloVersion, LinkKind},
    link,
};
use crate::{
    identity::Identity,
    protocol::{PROTOCOL_ANNOUNCING, Protocols},
};

/// What is negotiated in TLS: the version of the handshake frame, the newest first. Later protocols
/// are announced in that frame and need no name here.
const ALPN: [(&[u8], HelloVersion); 2] =
    [(b"heliograph/2", HelloVersion::Announcing), (b"heliograph/1", HelloVersion::First)];

/// The names of the handshake frames that a process of these protocols speaks.
fn alpn(protocols: Protocols) -> Vec<Vec<u8>> {
    let spoken = ALPN.iter().filter(|(_, version)| match version {
        HelloVersion::Announcing => protocols.max >= PROTOCOL_ANNOUNCING,
        HelloVersion::First => protocols.min < PROTOCOL_ANNOUNCING,
    });
    spoken.map(|(name, _)| name.to_vec()).collect()
}

/// The version of the handshake frame that TLS has negotiated on this connection.
pub(super) fn negotiated(connection: &Connection) -> Option<HelloVersion> {
    let data = connection.handshake_data()?.downcast::<HandshakeData>().ok()?;
    let name = data.protocol?;
    ALPN.iter().find(|(known, _)| *known == name).map(|(_, version)| *version)
}

/// The largest UDP payload to send and take. 6,550 bytes: quinn hands the kernel up to ten datagrams
/// in one call, and what such a call may carry is bounded like a single datagram. Where it is more, the
/// kernel refuses all ten, quinn takes that for a loss, and a connection with much to say says nothing
/// any more. Path discovery settles on what the way carries.
const UDP_PAYLOAD_BYTES_MAX: u16 = 6_550;

/// Datagrams that quinn sends in one call at most (its `MAX_TRANSMIT_SEGMENTS`).
const SEGMENTS_MAX: usize = 10;

/// What one call may carry: a datagram of IPv4 without its headers.
const CALL_BYTES_MAX: usize = 65_535 - 20 - 8;

const _: () = assert!(UDP_PAYLOAD_BYTES_MAX as usize * SEGMENTS_MAX <= CALL_BYTES_MAX);

/// What the round trip is taken for before the first measurement. 20 ms: a lost first packet in a
/// data centre is repeated in 60 ms instead of a second.
const INITIAL_RTT: Duration = Duration::from_millis(20);

/// How much may be sent before the first acknowledgement, and after idling. 256 KiB: nodes sit on
/// fast networks; the default of 14 KiB costs a bulk transfer several round trips.
const INITIAL_WINDOW_BYTES: u64 = 256 * 1024;

/// How many packets the peer may take in before it acknowledges. 10: with coalesced frames most
/// acknowledgements ride on answers anyway, and each one alone costs a system call.
const ACK_PACKETS: u32 = 10;

/// How long the peer may sit on an acknowledgement. 5 ms: below it retransmission would be slow
/// to notice a loss.
const ACK_DELAY: Duration = Duration::from_millis(5);

/// How much one lane may have under way unread. 8 MiB: two of the largest frames.
const LANE_WINDOW_BYTES: u32 = 8 * 1024 * 1024;

/// How much one connection may have under way unread. 32 MiB: some lanes stalled, the others move.
const CONNECTION_WINDOW_BYTES: u32 = 32 * 1024 * 1024;

/// How much written and not yet acknowledged data QUIC keeps. 16 MiB: 10 Gbit/s at 12 ms.
const SEND_WINDOW_BYTES: u64 = 16 * 1024 * 1024;

/// Handshakes of strangers QUIC holds before they are looked at.
const INCOMING_MAX: usize = 256;

/// The endpoint's settings: server and client side.
pub(super) struct Settings {
    pub(super) endpoint: EndpointConfig,
    pub(super) server: ServerConfig,
    pub(super) client: ClientConfig,
}

/// Makes the settings for an identity. The provider is always named: what else the process installs
/// as its default does not matter.
pub(super) fn settings(config: &QuicConfig) -> Result<Settings, BindError> {
    let QuicConfig { identity, limits, announced, .. } = config;
    let names = alpn(announced.protocols);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    for root in &identity.roots {
        roots.add(root.clone())?;
    }
    let roots = Arc::new(roots);
    let transport = Arc::new(transport(limits)?);

    let mut server = server_crypto(identity, Arc::clone(&roots), Arc::clone(&provider))?;
    server.alpn_protocols.clone_from(&names);
    let server = QuicServerConfig::try_from(server).map_err(|_| BindError::CipherSuite)?;
    let mut server = ServerConfig::with_crypto(Arc::new(server));
    server.transport_config(Arc::clone(&transport));
    server.migration(false);
    server.max_incoming(INCOMING_MAX);

    let mut client = client_crypto(identity, roots, provider)?;
    client.alpn_protocols = names;
    let client = QuicClientConfig::try_from(client).map_err(|_| BindError::CipherSuite)?;
    let mut client = ClientConfig::new(Arc::new(client));
    client.transport_config(transport);

    let mut endpoint = EndpointConfig::default();
    endpoint
        .max_udp_payload_size(UDP_PAYLOAD_BYTES_MAX)
        .expect("the constant is within the protocol's range");
    Ok(Settings { endpoint, server, client })
}

fn server_crypto(
    identity: &Identity,
    roots: Arc<RootCertStore>,
    provider: Arc<CryptoProvider>,
) -> Result<rustls::ServerConfig, BindError> {
    let verifier =
        WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider)).build()?;
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(identity.chain.clone(), identity.key.clone_key())?;
    // No resumption: each connection proves its certificate anew.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

fn client_crypto(
    identity: &Identity,
    roots: Arc<RootCertStore>,
    provider: Arc<CryptoProvider>,
) -> Result<rustls::ClientConfig, BindError> {
    let verifier =
        WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&provider)).build()?;
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .with_webpki_verifier(verifier)
        .with_client_auth_cert(identity.chain.clone(), identity.key.clone_key())?;
    config.resumption = Resumption::disabled();
    Ok(config)
}

fn transport(limits: &Limits) -> Result<TransportConfig, BindError> {
    let idle = IdleTimeout::try_from(limits.idle_timeout).map_err(|_| BindError::IdleTimeout)?;
    let mut acks = AckFrequencyConfig::default();
    acks.ack_eliciting_threshold(VarInt::from_u32(ACK_PACKETS)).max_ack_delay(Some(ACK_DELAY));
    let mut mtu = MtuDiscoveryConfig::default();
    mtu.upper_bound(UDP_PAYLOAD_BYTES_MAX);
    let mut congestion = CubicConfig::default();
    congestion.initial_window(INITIAL_WINDOW_BYTES);
    // The handshake's stream, the lanes of a control connection (the larger of the two kinds), and
    // one more: who opens it is seen to break the protocol, not just held back.
    let streams = 1 + link::lane_count(LinkKind::Control) + 1;
    let mut config = TransportConfig::default();
    config
        .max_concurrent_bidi_streams(VarInt::from_u32(streams as u32))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(None)
        .max_idle_timeout(Some(idle))
        .keep_alive_interval(Some(limits.idle_timeout / 5))
        .stream_receive_window(VarInt::from_u32(LANE_WINDOW_BYTES))
        .receive_window(VarInt::from_u32(CONNECTION_WINDOW_BYTES))
        .send_window(SEND_WINDOW_BYTES)
        .initial_rtt(INITIAL_RTT)
        .mtu_discovery_config(Some(mtu))
        .ack_frequency_config(Some(acks))
        .congestion_controller_factory(Arc::new(congestion))
        .enable_segmentation_offload(true);
    Ok(config)
}
