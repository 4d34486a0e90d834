//! A peer that speaks the protocol by hand, from its description in
//! `docs/reference/node-protocol.md`, and may therefore break it.

use std::{net::SocketAddr, sync::Arc};

use heliograph_transport::{Identity, NodeId, identity::node_dns_name};
use quinn::{
    ClientConfig, Connection, ConnectionError, Endpoint, RecvStream, SendStream,
    crypto::rustls::QuicClientConfig,
};
use rustls::RootCertStore;
use tokio::time::timeout;

use super::{PATIENCE, harness::CLUSTER};

/// Lanes of a control connection.
pub const CONTROL_LANES: u8 = 9;

/// What a handshake says.
#[derive(Clone, Copy)]
pub struct RawHello {
    pub version: u8,
    pub cluster_id: [u8; 16],
    pub node: u16,
    pub incarnation: u32,
}

impl RawHello {
    pub fn of(node: u16) -> Self {
        Self { version: 1, cluster_id: CLUSTER, node, incarnation: 1 }
    }

    /// The frame, for a control connection.
    pub fn bytes(self) -> Vec<u8> {
        let mut body = vec![self.version];
        body.extend(self.cluster_id);
        body.extend(self.node.to_be_bytes());
        body.extend(self.incarnation.to_be_bytes());
        body.push(0);
        body.extend([0; 34]);
        framed(body)
    }

    /// The frame of the second version, with a field no release knows yet.
    pub fn announcing(self, min: u16, max: u16, boot: u64) -> Vec<u8> {
        let mut body = self.bytes().split_off(2);
        body.extend(min.to_be_bytes());
        body.extend(max.to_be_bytes());
        body.extend(0u64.to_be_bytes());
        body.extend(boot.to_be_bytes());
        body.extend(b"\x03raw");
        body.extend([9; 5]);
        framed(body)
    }
}

fn framed(body: Vec<u8>) -> Vec<u8> {
    let mut bytes = (body.len() as u16).to_be_bytes().to_vec();
    bytes.extend(body);
    bytes
}

/// A connection made by hand.
pub struct RawPeer {
    pub connection: Connection,
    _endpoint: Endpoint,
}

impl RawPeer {
    /// Connects with TLS alone; with `None` without a certificate.
    pub async fn connect(
        roots: &Identity,
        own: Option<&Identity>,
        target: NodeId,
        address: SocketAddr,
    ) -> Result<Self, ConnectionError> {
        Self::connect_speaking(b"heliograph/1", roots, own, target, address).await
    }

    /// The same, with a handshake frame of this version.
    pub async fn connect_speaking(
        version: &[u8],
        roots: &Identity,
        own: Option<&Identity>,
        target: NodeId,
        address: SocketAddr,
    ) -> Result<Self, ConnectionError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut store = RootCertStore::empty();
        for root in &roots.roots {
            store.add(root.clone()).unwrap();
        }
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(store);
        let mut config = match own {
            Some(own) => {
                config.with_client_auth_cert(own.chain.clone(), own.key.clone_key()).unwrap()
            }
            None => config.with_no_client_auth(),
        };
        config.alpn_protocols = vec![version.to_vec()];
        let config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(config).unwrap()));
        let endpoint = Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
        let name = node_dns_name(target, CLUSTER);
        let connection = endpoint.connect_with(config, address, &name).unwrap().await?;
        Ok(Self { connection, _endpoint: endpoint })
    }

    /// Says hello; the stream on which the welcome comes.
    pub async fn greet(&self, hello: &[u8]) -> RecvStream {
        let (mut send, receive) = self.connection.open_bi().await.unwrap();
        // The other end may refuse before all is said.
        let _ = send.write_all(hello).await;
        receive
    }

    /// Says hello as it should be, and opens the lanes.
    pub async fn establish(&self, node: u16) -> Vec<(SendStream, RecvStream)> {
        let mut welcome = self.greet(&RawHello::of(node).bytes()).await;
        let mut bytes = [0; 60];
        welcome.read_exact(&mut bytes).await.unwrap();
        let mut lanes = Vec::new();
        for index in 0..CONTROL_LANES {
            let (mut send, receive) = self.connection.open_bi().await.unwrap();
            send.write_all(&[1, index]).await.unwrap();
            lanes.push((send, receive));
        }
        lanes
    }

    /// The code with which the other end closes.
    pub async fn close_code(&self) -> u64 {
        self.closed().await.0
    }

    /// The code with which the other end closes, and what it says.
    pub async fn closed(&self) -> (u64, String) {
        let error = timeout(PATIENCE, self.connection.closed()).await.expect("a close");
        match error {
            ConnectionError::ApplicationClosed(close) => {
                let reason = String::from_utf8_lossy(&close.reason).into_owned();
                (close.error_code.into_inner(), reason)
            }
            error => panic!("{error}"),
        }
    }
}
