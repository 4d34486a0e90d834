//! What nodes say of themselves on their admin ports.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result, ensure};
use hyper::StatusCode;
use serde_json::Value;

use super::{LocalCluster, layout::Layout};
use crate::{clock::unix_seconds, history::Hit, wire::Rest};

/// How long one node may take to answer: it asks all others for two seconds.
const QUESTION: Duration = Duration::from_secs(5);
/// How far a clock may be from what it was set to, in seconds: it is read once a second, and answers
/// take a while.
const CLOCK_TOLERANCE: i64 = 5;

/// An operator's view of a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Who answered.
    pub answered_by: u16,
    /// What each node leads and holds.
    pub nodes: Vec<Hit>,
    /// Group, node and term of each leader that acts.
    pub leaders: Vec<(u32, u16, u64)>,
    /// `healthy`, `degraded` or `unavailable`.
    pub health: String,
    /// How many groups move, or are to move.
    pub moving: u32,
}

impl Standing {
    /// Asks the node whose admin port this is.
    ///
    /// # Errors
    /// When it does not answer as agreed.
    pub async fn ask(admin: SocketAddr) -> Result<Self> {
        let mut rest = Rest::new(admin, Some(Layout::token()));
        let reply = rest.get("/admin/v1/status", QUESTION).await?;
        ensure!(reply.status == StatusCode::OK, "{} {}", reply.status, reply.body);
        Self::read(&reply.body).context("a status that is not as agreed")
    }

    fn read(status: &Value) -> Option<Self> {
        let number = |value: &Value| value.as_u64().and_then(|number| u16::try_from(number).ok());
        let count = |value: &Value| value.as_u64().and_then(|count| u32::try_from(count).ok());
        let nodes = status["nodes"].as_array()?.iter().map(|node| {
            let (leads, holds) = (count(&node["leads"])?, count(&node["holds"])?);
            Some(Hit { node: number(&node["id"])?, leads, holds })
        });
        let leaders = status["groups"].as_array()?.iter().filter_map(|group| {
            let id = u32::try_from(group["id"].as_u64()?).ok()?;
            Some((id, number(&group["leader"])?, group["acting_term"].as_u64()?))
        });
        // Nobody decides on moves while the registry has no leader: then there may be some.
        let to_do = count(&status["progress"]["to_do"]).unwrap_or(1);
        let under_way = u32::try_from(status["moves"].as_array()?.len()).ok()?;
        let mut nodes: Vec<Hit> = nodes.collect::<Option<_>>()?;
        nodes.sort_by_key(|hit| hit.node);
        Some(Self {
            moving: under_way + to_do,
            answered_by: number(&status["answered_by"])?,
            nodes,
            leaders: leaders.collect(),
            health: status["health"].as_str()?.to_owned(),
        })
    }

    /// How many replicas a node holds; none for a node that is not a member.
    pub fn held_by(&self, id: u16) -> Option<u32> {
        self.nodes.iter().find(|hit| hit.node == id).map(|hit| hit.holds)
    }

    /// Whether these are the members, each group has all its replicas where they should be, and
    /// nothing moves.
    pub fn is_whole(&self, members: &[u16]) -> bool {
        let ids: Vec<u16> = self.nodes.iter().map(|hit| hit.node).collect();
        self.health == "healthy" && self.moving == 0 && ids == members
    }

    /// Who leads the registry, if anybody does.
    pub fn meta_leader(&self) -> Option<u16> {
        self.leaders.iter().find(|(group, ..)| *group == 0).map(|(_, node, _)| *node)
    }

    /// For which groups who answered acts itself.
    pub fn own(&self) -> Vec<(u32, u64)> {
        let own = self.leaders.iter().filter(|(_, node, _)| *node == self.answered_by);
        own.map(|(group, _, term)| (*group, *term)).collect()
    }
}

impl LocalCluster {
    /// Whether node `id` names a time that is off by about so many seconds.
    ///
    /// # Errors
    /// When its answer has no time.
    pub async fn is_off_by(&self, id: u16, seconds: i64) -> Result<bool> {
        let mut rest = self.door(self.node(id)?).rest(None);
        let Ok(reply) = rest.get("/livez", QUESTION).await else { return Ok(false) };
        let date = reply.date.context("an answer without a date")?;
        let off = i64::try_from(date)? - i64::try_from(unix_seconds())?;
        Ok((off - seconds).abs() <= CLOCK_TOLERANCE)
    }

    /// What the first running node that answers says.
    ///
    /// # Errors
    /// When none does.
    pub async fn standing(&mut self) -> Result<Standing> {
        let mut last = None;
        for id in self.ids() {
            if !self.is_running(id) {
                continue;
            }
            let admin = self.node(id)?.admin.context("our nodes have an admin port")?;
            match Standing::ask(admin).await {
                Ok(standing) => return Ok(standing),
                Err(error) => last = Some(error),
            }
        }
        Err(last.context("no node runs")?)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_status_is_read() {
        let mut status = json!({"answered_by": 2, "health": "healthy", "moves": [],
            "progress": {"under_way": 0, "done": 0, "to_do": 0},
            "nodes": [{"id": 1, "leads": 0, "holds": 17}, {"id": 2, "leads": 2, "holds": 17}],
            "groups": [{"id": 0, "leader": 2, "acting_term": 3}, {"id": 1, "leader": null},
                {"id": 2, "leader": 1, "acting_term": 4}]});
        let standing = Standing::read(&status).unwrap();
        assert_eq!(standing.nodes[1], Hit { node: 2, leads: 2, holds: 17 });
        assert_eq!((standing.meta_leader(), standing.own()), (Some(2), vec![(0, 3)]));
        assert_eq!(standing.leaders, [(0, 2, 3), (2, 1, 4)]);
        assert_eq!((standing.held_by(1), standing.held_by(3)), (Some(17), None));
        assert!(standing.is_whole(&[1, 2]) && !standing.is_whole(&[1, 2, 3]));
        status["moves"] = json!([{"group": 3, "adding": [], "removing": []}]);
        assert!(!Standing::read(&status).unwrap().is_whole(&[1, 2]));
        status["moves"] = json!([]);
        status["progress"] = Value::Null;
        assert!(!Standing::read(&status).unwrap().is_whole(&[1, 2]), "nobody says that it rests");
        assert_eq!(Standing::read(&json!({"answered_by": 2})), None);
    }
}
