//! Who a node is: a certificate, signed by the cluster's CA, with one name of the form
//! `n<id>.<cluster id in hex>.heliograph.internal` among its subject alternative names.
//!
//! rustls' own verifiers check chain, validity and key usage; [`proven_node`] then reads the node
//! id from a certificate they let pass.

use std::fmt::Write;

use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::network::NodeId;

/// The domain of node names. `.internal` is reserved for private use (ICANN, 2024): no public CA
/// signs a name under it.
const DOMAIN: &str = "heliograph.internal";

/// The DNS name that identifies `node` of the cluster in its certificate.
pub fn node_dns_name(node: NodeId, cluster_id: [u8; 16]) -> String {
    format!("n{}{}", node.0, name_suffix(cluster_id))
}

fn name_suffix(cluster_id: [u8; 16]) -> String {
    let mut suffix = String::with_capacity(2 + 32 + DOMAIN.len());
    suffix.push('.');
    for byte in cluster_id {
        write!(suffix, "{byte:02x}").expect("writing to a string cannot fail");
    }
    suffix.push('.');
    suffix.push_str(DOMAIN);
    suffix
}

/// Why an identity cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// There is no certificate in the chain file.
    #[error("the certificate chain is empty or not PEM")]
    Chain,
    /// There is no private key in the key file.
    #[error("the private key is missing or not PEM")]
    Key,
    /// There is no CA certificate in the CA file.
    #[error("the CA certificate is missing or not PEM")]
    Roots,
    /// A certificate is not X.509.
    #[error("the certificate cannot be parsed")]
    Malformed,
    /// The certificate names no node of this cluster, or more than one.
    #[error("the certificate does not name exactly one node of this cluster")]
    NoNode,
    /// The certificate is another node's.
    #[error("the certificate is that of node {found}, not of node {expected}")]
    OtherNode {
        /// The node it should be.
        expected: NodeId,
        /// The node it is.
        found: NodeId,
    },
}

/// What a node proves itself with, and whom it believes.
pub struct Identity {
    /// The node's certificate, then intermediates.
    pub chain: Vec<CertificateDer<'static>>,
    /// The private key of the node's certificate.
    pub key: PrivateKeyDer<'static>,
    /// The cluster's CA certificates; several while a CA is being replaced.
    pub roots: Vec<CertificateDer<'static>>,
}

impl Identity {
    /// Reads an identity from PEM text: the certificate chain, its private key, the CA
    /// certificates.
    pub fn from_pem(chain: &[u8], key: &[u8], roots: &[u8]) -> Result<Self, IdentityError> {
        let certificates = |pem, error: IdentityError| {
            let parsed: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
            match parsed {
                Ok(parsed) if !parsed.is_empty() => Ok(parsed),
                _ => Err(error),
            }
        };
        Ok(Self {
            chain: certificates(chain, IdentityError::Chain)?,
            key: PrivateKeyDer::from_pem_slice(key).map_err(|_| IdentityError::Key)?,
            roots: certificates(roots, IdentityError::Roots)?,
        })
    }

    /// Checks that the certificate is that of `node` in the cluster.
    pub fn check(&self, node: NodeId, cluster_id: [u8; 16]) -> Result<(), IdentityError> {
        let certificate = self.chain.first().ok_or(IdentityError::Chain)?;
        let found = proven_node(certificate, cluster_id)?;
        if found != node {
            return Err(IdentityError::OtherNode { expected: node, found });
        }
        Ok(())
    }
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").finish_non_exhaustive()
    }
}

/// The node that `certificate` names. Other names beside it (of hosts, of other clusters) do not
/// matter; two nodes of this cluster do.
pub(crate) fn proven_node(
    certificate: &CertificateDer<'_>,
    cluster_id: [u8; 16],
) -> Result<NodeId, IdentityError> {
    let (_, certificate) =
        X509Certificate::from_der(certificate).map_err(|_| IdentityError::Malformed)?;
    let names = certificate
        .subject_alternative_name()
        .map_err(|_| IdentityError::Malformed)?
        .ok_or(IdentityError::NoNode)?;
    let suffix = name_suffix(cluster_id);
    let mut nodes = names.value.general_names.iter().filter_map(|name| match name {
        GeneralName::DNSName(name) => parse_name(name, &suffix),
        _ => None,
    });
    match (nodes.next(), nodes.next()) {
        (Some(node), None) => Ok(node),
        _ => Err(IdentityError::NoNode),
    }
}

fn parse_name(name: &str, suffix: &str) -> Option<NodeId> {
    let digits = name.strip_suffix(suffix)?.strip_prefix('n')?;
    let node: u16 = digits.parse().ok()?;
    // One spelling a node: "n01" and "n+1" are nobody.
    (node.to_string() == digits).then_some(NodeId(node))
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    const CLUSTER: [u8; 16] = [0xab; 16];

    fn certificate(names: &[String]) -> CertificateDer<'static> {
        let key = KeyPair::generate().unwrap();
        CertificateParams::new(names.to_vec()).unwrap().self_signed(&key).unwrap().der().clone()
    }

    #[test]
    fn name_is_as_documented() {
        assert_eq!(
            node_dns_name(NodeId(7), CLUSTER),
            "n7.abababababababababababababababab.heliograph.internal"
        );
    }

    #[test]
    fn node_is_read_from_among_other_names() {
        let names = ["db.example.org".to_owned(), node_dns_name(NodeId(65_535), CLUSTER)];
        assert_eq!(proven_node(&certificate(&names), CLUSTER), Ok(NodeId(65_535)));
    }

    #[test]
    fn other_cluster_other_spelling_and_two_nodes_are_nobody() {
        let suffix = name_suffix(CLUSTER);
        let cases = [
            vec![node_dns_name(NodeId(1), [0; 16])],
            vec![format!("n01{suffix}")],
            vec![format!("n65536{suffix}")],
            vec![format!("n{suffix}")],
            vec![format!("n1.x{suffix}")],
            vec![format!("n1{suffix}.example.org")],
            vec![node_dns_name(NodeId(1), CLUSTER), node_dns_name(NodeId(2), CLUSTER)],
            vec!["example.org".to_owned()],
        ];
        for names in cases {
            assert_eq!(
                proven_node(&certificate(&names), CLUSTER),
                Err(IdentityError::NoNode),
                "{names:?}"
            );
        }
    }

    #[test]
    fn certificate_without_names_or_sense_is_refused() {
        assert_eq!(proven_node(&certificate(&[]), CLUSTER), Err(IdentityError::NoNode));
        let garbage = CertificateDer::from(vec![0x30, 0x03, 1, 2, 3]);
        assert_eq!(proven_node(&garbage, CLUSTER), Err(IdentityError::Malformed));
    }

    #[test]
    fn pem_without_content_is_refused() {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec![node_dns_name(NodeId(1), CLUSTER)])
            .unwrap()
            .self_signed(&key)
            .unwrap();
        let (chain, key) = (certificate.pem(), key.serialize_pem());
        let read = |chain: &str, key: &str, roots: &str| {
            Identity::from_pem(chain.as_bytes(), key.as_bytes(), roots.as_bytes())
        };
        assert_eq!(read("", &key, &chain).unwrap_err(), IdentityError::Chain);
        assert_eq!(read(&chain, "", &chain).unwrap_err(), IdentityError::Key);
        assert_eq!(read(&chain, &key, "x").unwrap_err(), IdentityError::Roots);
        let identity = read(&chain, &key, &chain).unwrap();
        assert_eq!(identity.check(NodeId(1), CLUSTER), Ok(()));
        assert_eq!(
            identity.check(NodeId(2), CLUSTER),
            Err(IdentityError::OtherNode { expected: NodeId(2), found: NodeId(1) })
        );
    }
}
