use std::time::Duration;

use super::*;
use crate::{
    checker::{Expectation, check},
    history::{Event, Fault, Hit, MailboxNumber, MessageNumber, Operation, Phase},
};

fn about(cut_short: Option<&str>) -> About {
    About {
        profile: "smoke".to_owned(),
        about: "A look.".to_owned(),
        seed: 7,
        minutes: 1.0,
        nodes: 3,
        build: "heliograph".to_owned(),
        command: "chaos run --profile smoke --seed 7".to_owned(),
        cut_short: cut_short.map(str::to_owned),
        refused: Vec::new(),
    }
}

fn history() -> History {
    let event = |ms, phase, operation| Event {
        at: Duration::from_millis(ms),
        process: 1,
        phase,
        operation,
    };
    let send = |message| Operation::Send {
        mailbox: MailboxNumber(1),
        priority: 1,
        message: MessageNumber(message),
    };
    let hit = vec![Hit { node: 2, leads: 5, holds: 17 }];
    let kill = Operation::Fault { fault: Fault::Kill { nodes: vec![2] }, hit, why: None };
    let back = Fault::Restart { nodes: vec![2] };
    let back = Operation::Fault { fault: back, hit: Vec::new(), why: None };
    History {
        events: vec![
            event(100, Phase::Invoke, send(1)),
            event(140, Phase::Ok, send(1)),
            event(1_000, Phase::Invoke, kill.clone()),
            event(1_100, Phase::Ok, kill),
            event(1_200, Phase::Invoke, send(2)),
            event(3_200, Phase::Ok, send(2)),
            event(4_000, Phase::Invoke, back.clone()),
            event(4_500, Phase::Ok, back),
        ],
    }
}

#[test]
fn seconds_and_bands_are_what_happened() {
    let history = history();
    let series = Series::of(&history);
    assert_eq!(series.seconds.len(), 5);
    assert_eq!((series.seconds[0].accepted, series.seconds[0].p50_ms), (1, 40));
    assert_eq!((series.seconds[3].accepted, series.seconds[3].max_ms), (1, 2_000));
    let bands = series::bands(&history);
    let [band] = &bands[..] else { panic!("{bands:?}") };
    assert_eq!((band.from.as_millis(), band.to.as_millis()), (1_000, 4_500));
    assert_eq!((band.outcome, band.hit.as_str()), ("installed", "node 2 (5 of 17 led)"));
}

#[test]
fn the_folder_has_everything_and_a_run_cut_short_is_never_valid() {
    let history = history();
    let expectation = Expectation::of_three(Duration::from_secs(5), Duration::from_secs(5));
    let verdict = check(&history, &expectation);
    let dir = tempfile::tempdir().unwrap();
    let judged = Judged::new(about(Some("Ctrl-C")), &history, &verdict);
    assert!(judged.outcome > Outcome::Valid);
    judged.write(dir.path()).unwrap();
    assert_eq!(History::load(&dir.path().join(HISTORY)).unwrap(), history);
    let report = fs::read_to_string(dir.path().join(REPORT)).unwrap();
    for part in
        ["Ctrl-C", "--seed 7", "kill of [2]", "installed", "| total-queue |", "timeline.svg"]
    {
        assert!(report.contains(part), "{part}: {report}");
    }
    let verdict: serde_json::Value =
        serde_json::from_slice(&fs::read(dir.path().join(VERDICT)).unwrap()).unwrap();
    assert_eq!(verdict["about"]["seed"], 7);
    assert_eq!(verdict["summary"]["accepted"], 2);
    let svg = fs::read_to_string(dir.path().join(TIMELINE)).unwrap();
    assert!(svg.starts_with("<svg") && svg.contains("kill of [2]") && svg.ends_with("</svg>\n"));
}
