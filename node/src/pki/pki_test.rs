//! The material of `init-tls`: proven by rustls handshakes, and refused where it must be.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, sync::Arc, time::Duration};

use rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection,
    server::WebPkiClientVerifier,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject as _};

use heliograph_transport::{NodeId, identity::node_dns_name};

use super::{
    init_tls::{self, InitTlsError},
    roster::Roster,
};
use crate::{cli::NodeSpec, clock};

const CLUSTER: [u8; 16] = [9; 16];

fn nodes() -> Vec<NodeSpec> {
    ["1=localhost,10.0.0.1", "2=::1"].map(|spec| spec.parse().unwrap()).to_vec()
}

fn make(dir: &Path) {
    init_tls::create(dir, "test", CLUSTER, &nodes(), clock::since_epoch()).unwrap();
}

fn chain(dir: &Path, name: &str) -> Vec<CertificateDer<'static>> {
    vec![CertificateDer::from_pem_file(dir.join(format!("{name}.crt"))).unwrap()]
}

fn key(dir: &Path, name: &str) -> PrivateKeyDer<'static> {
    PrivateKeyDer::from_pem_file(dir.join(format!("{name}.key"))).unwrap()
}

fn roots(dir: &Path, ca: &str) -> Arc<RootCertStore> {
    let mut store = RootCertStore::empty();
    store.add(CertificateDer::from_pem_file(dir.join(format!("{ca}.crt"))).unwrap()).unwrap();
    Arc::new(store)
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// A time `days` from now, for the verifiers.
#[derive(Debug)]
struct Later(u64);

impl rustls::time_provider::TimeProvider for Later {
    fn current_time(&self) -> Option<UnixTime> {
        let days = Duration::from_secs(self.0 * 86_400);
        Some(UnixTime::since_unix_epoch(clock::since_epoch() + days))
    }
}

struct Ends {
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
}

/// Node `server` answers, node `client` dials, `days` from now.
fn peers(dir: &Path, server: &str, client: &str, days: u64) -> Ends {
    let store = roots(dir, "cluster-ca");
    let verifier =
        WebPkiClientVerifier::builder_with_provider(store.clone(), provider()).build().unwrap();
    let server_config = ServerConfig::builder_with_details(provider(), Arc::new(Later(days)))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain(dir, server), key(dir, server))
        .unwrap();
    let client_config = ClientConfig::builder_with_details(provider(), Arc::new(Later(days)))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(store)
        .with_client_auth_cert(chain(dir, client), key(dir, client))
        .unwrap();
    Ends { server: Arc::new(server_config), client: Arc::new(client_config) }
}

/// The client port of a node, and a client that trusts the client CA.
fn front_door(dir: &Path, server: &str) -> Ends {
    let server_config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain(dir, server), key(dir, server))
        .unwrap();
    let client_config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots(dir, "client-ca"))
        .with_no_client_auth();
    Ends { server: Arc::new(server_config), client: Arc::new(client_config) }
}

/// A handshake in memory; both sides must be content.
fn handshake(ends: &Ends, name: &str) -> Result<(), rustls::Error> {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut client = ClientConnection::new(ends.client.clone(), name)?;
    let mut server = ServerConnection::new(ends.server.clone())?;
    while client.is_handshaking() || server.is_handshaking() {
        let mut wire = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut wire).unwrap();
        }
        server.read_tls(&mut wire.as_slice()).unwrap();
        server.process_new_packets()?;
        let mut wire = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut wire).unwrap();
        }
        client.read_tls(&mut wire.as_slice()).unwrap();
        client.process_new_packets()?;
    }
    Ok(())
}

#[test]
fn nodes_prove_themselves_to_each_other() {
    let dir = tempfile::tempdir().unwrap();
    make(dir.path());
    let ends = peers(dir.path(), "node-1", "node-2", 0);
    handshake(&ends, &node_dns_name(NodeId(1), CLUSTER)).unwrap();
    handshake(&ends, &node_dns_name(NodeId(2), CLUSTER)).unwrap_err();
    handshake(&ends, &node_dns_name(NodeId(1), [8; 16])).unwrap_err();
}

#[test]
fn certificates_end_when_they_say() {
    let dir = tempfile::tempdir().unwrap();
    make(dir.path());
    let name = node_dns_name(NodeId(1), CLUSTER);
    handshake(&peers(dir.path(), "node-1", "node-2", 396), &name).unwrap();
    handshake(&peers(dir.path(), "node-1", "node-2", 398), &name).unwrap_err();
}

#[test]
fn another_clusters_node_is_refused() {
    let (ours, theirs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    make(ours.path());
    make(theirs.path());
    let Ends { server, .. } = peers(ours.path(), "node-1", "node-2", 0);
    let Ends { client, .. } = peers(theirs.path(), "node-1", "node-2", 0);
    handshake(&Ends { server, client }, &node_dns_name(NodeId(1), CLUSTER)).unwrap_err();
}

#[test]
fn client_ports_are_trusted_under_their_hosts_and_never_as_nodes() {
    let dir = tempfile::tempdir().unwrap();
    make(dir.path());
    let ends = front_door(dir.path(), "node-1-https");
    handshake(&ends, "localhost").unwrap();
    handshake(&ends, "10.0.0.1").unwrap();
    handshake(&ends, "10.0.0.2").unwrap_err();
    handshake(&front_door(dir.path(), "node-2-https"), "::1").unwrap();
    // The other authority's certificate is no front door, and a front door's is no node.
    handshake(&front_door(dir.path(), "node-1"), "localhost").unwrap_err();
    let Ends { client, .. } = peers(dir.path(), "node-1", "node-1-https", 0);
    let Ends { server, .. } = peers(dir.path(), "node-1", "node-2", 0);
    handshake(&Ends { server, client }, &node_dns_name(NodeId(1), CLUSTER)).unwrap_err();
}

#[test]
fn keys_are_for_the_owner_alone() {
    let dir = tempfile::tempdir().unwrap();
    make(dir.path());
    let keys = ["cluster-ca", "client-ca", "node-1", "node-1-https", "node-2", "node-2-https"];
    for name in keys {
        let mode = fs::metadata(dir.path().join(format!("{name}.key"))).unwrap().permissions();
        assert_eq!(mode.mode() & 0o777, 0o600, "{name}");
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2 * keys.len() + 1);
}

#[test]
fn nothing_is_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    make(dir.path());
    let before = fs::read(dir.path().join("cluster-ca.key")).unwrap();
    let error = init_tls::create(dir.path(), "test", CLUSTER, &nodes(), clock::since_epoch());
    assert!(matches!(error, Err(InitTlsError::Exists(_))));
    let error = init_tls::add(dir.path(), &nodes()[..1], clock::since_epoch());
    assert!(matches!(error, Err(InitTlsError::Exists(_))));
    assert_eq!(fs::read(dir.path().join("cluster-ca.key")).unwrap(), before);
}

#[test]
fn refusal_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("node-2-https.crt"), "").unwrap();
    init_tls::create(dir.path(), "test", CLUSTER, &nodes(), Duration::ZERO).unwrap_err();
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn an_added_node_is_one_of_the_cluster() {
    let dir = tempfile::tempdir().unwrap();
    make(dir.path());
    let four: NodeSpec = "4=d.example".parse().unwrap();
    init_tls::add(dir.path(), &[four], clock::since_epoch()).unwrap();
    let ends = peers(dir.path(), "node-4", "node-1", 0);
    handshake(&ends, &node_dns_name(NodeId(4), CLUSTER)).unwrap();
    handshake(&front_door(dir.path(), "node-4-https"), "d.example").unwrap();
}

#[test]
fn adding_needs_the_directory_of_a_cluster() {
    let dir = tempfile::tempdir().unwrap();
    let four: NodeSpec = "4=d.example".parse().unwrap();
    let error = init_tls::add(dir.path(), &[four], clock::since_epoch()).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("cannot use {}", dir.path().join("cluster.toml").display())
    );
    let twice = ["4=a", "4=b"].map(|spec| spec.parse().unwrap());
    let error = init_tls::add(dir.path(), &twice, clock::since_epoch()).unwrap_err();
    assert_eq!(error.to_string(), "node 4 is named twice");
}

#[test]
fn the_roster_says_who_is_where() {
    let dir = tempfile::tempdir().unwrap();
    make(dir.path());
    let text = fs::read_to_string(dir.path().join("cluster.toml")).unwrap();
    let members = vec![(1, "localhost:7400".to_owned()), (2, "[::1]:7400".to_owned())];
    assert_eq!(Roster::parse(&text).unwrap(), Roster { cluster_id: CLUSTER, members });
    Roster::parse("[cluster]\nid = \"00\"\nmembers = []").unwrap_err();
    Roster::parse("").unwrap_err();
}
