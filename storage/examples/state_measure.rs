//! Measures the state store as a node uses it: filling, checkpoints, start-up, memory, churn.
//!
//! ```text
//! cargo run --release -p heliograph-storage --example state_measure -- fill DIR MIB
//! cargo run --release -p heliograph-storage --example state_measure -- open DIR CACHE_MIB
//! cargo run --release -p heliograph-storage --example state_measure -- checkpoint DIR
//! cargo run --release -p heliograph-storage --example state_measure -- churn DIR ROUNDS
//! cargo run --release -p heliograph-storage --example state_measure -- relay DIR MIB
//! cargo run --release -p heliograph-storage --example state_measure -- snapshot DIR
//! ```
//! Every command prints one line a figure; `open` in a process of its own shows what a node pays
//! at its start. Rows are messages: 36-byte keys over 10,000 mailboxes, values of 1 KiB.

use std::{env, fs, path::Path, process::ExitCode, sync::Arc, time::Duration, time::Instant};

use bytes::{BufMut, Bytes, BytesMut};
use heliograph_storage::{
    Error, FileSnapshots, GroupId, GroupState, RowsRead, RowsWrite, SledConfig, SledStore,
    SnapshotStore, StateStore,
};

const GROUPS: u32 = 16;
const MAILBOXES: u64 = 10_000;
const VALUE_BYTES: usize = 1024;
/// The rows of one checkpoint while filling.
const CHECKPOINT_ROWS: u64 = 10_000;

struct Node {
    store: Arc<SledStore>,
    groups: Vec<GroupState>,
    value: Vec<u8>,
}

impl Node {
    fn open(dir: &Path) -> Result<Self, Error> {
        Self::open_with(dir, SledConfig::default())
    }

    fn open_with(dir: &Path, config: SledConfig) -> Result<Self, Error> {
        let started = now();
        let (store, opened) = SledStore::open(&dir.join("state"), config)?;
        let store = Arc::new(store);
        let groups = (1..=GROUPS).map(|group| GroupState::open(store.clone(), GroupId(group)));
        let groups = groups.collect::<Result<_, _>>()?;
        println!("open: {opened:?} in {:?}, {}", started.elapsed(), memory());
        // Incompressible, so that the disk cannot help.
        let mut random = 0x9e37_79b9_7f4a_7c15_u64;
        let value = (0..VALUE_BYTES).map(|_| next(&mut random) as u8).collect();
        Ok(Self { store, groups, value })
    }

    fn put(&self, group: usize, number: u64) {
        let mut value = self.value.clone();
        value[..8].copy_from_slice(&number.to_be_bytes());
        self.groups[group].write().put_new(&key(number), value.into());
    }

    fn checkpoint(&self, group: usize, applied: u64) -> Result<Duration, Error> {
        let state = &self.groups[group];
        let mut write = state.write();
        write.set_applied(Bytes::copy_from_slice(&applied.to_be_bytes()));
        let frozen = write.freeze().expect("no other checkpoint runs");
        drop(write);
        let started = now();
        state.commit(frozen)?;
        Ok(started.elapsed())
    }
}

/// Slot, mailbox hash, kind, priority, number: as the relay's rows.
fn key(number: u64) -> Bytes {
    let mut mailbox = number % MAILBOXES;
    let hash = next(&mut mailbox);
    let mut key = BytesMut::with_capacity(36);
    key.put_u16((hash >> 52) as u16);
    key.put_u64(hash);
    key.put_u64(hash.rotate_left(17));
    key.put_slice(b"m1");
    key.put_u64(number / MAILBOXES);
    key.put_u64(number);
    key.freeze()
}

fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[allow(clippy::disallowed_methods, reason = "this program measures time")]
fn now() -> Instant {
    Instant::now()
}

/// Resident memory of this process, now and at most.
fn memory() -> String {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field = |name| status.lines().find(|line: &&str| line.starts_with(name)).unwrap_or("?");
    format!("{} {}", field("VmRSS"), field("VmHWM")).replace(['\t', ' '], "")
}

fn disk(node: &Node) -> String {
    format!("{} MiB on disk", node.store.disk_bytes() >> 20)
}

fn fill(dir: &Path, mib: u64) -> Result<(), Error> {
    let node = Node::open(dir)?;
    let rows = mib * 1024 * 1024 / VALUE_BYTES as u64;
    let started = now();
    for first in (0..rows).step_by(CHECKPOINT_ROWS as usize) {
        let group = (first / CHECKPOINT_ROWS) as usize % GROUPS as usize;
        (first..rows.min(first + CHECKPOINT_ROWS)).for_each(|number| node.put(group, number));
        node.checkpoint(group, first)?;
    }
    let took = started.elapsed();
    println!("fill: {rows} rows in {took:?}, {}, {}", disk(&node), memory());
    Ok(())
}

fn open(dir: &Path, cache_mib: u64) -> Result<(), Error> {
    let node =
        Node::open_with(dir, SledConfig { cache_bytes: cache_mib << 20, ..SledConfig::default() })?;
    println!("open: {}", disk(&node));
    let started = now();
    let mut found = 0;
    let mut random = 7;
    for _ in 0..20_000 {
        let number = next(&mut random) % 1_000_000;
        let group = (number / CHECKPOINT_ROWS) as usize % GROUPS as usize;
        found += usize::from(node.groups[group].read().get(&key(number))?.is_some());
    }
    let took = started.elapsed() / 20_000;
    println!("read: {took:?} a random row, {found} of 20000 found, {}", memory());
    Ok(())
}

fn checkpoint(dir: &Path) -> Result<(), Error> {
    let node = Node::open(dir)?;
    let mut number = 1 << 40;
    for rows in [10, 1_000, 10_000, 100_000] {
        (0..rows).for_each(|_| {
            node.put(0, number);
            number += 1;
        });
        println!("checkpoint: overlay {} KiB", node.groups[0].overlay_bytes() >> 10);
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| longest_read(&node, &done));
            let took = node.checkpoint(0, number);
            done.store(true, std::sync::atomic::Ordering::Relaxed);
            let longest = reader.join().expect("the reader does not panic");
            println!("checkpoint: {rows} rows in {took:?}, longest read {longest:?}, {}", memory());
        });
    }
    Ok(())
}

/// The longest time one read of another group took until `done`.
fn longest_read(node: &Node, done: &std::sync::atomic::AtomicBool) -> Duration {
    let mut longest = Duration::ZERO;
    let mut random = 3;
    while !done.load(std::sync::atomic::Ordering::Relaxed) {
        let started = now();
        let _ = node.groups[1].read().get(&key(next(&mut random) % 1_000_000));
        longest = longest.max(started.elapsed());
    }
    longest
}

/// Each round puts rows and deletes those of the round before: the live size stays the same.
fn churn(dir: &Path, rounds: u64) -> Result<(), Error> {
    let node = Node::open(dir)?;
    let rows = 10_000;
    let first = 1 << 41;
    for round in 0..rounds {
        let group = round as usize % GROUPS as usize;
        for number in 0..rows {
            node.put(group, first + round * rows + number);
            if round >= u64::from(GROUPS) {
                let old = first + (round - u64::from(GROUPS)) * rows + number;
                node.groups[group].write().delete(&key(old));
            }
        }
        let took = node.checkpoint(group, round)?;
        if round % 16 == 15 {
            println!("churn: round {round} took {took:?}, {}, {}", disk(&node), memory());
        }
    }
    Ok(())
}

/// Messages of 1 KiB to 1,000 mailboxes in turn, and each group's checkpoint whenever its overlay
/// is full: the rows of the relay, none of them read or deleted.
fn relay(dir: &Path, mib: u64) -> Result<(), Error> {
    let node = Node::open(dir)?;
    let messages = mib << 10;
    let started = now();
    let mut checkpoints = [0; GROUPS as usize];
    let mut parts = [0; GROUPS as usize];
    for number in 0..messages {
        let mailbox = number % 1_000;
        let mut hash = mailbox;
        let hash = next(&mut hash);
        let group = (hash >> 52) as usize % GROUPS as usize;
        let mut random = number;
        let random = next(&mut random);
        let row = |kind: &[u8], rest: &[u8]| {
            let slot = ((hash >> 52) as u16).to_be_bytes();
            Bytes::from([&slot[..], kind, &hash.to_be_bytes(), &random_of(hash), rest].concat())
        };
        {
            let mut write = node.groups[group].write();
            let mut value = node.value.clone();
            value[..8].copy_from_slice(&number.to_be_bytes());
            value.extend_from_slice(&[7; 110]);
            let place = [&[0xfe][..], &(number / 1_000).to_be_bytes()].concat();
            write.put_new(&row(&[4], &place), value.into());
            write.put(&row(&[3], &[]), Bytes::from(vec![number as u8; 40]));
            let due = [&[0xff, 0xff, 1][..], &number.to_be_bytes(), &random_of(random), &place];
            write.put_new(&due.concat(), Bytes::from_static(&[1]));
        }
        parts[group] += 1;
        if node.groups[group].overlay_bytes() > 8 << 20 {
            let mut write = node.groups[group].write();
            let (first, last) = (checkpoints[group] / 1_024, parts[group] / 1_024);
            for part in first..=last {
                let entries = if part == last { parts[group] % 1_024 } else { 1_024 };
                let key = [&[0xff, 0xff, 2][..], &(part as u64).to_be_bytes()].concat();
                write.put(&key, vec![part as u8; 53 * entries as usize].into());
            }
            drop(write);
            checkpoints[group] = parts[group];
            node.checkpoint(group, number)?;
        }
    }
    let took = started.elapsed();
    println!("relay: {messages} messages in {took:?}, {}, {}", disk(&node), memory());
    Ok(())
}

fn random_of(mut seed: u64) -> [u8; 8] {
    next(&mut seed).to_be_bytes()
}

fn snapshot(dir: &Path) -> Result<(), Error> {
    let node = Node::open(dir)?;
    let snapshots = FileSnapshots::open(&dir.join("snapshots"))?;
    for (number, state) in node.groups.iter().enumerate().take(2) {
        let frozen = state.write().freeze().expect("no checkpoint runs");
        let started = now();
        let info = snapshots.write(state, frozen)?;
        println!("snapshot: {} MiB in {:?}, {}", info.bytes >> 20, started.elapsed(), memory());
        let started = now();
        snapshots.install(state, &info)?;
        println!(
            "install: group {number} in {:?}, {}, {}",
            started.elapsed(),
            disk(&node),
            memory()
        );
    }
    Ok(())
}

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let number = |text: &str| text.parse().unwrap_or(0);
    let result = match arguments[..] {
        ["fill", dir, mib] => fill(Path::new(dir), number(mib)),
        ["open", dir, cache_mib] => open(Path::new(dir), number(cache_mib)),
        ["checkpoint", dir] => checkpoint(Path::new(dir)),
        ["relay", dir, mib] => relay(Path::new(dir), number(mib)),
        ["churn", dir, rounds] => churn(Path::new(dir), number(rounds)),
        ["snapshot", dir] => snapshot(Path::new(dir)),
        _ => {
            eprintln!(
                "fill DIR MIB | open DIR CACHE_MIB | checkpoint DIR | churn DIR ROUNDS | relay DIR MIB | \
                 snapshot DIR"
            );
            return ExitCode::FAILURE;
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
