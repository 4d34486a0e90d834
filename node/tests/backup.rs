//! Real processes: a cluster under traffic is copied, and new clusters of other sizes are made of the
//! copy.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod support;

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    process::Output,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
};

use serde_json::Value;
use support::{Dev, HttpNode, heliograph, within};

const RECIPIENTS: [&str; 4] = ["bob", "carol", "dave", "erin"];
/// Messages that wait before the backup begins.
const BEFORE: usize = 40;

/// The devices of a cluster, by their keys.
struct Devices {
    alice: String,
    recipients: Vec<(&'static str, String)>,
}

impl Devices {
    fn register(node: &HttpNode) -> Self {
        let recipients = RECIPIENTS.map(|name| (name, node.register(name)));
        Self { alice: node.register("alice"), recipients: recipients.into() }
    }
}

/// Sends message `number` until it is accepted, or `None` where it is not.
fn send(node: &HttpNode, key: &str, to: &str, id: &str) -> Option<()> {
    let body = format!(r#"{{"recipient_id":"{to}","content":"aGVsbG8=","message_id":"{id}"}}"#);
    matches!(node.post("/api/v1/messages/send", key, &body)?.0, 200..=202).then_some(())
}

/// All that waits for a device: id and number.
fn waiting(node: &HttpNode, name: &str, key: &str) -> Vec<(String, u64)> {
    let mut all: Vec<(String, u64)> = Vec::new();
    loop {
        let after = all.last().map_or(String::new(), |(_, seq)| format!("&after=normal:{seq}"));
        let path = format!("/api/v1/messages/receive/{name}?limit=100{after}");
        let (_, answer) = within(60, || match node.get(&path, key) {
            Some(answer @ (200, _)) => Ok(answer),
            other => Err(other),
        });
        let page = answer.as_array().unwrap();
        if page.is_empty() {
            return all;
        }
        let item = |message: &Value| {
            (message["message_id"].as_str().unwrap().to_owned(), message["seq"].as_u64().unwrap())
        };
        all.extend(page.iter().map(item));
    }
}

/// Sends to all recipients in turn, one message after the other, until told to end; answers what was
/// accepted.
fn traffic(
    url: &str,
    key: &str,
    ends: &Arc<AtomicBool>,
    count: &Arc<AtomicUsize>,
) -> JoinHandle<Vec<(usize, String)>> {
    let (node, key) = (HttpNode::new(url), key.to_owned());
    let (ends, count) = (Arc::clone(ends), Arc::clone(count));
    thread::spawn(move || {
        let mut accepted = Vec::new();
        for number in 0.. {
            if ends.load(Ordering::Relaxed) {
                break;
            }
            let (to, id) = (number % RECIPIENTS.len(), format!("m{number}"));
            if send(&node, &key, RECIPIENTS[to], &id).is_some() {
                accepted.push((to, id));
                count.fetch_add(1, Ordering::Relaxed);
            }
        }
        accepted
    })
}

fn json(output: &Output) -> Value {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn backup(dev: &Path, to: &Path, keys: &Path) -> Value {
    let [dev, to, keys] = [dev, to, keys].map(|path| path.to_str().unwrap());
    let args = ["backup", "--data-dir", dev, "--to", to, "--keys", keys, "--output", "json"];
    json(&heliograph(&args))
}

/// A cluster of `nodes` out of the backup: it is formed empty, for its configuration, and its data is
/// replaced.
fn restore(dir: &Path, nodes: u16, from: &Path, keys: &Path) -> (Dev, Vec<Value>) {
    let mut dev = Dev::start(dir, nodes);
    let formed = dev.wait_until_ready();
    dev.interrupt();
    assert_eq!(dev.wait_for_exit(), Some(0), "{}", dev.output());
    let [from, keys] = [from, keys].map(|path| path.to_str().unwrap());
    let restore = |keys: &str, config: &str| {
        let args = ["restore", "--from", from, "--keys", keys, "--config", config];
        heliograph(&[&args[..], &["--output", "json"]].concat())
    };
    // Not into data that somebody may need.
    let refused = restore(keys, &formed[0].config);
    assert_eq!(refused.status.code(), Some(4));
    let stderr = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(stderr.contains("holds a node's data already"), "{stderr}");
    // Nor without the keys.
    let empty = dir.join("no-keys");
    fs::create_dir(&empty).unwrap();
    let refused = restore(empty.to_str().unwrap(), &formed[0].config);
    let stderr = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(4), "{stderr}");
    let reports = formed.iter().map(|node| {
        fs::remove_dir_all(&node.data_dir).unwrap();
        json(&restore(keys, &node.config))
    });
    let reports = reports.collect();
    fs::remove_file(dir.join("cluster.json")).ok();
    (Dev::start(dir, nodes), reports)
}

#[test]
fn a_backup_under_traffic_makes_clusters_of_other_sizes() {
    let dir = tempfile::tempdir().unwrap();
    let place = |name: &str| dir.path().join(name);
    let mut dev = Dev::start(&place("old"), 3);
    let nodes = dev.wait_until_ready();
    let node = HttpNode::new(&nodes[1].url);
    let devices = Devices::register(&node);
    let bob = &devices.recipients[0].1;

    // Some wait, some are acknowledged, others come all the time.
    let (ends, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let sending = traffic(&nodes[0].url, &devices.alice, &ends, &count);
    within(120, || match count.load(Ordering::Relaxed) >= BEFORE {
        true => Ok(()),
        false => Err(count.load(Ordering::Relaxed)),
    });
    let acknowledge = |number: usize| {
        let (id, _) = waiting(&node, "bob", bob).swap_remove(number);
        let body = format!(r#"{{"message_ids":["{id}"]}}"#);
        let answer = node.post("/api/v1/messages/acknowledge", bob, &body);
        assert!(matches!(answer, Some((200, _))), "{answer:?}");
        id
    };
    let acknowledged_before = acknowledge(0);
    let before = count.load(Ordering::Relaxed);
    let manifest = backup(&place("old"), &place("backup"), &place("keys"));
    let acknowledged_after = acknowledge(0);
    let after = count.load(Ordering::Relaxed);
    ends.store(true, Ordering::Relaxed);
    let accepted = sending.join().unwrap();
    let old_numbers: u64 = devices
        .recipients
        .iter()
        .map(|(name, key)| waiting(&node, name, key).last().map_or(0, |(_, seq)| *seq))
        .max()
        .unwrap();
    dev.interrupt();
    assert_eq!(dev.wait_for_exit(), Some(0), "{}", dev.output());
    eprintln!(
        "{before} accepted before the backup, {after} when it ended, {} in all",
        accepted.len()
    );

    assert_eq!(manifest["shards"], support::SHARDS);
    let in_it = manifest["total"]["messages"].as_u64().unwrap() as usize;
    assert!((before - 1..=after).contains(&in_it), "{in_it} of {before} to {after}");
    assert_eq!(manifest["total"]["devices"], 5);

    for size in [1, 5] {
        let new = place(&format!("new-{size}"));
        let (mut dev, reports) = restore(&new, size, &place("backup"), &place("keys"));
        assert_eq!(reports.len(), usize::from(size));
        for report in &reports {
            assert_eq!(report["may_be_delivered_again_max"], in_it);
        }
        let nodes = dev.wait_until_ready();
        let node = HttpNode::new(&nodes[nodes.len() - 1].url);
        let mut found = BTreeSet::new();
        for (name, key) in &devices.recipients {
            found.extend(waiting(&node, name, key).into_iter().map(|(id, _)| id));
        }
        assert_eq!(found.len(), in_it, "{size} nodes hold what the manifest counts");
        for (_, id) in &accepted[..before] {
            let is_there = found.contains(id);
            assert_eq!(is_there, *id != acknowledged_before, "{id} in {size} nodes");
        }
        // It was acknowledged, and comes again: the backup cannot know.
        assert!(found.contains(&acknowledged_after));
        // What is sent now gets numbers that the old cluster gave to nothing.
        within(60, || send(&node, &devices.alice, "bob", "new").ok_or(()));
        let (id, seq) = waiting(&node, "bob", bob).pop().unwrap();
        assert_eq!(id, "new");
        assert!(seq > 1 << 32 && old_numbers < 1 << 32, "{seq} and {old_numbers}");
        dev.interrupt();
        assert_eq!(dev.wait_for_exit(), Some(0), "{}", dev.output());
    }
}

/// The configuration of a cluster of one node, with certificates of its own.
fn config_of_one(dir: &Path) -> String {
    let tls = dir.join("tls");
    let made = heliograph(&["init-tls", "--dir", tls.to_str().unwrap(), "--node", "1=127.0.0.1"]);
    assert!(made.status.success(), "{made:?}");
    let roster = fs::read_to_string(tls.join("cluster.toml")).unwrap();
    let config = format!(
        "{}\n[node]\nid = 1\ndata-dir = \"../data\"\n\n[peer]\ncertificate-file = \"node-1.crt\"\n\
         private-key-file = \"node-1.key\"\nca-file = \"cluster-ca.crt\"\n\n\
         [client]\nlisten = \"127.0.0.1:1\"\ntls = \"off\"\n",
        roster.replace("[cluster]", "[cluster]\nreplicas = 1")
    );
    let path = tls.join("heliograph.toml");
    fs::write(&path, config).unwrap();
    path.to_str().unwrap().to_owned()
}

/// Each release's backup stays readable: two messages wait in each.
#[test]
fn backups_of_kept_releases_are_restored() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures");
    let mut restored = 0;
    for release in fs::read_dir(fixtures).unwrap() {
        let from = release.unwrap().path().join("backup");
        if !from.exists() {
            continue;
        }
        let dir = tempfile::tempdir().unwrap();
        let config = config_of_one(dir.path());
        let from = from.to_str().unwrap();
        let args = ["restore", "--from", from, "--config", &config, "--output", "json"];
        let report = json(&heliograph(&args));
        assert_eq!((&report["messages"], &report["devices"]), (&2.into(), &2.into()), "{from}");
        assert_eq!((&report["messages_here"], &report["groups_here"]), (&2.into(), &17.into()));
        restored += 1;
    }
    assert!(restored > 0);
}
