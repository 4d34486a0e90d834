//! Whether log, rows and snapshot of a group fit together. Pure.

use heliograph_storage::LogGroup;

/// What a group's files are worth together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Soundness {
    /// They fit.
    Sound,
    /// Rows and log are whole, but there is no snapshot where the log was purged: peers that lag
    /// need one, and so does this node if it loses its rows.
    SnapshotMissing,
    /// Something is gone that was there: this replica must not vote.
    Damaged(&'static str),
}

/// Judges a group by what its log holds, the index its rows are applied to (0 for none), and the
/// one its snapshot holds (0 for none).
pub(crate) fn judge(log: &LogGroup, applied: u64, snapshot: u64) -> Soundness {
    let purged = log.purged.map_or(0, |purged| purged.index);
    let last = log.last.map_or(0, |last| last.index);
    if purged > applied {
        return Soundness::Damaged("entries were purged that neither rows nor snapshot hold");
    }
    // Also where a snapshot holds what was applied: with its end the log has lost votes and promises.
    // Nothing else leaves it so but a crash after a snapshot was received and before the log is
    // purged up to it, where beginning anew costs little.
    if last < applied {
        return Soundness::Damaged("the log ends before what the rows hold");
    }
    match purged > snapshot {
        true => Soundness::SnapshotMissing,
        false => Soundness::Sound,
    }
}

#[cfg(test)]
mod tests {
    use heliograph_storage::Position;

    use super::*;

    fn log(purged: u64, last: u64) -> LogGroup {
        let at = |index| (index > 0).then_some(Position { term: 1, index });
        LogGroup { vote: None, purged: at(purged), last: at(last) }
    }

    #[test]
    fn files_that_fit_are_sound() {
        for (purged, last, applied, snapshot) in
            [(0, 0, 0, 0), (0, 9, 5, 0), (4, 9, 5, 4), (4, 9, 9, 8)]
        {
            assert_eq!(judge(&log(purged, last), applied, snapshot), Soundness::Sound);
        }
    }

    #[test]
    fn snapshot_that_is_gone_or_older_is_missed() {
        for snapshot in [0, 3] {
            assert_eq!(judge(&log(4, 9), 5, snapshot), Soundness::SnapshotMissing);
        }
    }

    #[test]
    fn holes_are_damage() {
        for (purged, last, applied, snapshot) in
            [(4, 9, 3, 3), (4, 9, 0, 0), (0, 5, 6, 2), (0, 0, 7, 7), (2, 3, 7, 7)]
        {
            let judged = judge(&log(purged, last), applied, snapshot);
            assert!(matches!(judged, Soundness::Damaged(_)), "{judged:?}");
        }
    }
}
