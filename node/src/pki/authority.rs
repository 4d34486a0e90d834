//! A certificate authority: makes itself, and signs nodes or client ports.

use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, date_time_ymd,
};

/// How long an authority is good: replacing one touches every node, so seldom.
const AUTHORITY_DAYS: u64 = 3_650;
/// How long what it signs is good. 397 days: the longest that common clients accept of a server.
const LEAF_DAYS: u64 = 397;
/// How far a certificate reaches back: clocks of machines differ.
const BACKDATE: Duration = Duration::from_secs(3_600);
/// Seconds in a day.
const DAY: u64 = 86_400;

/// A certificate and its key, PEM.
#[derive(Clone)]
pub(crate) struct Pair {
    /// The certificate.
    pub(crate) certificate: String,
    /// The key.
    pub(crate) key: String,
}

/// A certificate authority.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Makes a new one, named `name`, at `now` (since the Unix epoch).
    pub(crate) fn create(name: &str, now: Duration) -> Result<(Self, Pair), rcgen::Error> {
        let mut params = params(name, Vec::new(), AUTHORITY_DAYS, now)?;
        // It signs leaves alone.
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = key()?;
        let key_pem = key.serialize_pem();
        let certified = CertifiedIssuer::self_signed(params, key)?;
        let pair = Pair { certificate: certified.pem(), key: key_pem };
        Ok((Self::load(&pair)?, pair))
    }

    /// Takes an existing one.
    pub(crate) fn load(pair: &Pair) -> Result<Self, rcgen::Error> {
        let key = KeyPair::from_pem(&pair.key)?;
        Ok(Self { issuer: Issuer::from_ca_cert_pem(&pair.certificate, key)? })
    }

    /// Signs a node: it dials and it is dialled, so both usages.
    pub(crate) fn sign_node(&self, dns_name: String, now: Duration) -> Result<Pair, rcgen::Error> {
        let usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        // A common name holds 64 characters, the DNS name has more: the first label is enough.
        let common_name = dns_name.split('.').next().unwrap_or_default().to_owned();
        self.sign(&common_name, vec![dns_name], usages, now)
    }

    /// Signs a client port that is reached by `hosts`.
    pub(crate) fn sign_server(
        &self,
        common_name: &str,
        hosts: Vec<String>,
        now: Duration,
    ) -> Result<Pair, rcgen::Error> {
        self.sign(common_name, hosts, vec![ExtendedKeyUsagePurpose::ServerAuth], now)
    }

    fn sign(
        &self,
        common_name: &str,
        names: Vec<String>,
        usages: Vec<ExtendedKeyUsagePurpose>,
        now: Duration,
    ) -> Result<Pair, rcgen::Error> {
        let mut params = params(common_name, names, LEAF_DAYS, now)?;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = usages;
        params.use_authority_key_identifier_extension = true;
        let key = key()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(Pair { certificate: certificate.pem(), key: key.serialize_pem() })
    }
}

/// P-256: rustls, browsers, curl and phones all take it; not all of them take Ed25519.
fn key() -> Result<KeyPair, rcgen::Error> {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)
}

fn params(
    common_name: &str,
    names: Vec<String>,
    days: u64,
    now: Duration,
) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    let epoch = date_time_ymd(1970, 1, 1);
    params.not_before = epoch + now.saturating_sub(BACKDATE);
    params.not_after = epoch + now + Duration::from_secs(days * DAY);
    Ok(params)
}
