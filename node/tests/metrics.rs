//! Every metric of the workspace against `docs/reference/metrics.md` and the rule for names.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::{collections::BTreeSet, fs, path::Path};

const CRATES: [&str; 5] = ["api", "cluster", "node", "storage", "transport"];
const REFERENCE: &str = include_str!("../../docs/reference/metrics.md");

/// Every string literal in `source` that is a metric's name.
fn names(source: &str) -> Vec<String> {
    let parts: Vec<&str> = source.split('"').collect();
    let is_name = |part: &&&str| {
        part.starts_with("heliograph_")
            && part.matches('_').count() >= 2
            && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
    };
    parts.iter().filter(is_name).map(|part| (*part).to_owned()).collect()
}

fn names_below(dir: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            names_below(&path, found);
        } else if name.ends_with(".rs") && !name.contains("test") {
            found.extend(names(&fs::read_to_string(&path).unwrap()));
        }
    }
}

fn names_of(crate_name: &str) -> BTreeSet<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut found = BTreeSet::new();
    names_below(&root.join(crate_name).join("src"), &mut found);
    found
}

#[test]
fn the_reference_lists_every_metric() {
    let exported: BTreeSet<String> = CRATES.into_iter().flat_map(names_of).collect();
    assert!(exported.len() > 30, "{exported:?}");
    let rows = REFERENCE.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    let documented: BTreeSet<String> = rows.map(str::to_owned).collect();
    let missing: Vec<_> = exported.difference(&documented).collect();
    let gone: Vec<_> = documented.difference(&exported).collect();
    assert!(missing.is_empty() && gone.is_empty(), "missing: {missing:#?}\ngone: {gone:#?}");
}

#[test]
fn metrics_are_named_after_their_crate() {
    for name in CRATES {
        for metric in names_of(name) {
            assert!(metric.starts_with(&format!("heliograph_{name}_")), "{metric} is in {name}");
        }
    }
}

#[test]
fn names_are_found_in_source() {
    let source =
        r#"counter!("heliograph_a_b_total"); filter("heliograph_cluster=debug"); "heliograph_x""#;
    assert_eq!(names(source), ["heliograph_a_b_total"]);
}
