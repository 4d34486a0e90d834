//! Where a node serves clients, and whether it speaks TLS there.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpSocket, TcpStream},
};
use tokio_rustls::{
    TlsConnector,
    rustls::{
        ClientConfig, RootCertStore,
        crypto::ring,
        pki_types::{CertificateDer, ServerName, pem::PemObject as _},
    },
};

use super::{Dial, Rest};

/// Whether a client port speaks TLS.
#[derive(Clone)]
pub enum Security {
    /// It does not.
    Plain,
    /// It does, with a certificate of an authority that is trusted.
    Tls(TlsConnector),
}

impl fmt::Debug for Security {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plain => "Plain",
            Self::Tls(_) => "Tls",
        })
    }
}

impl Security {
    /// TLS 1.2 or 1.3 with the certificate authorities of a PEM text alone.
    ///
    /// # Errors
    /// When it holds something that is no authority's certificate.
    pub fn trusting(pem: &[u8]) -> anyhow::Result<Self> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(pem) {
            roots.add(certificate?)?;
        }
        let provider = Arc::new(ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self::Tls(TlsConnector::from(Arc::new(config))))
    }

    /// Connects to `node`, from `source` where that is given.
    pub(super) async fn connect(
        &self,
        node: SocketAddr,
        source: Option<IpAddr>,
    ) -> std::io::Result<Line> {
        let tcp = tcp(node, source).await?;
        // What is timed is the relay, not Nagle's algorithm.
        tcp.set_nodelay(true)?;
        Ok(match self {
            Self::Plain => Box::new(tcp),
            Self::Tls(connector) => {
                let name = ServerName::from(node.ip());
                Box::new(connector.connect(name, tcp).await?)
            }
        })
    }
}

/// The client port of a node.
#[derive(Clone, Debug)]
pub struct Door {
    /// Its address.
    pub node: SocketAddr,
    /// What it speaks.
    pub security: Security,
}

impl Door {
    /// One without TLS.
    pub fn plain(node: SocketAddr) -> Self {
        Self { node, security: Security::Plain }
    }

    /// A REST client, with the API key of a device where there is one.
    pub fn rest(&self, key: Option<&str>) -> Rest {
        Rest::new(self.node, key).secured(self.security.clone())
    }

    /// A way to connect a WebSocket, from the system's choice of source address.
    pub fn dial(&self, deadline: Duration) -> Dial {
        Dial { security: self.security.clone(), ..Dial::to(self.node, deadline) }
    }
}

/// A connection, encrypted or not.
pub(super) type Line = Box<dyn Transport>;

/// What a connection can do.
pub(super) trait Transport:
    AsyncRead + AsyncWrite + fmt::Debug + Send + Sync + Unpin
{
}

impl<T: AsyncRead + AsyncWrite + fmt::Debug + Send + Sync + Unpin> Transport for T {}

async fn tcp(node: SocketAddr, source: Option<IpAddr>) -> std::io::Result<TcpStream> {
    let Some(source) = source else { return TcpStream::connect(node).await };
    let socket = match node {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    socket.bind(SocketAddr::new(source, 0))?;
    socket.connect(node).await
}
