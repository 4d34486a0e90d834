//! A test of the tests: runs in which a promise is broken on purpose must be judged broken.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use heliograph_chaos_tests::{
    checker::{Expectation, Finding, check},
    cluster::Options,
    history::MailboxNumber,
    trial::Trial,
    wire::{Received, Rest, register},
    workload::Config,
};
use hyper::StatusCode;
use serde_json::json;

const DEADLINE: Duration = Duration::from_secs(20);

const EXPECTATION: Expectation =
    Expectation::of_three(Duration::from_secs(5), Duration::from_secs(10));

/// Somebody with the recipient's key takes messages away before it reads, and somebody slips in a
/// message that is not of the run. The relay does nothing wrong; what the recipient sees is what
/// it would see of a relay that loses and invents messages.
#[tokio::test(flavor = "multi_thread")]
async fn lost_and_invented_messages_are_found_in_a_real_run() -> Result<()> {
    let mut trial = Trial::start(Options::three("detects"), Config::modest()).await?;
    let nodes = trial.cluster.addresses();
    trial.flow(Duration::from_secs(2)).await?;
    let (_, victim) = trial.workload.mailboxes()[0].clone();
    let mut thief = victim.rest(nodes[1]);
    let stolen = steal(&mut thief, &victim.id).await?;
    let stranger = register(&mut Rest::new(nodes[2], None), "stranger", DEADLINE).await?;
    let body = json!({"recipient_id": trial.workload.mailboxes()[1].1.id, "message_id": "forged",
        "content": "AA=="});
    let sent = stranger.rest(nodes[0]).post("/api/v1/messages/send", &body, DEADLINE).await?;
    ensure!(sent.status == StatusCode::ACCEPTED, "{sent:?}");
    trial.workload.start_reading();

    let Trial { mut cluster, recorder, workload, .. } = trial;
    let report = workload.finish_within(Duration::from_secs(5)).await?;
    cluster.stop().await?;
    ensure!(report.missing == stolen, "{report:?}, stolen {stolen}");
    let verdict = check(&recorder.history(), &EXPECTATION);
    ensure!(!verdict.passed(), "{verdict}");
    let lost = verdict
        .findings()
        .filter(|finding| matches!(finding, Finding::Lost { mailbox: MailboxNumber(0), .. }));
    ensure!(lost.count() == stolen, "{verdict}");
    let gap = |finding: &Finding| matches!(finding, Finding::Gap { mailbox: MailboxNumber(0), .. });
    ensure!(verdict.findings().any(gap), "{verdict}");
    let invented = |finding: &Finding| {
        matches!(finding, Finding::Unexpected { mailbox: MailboxNumber(1), .. })
    };
    ensure!(verdict.findings().any(invented), "{verdict}");
    // Nobody else was touched.
    let untouched = verdict.findings().all(|finding| {
        !matches!(finding, Finding::Lost { mailbox: MailboxNumber(number), .. } if *number > 0)
    });
    ensure!(untouched, "{verdict}");
    Ok(())
}

/// How many messages are taken.
const STOLEN_MAX: usize = 3;

async fn steal(thief: &mut Rest, victim: &str) -> Result<usize> {
    let path = format!("/api/v1/messages/receive/{victim}?limit={STOLEN_MAX}&wait=10");
    let reply = thief.get(&path, DEADLINE).await?;
    let messages: Vec<Received> = serde_json::from_value(reply.body)?;
    let ids: Vec<_> = messages.iter().map(|message| message.message_id.clone()).collect();
    ensure!(!ids.is_empty(), "there is nothing to steal");
    let body = json!({"message_ids": ids});
    let reply = thief.post("/api/v1/messages/acknowledge", &body, DEADLINE).await?;
    let taken = reply.body["acknowledged"].as_u64().context("no count")?;
    ensure!(taken == ids.len() as u64, "{reply:?}");
    Ok(ids.len())
}
