//! One group's applied state: its machine, its rows, and how far the log is applied.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use heliograph_storage::{
    Error, Frozen, GroupId, GroupState, RowsRead, SnapshotInfo, SnapshotStore,
};
use openraft::{EmptyNode, EntryPayload, Membership, entry::RaftPayload};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::{
    log_adapter::GroupLog,
    offload::offload,
    soundness::{Soundness, judge},
    types::{Entry, EntryAnswer, LogId, SnapshotMeta, StoredMembership},
};
use crate::{
    machine::{CommandBatch, Effect, Limits, ShardMachine},
    meta::{MetaCommand, MetaMachine},
    model::ShardId,
    shard_handle::ShardObserver,
    topology::Topology,
    watch,
};

/// How far the log is applied, as it is saved with the rows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Applied {
    pub(crate) log_id: Option<LogId>,
    pub(crate) membership: StoredMembership,
}

impl Applied {
    pub(crate) fn encode(&self) -> Bytes {
        rmp_serde::to_vec(self).expect("plain data encodes into memory").into()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, io::Error> {
        rmp_serde::from_slice(bytes).map_err(io::Error::other)
    }

    /// What a restored group has applied: its membership was agreed on at the very position.
    pub(crate) fn formed(log_id: LogId, membership: Membership<u64, EmptyNode>) -> Self {
        let membership = StoredMembership::new(Some(log_id), membership);
        Self { log_id: Some(log_id), membership }
    }

    pub(crate) fn index(&self) -> u64 {
        self.log_id.map_or(0, |log_id| log_id.index)
    }

    pub(crate) fn snapshot_meta(&self) -> SnapshotMeta {
        SnapshotMeta { last_log_id: self.log_id, last_membership: self.membership.clone() }
    }
}

/// What a group's entries mean, and who hears of it.
pub(crate) enum GroupKind {
    /// The meta group; the topology goes to the watch.
    Meta(watch::Sender<Option<Arc<Topology>>>),
    /// A shard; its effects go to the observer.
    Shard {
        /// Which shard.
        shard: ShardId,
        /// Limits its machine keeps.
        limits: Limits,
        /// Who hears of its effects.
        observer: Arc<dyn ShardObserver>,
    },
}

enum Machine {
    Meta(MetaMachine),
    Shard(ShardMachine),
}

struct Inner {
    machine: Machine,
    applied: Applied,
}

/// One group's applied state. Entries are applied one at a time, and reads are done between two.
pub(crate) struct GroupCore {
    group: GroupId,
    kind: GroupKind,
    state: GroupState,
    snapshots: Arc<dyn SnapshotStore>,
    log: GroupLog,
    inner: Mutex<Inner>,
    applied_term: watch::Sender<u64>,
    time_ms: AtomicU64,
    /// Held by whatever writes the group's files; false once the replica is retired.
    working: tokio::sync::Mutex<bool>,
}

impl std::fmt::Debug for GroupCore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("GroupCore").field(&self.group).finish()
    }
}

fn load_machine(kind: &GroupKind, rows: &impl RowsRead) -> Result<Machine, Error> {
    match kind {
        GroupKind::Meta(_) => Ok(Machine::Meta(MetaMachine::load(rows)?)),
        GroupKind::Shard { limits, .. } => Ok(Machine::Shard(ShardMachine::load(rows, *limits)?)),
    }
}

impl GroupCore {
    /// Opens the group's state; where rows are older than the snapshot file (they were lost and
    /// rebuilt), the snapshot is installed first.
    pub(crate) fn open(
        kind: GroupKind,
        state: GroupState,
        group: GroupId,
        snapshots: Arc<dyn SnapshotStore>,
        log: GroupLog,
    ) -> Result<Self, io::Error> {
        let durable = state.durable_applied().map(|bytes| Applied::decode(&bytes)).transpose()?;
        let mut applied = durable.unwrap_or_default();
        if let Some(snapshot) = snapshots.current(group) {
            let held = Applied::decode(&snapshot.applied)?;
            if held.log_id > applied.log_id {
                snapshots.install(&state, &snapshot).map_err(io::Error::other)?;
                applied = held;
            }
        }
        let machine = load_machine(&kind, &state.read()).map_err(io::Error::other)?;
        let core = Self {
            group,
            kind,
            state,
            snapshots,
            log,
            inner: Mutex::new(Inner { machine, applied }),
            applied_term: watch::Sender::new(0),
            time_ms: AtomicU64::new(0),
            working: tokio::sync::Mutex::new(true),
        };
        core.publish(&core.inner.lock());
        Ok(core)
    }

    /// Whether log, rows and snapshot fit together. Asked before Raft starts.
    pub(crate) fn soundness(&self) -> Result<Soundness, io::Error> {
        let snapshot = self.current_snapshot()?.and_then(|(meta, _)| meta.last_log_id);
        let snapshot = snapshot.map_or(0, |log_id| log_id.index);
        Ok(judge(&self.log.holds(), self.applied().index(), snapshot))
    }

    /// Reads the rows as they are. Nothing is applied meanwhile.
    pub(crate) fn read(&self, reader: &mut dyn FnMut(&dyn RowsRead)) {
        let inner = self.inner.lock();
        let rows = self.state.read();
        match &inner.machine {
            Machine::Shard(machine) => reader(&machine.over(&rows)),
            Machine::Meta(_) => reader(&rows),
        }
    }

    /// The group's rows as they are written: without what the machine keeps in memory until it is
    /// flushed.
    pub(crate) fn state(&self) -> &GroupState {
        &self.state
    }

    /// How far the log is applied.
    pub(crate) fn applied(&self) -> Applied {
        self.inner.lock().applied.clone()
    }

    /// The term of the last applied entry; wakes when it changes.
    pub(crate) fn applied_term(&self) -> watch::Receiver<u64> {
        self.applied_term.subscribe()
    }

    /// Shard time, milliseconds since the Unix epoch; zero for meta.
    pub(crate) fn time_ms(&self) -> u64 {
        self.time_ms.load(Ordering::Relaxed)
    }

    /// The snapshot file, if one was written.
    pub(crate) fn current_snapshot(
        &self,
    ) -> Result<Option<(SnapshotMeta, SnapshotInfo)>, io::Error> {
        let Some(info) = self.snapshots.current(self.group) else { return Ok(None) };
        Ok(Some((Applied::decode(&info.applied)?.snapshot_meta(), info)))
    }

    /// What the snapshot file takes: the size of the state as of then.
    pub(crate) fn snapshot_bytes(&self) -> u64 {
        self.snapshots.current(self.group).map_or(0, |info| info.bytes)
    }

    /// Applies one entry and answers its proposer.
    pub(crate) fn apply(&self, entry: Entry) -> Result<EntryAnswer, io::Error> {
        let term = *entry.log_id.leader_id;
        let mut effects = Vec::new();
        let mut inner = self.inner.lock();
        let answer = match &entry.payload {
            EntryPayload::Blank => EntryAnswer::None,
            EntryPayload::Membership(_) => {
                if let Some(membership) = entry.payload.get_membership() {
                    inner.applied.membership =
                        StoredMembership::new(Some(entry.log_id), membership);
                }
                EntryAnswer::None
            }
            EntryPayload::Normal(data) => self.apply_data(&mut inner, &data.0, &mut effects)?,
        };
        inner.applied.log_id = Some(entry.log_id);
        // Whoever hears of the effects may read.
        drop(inner);
        if let GroupKind::Shard { shard, observer, .. } = &self.kind
            && !effects.is_empty()
        {
            observer.applied(*shard, term, effects);
        }
        self.applied_term.send_if_modified(|known| std::mem::replace(known, term) != term);
        Ok(answer)
    }

    fn apply_data(
        &self,
        inner: &mut Inner,
        data: &Bytes,
        effects: &mut Vec<Effect>,
    ) -> Result<EntryAnswer, io::Error> {
        match &mut inner.machine {
            Machine::Meta(machine) => {
                let command = MetaCommand::decode(data).ok_or_else(unknown_entry)?;
                let outcome = machine.apply(&mut self.state.write(), command);
                self.publish(inner);
                Ok(EntryAnswer::Meta(outcome))
            }
            Machine::Shard(machine) => {
                let batch = CommandBatch::decode(data).map_err(io::Error::other)?;
                let applied = machine.apply(&mut self.state.write(), &batch);
                let applied = applied.map_err(io::Error::other)?;
                self.time_ms.store(machine.time_ms(), Ordering::Relaxed);
                *effects = applied.effects;
                Ok(EntryAnswer::Shard(applied.outcomes))
            }
        }
    }

    /// Tells the outside what a reload or a meta change made of this group.
    fn publish(&self, inner: &Inner) {
        match (&inner.machine, &self.kind) {
            (Machine::Meta(machine), GroupKind::Meta(topology)) => {
                topology.send_replace(machine.topology().cloned().map(Arc::new));
            }
            (Machine::Shard(machine), _) => {
                self.time_ms.store(machine.time_ms(), Ordering::Relaxed);
            }
            (Machine::Meta(_), GroupKind::Shard { .. }) => {
                unreachable!("load_machine pairs them")
            }
        }
    }

    /// Freezes what changed since the last checkpoint; `None` while an earlier freeze is being
    /// written.
    pub(crate) fn freeze(&self) -> Result<Option<Frozen>, Error> {
        let mut inner = self.inner.lock();
        let mut rows = self.state.write();
        if let Machine::Shard(machine) = &mut inner.machine {
            machine.flush(&mut rows)?;
        }
        rows.set_applied(inner.applied.encode());
        // What the log must hold at the next start, by its own count.
        self.state.note_log_records(self.log.durable_records());
        Ok(rows.freeze())
    }

    /// The right to write the group's files; `None` once the replica is retired.
    pub(crate) async fn working(&self) -> Option<tokio::sync::MutexGuard<'_, bool>> {
        Some(self.working.lock().await).filter(|is_working| **is_working)
    }

    /// Waits for what is being written and lets nothing be written any more: the replica's data is
    /// about to be dropped.
    pub(crate) async fn retire(&self) {
        *self.working.lock().await = false;
    }

    /// Writes what changed since the last checkpoint to disk.
    pub(crate) async fn checkpoint(&self) -> Result<(), Error> {
        // While a snapshot is written nothing can be frozen.
        let working = self.working.try_lock().ok().filter(|is_working| **is_working);
        if working.is_none() {
            return Ok(());
        }
        let Some(frozen) = self.freeze()? else { return Ok(()) };
        // Or a power cut would leave rows of entries that the log has lost.
        self.log.durable().await?;
        let state = self.state.clone();
        offload(move || state.commit(frozen)).await
    }

    /// Writes a snapshot file of the state as it is now.
    pub(crate) async fn write_snapshot(&self) -> Result<(SnapshotMeta, SnapshotInfo), io::Error> {
        /// How long to wait before asking again whether a checkpoint under way has ended, or a
        /// snapshot that arrived is installed; both take tens of milliseconds.
        const PAUSE: Duration = Duration::from_millis(20);
        let (_working, frozen) = loop {
            let working = self.working().await.ok_or_else(retired)?;
            // What has arrived must stay: it holds more than the rows, and the log is purged up to it
            // before they are replaced.
            let current = self.current_snapshot()?.and_then(|(meta, _)| meta.last_log_id);
            if current <= self.applied().log_id
                && let Some(frozen) = self.freeze().map_err(io::Error::other)?
            {
                break (working, frozen);
            }
            drop(working);
            tokio::time::sleep(PAUSE).await;
        };
        self.log.durable().await.map_err(io::Error::other)?;
        let (state, snapshots) = (self.state.clone(), Arc::clone(&self.snapshots));
        let written = offload(move || snapshots.write(&state, frozen)).await;
        let info = written.map_err(io::Error::other)?;
        Ok((Applied::decode(&info.applied)?.snapshot_meta(), info))
    }

    /// Replaces the state by a received snapshot.
    pub(crate) async fn install_snapshot(&self, info: SnapshotInfo) -> Result<(), io::Error> {
        let applied = Applied::decode(&info.applied)?;
        let _working = self.working().await.ok_or_else(retired)?;
        if let Some(log_id) = &applied.log_id {
            // The snapshot file is durable. So is, from here on, that the log begins behind it: a
            // power cut must not leave rows past the end of the log.
            self.log.purge_upto(log_id).await.map_err(io::Error::other)?;
        }
        let (state, snapshots) = (self.state.clone(), Arc::clone(&self.snapshots));
        let installed = offload(move || snapshots.install(&state, &info)).await;
        installed.map_err(io::Error::other)?;
        let mut inner = self.inner.lock();
        inner.machine = load_machine(&self.kind, &self.state.read()).map_err(io::Error::other)?;
        inner.applied = applied;
        self.publish(&inner);
        Ok(())
    }
}

fn retired() -> io::Error {
    io::Error::other("this replica is retired: its data is being dropped")
}

fn unknown_entry() -> io::Error {
    io::Error::other("a committed entry is of a version this build does not know: upgrade the node")
}
