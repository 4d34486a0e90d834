//! The life of a cluster: nodes come and go, lose their disks, and find damage on them.

use std::time::Duration;

use heliograph_cluster::{NodeFailure, model::ShardId};

use crate::{for_each_seed, seeds_or, simulate, world::World};

/// Few: each moves every group while nodes crash. Others with `SIM_SEEDS`.
const SEEDS: std::ops::Range<u64> = 0..8;

#[test]
fn sim_a_fourth_node_joins_and_takes_the_place_of_one_that_leaves() {
    for_each_seed(seeds_or(SEEDS), |seed| {
        simulate(seed, |seed| async move {
            let mut world = World::start(seed).await;
            world.grow().await;
            world.send_away(0).await;
            world.run_with_faults(Duration::from_secs(10)).await;
            world.heal_and_settle().await;
            world.forget(0).await;
            world.whole_again().await;
            world.check().await;
        });
    });
}

/// The node loses its disk: empty, it is refused; replaced, it takes its place again.
async fn is_refused_until_replaced(world: &mut World, index: usize, seed: u64) {
    world.crash(index);
    world.lose_disk(index);
    world.boot(index).await;
    let failure = world.failure(index).await;
    assert_eq!(failure, NodeFailure::DiskLost, "seed {seed}");
    world.crash(index);
    world.replace(index).await;
    world.lose_disk(index);
    world.boot(index).await;
    world.all_ready().await;
    world.whole_again().await;
}

#[test]
fn sim_a_lost_disk_is_refused_until_the_node_is_replaced() {
    for_each_seed(seeds_or(SEEDS), |seed| {
        simulate(seed, |seed| async move {
            let mut world = World::start(seed).await;
            world.run_with_faults(Duration::from_secs(3)).await;
            world.heal_and_settle().await;
            is_refused_until_replaced(&mut world, 1, seed).await;
            world.check().await;
        });
    });
}

/// Whoever lost its disk knows the first members alone, and not a leader that came later.
#[test]
fn sim_a_lost_disk_is_refused_where_a_later_node_may_lead_the_registry() {
    for_each_seed(seeds_or(SEEDS), |seed| {
        simulate(seed, |seed| async move {
            let mut world = World::start(seed).await;
            world.grow().await;
            world.send_away(0).await;
            world.run_with_faults(Duration::from_secs(3)).await;
            world.heal_and_settle().await;
            world.forget(0).await;
            world.whole_again().await;
            is_refused_until_replaced(&mut world, 1, seed).await;
            world.check().await;
        });
    });
}

/// Node 2 loses what its log held of shard 0, and is ready again.
async fn comes_back_without_a_log(world: &mut World) {
    world.crash(2);
    world.lose_log_of(2, ShardId(0));
    world.boot(2).await;
    world.all_ready().await;
}

#[test]
fn sim_a_damaged_replica_begins_anew() {
    for_each_seed(seeds_or(SEEDS), |seed| {
        simulate(seed, |seed| async move {
            let mut world = World::start(seed).await;
            // Long enough for checkpoints.
            world.run_with_faults(Duration::from_secs(6)).await;
            world.heal_and_settle().await;
            comes_back_without_a_log(&mut world).await;
            world.renewed(ShardId(0), 2).await;
            world.whole_again().await;
            world.check().await;
        });
    });
}

/// Ready means that the cluster can do without another node: not before the new replica has a vote.
#[test]
fn sim_a_node_whose_replica_begins_anew_is_ready_once_that_votes() {
    for_each_seed(seeds_or(SEEDS), |seed| {
        simulate(seed, |seed| async move {
            let mut world = World::start(seed).await;
            world.run_with_faults(Duration::from_secs(3)).await;
            world.heal_and_settle().await;
            comes_back_without_a_log(&mut world).await;
            world.crash(usize::try_from(seed % 2).unwrap());
            world.led_again().await;
            world.heal_and_settle().await;
            world.check().await;
        });
    });
}
