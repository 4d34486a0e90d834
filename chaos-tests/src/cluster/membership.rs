//! Nodes that join, leave and come back without their disk: as an operator does it, through the
//! admin port.

use std::{fs, net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::{LocalCluster, Standing, layout::Layout};
use crate::wire::{Reply, Rest, WireError};

/// How long a change may take: an election may be under way.
const CHANGE: Duration = Duration::from_secs(20);
/// How long replicas may be on their way. An unoptimised build on a busy machine moves a few groups
/// a second.
const MOVES: Duration = Duration::from_secs(240);
/// Between two looks: admin ports answer twenty questions a second.
const POLL: Duration = Duration::from_millis(250);

impl LocalCluster {
    /// Tells the registry that node `id` has lost its disk; with the token that it answers the node
    /// may begin anew at its next start.
    ///
    /// # Errors
    /// When no running node takes that.
    pub async fn replace(&mut self, id: u16) -> Result<()> {
        let reply = self.change(&format!("nodes/{id}/replace"), &Value::Null).await?;
        self.let_join(id, token(&reply)?)
    }

    /// A node joins: it is signed and invited, and started with its token and an empty disk.
    /// Complete when it serves clients and holds the first replica; others are still on their way.
    ///
    /// # Errors
    /// When it is there already, is not taken, or holds nothing in time.
    pub async fn join(&mut self, id: u16) -> Result<Standing> {
        ensure!(!self.ids().contains(&id), "node {id} is there already");
        let address = self.enlist(id)?;
        let invitation = json!({"address": address.to_string()});
        let reply = self.change(&format!("nodes/{id}/invite"), &invitation).await?;
        self.let_join(id, token(&reply)?)?;
        self.restart(&[id])?;
        self.ready(id).await?;
        // At once and in earnest, not slowly and later.
        self.change("rebalance", &Value::Null).await?;
        self.until(MOVES, |standing| standing.held_by(id).is_some_and(|holds| holds > 0))
            .await
            .with_context(|| format!("node {id} has joined and holds nothing"))
    }

    /// A node leaves: its replicas move to the others, it is forgotten, its process stopped, and
    /// its disk emptied. Answers how many replicas it had.
    ///
    /// # Errors
    /// When it cannot leave in time, or its process does not end with 0.
    pub async fn leave(&mut self, id: u16) -> Result<u32> {
        let held = self.standing().await?.held_by(id);
        let held = held.with_context(|| format!("node {id} is no member"))?;
        let path = format!("nodes/{id}/remove");
        let until = Instant::now() + MOVES;
        loop {
            let last = match self.change(&path, &Value::Null).await {
                Ok(reply) if reply.body["outcome"] == "done" => break,
                // An answer was lost on the way: it is forgotten already.
                Err(WireError::Unexpected { status: 404, .. }) => break,
                Ok(reply) => reply.body.to_string(),
                Err(error) => error.to_string(),
            };
            ensure!(Instant::now() < until, "node {id} cannot leave: {last}");
            self.until(until - Instant::now(), |standing| standing.held_by(id).unwrap_or(0) == 0)
                .await
                .with_context(|| format!("node {id} does not get rid of its replicas"))?;
            sleep(POLL).await;
        }
        if self.is_running(id) {
            self.signal(id, Signal::CONT)?;
            self.stop_node(id).await?;
        }
        self.discharge(id)?;
        Ok(held)
    }

    /// Waits until the nodes that are here are the members, with all replicas in place.
    ///
    /// # Errors
    /// When that takes longer than `deadline`.
    pub async fn whole(&mut self, deadline: Duration) -> Result<()> {
        let members = self.ids();
        let whole = self.until(deadline, |standing| standing.is_whole(&members)).await;
        whole.context("the cluster is not whole").map(drop)
    }

    /// Waits until a node tells what is wanted.
    async fn until(
        &mut self,
        deadline: Duration,
        is_wanted: impl Fn(&Standing) -> bool,
    ) -> Result<Standing> {
        let until = Instant::now() + deadline;
        loop {
            let last = match self.standing().await {
                Ok(standing) if is_wanted(&standing) => return Ok(standing),
                Ok(standing) => format!("{standing:?}"),
                Err(error) => format!("{error:#}"),
            };
            ensure!(Instant::now() < until, "not within {deadline:?}: {last}");
            sleep(POLL).await;
        }
    }

    /// Has a running node change the registry; asks one after the other until one did.
    async fn change(&mut self, path: &str, body: &Value) -> Result<Reply, WireError> {
        let path = format!("/admin/v1/{path}");
        let until = Instant::now() + CHANGE;
        loop {
            let mut last = WireError::Timeout;
            for id in self.ids() {
                let Some(admin) = self.running_admin(id) else { continue };
                let mut rest = Rest::new(admin, Some(Layout::token()));
                match rest.post(&path, body, CHANGE).await {
                    Ok(reply) if reply.status.is_success() => return Ok(reply),
                    Ok(reply) => last = reply.unexpected(),
                    Err(error) => last = error,
                }
                // What a node knows to be wrong the others do, too.
                if matches!(last, WireError::Unexpected { status: 400 | 404, .. }) {
                    return Err(last);
                }
            }
            if Instant::now() >= until {
                return Err(last);
            }
            sleep(POLL).await;
        }
    }

    /// The admin port of node `id`, if it runs.
    fn running_admin(&mut self, id: u16) -> Option<SocketAddr> {
        self.is_running(id).then(|| self.node(id).ok()?.admin).flatten()
    }

    /// At its next starts node `id` brings this token.
    fn let_join(&mut self, id: u16, token: &str) -> Result<()> {
        let path = self.node(id)?.config.with_file_name("join-token");
        fs::write(&path, token)?;
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
        self.tokens.insert(id, path);
        Ok(())
    }
}

fn token(reply: &Reply) -> Result<&str> {
    match reply.body["token"].as_str() {
        Some(token) => Ok(token),
        None => bail!("an answer without a token: {}", reply.body),
    }
}
