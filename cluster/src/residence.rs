//! What a node does about its replica of one group: pure.
//!
//! The registry a node has applied may be older than the data on its disk. Incarnations tell: they
//! count the changes of the group's placement, so a registry that has seen fewer changes than the
//! replica's incarnation knows nothing of it, and decides nothing about it.

use crate::replica::Replica;

/// What is known of one group on this node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Residence {
    /// The replica that the registry gives this node.
    pub(crate) wanted: Option<Replica>,
    /// The changes of the group's placement that the registry has seen.
    pub(crate) changes: u64,
    /// Whether the registry is known to be the newest: nothing begins or ends on an old one.
    pub(crate) is_current: bool,
    /// The incarnation of the replica that runs.
    pub(crate) running: Option<u32>,
    /// The incarnation of the replica whose data lies on the disk.
    pub(crate) held: Option<u32>,
    /// Whether that data is damaged.
    pub(crate) is_damaged: bool,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Move {
    /// Nothing (for now).
    Stay,
    /// Start the replica of this incarnation: on its data, or, where there is none, empty.
    Start(u32),
    /// Stop what runs and drop its data.
    Drop,
}

impl Residence {
    /// Decides.
    pub(crate) fn next(&self) -> Move {
        let wanted = self.wanted.map(|replica| replica.incarnation);
        match self.running.or(self.held) {
            None => match wanted {
                Some(wanted) if self.is_current => Move::Start(wanted),
                _ => Move::Stay,
            },
            Some(held) if wanted == Some(held) => match self.running {
                None if !self.is_damaged => Move::Start(held),
                _ => Move::Stay,
            },
            Some(held) => {
                let is_known = self.changes >= u64::from(held);
                let is_replaced = wanted.is_none_or(|wanted| wanted > held);
                match self.is_current && is_known && is_replaced {
                    true => Move::Drop,
                    false => Move::Stay,
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use heliograph_transport::NodeId;

    use super::*;

    fn registry(wanted: Option<u32>, changes: u64) -> Residence {
        let replica = |incarnation| Replica { node: NodeId(1), incarnation };
        Residence { wanted: wanted.map(replica), changes, is_current: true, ..Default::default() }
    }

    #[test]
    fn a_replica_starts_where_the_registry_wants_it() {
        assert_eq!(registry(Some(3), 3).next(), Move::Start(3));
        assert_eq!(Residence { is_current: false, ..registry(Some(3), 3) }.next(), Move::Stay);
        assert_eq!(registry(None, 3).next(), Move::Stay);
    }

    #[test]
    fn data_that_is_there_starts_at_once_even_on_an_old_registry() {
        let old = Residence { is_current: false, held: Some(3), ..registry(Some(3), 3) };
        assert_eq!(old.next(), Move::Start(3));
        assert_eq!(Residence { running: Some(3), ..old }.next(), Move::Stay);
        assert_eq!(Residence { is_damaged: true, ..old }.next(), Move::Stay);
    }

    #[test]
    fn only_a_registry_that_knew_the_replica_drops_it() {
        let gone = Residence { running: Some(3), held: Some(3), ..registry(None, 4) };
        assert_eq!(gone.next(), Move::Drop);
        assert_eq!(Residence { changes: 2, ..gone }.next(), Move::Stay);
        assert_eq!(Residence { is_current: false, ..gone }.next(), Move::Stay);
        assert_eq!(Residence { running: None, ..gone }.next(), Move::Drop, "after a restart");
    }

    #[test]
    fn a_replica_that_begins_anew_drops_what_was() {
        let renewed = Residence { held: Some(3), is_damaged: true, ..registry(Some(5), 5) };
        assert_eq!(renewed.next(), Move::Drop);
        assert_eq!(Residence { held: None, is_damaged: false, ..renewed }.next(), Move::Start(5));
        // An old registry that still names an earlier replica.
        let old = Residence { held: Some(5), ..registry(Some(3), 4) };
        assert_eq!(old.next(), Move::Stay);
    }
}
