//! The directory of `dev`: remembered across starts, refused when it does not fit.

use super::*;
use crate::config;

fn args(dir: &Path, nodes: u16, http_port: u16) -> DevArgs {
    DevArgs { nodes, data_dir: dir.to_owned(), http_port }
}

fn refusal(dir: &Path, nodes: u16, http_port: u16) -> (Reason, String) {
    let failure = Layout::open(&args(dir, nodes, http_port)).unwrap_err();
    (failure.reason(), failure.to_string())
}

#[test]
fn a_second_start_is_the_same_cluster_on_other_http_ports() {
    let dir = tempfile::tempdir().unwrap();
    let first = Layout::open(&args(dir.path(), 3, 8080)).unwrap();
    let again = Layout::open(&args(dir.path(), 3, 9000)).unwrap();
    assert_eq!(first.cluster_id, again.cluster_id);
    for (a, b) in first.nodes.iter().zip(&again.nodes) {
        assert_eq!((a.id, a.peer, &a.dir), (b.id, b.peer, &b.dir));
    }
    assert_eq!(again.nodes[2].http_url(), "http://127.0.0.1:9002");
}

#[test]
fn a_memory_without_admin_ports_is_given_some_for_good() {
    let dir = tempfile::tempdir().unwrap();
    let first = Layout::open(&args(dir.path(), 3, 8080)).unwrap();
    let path = dir.path().join(MEMORY);
    let mut memory: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    for node in memory["nodes"].as_array_mut().unwrap() {
        node.as_object_mut().unwrap().remove("admin_port").unwrap();
    }
    fs::write(&path, memory.to_string()).unwrap();
    let second = Layout::open(&args(dir.path(), 3, 8080)).unwrap();
    let third = Layout::open(&args(dir.path(), 3, 8080)).unwrap();
    let ports = |layout: &Layout| layout.nodes.iter().map(|node| node.admin).collect::<Vec<_>>();
    assert_eq!(ports(&second), ports(&third));
    for node in &second.nodes {
        assert!(node.admin.port() > 0);
        assert!(first.nodes.iter().all(|other| other.peer.port() != node.admin.port()));
    }
    let token = fs::read_to_string(first.token_file()).unwrap();
    assert_eq!(token, fs::read_to_string(third.token_file()).unwrap());
    assert_eq!(token.trim().len(), 64);
}

#[test]
fn written_configurations_pass_the_checks_of_serve() {
    let dir = tempfile::tempdir().unwrap();
    for (count, replicas, shards) in [(1, 1, 3), (2, 1, 3), (3, 3, 3), (5, 3, 5)] {
        let dir = dir.path().join(count.to_string());
        fs::create_dir(&dir).unwrap();
        let layout = Layout::open(&args(&dir, count, 8080)).unwrap();
        layout.write_configs().unwrap();
        for node in &layout.nodes {
            let config = config::load(&node.config(), []).unwrap();
            assert_eq!(config.node.id, node.id);
            assert_eq!((config.cluster.replicas, config.cluster.shards), (replicas, shards));
            assert_eq!(config.client.listen, node.http);
        }
    }
}

#[test]
fn another_number_of_nodes_is_refused_with_the_fix() {
    let dir = tempfile::tempdir().unwrap();
    Layout::open(&args(dir.path(), 3, 8080)).unwrap();
    for wanted in [1, 2, 4] {
        let (reason, text) = refusal(dir.path(), wanted, 8080);
        assert_eq!(reason, Reason::Configuration);
        assert!(text.contains("holds a cluster of 3 nodes"), "{text}");
        assert!(text.contains("start it with --nodes 3"), "{text}");
    }
}

#[test]
fn interrupted_certificates_are_made_anew() {
    let dir = tempfile::tempdir().unwrap();
    Layout::open(&args(dir.path(), 1, 8080)).unwrap();
    let tls = dir.path().join("tls");
    fs::remove_file(tls.join("cluster.toml")).unwrap();
    fs::remove_file(tls.join("node-1.crt")).unwrap();
    Layout::open(&args(dir.path(), 1, 8080)).unwrap();
    assert!(tls.join("cluster.toml").exists() && tls.join("node-1.crt").exists());
}

#[test]
fn a_foreign_directory_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let tls = dir.path().join("tls");
    fs::create_dir(&tls).unwrap();
    let (reason, text) = refusal(dir.path(), 3, 8080);
    assert_eq!(reason, Reason::DataDirectory);
    assert!(text.contains("this is not a directory of `heliograph dev`"), "{text}");
    assert!(tls.exists());
}

#[test]
fn damaged_memory_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let id = "00".repeat(16);
    let damages = [
        String::new(),
        "{}".to_owned(),
        format!(r#"{{"format":2,"cluster_id":"{id}","nodes":[]}}"#),
        r#"{"format":1,"cluster_id":"zz","nodes":[]}"#.to_owned(),
        format!(r#"{{"format":1,"cluster_id":"{id}","nodes":[{{"id":2,"peer_port":1}}]}}"#),
    ];
    for damage in damages {
        fs::write(dir.path().join(MEMORY), damage).unwrap();
        let (reason, text) = refusal(dir.path(), 1, 8080);
        assert_eq!(reason, Reason::DataDirectory);
        assert!(text.contains("dev.json is damaged"), "{text}");
    }
}

#[test]
fn ports_must_fit() {
    let dir = tempfile::tempdir().unwrap();
    let (reason, text) = refusal(dir.path(), 3, 65_534);
    assert_eq!(reason, Reason::Configuration);
    assert!(text.contains("--http-port 65534 leaves no room for 3 ports"), "{text}");
    Layout::open(&args(dir.path(), 2, 65_534)).unwrap();
}

#[test]
fn a_long_log_is_set_aside() {
    let dir = tempfile::tempdir().unwrap();
    let layout = Layout::open(&args(dir.path(), 1, 8080)).unwrap();
    layout.write_configs().unwrap();
    let node = &layout.nodes[0];
    node.open_log().unwrap().set_len(LOG_BYTES_MAX + 1).unwrap();
    assert_eq!(node.open_log().unwrap().metadata().unwrap().len(), 0);
    let aside = fs::metadata(node.dir.join("log.1")).unwrap();
    assert_eq!(aside.len(), LOG_BYTES_MAX + 1);
}
