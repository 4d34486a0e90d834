//! The mark of a disk: drawn once and kept in the log itself, so that a node without its log cannot
//! bring it. The registry notes it when it admits the node.
//!
//! It is kept twice: a group of the log whose records are damaged takes no writes until it is
//! dropped, and the mark must outlive that.

use heliograph_storage::{Error, GroupId};

use crate::{config::Storages, raft::durably, surroundings::Surroundings};

/// The groups under whose votes the log keeps the mark: the last of 20 bits, far above any shard.
pub(crate) const MARKS: [GroupId; 2] = [GroupId(0xF_FFFF), GroupId(0xF_FFFE)];

/// Reads the mark of this disk; a new disk gets one, durable before this returns.
pub(crate) async fn of(
    storages: &Storages,
    surroundings: &Surroundings,
) -> Result<[u8; 16], Error> {
    let kept = |group| {
        let vote = storages.log.group(group).vote;
        vote.and_then(|bytes| <[u8; 16]>::try_from(bytes.as_ref()).ok())
    };
    let mark = MARKS.into_iter().find_map(kept).unwrap_or_else(|| {
        let mut mark = [0; 16];
        surroundings.entropy.fill(&mut mark);
        mark
    });
    let log = storages.log.as_ref();
    // One after the other, so that one of them is there at any time.
    for group in MARKS {
        if storages.log.damage(group).is_some() {
            durably(log, |log, done| log.drop_group(group, done)).await?;
        }
        if kept(group) != Some(mark) {
            let bytes = mark.to_vec().into();
            durably(log, |log, done| log.save_vote(group, bytes, done)).await?;
        }
    }
    Ok(mark)
}

#[cfg(test)]
mod tests {
    use std::{path::Path, sync::Arc};

    use heliograph_storage::{
        FileSnapshots, Keyring, OpenExpectations, SegmentLog, SegmentLogConfig, SledConfig,
        SledStore,
    };

    use super::*;

    fn storages(dir: &Path, expectations: OpenExpectations) -> Storages {
        let mut config = SegmentLogConfig::new(dir.join("log"), 7);
        config.expectations = expectations;
        let (log, _) = SegmentLog::open(config).unwrap();
        let (state, _) = SledStore::open(&dir.join("state"), SledConfig::default()).unwrap();
        let snapshots = FileSnapshots::open(&dir.join("snapshots")).unwrap();
        let keys = Keyring::unsealed();
        Storages {
            log: Arc::new(log),
            state: Arc::new(state),
            snapshots: Arc::new(snapshots),
            keys,
        }
    }

    #[tokio::test]
    async fn mark_outlives_damage_to_its_records() {
        let dir = tempfile::tempdir().unwrap();
        let surroundings = Surroundings::system();
        let open = |expectations| storages(dir.path(), expectations);
        let first = open(OpenExpectations::default());
        let mark = of(&first, &surroundings).await.unwrap();
        assert_eq!(of(&first, &surroundings).await.unwrap(), mark);
        drop(first);
        // Both lost records, as after damage to the last segment.
        let mut expectations = OpenExpectations::default();
        expectations.records_min.extend(MARKS.map(|group| (group, 1_000)));
        let damaged = open(expectations);
        assert!(MARKS.iter().all(|group| damaged.log.damage(*group).is_some()));
        assert_eq!(of(&damaged, &surroundings).await.unwrap(), mark);
        assert!(MARKS.iter().all(|group| damaged.log.damage(*group).is_none()));
        drop(damaged);
        let after = open(OpenExpectations::default());
        assert_eq!(of(&after, &surroundings).await.unwrap(), mark);
    }
}
