//! A group's rows against a model, over random writes, checkpoints and crashes.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use proptest::prelude::*;

use super::{contract_test::Disk, *};
use crate::{GroupId, RowsRead, RowsWrite};

type Rows = BTreeMap<Bytes, Bytes>;

const GROUP: GroupId = GroupId(5);

#[derive(Clone, Debug)]
enum Step {
    Put(u8, u8),
    PutNew(u8, u8),
    Delete(u8),
    Take(u8),
    Freeze,
    GiveUp,
    Commit,
    Crash,
    Scrub(usize),
    Scan(u8, u8, usize),
}

fn step() -> impl Strategy<Value = Step> {
    let key = 0..24_u8;
    prop_oneof![
        4 => (key.clone(), any::<u8>()).prop_map(|(key, value)| Step::Put(key, value)),
        4 => (key.clone(), any::<u8>()).prop_map(|(key, value)| Step::PutNew(key, value)),
        3 => key.clone().prop_map(Step::Delete),
        3 => key.clone().prop_map(Step::Take),
        2 => Just(Step::Freeze),
        1 => Just(Step::GiveUp),
        2 => Just(Step::Commit),
        1 => Just(Step::Crash),
        4 => (1..6_usize).prop_map(Step::Scrub),
        3 => (key.clone(), key, 0..30_usize).prop_map(|(from, to, limit)| Step::Scan(from, to, limit)),
    ]
}

/// The rows as they must be: now, and as of each layer.
#[derive(Default)]
struct Model {
    now: Rows,
    applied: u64,
    frozen: Option<(Rows, u64)>,
    durable: Rows,
    durable_applied: u64,
}

struct Run<'a> {
    disk: &'a dyn Disk,
    state: GroupState,
    frozen: Option<Frozen>,
    model: Model,
}

fn key(number: u8) -> Bytes {
    // Of different lengths, one a prefix of another.
    Bytes::from(vec![number / 3; 1 + usize::from(number % 3)])
}

fn position(applied: Option<Bytes>) -> u64 {
    applied.map_or(0, |applied| u64::from_be_bytes(applied[..].try_into().unwrap()))
}

impl<'a> Run<'a> {
    fn new(disk: &'a dyn Disk) -> Self {
        let state = GroupState::open(disk.open(), GROUP).unwrap();
        Self { disk, state, frozen: None, model: Model::default() }
    }

    fn write(&mut self, number: u8, value: Option<u8>, is_new: bool) {
        let key = key(number);
        self.model.applied += 1;
        let mut write = self.state.write();
        match value.map(|value| Bytes::from(vec![value; usize::from(value)])) {
            Some(_) if is_new && self.model.now.contains_key(&key) => {}
            Some(value) => {
                self.model.now.insert(key.clone(), value.clone());
                if is_new { write.put_new(&key, value) } else { write.put(&key, value) }
            }
            None => {
                self.model.now.remove(&key);
                write.delete(&key);
            }
        }
        write.set_applied(Bytes::copy_from_slice(&self.model.applied.to_be_bytes()));
    }

    fn take(&mut self, number: u8) {
        let key = key(number);
        self.model.applied += 1;
        let mut write = self.state.write();
        assert_eq!(write.take(&key).unwrap(), self.model.now.remove(&key));
        write.set_applied(Bytes::copy_from_slice(&self.model.applied.to_be_bytes()));
    }

    fn freeze(&mut self) {
        let frozen = self.state.write().freeze();
        assert_eq!(frozen.is_some(), self.frozen.is_none());
        if let Some(frozen) = frozen {
            let now = || (self.model.now.clone(), self.model.applied);
            let (_, applied) = self.model.frozen.get_or_insert_with(now);
            assert_eq!(position(frozen.applied()), *applied);
            self.frozen = Some(frozen);
        }
    }

    fn commit(&mut self) {
        if let Some(frozen) = self.frozen.take() {
            self.state.commit(frozen).unwrap();
            (self.model.durable, self.model.durable_applied) = self.model.frozen.take().unwrap();
        }
    }

    fn crash(self) -> Self {
        drop(self.frozen);
        drop(self.state);
        let now = self.model.durable;
        let state = GroupState::open(self.disk.open(), GROUP).unwrap();
        let model = Model {
            durable: now.clone(),
            durable_applied: self.model.durable_applied,
            now,
            applied: self.model.durable_applied,
            frozen: None,
        };
        Self { disk: self.disk, state, frozen: None, model }
    }

    fn scan(&self, from: &[u8], to: &[u8], limit: usize) {
        let rows = self.state.read().scan(from, to, limit).unwrap();
        let all = self.model.now.iter().filter(|(key, _)| from <= &key[..] && &key[..] < to);
        let expected: Vec<_> =
            all.take(limit).map(|(key, value)| (key.clone(), value.clone())).collect();
        assert_eq!(rows, expected);
    }

    fn step(mut self, step: Step) -> Self {
        match step {
            Step::Put(key, value) => self.write(key, Some(value), false),
            Step::PutNew(key, value) => self.write(key, Some(value), true),
            Step::Delete(key) => self.write(key, None, false),
            Step::Take(key) => self.take(key),
            Step::Freeze => self.freeze(),
            Step::GiveUp => self.frozen = None,
            Step::Commit => self.commit(),
            Step::Crash => return self.crash(),
            // However it falls between checkpoints, it finds nothing where nothing is wrong.
            Step::Scrub(rows) => self.state.scrub(rows).map(drop).unwrap(),
            Step::Scan(from, to, limit) => self.scan(&key(from), &key(to), limit),
        }
        self
    }

    fn check(&self) {
        self.scan(b"", &[0xff], usize::MAX);
        for number in 0..24 {
            let key = key(number);
            assert_eq!(self.state.read().get(&key).unwrap(), self.model.now.get(&key).cloned());
        }
        assert_eq!(position(self.state.applied()), self.model.applied);
        assert_eq!(position(self.state.durable_applied()), self.model.durable_applied);
    }
}

fn run(disk: &dyn Disk, steps: Vec<Step>) {
    let mut run = Run::new(disk);
    for step in steps {
        run = run.step(step);
        run.check();
    }
    run.crash().check();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]
    #[test]
    fn group_equals_its_model_over_memory(steps in prop::collection::vec(step(), 1..120)) {
        run(&MemoryStateDisk::new(), steps);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]
    #[test]
    fn group_equals_its_model_over_sled(steps in prop::collection::vec(step(), 1..120)) {
        run(&tempfile::tempdir().unwrap(), steps);
    }

    /// A crash in the middle of the commit leaves the rows of the checkpoint before or of this
    /// one, and `applied` says which.
    #[test]
    fn interrupted_commit_leaves_one_applied_position(
        steps in prop::collection::vec(step(), 1..80),
        is_kept in any::<bool>(),
    ) {
        let disk = MemoryStateDisk::new();
        let store = Arc::new(MemoryStore::open(&disk));
        let state = GroupState::open(store.clone(), GROUP).unwrap();
        let mut run = Run { disk: &disk, state, frozen: None, model: Model::default() };
        for step in steps.into_iter().filter(|step| !matches!(step, Step::Crash)) {
            run = run.step(step);
        }
        // A layer that was frozen and given up comes first.
        run.freeze();
        run.commit();
        run.write(0, Some(1), false);
        run.freeze();
        store.crash_after(0, if is_kept { Outcome::Kept } else { Outcome::Lost });
        run.state.commit(run.frozen.take().unwrap()).unwrap_err();
        if is_kept {
            (run.model.durable, run.model.durable_applied) = run.model.frozen.take().unwrap();
        }
        run.crash().check();
    }
}
