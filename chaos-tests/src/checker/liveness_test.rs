use super::*;
use crate::checker::histories::{A, B, Writer};

const EXPECTATION: Expectation =
    Expectation::of_three(Duration::from_secs(10), Duration::from_secs(2));

fn kill(nodes: &[u16]) -> Fault {
    Fault::Kill { nodes: nodes.to_vec() }
}

/// Traffic in both mailboxes, a fault, `pause` without any in `B` while `A` goes on.
fn paused(fault: Fault, pause: Duration) -> History {
    let mut writer = Writer::default();
    writer.sent(A, 1, 1).sent(B, 1, 2).fault(fault);
    let mut message = 10;
    let mut passed = Duration::ZERO;
    while passed < pause {
        writer.wait(Duration::from_millis(80)).sent(A, 1, message);
        passed += Duration::from_millis(100);
        message += 1;
    }
    for _ in 0..5 {
        writer.sent(B, 1, message).sent(A, 1, message + 1);
        message += 2;
    }
    writer.done()
}

#[test]
fn a_short_pause_passes_and_is_reported() {
    let (check, pauses) = check(&paused(kill(&[1]), Duration::from_millis(500)), &EXPECTATION);
    assert!(check.passed(), "{check:?}");
    let [pause] = &pauses[..] else { panic!("one fault") };
    assert_eq!(pause.mailbox, B);
    assert!(pause.promised);
    assert!((500..600).contains(&pause.in_a_mailbox.as_millis()), "{pause}");
    assert!(pause.anywhere.as_millis() <= 110, "{pause}");
}

#[test]
fn a_long_pause_in_one_mailbox_is_found_though_others_go_on() {
    let (check, _) = check(&paused(kill(&[1]), Duration::from_secs(3)), &EXPECTATION);
    let [Finding::Stalled { mailbox: B, pause, .. }] = &check.findings[..] else {
        panic!("{check:?}");
    };
    assert!((3000..3200).contains(&pause.as_millis()));
}

#[test]
fn a_mailbox_that_never_comes_back_is_found() {
    let mut writer = Writer::default();
    writer.sent(A, 1, 1).sent(B, 1, 2).send(Phase::Invoke, B, 1, 3).fault(kill(&[3]));
    for message in 10..60 {
        writer.wait(Duration::from_millis(80)).sent(A, 1, message);
    }
    let (check, pauses) = check(&writer.done(), &EXPECTATION);
    assert!(matches!(check.findings[..], [Finding::Stalled { mailbox: B, .. }]), "{check:?}");
    assert!(pauses[0].in_a_mailbox > Duration::from_secs(4), "{pauses:?}");
}

#[test]
fn a_pause_in_the_middle_of_the_window_is_found() {
    let mut writer = Writer::default();
    writer.sent(A, 1, 1).fault(kill(&[1])).sent(A, 1, 2).wait(Duration::from_secs(3));
    writer.sent(A, 1, 3);
    let (check, _) = check(&writer.done(), &EXPECTATION);
    assert!(matches!(check.findings[..], [Finding::Stalled { mailbox: A, .. }]), "{check:?}");
}

#[test]
fn nothing_is_promised_without_a_majority_nor_while_it_comes_back() {
    let mut writer = Writer::default();
    writer.sent(A, 1, 1).fault(kill(&[1, 2, 3])).wait(Duration::from_secs(3));
    writer.fault(Fault::Restart { nodes: vec![1, 2, 3] }).wait(Duration::from_secs(4));
    writer.sent(A, 1, 2).sent(A, 1, 3);
    let (check, pauses) = check(&writer.done(), &EXPECTATION);
    assert!(check.passed(), "{check:?}");
    assert!(pauses.iter().all(|pause| !pause.promised), "{pauses:?}");
    assert!(pauses[1].in_a_mailbox > Duration::from_secs(4), "{pauses:?}");
}

#[test]
fn a_restart_must_not_stop_traffic_either() {
    let mut writer = Writer::default();
    writer.sent(A, 1, 1).fault(kill(&[1])).sent(A, 1, 2);
    writer.fault(Fault::Restart { nodes: vec![1] }).wait(Duration::from_secs(3)).sent(A, 1, 3);
    let (check, _) = check(&writer.done(), &EXPECTATION);
    assert!(matches!(check.findings[..], [Finding::Stalled { .. }]), "{check:?}");
}

#[test]
fn a_mailbox_nobody_writes_to_any_more_is_no_finding() {
    let mut writer = Writer::default();
    writer.sent(B, 1, 1).sent(A, 1, 2).fault(kill(&[1])).sent(A, 1, 3);
    writer.sent(B, 1, 4);
    for message in 10..60 {
        writer.wait(Duration::from_millis(80)).sent(A, 1, message);
    }
    let (check, _) = check(&writer.done(), &EXPECTATION);
    assert!(check.passed(), "{check:?}");
}

#[test]
fn a_run_without_traffic_after_the_fault_is_no_pass() {
    let mut writer = Writer::default();
    writer.sent(A, 1, 1).fault(kill(&[1]));
    let (check, _) = check(&writer.done(), &EXPECTATION);
    assert!(!check.passed());
}

#[test]
fn a_remedy_that_does_not_bring_its_nodes_back_is_found() {
    let good = paused(kill(&[1]), Duration::from_millis(100));
    assert!(check(&good, &EXPECTATION).0.passed());
    let remedy = |fault, phase| {
        let why = Some("it ended before it was ready".to_owned());
        let restart = Operation::Fault { fault, hit: Vec::new(), why };
        check(&crate::checker::histories::then(good.clone(), phase, restart), &EXPECTATION).0
    };
    let back = remedy(Fault::Restart { nodes: vec![1] }, Phase::Unknown);
    assert!(matches!(back.findings[..], [Finding::NotBack { .. }]), "{back:?}");
    // A fault of which nobody knows whether it happened is a doubt, and no broken promise.
    assert!(remedy(kill(&[2]), Phase::Unknown).passed());
}
