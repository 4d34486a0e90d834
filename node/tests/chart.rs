//! The Helm chart against the binary: values against their schema, its configuration against the
//! documented keys (which another test holds against the configuration's types). Rendering is
//! Helm's business; here nothing is rendered.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::collections::BTreeSet;

use serde_json::Value;

const VALUES: &str = include_str!("../../helm/heliograph/values.yaml");
const SCHEMA: &str = include_str!("../../helm/heliograph/values.schema.json");
const CONFIG: &str = include_str!("../../helm/heliograph/templates/configmap.yaml");
const CHART: &str = include_str!("../../helm/heliograph/Chart.yaml");
const OPERATIONS: &str = include_str!("../../docs/operations.md");

/// `parent.child` for the two outer levels of a YAML file that is indented by two.
fn yaml_keys(text: &str) -> BTreeSet<String> {
    let mut keys = BTreeSet::new();
    let mut parent = String::new();
    for line in text.lines() {
        let indent = line.len() - line.trim_start().len();
        let Some((key, _)) = line.trim_start().split_once(':') else { continue };
        if !key.bytes().all(|b| b.is_ascii_alphanumeric()) {
            continue;
        }
        match indent {
            0 => {
                parent = key.to_owned();
                keys.insert(parent.clone());
            }
            2 => drop(keys.insert(format!("{parent}.{key}"))),
            _ => {}
        }
    }
    keys
}

fn schema_keys(schema: &Value) -> BTreeSet<String> {
    let mut keys = BTreeSet::new();
    for (key, value) in schema["properties"].as_object().unwrap() {
        keys.insert(key.clone());
        let children = value["properties"].as_object().into_iter().flatten();
        keys.extend(children.map(|(child, _)| format!("{key}.{child}")));
    }
    keys
}

#[test]
fn values_and_schema_have_the_same_keys() {
    let mut schema = schema_keys(&serde_json::from_str(SCHEMA).unwrap());
    // Helm's own.
    assert!(schema.remove("global"));
    // Free in the schema: what Kubernetes takes there.
    let values: BTreeSet<String> =
        yaml_keys(VALUES).into_iter().filter(|key| !key.starts_with("resources.")).collect();
    assert_eq!(values, schema);
}

/// `section.key` for each line of the TOML in the config map.
fn config_keys() -> Vec<String> {
    let toml = CONFIG.split("heliograph.toml: |").nth(1).unwrap();
    let mut section = String::new();
    let mut keys = Vec::new();
    for line in toml.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            section = name.to_owned();
        } else if let Some((key, _)) = line.split_once(" = ")
            && !line.starts_with('{')
        {
            keys.push(format!("{section}.{key}"));
        }
    }
    keys
}

#[test]
fn the_configuration_uses_documented_keys() {
    let keys = config_keys();
    assert!(keys.len() > 15, "{keys:?}");
    for key in keys {
        // The members are tables of their own.
        let row = if key == "cluster.members" { "cluster.members.id" } else { &key };
        assert!(OPERATIONS.contains(&format!("\n| `{row}` | ")), "{key} is not documented");
    }
}

#[test]
fn the_chart_has_the_version_of_the_binary() {
    let expected = format!("appVersion: \"{}\"", env!("CARGO_PKG_VERSION"));
    assert!(CHART.contains(&expected), "{CHART}");
}
