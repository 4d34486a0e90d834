//! What changes next.

use super::{
    board::{Board, GroupIndex},
    view::{Limits, Step, View},
};

/// Rounds after which counting what is to do ends. Each brings every group one step further, and no
/// group needs more than a few; this only bounds the time.
const ROUNDS_MAX: usize = 64;

/// The next steps, the most urgent first.
pub(crate) fn plan(view: &View, limits: Limits) -> Vec<Step> {
    let mut board = Board::new(view, limits);
    repair(&mut board);
    spread_over_zones(&mut board);
    board.balance();
    board.balance_leaders();
    board.steps
}

/// How many groups still have to move until there is nothing left to plan, beside those that move
/// now, if nothing else happens.
pub(crate) fn steps_to_do(view: &View) -> usize {
    let mut view = view.clone();
    settle(&mut view);
    finish(&mut view)
}

/// Plans and settles until nothing is left to plan; answers how many moves that took.
pub(super) fn finish(view: &mut View) -> usize {
    let mut moves = 0;
    for _ in 0..ROUNDS_MAX {
        let steps = plan(view, Limits::NONE);
        if steps.is_empty() {
            break;
        }
        moves += steps.iter().filter(|step| step.reason.moves_replicas()).count();
        let groups = &mut view.groups;
        // Both are in the groups' order only by chance.
        let places: std::collections::BTreeMap<_, _> =
            groups.iter().enumerate().map(|(place, group)| (group.group, place)).collect();
        for step in steps {
            groups[places[&step.group]].target = step.target;
        }
        settle(view);
    }
    moves
}

/// All groups hold what they should.
fn settle(view: &mut View) {
    for group in &mut view.groups {
        group.held.clone_from(&group.target);
        group.arriving.clear();
        group.is_settled = true;
    }
}

fn repair(board: &mut Board<'_>) {
    let needs = |index: GroupIndex| {
        let (_, reason) = board.repair(index)?;
        Some((reason, board.spare(index), index))
    };
    let mut needed: Vec<_> = (0..board.groups.len()).filter_map(needs).collect();
    needed.sort_unstable_by_key(|(reason, spare, index)| (*spare, *reason, *index));
    for (_, _, index) in needed {
        // Loads have changed since: the place is chosen anew.
        let is_moving = !board.groups[index].is_settled;
        if (is_moving || board.may_move())
            && let Some((target, reason)) = board.repair(index)
        {
            board.change(index, target, reason);
        }
    }
}

fn spread_over_zones(board: &mut Board<'_>) {
    for index in 0..board.groups.len() {
        if !board.may_move() || board.moving >= board.limits.balancing {
            return;
        }
        if let Some((target, reason)) = board.zone_change(index) {
            board.change(index, target, reason);
        }
    }
}
