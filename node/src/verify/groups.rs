//! Whether log, rows and snapshots of each group fit together: what is missing as a whole file
//! leaves no bytes that could be wrong.

use std::collections::BTreeSet;

use heliograph_cluster::applied_index;
use heliograph_storage::{GroupId, OpenReport, SnapshotFinding, StateInspection};

use super::report::{Finding, Report};

/// Compares what each group's files hold.
pub(super) fn compare(
    state: Option<&StateInspection>,
    log: &OpenReport,
    snapshots: &[SnapshotFinding],
    report: &mut Report,
) {
    let rows = |group: GroupId| {
        let found = state?.groups.iter().find(|found| found.group == group)?;
        found.result.as_ref().ok()?;
        applied_index(found.applied.as_ref()?)
    };
    let snapshot = |group: GroupId| {
        // The newest counts, whether it is sound or not.
        let newest = snapshots.iter().rev().find(|found| found.group == group)?;
        applied_index(newest.result.as_ref().ok()?)
    };
    let known = state.into_iter().flat_map(|state| &state.groups).map(|found| found.group);
    let groups: BTreeSet<GroupId> = known
        .chain(log.groups.keys().copied())
        .chain(snapshots.iter().map(|found| found.group))
        .collect();
    for group in groups {
        if log.damaged.contains_key(&group) {
            continue;
        }
        let held = log.groups.get(&group);
        let purged = held.and_then(|held| held.purged).map_or(0, |purged| purged.index);
        let last = held.and_then(|held| held.last).map_or(0, |last| last.index);
        let snapshot = snapshot(group).unwrap_or(0);
        let applied = rows(group).unwrap_or(0).max(snapshot);
        if purged > applied {
            report.add(Finding::hole(group, purged, applied));
        } else if last < applied {
            report.add(Finding::short(group, last, applied));
        } else if purged > snapshot {
            report.add(Finding::no_snapshot(group, purged));
        }
    }
}
