//! Disks that fail under a running node: it leads no more, says so, serves its clients through the
//! others, and comes back by itself once the disk is well.

use std::time::Duration;

use anyhow::{Result, ensure};
use heliograph_chaos_tests::{
    checker::Expectation,
    cluster::Options,
    faults::Unsynced,
    history::Fault,
    trial::Trial,
    wire::{Rest, register},
    workload::Config,
};
use hyper::StatusCode;
use rand::Rng as _;
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::support::{Run, assert_good};

const EXPECTATION: Expectation =
    Expectation::of_three(Duration::from_secs(60), Duration::from_secs(15));
/// Far longer than anything here takes.
const DEADLINE: Duration = Duration::from_secs(60);
const QUESTION: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(50);

/// What happens to disks, by the rules of `preload/powercut.c`.
const FAULTS: [(&str, &str); 4] = [
    ("the log's fdatasync fails once", "sync log/*.log EIO count=1"),
    ("the file system is full", "grow * ENOSPC"),
    ("the file system turns read-only", "modify * EROFS"),
    ("the state database's sync fails once", "sync state/db EIO count=1"),
];

/// Waits until `/readyz` of the node says that its disk failed.
async fn says_why(trial: &Trial, node: u16) -> Result<()> {
    let mut rest = Rest::new(trial.cluster.node(node)?.http, None);
    let until = Instant::now() + DEADLINE;
    loop {
        let last = rest.get("/readyz", QUESTION).await;
        if let Ok(reply) = &last
            && reply.status == StatusCode::SERVICE_UNAVAILABLE
            && reply.body.to_string().contains("disk")
        {
            return Ok(());
        }
        ensure!(Instant::now() < until, "node {node} does not say that its disk failed: {last:?}");
        sleep(POLL).await;
    }
}

/// A client that knows no other node is served by this one: each of its messages, to mailboxes of
/// many shards, is accepted.
async fn serves(trial: &Trial, node: u16) -> Result<()> {
    let address = trial.cluster.node(node)?.http;
    let name = format!("guest-{}", rand::random::<u32>());
    let guest = register(&mut Rest::new(address, None), &name, DEADLINE).await?;
    let mut rest = guest.rest(address);
    for number in 0..20 {
        let body = json!({"recipient_id": format!("nobody-{number}"),
            "message_id": format!("m-{number}"), "content": "AA=="});
        let reply = rest.post("/api/v1/messages/send", &body, QUESTION).await?;
        ensure!(reply.status == StatusCode::ACCEPTED, "message {number}: {reply:?}");
    }
    Ok(())
}

async fn is_alive(trial: &Trial, node: u16) -> Result<()> {
    let reply = Rest::new(trial.cluster.node(node)?.http, None).get("/livez", QUESTION).await?;
    ensure!(reply.status == StatusCode::OK, "{reply:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_disk_fails_steps_back_and_recovers_by_itself() -> Result<()> {
    let mut run = Run::begin(1);
    let mut trial =
        Trial::start(Options::three_faulty("fail-safe", run.seed), Config::modest()).await?;
    for round in 0..run.rounds {
        for (number, (what, rules)) in FAULTS.iter().enumerate() {
            trial.flow(Duration::from_millis(run.rng.random_range(500..2000))).await?;
            // Each node leads some shards, and follows in the others.
            let node = 1 + (round as u16 + number as u16) % 3;
            eprintln!("node {node}: {what}");
            let began = Instant::now();
            trial.inflict(Fault::Disk { nodes: vec![node], rules: (*rules).to_owned() }).await?;
            let is_lasting = !rules.contains("count=");
            trial.cluster.disk(node)?.met(DEADLINE).await?;
            eprintln!("  met after {:?}", began.elapsed());
            if is_lasting {
                says_why(&trial, node).await?;
                eprintln!("  said so after {:?}", began.elapsed());
                is_alive(&trial, node).await?;
                serves(&trial, node).await?;
                trial.flow(Duration::from_secs(2)).await?;
            }
            let repaired = Instant::now();
            trial.inflict(Fault::Repair { nodes: vec![node] }).await?;
            eprintln!("  ready {:?} after the repair", repaired.elapsed());
            ensure!(trial.cluster.is_running(node), "node {node} was started anew by somebody");
        }
    }
    // What a failed sync lost must have been written again, not trusted: the power shows it.
    let cut = Fault::PowerCut { nodes: vec![1, 2, 3], unsynced: Unsynced::Lost, seed: run.seed };
    trial.inflict(cut).await?;
    trial.inflict(Fault::Restart { nodes: vec![1, 2, 3] }).await?;
    trial.flow(Duration::from_secs(1)).await?;
    trial.compare_replicas().await?;
    let (verdict, report) = trial.judge(&EXPECTATION).await?;
    assert_good(&verdict, &report)
}
