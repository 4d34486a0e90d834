use std::collections::BTreeSet;

use super::*;
use crate::faults::Effect;

fn field(nodes: u16) -> Field {
    Field { nodes, leader: Some(2), taken: Vec::new(), newcomer: None }
}

fn rng(seed: u64) -> SmallRng {
    SmallRng::seed_from_u64(seed)
}

fn cut_off(fault: &Fault, nodes: u16) -> usize {
    let Effect::Away(away) = fault.effect(usize::from(nodes)) else { panic!("{fault}") };
    away.len()
}

#[test]
fn each_round_has_every_step_once_and_a_seed_decides_the_order() {
    let order = |seed| {
        let mut plan = Plan::new(5, seed);
        let steps: Vec<usize> = (0..15).map(|_| plan.next_step().0).collect();
        assert!(plan.has_done_all());
        steps
    };
    for round in order(7).chunks(5) {
        assert_eq!(round.iter().collect::<BTreeSet<_>>().len(), 5);
    }
    assert_eq!(order(7), order(7));
    assert!((0..20).any(|seed| order(seed) != order(7)));
    let mut plan = Plan::new(5, 1);
    plan.next_step();
    assert!(!plan.has_done_all());
}

#[test]
fn targets_are_who_they_say_and_nobody_is_hit_twice() {
    for seed in 0..50 {
        let mut rng = rng(seed);
        let mut field = field(5);
        assert_eq!(field.choose(Target::Leader, &mut rng), [2]);
        let follower = field.choose(Target::Follower, &mut rng);
        assert!(follower.len() == 1 && follower != [2]);
        let minority = field.choose(Target::Minority, &mut rng);
        assert_eq!(minority.len(), 2);
        assert!(!minority.contains(&2) && !minority.contains(&follower[0]));
        assert_eq!(field.choose(Target::All, &mut rng).len(), 1);
        assert!(field.choose(Target::One, &mut rng).is_empty());
        let none = faults(&Spec::Kill { target: Target::One }, &mut field, &mut rng);
        assert_eq!(none, []);
    }
}

#[test]
fn partitions_have_their_shapes() {
    for seed in 0..20 {
        for nodes in [3, 5] {
            let shape = |shape| {
                let faults = partitions(shape, &mut field(nodes), &mut rng(seed));
                for fault in &faults {
                    assert_eq!(remedy(fault), Some(Fault::Heal));
                }
                faults
            };
            let single = shape(Shape::Single);
            assert_eq!((single.len(), cut_off(&single[0], nodes)), (1, 1));
            let Fault::Partition { cuts, .. } = &shape(Shape::Leader)[0] else { panic!() };
            assert_eq!(cuts.len(), 2 * usize::from(nodes - 1));
            assert!(cuts.iter().all(|(a, b)| *a == 2 || *b == 2));
            let halves = shape(Shape::Halves);
            assert_eq!(cut_off(&halves[0], nodes), usize::from((nodes - 1) / 2));
            let Fault::Partition { cuts, .. } = &shape(Shape::OneWay)[0] else { panic!() };
            assert_eq!(cuts.len(), usize::from(nodes - 1));
            assert!(cuts.iter().all(|(from, _)| *from == cuts[0].0), "{cuts:?}");
            let Fault::Partition { cuts, clients, .. } = &shape(Shape::Clients)[0] else {
                panic!();
            };
            assert_eq!((cuts.len(), clients.len()), (0, 1));
            let Fault::Partition { cuts, .. } = &shape(Shape::Ring)[0] else { panic!() };
            // Of five each reaches two others, of three the ends of the chain one.
            assert_eq!(cuts.len(), if nodes == 5 { 10 } else { 2 });
            let Fault::Partition { cuts, .. } = &shape(Shape::Bridge)[0] else { panic!() };
            assert_eq!(cuts.len(), if nodes == 5 { 8 } else { 2 });
            let swizzle = shape(Shape::Swizzle);
            assert_eq!(swizzle.len(), 3);
            let sizes: Vec<usize> = swizzle.iter().map(|fault| cut_off(fault, nodes)).collect();
            assert!(sizes[0] == 1 && sizes[1] == 2 && sizes[2] == 1, "{sizes:?}");
        }
    }
}

#[test]
fn all_at_once_is_all_and_an_upgrade_takes_every_node_in_turn() {
    let all = faults(&Spec::Kill { target: Target::All }, &mut field(3), &mut rng(1));
    assert_eq!(all, [Fault::Kill { nodes: vec![1, 2, 3] }]);
    let build = crate::faults::Build::Second;
    let upgrades = faults(&Spec::Upgrade { build }, &mut field(3), &mut rng(1));
    assert_eq!(upgrades.len(), 3);
    assert!(upgrades.iter().all(|upgrade| remedy(upgrade).is_none()));
}

#[test]
fn who_joins_leaves_again_when_who_left_is_back() {
    let (mut rng, mut field) = (rng(1), field(3));
    let leave = Spec::Leave { target: Target::Leader };
    let kill = Spec::Kill { target: Target::Newcomer };
    let specs = [Spec::Join {}, leave, kill];
    let done: Vec<Fault> =
        specs.iter().flat_map(|spec| faults(spec, &mut field, &mut rng)).collect();
    let (join, leave) = (|node| Fault::Join { node }, |node| Fault::Leave { node });
    assert_eq!(done, [join(4), leave(2), Fault::Kill { nodes: vec![4] }]);
    let remedies = in_order(done.iter().filter_map(remedy).collect());
    assert_eq!(remedies, [Fault::Restart { nodes: vec![4] }, join(2), leave(4)]);
    assert!(field.choose(Target::Newcomer, &mut rng).contains(&4));
}
