//! Where a gateway is.

use http::{Uri, uri::Scheme};

/// Why a text names no gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EndpointError {
    /// Not a URL.
    #[error("a gateway is named by a URL such as https://gateway.example or http://127.0.0.1:8080")]
    NotAUrl,
    /// Neither http nor https.
    #[error("a gateway's URL begins with http:// or https://")]
    Scheme,
    /// A path or query.
    #[error("a gateway's URL has no path")]
    Path,
}

/// A gateway's address: scheme, host, port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    pub(super) uri: Uri,
}

impl Endpoint {
    /// Reads a URL without a path.
    ///
    /// # Errors
    /// When it is none, or has another scheme or a path.
    pub fn parse(url: &str) -> Result<Self, EndpointError> {
        let uri: Uri = url.parse().map_err(|_| EndpointError::NotAUrl)?;
        match uri.scheme() {
            Some(scheme) if *scheme == Scheme::HTTPS || *scheme == Scheme::HTTP => {}
            Some(_) => return Err(EndpointError::Scheme),
            None => return Err(EndpointError::NotAUrl),
        }
        if uri.host().is_none_or(str::is_empty) {
            return Err(EndpointError::NotAUrl);
        }
        if uri.path_and_query().is_some_and(|path| path.as_str() != "/") {
            return Err(EndpointError::Path);
        }
        Ok(Self { uri })
    }

    /// The URL of a path at this gateway.
    pub(super) fn at(&self, path: &str) -> Uri {
        let mut parts = self.uri.clone().into_parts();
        parts.path_and_query = Some(path.parse().expect("paths are percent-encoded"));
        Uri::from_parts(parts).expect("scheme, host and path make a URL")
    }
}

/// Host (without the brackets of an IPv6 address) and port of a URL.
pub(super) fn dial_address(uri: &Uri) -> (String, u16) {
    let default = if uri.scheme() == Some(&Scheme::HTTPS) { 443 } else { 80 };
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    (host, uri.port_u16().unwrap_or(default))
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.uri.to_string().trim_end_matches('/'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_of_gateways_parse() {
        let plain = Endpoint::parse("http://127.0.0.1:8080").unwrap();
        assert_eq!(dial_address(&plain.uri), ("127.0.0.1".into(), 8080));
        assert_eq!(plain.at("/ws").to_string(), "http://127.0.0.1:8080/ws");
        assert_eq!(plain.to_string(), "http://127.0.0.1:8080");
        let tls = Endpoint::parse("https://gateway.example/").unwrap();
        assert_eq!(dial_address(&tls.uri), ("gateway.example".into(), 443));
        let v6 = Endpoint::parse("http://[::1]:80").unwrap();
        assert_eq!(dial_address(&v6.uri).0, "::1");
    }

    #[test]
    fn others_do_not() {
        assert_eq!(Endpoint::parse("gateway"), Err(EndpointError::NotAUrl));
        assert_eq!(Endpoint::parse(""), Err(EndpointError::NotAUrl));
        assert_eq!(Endpoint::parse("ftp://gateway"), Err(EndpointError::Scheme));
        assert_eq!(Endpoint::parse("http://gateway/api"), Err(EndpointError::Path));
    }
}
