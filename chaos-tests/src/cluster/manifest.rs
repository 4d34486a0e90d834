//! `cluster.json`, as `heliograph dev` writes it once all nodes are ready.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;

/// What is known of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeInfo {
    /// Its id.
    pub id: u16,
    /// The process that was started first.
    pub pid: u32,
    /// Where it serves clients.
    pub http: SocketAddr,
    /// Where it serves operators, if that is known.
    pub admin: Option<SocketAddr>,
    /// Its data.
    pub data_dir: PathBuf,
    /// Its configuration.
    pub config: PathBuf,
    /// Its log.
    pub log: PathBuf,
}

#[derive(Deserialize)]
struct Manifest {
    format: u32,
    nodes: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    id: u16,
    pid: u32,
    http_url: String,
    data_dir: PathBuf,
    config: PathBuf,
    log: PathBuf,
}

/// Reads the file; nothing when it is not there yet.
///
/// # Errors
/// When it is not as agreed.
pub fn read(path: &Path) -> Result<Option<Vec<NodeInfo>>> {
    let bytes = match std::fs::read(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        bytes => bytes.with_context(|| format!("cannot read {}", path.display()))?,
    };
    let manifest: Manifest = serde_json::from_slice(&bytes)
        .with_context(|| format!("{} is not as agreed", path.display()))?;
    ensure!(manifest.format == 1, "{} has format {}", path.display(), manifest.format);
    let node = |entry: Entry| {
        let address = entry.http_url.strip_prefix("http://").context("a node without http://")?;
        let http = address.trim_end_matches('/').parse().context("a node without an address")?;
        let Entry { id, pid, data_dir, config, log, .. } = entry;
        Ok(NodeInfo { id, pid, http, admin: None, data_dir, config, log })
    };
    manifest.nodes.into_iter().map(node).collect::<Result<_>>().map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cluster.json");
        assert_eq!(read(&path).unwrap(), None);
        std::fs::write(
            &path,
            r#"{"format":1,"nodes":[{"id":1,"pid":42,"http_url":"http://127.0.0.1:8080",
               "data_dir":"/d","config":"/c","log":"/l"}]}"#,
        )
        .unwrap();
        let nodes = read(&path).unwrap().unwrap();
        assert_eq!((nodes[0].pid, nodes[0].http.port()), (42, 8080));
        std::fs::write(&path, r#"{"format":2,"nodes":[]}"#).unwrap();
        assert!(read(&path).is_err());
    }
}
