//! The load generator on a real cluster: both loops, by both ways, everything accounted for.

use std::time::Duration;

use anyhow::{Result, ensure};
use heliograph_chaos_tests::{
    cluster::ClientPort,
    load::{
        closed, open,
        report::LoadReport,
        target::{Fresh, Target},
        traffic::{Over, Traffic},
    },
};

/// Messages in flight, of fewer senders.
const IN_FLIGHT: u32 = 7;
const SENDERS: u32 = 3;
/// Messages a second: an unoptimised cluster on a busy machine carries them.
const RATE: u32 = 20;

fn traffic(over: Over) -> Traffic {
    Traffic {
        over,
        mailboxes: 5,
        content_bytes: 256,
        warm_up: Duration::from_secs(1),
        time: Duration::from_secs(3),
    }
}

/// The run itself fails when something accepted is not delivered or a mailbox not emptied.
fn assert_good(report: &LoadReport) -> Result<()> {
    ensure!(report.accepted > 0 && report.accept.count == report.accepted, "{report:?}");
    ensure!(report.refused.is_empty() && report.out_of_order == 0, "{report:?}");
    ensure!(report.deliver.count > 0 && report.written_bytes_per_message > 0.0, "{report:?}");
    Ok(())
}

async fn both_loops(client: ClientPort) -> Result<()> {
    let target = Target::fresh(&Fresh { nodes: 3, shards: 4, client }).await?;
    for over in [Over::Ws, Over::Rest] {
        let plan = closed::Plan { in_flight: IN_FLIGHT, senders: SENDERS, traffic: traffic(over) };
        assert_good(&closed::run(&target, plan).await?)?;
        let report = open::run(&target, open::Plan { rate: RATE, traffic: traffic(over) }).await?;
        assert_good(&report)?;
        // Every message is sent, whatever the answers: at most those under way at the end of the
        // measured time are not counted.
        ensure!(report.accepted <= u64::from(RATE * 3) + 1, "{report:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn both_loops_are_accounted_for_over_websocket_and_rest() -> Result<()> {
    both_loops(ClientPort::Plain).await
}

#[tokio::test(flavor = "multi_thread")]
async fn both_loops_are_accounted_for_with_tls() -> Result<()> {
    both_loops(ClientPort::Tls).await
}
