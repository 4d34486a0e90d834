//! A certificate authority for tests.

use heliograph_transport::{Identity, NodeId, identity::node_dns_name};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};

/// Signs node certificates.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().unwrap();
        Self { issuer: CertifiedIssuer::self_signed(params, key).unwrap() }
    }

    /// The identity of `node`.
    pub fn node(&self, node: NodeId, cluster_id: [u8; 16]) -> Identity {
        self.named(vec![node_dns_name(node, cluster_id)])
    }

    /// An identity with these names.
    pub fn named(&self, names: Vec<String>) -> Identity {
        let [chain, key, roots] = self.named_pem(names);
        Identity::from_pem(chain.as_bytes(), key.as_bytes(), roots.as_bytes()).unwrap()
    }

    /// Chain, key and CA of an identity with these names.
    pub fn named_pem(&self, names: Vec<String>) -> [String; 3] {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(names).unwrap();
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        [certificate.pem(), key.serialize_pem(), self.issuer.pem()]
    }
}
