//! Flags that several commands have, or that make up a plan of their own.

use std::time::Duration;

use clap::{Args, value_parser};
use heliograph_chaos_tests::load::{closed, cold, kill, sweep, traffic};

#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Traffic {
    /// By which of the relay's two ways
    #[arg(long, value_enum, default_value_t = traffic::Over::Ws)]
    over: traffic::Over,
    /// Mailboxes that messages go to, in turn
    #[arg(long, default_value_t = 100, value_parser = value_parser!(u32).range(1..))]
    mailboxes: u32,
    /// Content of a message, before Base64
    #[arg(long, default_value_t = 256)]
    content_bytes: usize,
    /// Seconds that are not measured
    #[arg(long, default_value_t = 3)]
    warm_up: u64,
    /// Seconds that are measured
    #[arg(long, default_value_t = 10, value_parser = value_parser!(u64).range(1..))]
    seconds: u64,
}

impl Traffic {
    pub(crate) fn plan(self) -> traffic::Traffic {
        traffic::Traffic {
            over: self.over,
            mailboxes: self.mailboxes,
            content_bytes: self.content_bytes,
            warm_up: Duration::from_secs(self.warm_up),
            time: Duration::from_secs(self.seconds),
        }
    }
}

#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct ClosedFlags {
    /// Messages in flight
    #[arg(long, default_value_t = 128, value_parser = value_parser!(u32).range(1..))]
    in_flight: u32,
    /// Sending devices that share them. Over WebSocket each has one connection, on which the relay
    /// takes up 256 messages at a time; over REST one for each message in flight
    #[arg(long, default_value_t = closed::SENDERS, value_parser = value_parser!(u32).range(1..))]
    connections: u32,
    #[command(flatten)]
    traffic: Traffic,
}

impl ClosedFlags {
    pub(crate) fn plan(self) -> closed::Plan {
        let Self { in_flight, connections, traffic } = self;
        closed::Plan { in_flight, senders: connections, traffic: traffic.plan() }
    }
}

#[derive(Debug, Args)]
pub(crate) struct Rates {
    /// Messages a second, rising, separated by commas
    #[arg(long, value_delimiter = ',', conflicts_with_all = ["from", "to", "steps"])]
    rates: Vec<u32>,
    /// The lowest rate
    #[arg(long, default_value_t = 500, value_parser = value_parser!(u32).range(1..))]
    from: u32,
    /// The highest rate
    #[arg(long, default_value_t = 16_000, value_parser = value_parser!(u32).range(1..))]
    to: u32,
    /// How many rates, each as many times the one before
    #[arg(long, default_value_t = 11, value_parser = value_parser!(u32).range(2..))]
    steps: u32,
}

impl Rates {
    pub(crate) fn list(self) -> Vec<u32> {
        if self.rates.is_empty() {
            sweep::rates(self.from, self.to, self.steps)
        } else {
            self.rates
        }
    }
}

#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct KillFlags {
    /// How many, the nodes in turn; each takes some fifteen seconds
    #[arg(long, default_value_t = kill::Plan::USUAL.kills, value_parser = value_parser!(u32).range(1..))]
    kills: u32,
    /// Messages a second, of 96 senders to 48 mailboxes
    #[arg(long, default_value_t = kill::Plan::USUAL.rate, value_parser = value_parser!(u32).range(1..))]
    rate: u32,
    /// Seconds of load before each kill, in which nobody is to be given up
    #[arg(long, default_value_t = kill::Plan::USUAL.calm.as_secs())]
    calm: u64,
}

impl KillFlags {
    pub(crate) fn plan(self) -> kill::Plan {
        let calm = Duration::from_secs(self.calm);
        kill::Plan { kills: self.kills, rate: self.rate, calm }
    }
}

#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct ColdFlags {
    /// Content that waits in mailboxes, in MiB
    #[arg(long, default_value_t = cold::Plan::USUAL.stored_bytes >> 20)]
    mib: u64,
    /// Content of a message, before Base64
    #[arg(long, default_value_t = cold::Plan::USUAL.content_bytes)]
    content_bytes: usize,
    /// Mailboxes that messages go to, in turn
    #[arg(long, default_value_t = cold::Plan::USUAL.mailboxes, value_parser = value_parser!(u32).range(1..))]
    mailboxes: u32,
    /// Starts of each kind
    #[arg(long, default_value_t = cold::Plan::USUAL.starts)]
    starts: u32,
}

impl ColdFlags {
    pub(crate) fn plan(self) -> cold::Plan {
        cold::Plan {
            stored_bytes: self.mib << 20,
            content_bytes: self.content_bytes,
            mailboxes: self.mailboxes,
            starts: self.starts,
        }
    }
}
