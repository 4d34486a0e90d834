//! The layers of the workspace: `transport`, `storage` <- `cluster` <- `api` <- `node`.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::{
    collections::{BTreeMap, BTreeSet},
    process::Command,
};

use serde_json::Value;

/// Which crates of the workspace each may use. `chaos-tests` drives the built binary and the typed
/// client; it uses `cluster` for simulation.
const EDGES: &[(&str, &[&str])] = &[
    // Stands in for a dependency of openraft; nobody here uses it.
    ("base2histogram", &[]),
    ("heliograph-transport", &[]),
    ("heliograph-storage", &[]),
    ("heliograph-cluster", &["heliograph-storage", "heliograph-transport"]),
    ("heliograph-api", &["heliograph-cluster"]),
    (
        "heliograph-node",
        &["heliograph-api", "heliograph-cluster", "heliograph-storage", "heliograph-transport"],
    ),
    ("heliograph-chaos-tests", &["heliograph-api", "heliograph-cluster"]),
];

/// Libraries that belong to one layer: their types show nowhere else.
const HOMES: &[(&str, &[&str])] = &[
    ("sled", &["heliograph-storage"]),
    ("quinn", &["heliograph-transport"]),
    ("openraft", &["heliograph-cluster"]),
    ("ractor", &["heliograph-cluster"]),
    ("clap", &["heliograph-node", "heliograph-chaos-tests"]),
    ("figment", &["heliograph-node"]),
    ("anyhow", &["heliograph-node", "heliograph-chaos-tests"]),
    ("tracing-subscriber", &["heliograph-node", "heliograph-chaos-tests"]),
];

/// Package name to the names of what it depends on: crates of the workspace also where tests alone
/// use them, libraries only where the product does.
type Graph = BTreeMap<String, BTreeSet<String>>;

fn graph(metadata: &Value) -> Graph {
    let names = |package: &Value| {
        let dependencies = package["dependencies"].as_array().unwrap().iter();
        dependencies
            .map(|dependency| (dependency["name"].as_str().unwrap(), &dependency["kind"]))
            .filter(|(name, kind)| name.starts_with("heliograph-") || *kind != "dev")
            .map(|(name, _)| name.to_owned())
            .collect()
    };
    let packages = metadata["packages"].as_array().unwrap().iter();
    packages.map(|package| (package["name"].as_str().unwrap().to_owned(), names(package))).collect()
}

/// What in `graph` is not allowed, in words.
fn violations(graph: &Graph) -> Vec<String> {
    let mut found = Vec::new();
    for (package, dependencies) in graph {
        let Some((_, allowed)) = EDGES.iter().find(|(name, _)| name == package) else {
            found.push(format!("{package} is in no layer"));
            continue;
        };
        for dependency in dependencies {
            if graph.contains_key(dependency) && !allowed.contains(&dependency.as_str()) {
                found.push(format!("{package} must not use {dependency}"));
            }
            let home = HOMES.iter().find(|(library, _)| library == dependency);
            if home.is_some_and(|(_, homes)| !homes.contains(&package.as_str())) {
                found.push(format!("{package} must not use the library {dependency}"));
            }
        }
    }
    found
}

/// What cargo says of the workspace.
fn metadata() -> Value {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn cargo_run_starts_heliograph() {
    let metadata = metadata();
    let packages = metadata["packages"].as_array().unwrap();
    let default = metadata["workspace_default_members"].as_array().unwrap();
    let programs: Vec<&str> = packages
        .iter()
        .filter(|package| default.contains(&package["id"]))
        .flat_map(|package| package["targets"].as_array().unwrap())
        .filter(|target| target["kind"][0] == "bin")
        .map(|target| target["name"].as_str().unwrap())
        .collect();
    assert_eq!(programs, ["heliograph"]);
}

#[test]
fn crates_use_only_the_layers_below_them() {
    let graph = graph(&metadata());
    assert_eq!(graph.len(), EDGES.len(), "a crate of the list is gone");
    assert_eq!(violations(&graph), Vec::<String>::new());
}

#[test]
fn a_wrong_edge_is_found() {
    let crates = |list: &[(&str, &[&str])]| {
        let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        list.iter().map(|(name, uses)| ((*name).to_owned(), set(uses))).collect::<Graph>()
    };
    let api: &str = "heliograph-api";
    let cluster: &str = "heliograph-cluster";
    assert_eq!(violations(&crates(&[(api, &[cluster, "bytes"]), (cluster, &[])])).len(), 0);
    assert_eq!(
        violations(&crates(&[(api, &[]), (cluster, &[api])])),
        ["heliograph-cluster must not use heliograph-api"]
    );
    assert_eq!(
        violations(&crates(&[(cluster, &["sled"])])),
        ["heliograph-cluster must not use the library sled"]
    );
    assert_eq!(violations(&crates(&[("extra", &[])])), ["extra is in no layer"]);
}
