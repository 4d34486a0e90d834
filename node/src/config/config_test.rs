//! Configuration: what is read, what is refused and with which words, what is documented.

use std::{collections::BTreeMap, path::Path};

use serde_json::Value;

use super::*;

const CLUSTER: &str = r#"
[cluster]
id = "000102030405060708090a0b0c0d0e0f"
members = [
  { id = 1, address = "a.example:7400" },
  { id = 2, address = "10.0.0.2:7400" },
  { id = 3, address = "[fd00::3]:7400" },
]
"#;
const NODE: &str = "[node]\nid = 2\ndata-dir = \"data\"\n";
const PEER: &str =
    "[peer]\ncertificate-file = \"n.crt\"\nprivate-key-file = \"n.key\"\nca-file = \"ca.crt\"\n";
const CLIENT: &str = "[client]\ncertificate-file = \"s.crt\"\nprivate-key-file = \"s.key\"\n";

fn minimal() -> String {
    [CLUSTER, NODE, PEER, CLIENT].concat()
}

fn load_with(text: &str, environment: &[(&str, &str)]) -> Result<Config, String> {
    let dir = tempfile::tempdir().unwrap();
    for name in ["n.crt", "n.key", "ca.crt", "s.crt", "s.key"] {
        std::fs::write(dir.path().join(name), "").unwrap();
    }
    let path = dir.path().join("heliograph.toml");
    std::fs::write(&path, text).unwrap();
    let environment =
        environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let result = load(&path, environment);
    // What a person sees: the whole chain, with the directory's name taken out.
    result.map_err(|error| {
        format!("{:#}", anyhow::Error::new(error))
            .replace(&format!("{}/", dir.path().display()), "")
    })
}

fn refusal(text: &str) -> String {
    load_with(text, &[]).unwrap_err()
}

#[test]
fn minimal_file_has_the_documented_defaults() {
    let config = load_with(&minimal(), &[]).unwrap();
    assert_eq!(config.node.id, 2);
    assert!(config.node.data_dir.is_absolute(), "paths are relative to the file");
    assert_eq!((config.cluster.shards, config.cluster.replicas), (16, 3));
    assert_eq!(config.cluster.replace_after, Duration::from_secs(600));
    assert_eq!(config.client.listen.to_string(), "0.0.0.0:8443");
    assert_eq!(config.client.registration, Registration::Signed);
    assert_eq!(config.shutdown.deadline, Duration::from_secs(20));
}

#[test]
fn the_admin_port_opens_with_a_token_file_that_is_there() {
    let config = load_with(&minimal(), &[]).unwrap();
    assert_eq!(config.admin.listen.to_string(), "127.0.0.1:7401");
    assert_eq!(config.admin.token_file, None);
    let with = |file| minimal() + "[admin]\ntoken-file = \"" + file + "\"\n";
    let config = load_with(&with("n.key"), &[]).unwrap();
    assert!(config.admin.token_file.is_some_and(|path| path.is_absolute()));
    let error = refusal(&with("none"));
    assert!(error.contains("`admin.token-file` names none, which is not a readable"), "{error}");
}

#[test]
fn environment_overrides_the_file() {
    let config = load_with(
        &minimal(),
        &[
            ("HELIOGRAPH_NODE__ID", "3"),
            ("HELIOGRAPH_CLIENT__LISTEN", "127.0.0.1:9000"),
            ("HELIOGRAPH_NODE__DATA_DIR", "/elsewhere"),
            ("HELIOGRAPH_SHUTDOWN__DEADLINE", "5s"),
            ("HELIOGRAPH_LOG__LEVEL", "info,heliograph_cluster=debug"),
            ("HELIOGRAPH_STORAGE__LOG_SEGMENT_SIZE", "16MiB"),
            ("HELIOGRAPH_CLUSTER__ID", "00000000000000000000000000000012"),
            // Kubernetes sets these for a service named heliograph.
            ("HELIOGRAPH_SERVICE_HOST", "10.0.0.1"),
            ("HELIOGRAPH_PORT_8443_TCP", "tcp://10.0.0.1:8443"),
            ("UNRELATED__ID", "9"),
        ],
    )
    .unwrap();
    assert_eq!(config.node.id, 3);
    assert_eq!(config.client.listen.port(), 9000);
    assert_eq!(config.node.data_dir, Path::new("/elsewhere"));
    assert_eq!(config.shutdown.deadline, Duration::from_secs(5));
    assert_eq!(config.log.level, "info,heliograph_cluster=debug");
    assert_eq!(config.storage.log_segment_size, Size::mib(16));
    assert_eq!(config.cluster.id, "00000000000000000000000000000012");
}

#[test]
fn wrong_override_names_the_variable() {
    assert_eq!(
        load_with(&minimal(), &[("HELIOGRAPH_NODE__ID", "one")]).unwrap_err(),
        "environment variable HELIOGRAPH_NODE__ID: `node.id`: invalid type: found string \"one\", \
         expected u16"
    );
    let error = load_with(&minimal(), &[("HELIOGRAPH_CLIENT__LISTN", "x")]).unwrap_err();
    assert!(error.contains("there is no key `client.listn`; in `client` there are: listen, tls"));
}

#[test]
fn shape_errors_name_the_key_and_what_to_write() {
    let cases = [
        (minimal() + "tsl = \"off\"\n", "there is no key `client.tsl`; in `client` there are: lis"),
        (minimal() + "[clinet]\n", "there is no section `clinet`; there are: node, cluster, peer"),
        (minimal().replace(NODE, ""), "the section `node` is missing"),
        (minimal().replace("id = 2\n", ""), "`node.id` is missing"),
        (minimal().replace("ca-file", "#"), "`peer.ca-file` is missing"),
        (minimal() + "tls = \"on\"\n", "`client.tls` is \"on\"; write \"required\" or \"off\""),
        (minimal().replace("id = 2\n", "id = 70000\n"), "`node.id`"),
        (minimal() + "timestamp-skew = 5\n", "`client.timestamp-skew`"),
        (minimal() + "listen = \"8443\"\n", "`client.listen`: invalid socket address"),
        (
            minimal() + "[storage]\nlog-segment-size = \"64MB\"\n",
            "`storage.log-segment-size`: write a size as a whole number with a unit",
        ),
        ("[node\n".to_owned(), "heliograph.toml: "),
    ];
    for (text, expected) in cases {
        let error = refusal(&text);
        assert!(error.contains(expected), "{error}\n(expected: {expected})");
        assert!(error.starts_with("heliograph.toml: "), "{error}");
    }
}

#[test]
fn missing_file_is_named() {
    let error = load(Path::new("/nowhere/h.toml"), []).unwrap_err();
    assert_eq!(error.to_string(), "cannot read the configuration file /nowhere/h.toml");
}

#[test]
fn values_that_cannot_work_are_refused_with_the_fix() {
    let cases = [
        (minimal().replace("0a0b0c0d0e0f", ""), "`cluster.id` must be 32 hexadecimal digits"),
        (minimal().replace("id = 2\n", "id = 4\n"), "`node.id` is 4, which `cluster.members` do"),
        (
            minimal().replace("id = 2\n", "id = 4\njoin-token-file = \"t\"\n"),
            "`node.join-token-file` names t, which is not a readable file",
        ),
        (minimal().replace("id = 2\n", "id = 0\n"), "`node.id` must be from 1 to 65535"),
        (minimal().replace("id = 3,", "id = 1,"), "names node 1 twice"),
        (minimal().replace("[fd00::3]", "a.example"), "names the address a.example:7400 twice"),
        (minimal().replace("a.example:7400", "a.example"), "\"a.example\" is not an address"),
        (minimal().replace("[fd00::3]:", "fd00::3:"), "\"fd00::3:7400\" is not an address"),
        (minimal().replace(NODE, &format!("shards = 0\n{NODE}")), "`cluster.shards` must be from"),
        (minimal().replace(NODE, &format!("replicas = 2\n{NODE}")), "`cluster.replicas` must be 1"),
        (
            minimal().replace("id = 2\n", "id = 2\nworker-threads = 0\n"),
            "`node.worker-threads` must be from 1 to 1024",
        ),
        (
            minimal().replace(NODE, &format!("replace-after = \"5s\"\n{NODE}")),
            "`cluster.replace-after` must be at least \"10s\"",
        ),
        (
            minimal().replace(NODE, &format!("replicas = 5\n{NODE}")),
            "`cluster.replicas` is 5, but `cluster.members` names 3 nodes",
        ),
        (
            minimal().replace("certificate-file = \"s.crt\"\n", ""),
            "`client.certificate-file` is missing; the client port speaks TLS",
        ),
        (minimal().replace("private-key-file = \"s.key\"\n", ""), "`client.private-key-file` is"),
        (minimal().replace("ca.crt", "none.crt"), "`peer.ca-file` names none.crt, which is not"),
        (minimal() + "[storage]\nlog-segment-size = \"1KiB\"\n", "must be from 1MiB to 1GiB"),
        (minimal() + "[storage]\nstate-cache-size = \"1B\"\n", "`storage.state-cache-size` must"),
        (minimal() + "[shutdown]\ndeadline = \"0s\"\n", "`shutdown.deadline` must be from \"1s\""),
        (minimal() + "connections-max = 0\n", "`client.connections-max` must be at least 1"),
        (minimal() + "[log]\nlevel = \"loud=very\"\n", "`log.level` is not a filter"),
        (minimal() + "[log]\nlevel = \"\"\n", "`log.level` is not a filter"),
    ];
    for (text, expected) in cases {
        let error = refusal(&text);
        assert!(error.contains(expected), "{error}\n(expected: {expected})");
    }
}

#[test]
fn plain_http_is_for_loopback_alone() {
    let off = |listen: &str| minimal() + &format!("tls = \"off\"\nlisten = \"{listen}\"\n");
    for listen in ["127.0.0.1:8080", "[::1]:8080", "127.1.2.3:80"] {
        load_with(&off(listen), &[]).unwrap();
    }
    for listen in ["0.0.0.0:8080", "10.0.0.1:8080", "[::]:8080"] {
        let error = refusal(&off(listen));
        assert!(error.contains("`client.tls` is \"off\", but `client.listen` is"), "{error}");
    }
}

#[test]
fn what_is_written_is_read_back() {
    let config = load_with(&minimal(), &[]).unwrap();
    let text = toml::to_string(&config).unwrap();
    let again: Config = toml::from_str(&text).unwrap();
    assert_eq!(serde_json::to_value(&config).unwrap(), serde_json::to_value(&again).unwrap());
}

/// Every key of `value` with its value; arrays of tables count as one table.
fn flatten(prefix: &str, value: &Value, into: &mut BTreeMap<String, String>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                let key = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
                flatten(&key, value, into);
            }
        }
        Value::Array(items) => flatten(prefix, &items[0], into),
        Value::Null => drop(into.insert(prefix.to_owned(), "–".to_owned())),
        Value::String(text) => drop(into.insert(prefix.to_owned(), format!("\"{text}\""))),
        other => drop(into.insert(prefix.to_owned(), other.to_string())),
    }
}

#[test]
fn the_reference_lists_every_key_with_its_default() {
    let config = serde_json::to_value(load_with(&minimal(), &[]).unwrap()).unwrap();
    let mut keys = BTreeMap::new();
    flatten("", &config, &mut keys);
    for (key, value) in &mut keys {
        let table_key = key.split('.').next_back().unwrap_or_default();
        // What the minimal file had to give.
        if minimal().contains(&format!("{table_key} = ")) && !key.starts_with("client.") {
            *value = "required".to_owned();
        } else if key.starts_with("client.") && key.ends_with("-file") {
            *value = "required with TLS".to_owned();
        }
    }
    let text = include_str!("../../../docs/operations.md");
    let documented: BTreeMap<String, String> = text
        .lines()
        .skip_while(|line| !line.starts_with("## Configuration"))
        .skip(1)
        .take_while(|line| !line.starts_with("## "))
        .filter_map(|line| line.strip_prefix("| `")?.split_once("` | "))
        .map(|(key, rest)| {
            let default = rest.split(" | ").next().unwrap_or_default().trim_matches('`');
            (key.to_owned(), default.to_owned())
        })
        .collect();
    assert_eq!(documented, keys);
}
