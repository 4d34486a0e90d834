//! Status for people: short aligned tables.

use std::{collections::BTreeMap, fmt::Write as _};

use heliograph_cluster::{ClusterStatus, GroupStatus, NodeStatus, ReplicaStatus};
use indicatif::HumanBytes;

/// The most groups that are shown one by one when they are well: more would scroll the trouble away.
const WELL_GROUPS_MAX: usize = 4;

/// The whole status.
pub(super) fn status(status: &ClusterStatus) -> String {
    let mut text = String::new();
    // Writing into a string cannot fail.
    let _ = writeln!(
        text,
        "cluster {}: {}, {} nodes, {} groups\n",
        status.cluster_id,
        status.health,
        status.nodes.len(),
        status.groups.len()
    );
    text += &nodes(&status.nodes);
    text.push('\n');
    text += &groups(&status.groups);
    if !status.moves.is_empty() {
        text.push('\n');
        text += &moves(status);
    }
    text
}

fn nodes(nodes: &[NodeStatus]) -> String {
    let mut rows = vec![
        [
            "NODE",
            "ADDRESS",
            "ZONE",
            "STATE",
            "LIVE",
            "LEADS",
            "HOLDS",
            "DISK FREE",
            "LOG",
            "VERSION",
        ]
        .map(str::to_owned)
        .to_vec(),
    ];
    let bytes = |bytes: Option<u64>| bytes.map_or("-".to_owned(), |b| HumanBytes(b).to_string());
    for node in nodes {
        let silent = node.silent_ms.map_or(String::new(), |ms| format!(" {}s", ms / 1000));
        rows.push(vec![
            node.id.to_string(),
            node.address.clone(),
            if node.zone.is_empty() { "-".to_owned() } else { node.zone.clone() },
            node.state.to_string(),
            format!("{}{silent}", node.liveness),
            node.leads.to_string(),
            node.holds.to_string(),
            bytes(node.disk_free_bytes),
            bytes(node.log_bytes),
            node.version.clone().unwrap_or("-".to_owned()),
        ]);
    }
    let mut text = table(&rows);
    for node in nodes.iter().filter(|node| !node.ready) {
        let reason = node.reason.as_deref().unwrap_or("it is not ready");
        let _ = writeln!(text, "node {} does not serve: {reason}", node.id);
    }
    text
}

fn is_well(group: &GroupStatus) -> bool {
    group.leader.is_some() && group.live.len() == group.held.len() && group.target == group.held
}

fn groups(groups: &[GroupStatus]) -> String {
    let well = groups.iter().filter(|group| is_well(group)).count();
    let shows_all = groups.len() <= WELL_GROUPS_MAX;
    let shown: Vec<_> = groups.iter().filter(|group| shows_all || !is_well(group)).collect();
    let mut text = String::new();
    if !shown.is_empty() {
        let head = ["GROUP", "LEADER", "TERM", "COMMITTED", "VOTERS", "ANSWER", "LEARNERS"];
        let mut rows = vec![head.map(str::to_owned).to_vec()];
        rows.extend(shown.iter().map(|group| {
            vec![
                group.name.clone(),
                group.leader.map_or("none".to_owned(), |leader| leader.to_string()),
                group.term.to_string(),
                group.commit_index.map_or("-".to_owned(), |index| index.to_string()),
                replicas(&group.held),
                format!("{} of {}", group.live.len(), group.held.len()),
                replicas(&group.learners.iter().map(|l| l.replica).collect::<Vec<_>>()),
            ]
        }));
        text += &table(&rows);
    }
    let _ = writeln!(text, "{well} of {} groups have a leader and all voters", groups.len());
    text
}

fn moves(status: &ClusterStatus) -> String {
    let names: BTreeMap<u32, &str> =
        status.groups.iter().map(|group| (group.id, group.name.as_str())).collect();
    let mut rows = vec![["MOVING", "TO", "FROM", "ENTRIES BEHIND"].map(str::to_owned).to_vec()];
    rows.extend(status.moves.iter().map(|moving| {
        vec![
            names.get(&moving.group).map_or(moving.group.to_string(), |name| (*name).to_owned()),
            replicas(&moving.adding),
            replicas(&moving.removing),
            moving.behind_entries.map_or("-".to_owned(), |entries| entries.to_string()),
        ]
    }));
    table(&rows)
}

fn replicas(replicas: &[ReplicaStatus]) -> String {
    let one = |replica: &ReplicaStatus| match replica.incarnation {
        0 => replica.node.to_string(),
        life => format!("{}.{life}", replica.node),
    };
    match replicas {
        [] => "-".to_owned(),
        replicas => replicas.iter().map(one).collect::<Vec<_>>().join(","),
    }
}

/// Columns as wide as their widest cell, two spaces between them.
pub(super) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max()
    };
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        text += cells.collect::<Vec<_>>().join("  ").trim_end();
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn group(id: u32, name: &str, leader: Option<u16>, live: &[u16]) -> serde_json::Value {
        let held = json!([{"node": 1, "incarnation": 0}, {"node": 2, "incarnation": 3}]);
        json!({"id": id, "name": name, "leader": leader, "term": 4, "target": held, "held": held,
            "learners": [], "commit_index": 77, "live": live})
    }

    fn example() -> ClusterStatus {
        let node = |id: u16, ready: bool| {
            json!({"id": id, "address": format!("relay-{id}.example.org:7400"), "zone": "",
                "state": "active", "liveness": if ready { "live" } else { "gone" },
                "silent_ms": (!ready).then_some(65_500), "version": ready.then_some("0.1.0"),
                "ready": ready, "reason": (!ready).then_some("it does not answer"),
                "leads": 2, "holds": 2, "disk_free_bytes": 1u64 << 30, "log_bytes": null})
        };
        serde_json::from_value(json!({
            "cluster_id": "ab", "topology_version": 1, "answered_by": 1, "health": "degraded",
            "nodes": [node(1, true), node(2, false)],
            "groups": [group(0, "meta", Some(1), &[1]), group(1, "shard 0", None, &[])],
            "moves": [{"group": 1, "adding": [{"node": 3, "incarnation": 0}], "removing": [],
                "behind_entries": 12}],
        }))
        .unwrap()
    }

    #[test]
    fn a_person_reads_aligned_tables() {
        let expected = "\
cluster ab: degraded, 2 nodes, 2 groups

NODE  ADDRESS                   ZONE  STATE   LIVE      LEADS  HOLDS  DISK FREE  LOG  VERSION
1     relay-1.example.org:7400  -     active  live      2      2      1.00 GiB   -    0.1.0
2     relay-2.example.org:7400  -     active  gone 65s  2      2      1.00 GiB   -    -
node 2 does not serve: it does not answer

GROUP    LEADER  TERM  COMMITTED  VOTERS  ANSWER  LEARNERS
meta     1       4     77         1,2.3   1 of 2  -
shard 0  none    4     77         1,2.3   0 of 2  -
0 of 2 groups have a leader and all voters

MOVING   TO  FROM  ENTRIES BEHIND
shard 0  3   -     12
";
        assert_eq!(status(&example()), expected);
    }

    #[test]
    fn many_groups_that_are_well_are_one_line() {
        let mut example = example();
        let group = |id| serde_json::from_value(group(id, "shard", Some(1), &[1, 2])).unwrap();
        example.groups = (0..17).map(group).collect();
        assert_eq!(groups(&example.groups), "17 of 17 groups have a leader and all voters\n");
    }
}
