//! A database of several of sled's segments, all written in one life. sled passes over a message
//! that it cannot read in any but the last one, and goes on with what its pages were before.

use std::{fs, path::Path, sync::Arc};

use bytes::Bytes;
use heliograph_storage::{
    GroupId, GroupState, RowsRead, RowsWrite, SledConfig, SledStore, StateOpen, StateStore,
};

use crate::{node::Random, trials};

const GROUP: GroupId = GroupId(4);
/// Each commit writes about 1 MiB, so that some 24 MiB are written: three segments and a tip.
const COMMITS: u8 = 24;
const ROWS: u32 = 64;
const VALUE_BYTES: usize = 16 << 10;

type Rows = Vec<(Bytes, Bytes)>;

fn open(dir: &Path) -> (GroupState, StateOpen) {
    let (store, opened) = SledStore::open(dir, SledConfig::default()).unwrap();
    let store: Arc<dyn StateStore> = Arc::new(store);
    (GroupState::open(store, GROUP).unwrap(), opened)
}

fn rows(state: &GroupState) -> Rows {
    state.read().scan(b"", &[0xff], usize::MAX).unwrap()
}

fn fill(state: &GroupState) {
    for commit in 0..COMMITS {
        let mut write = state.write();
        for row in 0..ROWS {
            let key = Bytes::from(format!("key {row:03}"));
            write.put(&key, Bytes::from(vec![commit; VALUE_BYTES + row as usize]));
        }
        write.set_applied(Bytes::copy_from_slice(&[commit]));
        let frozen = write.freeze().unwrap();
        drop(write);
        state.commit(frozen).unwrap();
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to.join("blobs")).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_file() {
            fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}

#[test]
fn pages_that_sled_falls_back_to_are_never_served() {
    let dir = tempfile::tempdir().unwrap();
    let sound = dir.path().join("sound");
    let (state, _) = open(&sound);
    fill(&state);
    let truth = rows(&state);
    assert_eq!(truth.len(), ROWS as usize);
    drop(state);
    let len = fs::metadata(sound.join("db")).unwrap().len();
    assert!(len > 3 * (8 << 20), "several segments: {len}");
    let mut rebuilt = 0;
    for seed in 0..4 * trials() {
        let mut random = Random::new(seed);
        let damaged = dir.path().join("damaged");
        copy(&sound, &damaged);
        let at = random.below(len) as usize;
        let mut content = fs::read(damaged.join("db")).unwrap();
        content[at] ^= 1 << random.below(8);
        fs::write(damaged.join("db"), content).unwrap();
        let (state, opened) = open(&damaged);
        match opened {
            StateOpen::Opened => assert_eq!(rows(&state), truth, "seed {seed}: byte {at}"),
            StateOpen::Rebuilt { moved_to } => {
                assert!(rows(&state).is_empty(), "seed {seed}: byte {at}");
                rebuilt += 1;
                fs::remove_dir_all(moved_to).unwrap();
            }
        }
        drop(state);
        fs::remove_dir_all(&damaged).unwrap();
    }
    assert!(rebuilt > 0, "some byte was in use");
}
