//! Certificates of a cluster: `heliograph init-tls`.
//!
//! Two authorities, so that a certificate of the client port never passes for a node:
//! the *cluster CA* signs nodes (peers prove themselves with mutual TLS), the *client CA* signs
//! server certificates of the client port, for clusters that have no public name.

pub(crate) mod authority;
pub(crate) mod init_tls;
pub(crate) mod roster;

#[cfg(test)]
#[path = "pki_test.rs"]
mod tests;
