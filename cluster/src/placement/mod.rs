//! Which node holds which replica, and what is to move next. Pure: functions of (nodes with their
//! zones and standings, groups, bounds) → new targets. Owned by the controller on the meta leader
//! (`actors/controller.rs`), which fills the [`View`] and writes the [`Step`]s.
//!
//! What it promises of each step, and its tests hold it to:
//! - replicas of a group are on distinct nodes, and spread over zones as evenly as nodes allow;
//! - a group whose last change has not settled is left alone, unless what it waits for is gone;
//! - one replica a step, never more than a minority of the voters, and never so that the live ones
//!   are no majority;
//! - steps only ever improve what is there: a balanced cluster plans nothing, and planning ends.

mod balance;
mod board;
mod initial;
mod leaders;
mod observe;
mod planner;
mod progress;
mod repair;
mod view;

pub(crate) use initial::initial;
pub(crate) use observe::{Heard, observe};
pub(crate) use planner::{plan, steps_to_do};
pub use progress::Progress;
#[cfg(test)]
pub(crate) use view::{GroupView, NodeView};
pub(crate) use view::{Limits, Standing, Step, View};

#[cfg(test)]
mod planner_test;
#[cfg(test)]
mod storm_test;
