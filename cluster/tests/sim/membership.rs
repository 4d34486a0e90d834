//! Replicas that move: nodes that are lost for good.

use std::time::Duration;

use crate::{
    for_each_seed, seeds_or, simulate,
    world::{Shape, World},
};

/// Five nodes cost more than three: few seeds in CI, others with `SIM_SEEDS`.
const SEEDS: std::ops::Range<u64> = 0..5;

#[test]
fn sim_a_lost_nodes_replicas_are_made_anew_elsewhere() {
    for_each_seed(seeds_or(SEEDS), |seed| {
        simulate(seed, |seed| async move {
            let mut world = World::start_as(seed, Shape::FIVE).await;
            let lost = usize::try_from(seed).unwrap() % world.nodes();
            world.lose(lost);
            world.run_with_faults(Duration::from_secs(20)).await;
            world.heal_and_settle().await;
            world.whole_again().await;
            world.check().await;
        });
    });
}
