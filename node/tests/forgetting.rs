//! The proof of forgetting, on a real node: whoever copied the whole disk before a message was
//! acknowledged can read it with the keys of that time, and not with those that are left.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod support;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::Instant,
};

use bytes::Bytes;
use heliograph_storage::{
    FileSnapshots, Keyring, LogStore, SegmentLog, SegmentLogConfig, SledConfig, SledStore,
    SnapshotStore, StateStore,
};
use rustix::process::Signal;

/// Short enough for a test, long enough to send and copy within one.
const KEY_EPOCH: &str = "6s";
/// In each body, and nowhere else.
const MARK: &str = "0f1e2d3c-only-the-recipient-may-read-this";

/// A node of its own, on loopback. Dropping it kills it.
struct Served {
    child: Child,
    url: String,
    dir: tempfile::TempDir,
}

impl Drop for Served {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.log());
        }
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Served {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        support::init_tls(dir.path());
        let http = support::free_port();
        let sections = format!(
            "[client]\nlisten = \"127.0.0.1:{http}\"\ntls = \"off\"\n\n\
             [storage]\nkey-epoch = \"{KEY_EPOCH}\"\nlog-segment-size = \"1MiB\"\n"
        );
        let child = support::serve_alone(dir.path(), "replicas = 1\nshards = 2", &sections);
        let served = Self { child, url: format!("http://127.0.0.1:{http}"), dir };
        support::within(150, || match served.log().contains("ready") {
            true => Ok(()),
            false => Err(served.log()),
        });
        served
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap()
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn client(&self, command: &str, device: &str, arguments: &[&str]) -> Output {
        let mut client = Command::new(env!("CARGO_BIN_EXE_heliograph"));
        client
            .args([command, "--url", &self.url, "--device", device, "--output", "json"])
            .arg("--key-file")
            .arg(self.dir.path().join(format!("{device}.key")))
            .args(arguments)
            .stdin(Stdio::null());
        let output = client.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        output
    }

    fn send(&self, to: &str, number: usize) {
        let text = text(number);
        self.client("send", "alice", &["--to", to, "--text", &text]);
    }

    fn receive(&self, device: &str, arguments: &[&str]) -> usize {
        let output = self.client("receive", device, arguments);
        String::from_utf8(output.stdout).unwrap().lines().count()
    }

    fn key_files(&self) -> Vec<String> {
        names(&self.data().join("keys")).into_iter().filter(|name| name.ends_with(".key")).collect()
    }

    /// The data directory as a thief's copy has it: of one moment.
    fn copy_to(&self, to: &Path) {
        support::signal(self.child.id(), Signal::STOP);
        copy(&self.data(), to);
        support::signal(self.child.id(), Signal::CONT);
    }
}

/// A message's body.
fn text(number: usize) -> String {
    format!("{MARK} {number};")
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for name in names(from) {
        let (from, to) = (from.join(&name), to.join(&name));
        match from.is_dir() {
            true => copy(&from, &to),
            false => drop(fs::copy(&from, &to).unwrap()),
        }
    }
}

/// Whether the mark stands in any file, as it is or in base64.
fn is_legible(dir: &Path) -> bool {
    // The same in any of the three alignments base64 can have.
    let base64 = ["MGYxZTJkM2Mtb25s", "MWUyZDNjLW9ubHkt", "ZjFlMmQzYy1vbmx5"];
    names(dir).into_iter().any(|name| {
        let path = dir.join(name);
        if path.is_dir() {
            return is_legible(&path);
        }
        // A file may go between the list and the look.
        let bytes = fs::read(&path).unwrap_or_default();
        contains(&bytes, MARK) || base64.iter().any(|part| contains(&bytes, part))
    })
}

fn contains(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

/// What a thief has: a copy of the data, and keys.
struct Loot {
    data: PathBuf,
    /// The rows there are, by their keys: those are not sealed.
    rows: Vec<Bytes>,
}

impl Loot {
    /// In how many places of log, rows and snapshots `text` can be read with the keys in `keys`.
    /// Works on copies: opening repairs.
    fn readable(&mut self, text: &str, keys: &Path) -> [usize; 3] {
        let scratch = tempfile::tempdir().unwrap();
        let (dir, key_dir) = (scratch.path().join("data"), scratch.path().join("some-keys"));
        copy(&self.data, &dir);
        copy(keys, &key_dir);
        let keys = Keyring::open(&key_dir, Box::new(|bytes| bytes.fill(9)), 0).unwrap();
        let bears = |bytes: &[u8]| contains(bytes, text);

        let mut config = SegmentLogConfig::new(dir.join("log"), 1);
        config.keys = keys.clone();
        let (log, _) = SegmentLog::open(config).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let entries = log.groups().into_iter().flat_map(|group| {
            let first = log.group(group).purged.map_or(0, |purged| purged.index + 1);
            // What is damaged, or sealed with a key that is missing, answers so.
            runtime.block_on(log.read(group, first..u64::MAX, 1 << 30)).unwrap_or_default()
        });
        let in_log = entries.filter(|entry| bears(&entry.payload)).count();

        let (store, _) =
            SledStore::open_sealed(&dir.join("state"), SledConfig::default(), &keys).unwrap();
        if let Ok(rows) = store.scan(b"", &[0xff; 64], usize::MAX) {
            self.rows = rows.into_iter().map(|(key, _)| key).collect();
        }
        let rows = self.rows.iter().flat_map(|key| store.get(key)).flatten();
        let in_rows = rows.filter(|value| bears(value)).count();

        let snapshots = FileSnapshots::open_sealed(&dir.join("snapshots"), keys).unwrap();
        let infos = log.groups().into_iter().flat_map(|group| snapshots.current(group));
        let chunks = infos.flat_map(|info| snapshots.read_chunk(&info, 0, 1 << 22));
        [in_log, in_rows, chunks.filter(|chunk| bears(chunk)).count()]
    }
}

#[test]
fn acknowledged_message_is_unreadable_once_its_key_is_destroyed() {
    let served = Served::start();
    // Registers both, so that the messages have somewhere to wait.
    assert_eq!(served.receive("bob", &[]) + served.receive("carol", &[]), 0);
    (0..3).for_each(|number| served.send("bob", number));
    served.send("carol", 5);
    // A rotation brings them from the log into rows and snapshots, under its key.
    let before = served.key_files();
    support::within(120, || {
        let now = served.key_files();
        let is_next = now.len() == 1 && now.iter().all(|key| !before.contains(key));
        if is_next { Ok(()) } else { Err(now) }
    });
    (3..5).for_each(|number| served.send("bob", number));
    let copies = tempfile::tempdir().unwrap();
    let stolen = copies.path().join("stolen");
    served.copy_to(&stolen);
    assert_eq!(served.receive("bob", &["--ack"]), 5);
    let acknowledged = now();
    let keys_then = stolen.join("keys");
    let doomed = [names(&keys_then), served.key_files()].concat();

    // Never legible, and in the end the keys of then are gone.
    support::within(120, || {
        assert!(!is_legible(&served.data()), "a body stands on the disk as it is");
        let left = served.key_files();
        let gone = doomed.iter().all(|key| !left.contains(key));
        if gone { Ok(()) } else { Err(left) }
    });
    let took = acknowledged.elapsed();
    eprintln!("key epoch {KEY_EPOCH}: forgotten {took:?} after the acknowledgement");

    let live = copies.path().join("live");
    served.copy_to(&live);
    let keys_left = live.join("keys");
    assert!(!is_legible(&stolen), "the copy is sealed");
    let mut stolen = Loot { data: stolen, rows: Vec::new() };
    let then = stolen.readable(MARK, &keys_then);
    assert!(then.iter().all(|places| *places > 0), "with the keys of then: {then:?}");
    assert_eq!(stolen.readable(MARK, &keys_left), [0; 3], "with the keys that are left");
    // Nor was it carried on under the keys that are left; what is unread was.
    let mut live = Loot { data: live, rows: Vec::new() };
    for number in 0..5 {
        assert_eq!(live.readable(&text(number), &keys_left), [0; 3], "message {number}");
    }
    assert!(live.readable(&text(5), &keys_left)[1] > 0, "carol's message waits");
    assert_eq!(served.receive("carol", &["--ack"]), 1);
    assert_eq!(served.receive("bob", &[]), 0);
}

#[expect(clippy::disallowed_methods, reason = "measures a process from outside")]
fn now() -> Instant {
    Instant::now()
}
