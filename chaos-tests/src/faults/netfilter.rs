//! Partitions by nftables, on the input hook of an own network namespace: what comes in from a node
//! that is cut off is dropped. Never done outside of such a namespace.

use std::{
    io::Write as _,
    net::IpAddr,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};

use crate::cluster::{address_of, proxy_of};

/// The table that is ours.
const TABLE: &str = "inet heliograph_chaos";

/// What is to be dropped.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cuts {
    /// From the first node to the second nothing comes through.
    pub between: Vec<(u16, u16)>,
    /// To these nodes' ports for clients nothing comes through; with the port.
    pub clients: Vec<(u16, u16)>,
}

/// Puts `cuts` in place of what was there.
///
/// # Errors
/// When nftables refuses.
pub fn install(cuts: &Cuts) -> Result<()> {
    nft(&["-f", "-"], &ruleset(cuts)).map(drop)
}

/// Lets everything through again.
///
/// # Errors
/// When nftables refuses.
pub fn remove() -> Result<()> {
    nft(&["-f", "-"], &format!("add table {TABLE}\ndelete table {TABLE}\n")).map(drop)
}

/// How many packets were dropped since the cuts were installed.
///
/// # Errors
/// When nftables does not answer, or there are no cuts.
pub fn dropped() -> Result<u64> {
    let table: Vec<&str> = ["list", "table"].into_iter().chain(TABLE.split(' ')).collect();
    Ok(packets(&nft(&table, "")?))
}

fn packets(listing: &str) -> u64 {
    let mut words = listing.split_whitespace();
    let mut sum = 0;
    while words.by_ref().any(|word| word == "packets") {
        sum += words.next().and_then(|word| word.parse::<u64>().ok()).unwrap_or(0);
    }
    sum
}

/// The rules: as one transaction, so that there is no moment without any.
fn ruleset(cuts: &Cuts) -> String {
    let drop =
        |from: IpAddr, to: IpAddr| format!("    ip saddr {from} ip daddr {to} counter drop\n");
    let mut rules = String::new();
    for &(from, to) in &cuts.between {
        rules += &drop(address_of(from), address_of(to));
        // With proxies: to the one in front of the other; from one's own, what is answered.
        rules += &drop(address_of(from), proxy_of(to));
        rules += &drop(proxy_of(from), address_of(to));
    }
    for &(node, port) in &cuts.clients {
        rules += &format!("    ip daddr {} tcp dport {port} counter drop\n", address_of(node));
    }
    format!(
        "add table {TABLE}\ndelete table {TABLE}\ntable {TABLE} {{\n  chain input {{\n    \
         type filter hook input priority 0; policy accept;\n{rules}  }}\n}}\n"
    )
}

fn nft(arguments: &[&str], input: &str) -> Result<String> {
    let mut child = Command::new("nft")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("nft cannot be run (Debian package nftables)")?;
    let mut stdin = child.stdin.take().context("the pipe was just made")?;
    stdin.write_all(input.as_bytes())?;
    drop(stdin);
    let output = child.wait_with_output()?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "nft: {errors}");
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_way_is_a_rule_of_its_own_and_counts() {
        let rules = ruleset(&Cuts { between: vec![(1, 2)], clients: vec![(3, 12_000)] });
        assert!(rules.contains("ip saddr 127.20.0.1 ip daddr 127.20.0.2 counter drop"), "{rules}");
        assert!(!rules.contains("ip saddr 127.20.0.2"), "{rules}");
        assert!(rules.contains("ip daddr 127.20.0.3 tcp dport 12000 counter drop"), "{rules}");
        let listing = "counter packets 3 bytes 180 drop\n  counter packets 4 bytes 1 drop";
        assert_eq!(packets(listing), 7);
    }
}
