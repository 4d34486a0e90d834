//! What the project may depend on: `deny.toml`, enforced without `cargo deny`.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::process::Command;

use serde_json::Value;
use spdx::{Expression, ParseMode};

struct Rules {
    licenses: Vec<spdx::Licensee>,
    banned: Vec<String>,
    registries: Vec<String>,
}

fn rules(deny: &str) -> Rules {
    let deny: toml::Table = deny.parse().unwrap();
    let strings = |value: &toml::Value| {
        let items = value.as_array().unwrap().iter();
        items.map(|item| item.as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let banned = deny["bans"]["deny"].as_array().unwrap().iter();
    Rules {
        licenses: strings(&deny["licenses"]["allow"])
            .iter()
            .map(|license| spdx::Licensee::parse(license).unwrap())
            .collect(),
        banned: banned.map(|ban| ban["crate"].as_str().unwrap().to_owned()).collect(),
        registries: strings(&deny["sources"]["allow-registry"]),
    }
}

/// What is wrong with a package, in words.
fn violation(rules: &Rules, package: &Value) -> Option<String> {
    let name = package["name"].as_str().unwrap();
    if rules.banned.iter().any(|banned| banned == name) {
        return Some(format!("{name} is banned"));
    }
    // Crates of the workspace have no source.
    if let Some(source) = package["source"].as_str()
        && !rules.registries.iter().any(|r| source == format!("registry+{r}"))
    {
        return Some(format!("{name} comes from {source}"));
    }
    let Some(license) = package["license"].as_str() else {
        return Some(format!("{name} names no license"));
    };
    let Ok(expression) = Expression::parse_mode(license, ParseMode::LAX) else {
        return Some(format!("{name} has the license {license}, which cannot be read"));
    };
    let allowed =
        expression.evaluate(|required| rules.licenses.iter().any(|l| l.satisfies(required)));
    (!allowed).then(|| format!("{name} has the license {license}"))
}

/// All packages that are built on this platform.
fn packages() -> Vec<Value> {
    let version = Command::new("rustc").arg("-vV").output().unwrap();
    let version = String::from_utf8(version.stdout).unwrap();
    let host = version.lines().find_map(|line| line.strip_prefix("host: ")).unwrap();
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--offline", "--locked"])
        .args(["--filter-platform", host])
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    metadata["packages"].as_array().unwrap().clone()
}

#[test]
fn all_dependencies_are_allowed() {
    let rules = rules(include_str!("../../deny.toml"));
    let packages = packages();
    assert!(packages.len() > 100, "cargo metadata answered {} packages", packages.len());
    let violations: Vec<String> =
        packages.iter().filter_map(|package| violation(&rules, package)).collect();
    assert_eq!(violations, Vec::<String>::new());
}

#[test]
fn what_is_not_allowed_is_found() {
    let rules = rules(include_str!("../../deny.toml"));
    let index = "registry+https://github.com/rust-lang/crates.io-index";
    let found = |name: &str, source: &str, license: Option<&str>| {
        let package = serde_json::json!({ "name": name, "source": source, "license": license });
        violation(&rules, &package)
    };
    assert_eq!(found("a", index, Some("MIT OR GPL-3.0")), None);
    assert_eq!(found("a", index, Some("MIT/Apache-2.0")), None);
    assert_eq!(
        found("a", index, Some("MIT AND GPL-3.0")).unwrap(),
        "a has the license MIT AND GPL-3.0"
    );
    assert_eq!(found("a", index, None).unwrap(), "a names no license");
    assert_eq!(found("openssl", index, Some("MIT")).unwrap(), "openssl is banned");
    let git = "git+https://example.org/a";
    assert_eq!(found("a", git, Some("MIT")).unwrap(), format!("a comes from {git}"));
}

/// The crate of that name on the registry takes 26 MiB of every node.
#[test]
fn the_histogram_of_raft_is_our_own() {
    let packages = packages();
    let sources: Vec<_> = packages
        .iter()
        .filter(|package| package["name"] == "base2histogram")
        .map(|package| &package["source"])
        .collect();
    assert_eq!(sources, [&Value::Null]);
}
