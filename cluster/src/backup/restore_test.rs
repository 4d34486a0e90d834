use std::sync::Arc;

use heliograph_storage::{
    Keyring, MemoryDisk, MemoryLog, MemorySnapshotDisk, MemorySnapshots, RowsRead as _,
    RowsWrite as _,
};

use super::*;
use crate::{FirstMember, admin::GroupCopy, backup::Tally, topology::Settings};

const OLD: [u8; 16] = [1; 16];
const NEW: [u8; 16] = [2; 16];

fn node(id: u16) -> NodeId {
    NodeId(id)
}

/// A backup of a cluster of one node and two shards, whose shards hold a row.
fn backup() -> (Manifest, MemorySnapshots) {
    let store = MemorySnapshots::open(&MemorySnapshotDisk::new()).unwrap();
    let rows = Arc::new(MemoryStore::open(&MemoryStateDisk::new()));
    let topology = Topology {
        version: 9,
        members: vec![Member::first(node(1), "old:1".into(), String::new())],
        meta: Placement::formed(&[node(1)]),
        shards: vec![Placement::formed(&[node(1)]); 2],
        settings: Settings { secret_key: [7; 32], ..Settings::default() },
        features: 1,
    };
    let mut groups = Vec::new();
    for group in 0..3 {
        let state = GroupState::open(rows.clone(), GroupId(group)).unwrap();
        let mut write = state.write();
        match group {
            0 => MetaMachine::reform(&mut write, &topology),
            _ => write.put(b"row", "value".into()),
        }
        let place = log_id(heliograph_storage::Position { term: 5, index: 40 });
        let voters = [raft_id(node(1), 0)].into();
        let membership = forced_membership(&voters, &BTreeSet::new());
        write.set_applied(Applied::formed(place, membership).encode());
        let frozen = write.freeze().unwrap();
        drop(write);
        let info = store.write(&state, frozen).unwrap();
        let bytes = store.read_chunk(&info, 0, CHUNK_BYTES_MAX).unwrap();
        let (node, applied) = (node(1), hex::encode(&info.applied));
        let copy = GroupCopy { group, node, id: 1, term: 5, index: 40, applied, bytes: info.bytes };
        let blake3 = blake3::hash(&bytes).to_hex().to_string();
        let name = group_name(GroupId(group));
        groups.push(Copied { name, copy, blake3, tally: Tally::default() });
    }
    let manifest = Manifest {
        format: BACKUP_FORMAT,
        backup_id: "b".into(),
        release: "0".into(),
        cluster_id: hex::encode(OLD),
        begun_ms: 1,
        ended_ms: 2,
        shards: 2,
        total: Tally::default(),
        notice: String::new(),
        groups,
    };
    (manifest, store)
}

fn config(of: u16, nodes: u16) -> Config {
    let member = |id| FirstMember::new(node(id), format!("new-{id}:1"));
    let mut config = Config::new(node(of), NEW, (1..=nodes).map(member).collect());
    config.replicas = if nodes < 3 { 1 } else { 3 };
    config
}

fn storages() -> (Storages, Arc<MemoryLog>) {
    let log = Arc::new(MemoryLog::new(MemoryDisk::new(), Box::new(|| {})));
    let storages = Storages {
        log: log.clone(),
        state: Arc::new(MemoryStore::open(&MemoryStateDisk::new())),
        snapshots: Arc::new(MemorySnapshots::open(&MemorySnapshotDisk::new()).unwrap()),
        keys: Keyring::unsealed(),
    };
    (storages, log)
}

/// Restores, on a disk that syncs at once.
async fn run(
    manifest: &Manifest,
    store: &MemorySnapshots,
    config: &Config,
) -> Result<(Restored, Storages), RestoreError> {
    let (storages, log) = storages();
    let mut restoring = Box::pin(restore(manifest, store, config, &storages, |_| {}));
    let restored = loop {
        tokio::select! {
            biased; // the end first
            restored = &mut restoring => break restored?,
            () = tokio::task::yield_now() => {
                log.sync();
            }
        }
    };
    drop(restoring);
    Ok((restored, storages))
}

fn topology(storages: &Storages) -> Topology {
    let state = GroupState::open(Arc::clone(&storages.state), META).unwrap();
    MetaMachine::load(&state.read()).unwrap().topology().cloned().unwrap()
}

#[tokio::test]
async fn nodes_of_another_size_agree_on_everything() {
    let (manifest, store) = backup();
    let (mut holders, mut registries) = ([0, 0], Vec::new());
    for of in 1..=5 {
        let (restored, storages) = run(&manifest, &store, &config(of, 5)).await.unwrap();
        let registry = topology(&storages);
        for shard in 0..2 {
            let group = GroupId(shard + 1);
            let held = storages.log.group(group);
            let state = GroupState::open(Arc::clone(&storages.state), group).unwrap();
            let is_held = registry.placement_of(group).unwrap().is_on(node(of));
            assert_eq!(held.last.is_some(), is_held);
            assert_eq!(state.read().get(b"row").unwrap().is_some(), is_held);
            assert_eq!(state.read().get(b"\xff\xff\x04").unwrap().is_some(), is_held);
            assert_eq!(storages.snapshots.current(group).is_some(), is_held);
            holders[shard as usize] += usize::from(is_held);
        }
        let meta = storages.log.group(META);
        assert_eq!((meta.purged, meta.last.unwrap().index), (meta.last, 40));
        assert!(meta.last.unwrap().term > 5 && meta.vote.is_some());
        assert_eq!(restored.groups, storages.log.groups().len());
        registries.push((registry, meta.last));
    }
    assert_eq!(holders, [3, 3]);
    assert!(registries.windows(2).all(|pair| pair[0] == pair[1]));
    let registry = &registries[0].0;
    assert_eq!((registry.version, registry.features, registry.members.len()), (10, 1, 5));
    assert_eq!((registry.settings.secret_key, registry.settings.replicas), ([7; 32], 3));
}

#[tokio::test]
async fn nodes_that_do_not_belong_together_end_in_other_terms() {
    let (manifest, store) = backup();
    let other = Manifest { backup_id: "c".into(), ..manifest.clone() };
    let mut terms = BTreeSet::new();
    for (manifest, config) in
        [(&manifest, config(1, 1)), (&manifest, config(1, 3)), (&other, config(1, 1))]
    {
        let (_, storages) = run(manifest, &store, &config).await.unwrap();
        terms.insert(storages.log.group(META).last.unwrap().term);
    }
    assert_eq!(terms.len(), 3, "{terms:?}");
}

#[tokio::test]
async fn what_does_not_fit_is_refused() {
    let (manifest, store) = backup();
    let one = config(1, 1);
    let refused = async |manifest: &Manifest| run(manifest, &store, &one).await.unwrap_err();
    let same = Manifest { cluster_id: hex::encode(NEW), ..manifest.clone() };
    assert!(matches!(refused(&same).await, RestoreError::SameCluster));
    let newer = Manifest { format: BACKUP_FORMAT + 1, ..manifest.clone() };
    assert!(matches!(refused(&newer).await, RestoreError::Format(_)));
    let mut short = manifest.clone();
    short.groups.pop();
    assert!(matches!(refused(&short).await, RestoreError::Damaged { .. }));
    let mut swapped = manifest.clone();
    swapped.groups[2].blake3 = swapped.groups[1].blake3.clone();
    let error = refused(&swapped).await;
    assert!(error.to_string().contains("shard 1") && error.to_string().contains("BLAKE3"));
    let mut older = manifest.clone();
    older.groups[1].copy.applied.push_str("00");
    assert!(matches!(refused(&older).await, RestoreError::Damaged { .. }));
}
