//! Two nodes in one process, for measurements: loopback, mutual TLS.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use heliograph_transport::{
    Announcement, BoxFuture, Handler, Identity, Lane, Limits, Network, NodeId, PeerEvent,
    QuicConfig, QuicNetwork, identity::node_dns_name,
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio::{
    sync::Notify,
    time::{Instant, timeout},
};

const CLUSTER: [u8; 16] = *b"measured-cluster";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Answers with the request.
#[derive(Default)]
struct Echo {
    connected: Notify,
}

impl Handler for Echo {
    fn call(
        self: Arc<Self>,
        _from: NodeId,
        _lane: Lane,
        request: Bytes,
        _deadline: Instant,
    ) -> BoxFuture<'static, Option<Bytes>> {
        Box::pin(async move { Some(request) })
    }

    fn notify(&self, _from: NodeId, _lane: Lane, _payload: Bytes) {}

    fn peer(&self, event: PeerEvent) {
        if let PeerEvent::Connected(_) = event {
            self.connected.notify_one();
        }
    }
}

fn identity(issuer: &CertifiedIssuer<'static, KeyPair>, node: NodeId) -> Identity {
    let key = KeyPair::generate().expect("a key");
    let params = CertificateParams::new(vec![node_dns_name(node, CLUSTER)]).expect("a name");
    let certificate = params.signed_by(&key, issuer).expect("a certificate");
    let (chain, key) = (certificate.pem(), key.serialize_pem());
    Identity::from_pem(chain.as_bytes(), key.as_bytes(), issuer.pem().as_bytes())
        .expect("an identity")
}

fn bind(issuer: &CertifiedIssuer<'static, KeyPair>, node: NodeId) -> Arc<QuicNetwork> {
    let config = QuicConfig {
        node,
        cluster_id: CLUSTER,
        incarnation: 1,
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        identity: identity(issuer, node),
        limits: Limits::default(),
        announced: Announcement::new(1, 0),
    };
    QuicNetwork::bind(config).expect("loopback is there")
}

/// Two nodes that are connected, each of which answers with the request.
pub(crate) async fn connect() -> (Arc<QuicNetwork>, Arc<QuicNetwork>) {
    let mut params = CertificateParams::new(Vec::new()).expect("no names");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().expect("a key");
    let issuer = CertifiedIssuer::self_signed(params, key).expect("an authority");
    let (one, two) = (bind(&issuer, NodeId(1)), bind(&issuer, NodeId(2)));
    let echoes = [Arc::new(Echo::default()), Arc::new(Echo::default())];
    one.serve(Arc::clone(&echoes[0]) as _);
    two.serve(Arc::clone(&echoes[1]) as _);
    one.set_peers(vec![(NodeId(2), two.local_addr().to_string())]);
    two.set_peers(vec![(NodeId(1), one.local_addr().to_string())]);
    for echo in &echoes {
        timeout(CONNECT_TIMEOUT, echo.connected.notified()).await.expect("they connect");
    }
    (one, two)
}
