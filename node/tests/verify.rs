//! `heliograph verify` on the data of a real node, sound and damaged.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod support;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Output,
};

use serde_json::{Value, json};
use support::{Dev, GROUPS, HttpNode, text};

fn verify(dir: &Path, args: &[&str]) -> Output {
    let mut all = vec!["verify", dir.to_str().unwrap()];
    all.extend(args);
    support::heliograph(&all)
}

/// All files below `dir` and what is in them.
fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.insert(path.clone(), fs::read(&path).unwrap());
        }
    }
    found
}

fn flip(path: &Path, at: usize) {
    let mut content = fs::read(path).unwrap();
    content[at] ^= 0x10;
    fs::write(path, content).unwrap();
}

/// A directory of a node that was stopped cleanly after some messages.
fn stopped(dir: &Path) -> PathBuf {
    let mut dev = Dev::start(dir, 1);
    let node = dev.wait_until_ready().remove(0);
    let http = HttpNode::new(&node.url);
    let key = http.register("alice");
    for number in 0..40 {
        let body = json!({ "recipient_id": "alice", "content": "aaaa".repeat(800),
            "message_id": format!("m{number}") });
        let sent = http.post("/api/v1/messages/send", &key, &body.to_string());
        assert!(matches!(sent, Some((200..=202, _))), "{sent:?}");
    }
    // Somebody uses it.
    let data = PathBuf::from(&node.data_dir);
    let refused = verify(&data, &[]);
    assert_eq!(refused.status.code(), Some(4), "{refused:?}");
    assert!(text(&refused.stderr).contains("in use by another process"), "{refused:?}");
    dev.interrupt();
    assert_eq!(dev.wait_for_exit(), Some(0));
    data
}

/// What verify says of `data`, whose every byte it leaves alone.
fn report(data: &Path, code: i32) -> Value {
    let before = files(data);
    let output = verify(data, &["--output", "json"]);
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    assert_eq!(files(data), before);
    serde_json::from_slice(&output.stdout).unwrap()
}

fn restore(from: &BTreeMap<PathBuf, Vec<u8>>) {
    from.iter().for_each(|(path, content)| fs::write(path, content).unwrap());
}

#[test]
fn verify_tells_sound_data_from_damaged_and_changes_neither() {
    let dir = tempfile::tempdir().unwrap();
    let data = stopped(dir.path());
    let sound = report(&data, 0);
    assert_eq!(sound["sound"], true, "{sound}");
    assert_eq!(sound["damage"], json!([]));
    let people = verify(&data, &[]);
    assert!(text(&people.stdout).contains("Sound: every byte"), "{people:?}");
    let whole = files(&data);

    // The log: a message in the middle of it.
    let log = data.join("log/0000000000000001.log");
    let used = whole[&log].iter().rposition(|byte| *byte != 0).unwrap();
    flip(&log, used / 2);
    let damaged = report(&data, 9);
    let found = &damaged["damage"][0];
    assert_eq!(found["path"], "log/0000000000000001.log", "{damaged}");
    assert!(found["offset"].as_u64().unwrap() > 0);
    // Behind damage in the last segment nobody can be told to be whole.
    let groups = found["groups"].as_array().unwrap().iter().map(|name| name.as_str().unwrap());
    let replicas = groups.filter(|name| *name == "meta" || name.starts_with("shard "));
    assert_eq!(replicas.count(), GROUPS, "{found}");
    assert!(found["do"].as_str().unwrap().contains("seeds them anew"));
    let people = verify(&data, &[]);
    assert_eq!(people.status.code(), Some(9));
    assert!(text(&people.stdout).contains("DAMAGED"), "{people:?}");
    assert!(text(&people.stderr).contains("damaged: see above"), "{people:?}");
    restore(&whole);

    // The log without its end.
    fs::write(&log, &whole[&log][..used / 3]).unwrap();
    assert_eq!(report(&data, 9)["sound"], false);
    restore(&whole);

    // The database: another version of a row somewhere, or sled's own settings.
    flip(&data.join("state/conf"), 5);
    let damaged = report(&data, 9);
    assert_eq!(damaged["damage"][0]["path"], "state/db", "{damaged}");
    assert!(damaged["damage"][0]["do"].as_str().unwrap().contains("rebuilds it"));
    restore(&whole);

    fs::write(data.join("identity.json"), "{").unwrap();
    assert_eq!(report(&data, 9)["damage"][0]["path"], "identity.json");
    restore(&whole);
    assert_eq!(report(&data, 0)["sound"], true);

    // Keys that lie elsewhere are to be named; without them nothing is called damaged.
    let keys = dir.path().join("keys elsewhere");
    fs::rename(data.join("keys"), &keys).unwrap();
    let sealed = verify(&data, &[]);
    assert_eq!(sealed.status.code(), Some(4), "{sealed:?}");
    assert!(text(&sealed.stderr).contains("--key-dir"), "{sealed:?}");
    let named = verify(&data, &["--key-dir", keys.to_str().unwrap()]);
    assert_eq!(named.status.code(), Some(0), "{named:?}");

    let nothing = verify(dir.path(), &[]);
    assert_eq!(nothing.status.code(), Some(4));
    assert!(text(&nothing.stderr).contains("not a node's data directory"), "{nothing:?}");
}
