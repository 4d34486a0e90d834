//! Who leads, and what changes in it: under load nobody is to be given up who lives.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context as _, Result};
use serde::Serialize;

use crate::{
    cluster::{NodeInfo, Standing, metric_sum},
    wire::Door,
};

/// Elections that nodes began after they had given a peer up.
const ELECTIONS: &str = "heliograph_cluster_elections_total";
/// How long a node may take to tell its metrics.
const QUESTION: Duration = Duration::from_secs(10);

/// What changed in who leads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Leadership {
    /// Elections begun by nodes after they had given a peer up: false ones, where none had died.
    pub elections: u64,
    /// By how much the groups' terms rose together, hand-overs too; unknown where the operators'
    /// port is.
    pub terms: Option<u64>,
}

impl Leadership {
    /// Both together.
    pub(super) fn and(self, other: Self) -> Self {
        Self {
            elections: self.elections + other.elections,
            terms: self.terms.zip(other.terms).map(|(a, b)| a + b),
        }
    }
}

/// Who leads now: the term of each group where that is known, and elections so far.
#[derive(Debug)]
pub(super) struct Reign {
    terms: Option<BTreeMap<u32, u64>>,
    elections: u64,
}

impl Reign {
    /// Of these nodes, which all run.
    pub(super) async fn of(nodes: &[NodeInfo], doors: &[Door]) -> Result<Self> {
        let terms = match nodes.first().context("a cluster has a node")?.admin {
            Some(admin) => {
                let leaders = Standing::ask(admin).await?.leaders;
                Some(leaders.into_iter().map(|(group, _, term)| (group, term)).collect())
            }
            None => None,
        };
        let mut elections = 0;
        for door in doors {
            let reply = door.rest(None).get("/metrics", QUESTION).await?;
            let text = reply.body.as_str().context("metrics are text")?;
            // Not there until there was one.
            elections += metric_sum(text, ELECTIONS).unwrap_or(0.0) as u64;
        }
        Ok(Self { terms, elections })
    }

    /// What has changed until `now`.
    pub(super) fn changes(&self, now: &Self) -> Leadership {
        let rise = |(group, term): (&u32, &u64), before: &BTreeMap<u32, u64>| {
            term.saturating_sub(before.get(group).copied().unwrap_or(*term))
        };
        let terms = match (&self.terms, &now.terms) {
            (Some(before), Some(now)) => Some(now.iter().map(|term| rise(term, before)).sum()),
            _ => None,
        };
        Leadership { elections: now.elections.saturating_sub(self.elections), terms }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms_that_rose_are_counted_group_by_group() {
        let reign = |terms: Option<&[(u32, u64)]>, elections| Reign {
            terms: terms.map(|terms| terms.iter().copied().collect()),
            elections,
        };
        let before = reign(Some(&[(0, 1), (1, 4)]), 2);
        // A group without a leader is not told; one that has one again counts from then on.
        let now = reign(Some(&[(0, 3), (1, 4), (2, 9)]), 5);
        let changes = before.changes(&now);
        assert_eq!(changes, Leadership { elections: 3, terms: Some(2) });
        let unknown = before.changes(&reign(None, 2));
        assert_eq!(unknown, Leadership { elections: 0, terms: None });
        assert_eq!(changes.and(changes), Leadership { elections: 6, terms: Some(4) });
        assert_eq!(changes.and(unknown).terms, None);
    }
}
