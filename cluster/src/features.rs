//! What the cluster does only once all its nodes know how: each such thing is a [`Feature`], a bit
//! that processes announce in their handshake. The meta leader switches a feature on when every
//! member announces it, by a command: it is never switched off, and a process that does not know
//! it cannot take part any more.

use std::sync::Arc;

use heliograph_transport::NodeId;

use crate::{
    context::{Context, META, NodeFailure},
    member::MemberState,
    meta::MetaCommand,
    shard_handle::Role,
    topology::Topology,
};

/// Something that nodes of the release before do not know. Bits are never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Feature {
    /// Beats tell how far their sender has applied the registry.
    BeatsTellRegistry,
    /// Beats tell that their sender is short of disk space.
    BeatsTellSpace,
}

impl Feature {
    /// Its bit.
    pub const fn bit(self) -> u64 {
        match self {
            Self::BeatsTellRegistry => 1,
            Self::BeatsTellSpace => 2,
        }
    }
}

/// All that this release knows: what its processes announce.
pub const FEATURES_KNOWN: u64 = Feature::BeatsTellRegistry.bit() | Feature::BeatsTellSpace.bit();

/// What can be switched on now: what all members announce, and is not on. `announced` answers
/// nothing for a node that nothing is known of at the moment. A node that was only invited yet has
/// no say: it is refused when it comes and does not know what is on.
fn ready(topology: &Topology, announced: impl Fn(NodeId) -> u64) -> u64 {
    let here = topology.members.iter().filter(|member| member.state != MemberState::Invited);
    let common = here.fold(u64::MAX, |bits, member| bits & announced(member.id));
    common & !topology.features
}

/// On the meta leader: switches on what every member knows.
pub(crate) async fn activate(context: &Arc<Context>) {
    let (Some(meta), Some(topology)) = (context.group(META), context.topology()) else { return };
    if meta.leads().role != Role::Acting {
        return;
    }
    let own = context.config.features;
    let features = own
        & ready(&topology, |node| match node == context.local() {
            true => own,
            false => context.network.peer_info(node).map_or(0, |info| info.announced.features),
        });
    if features == 0 {
        return;
    }
    tracing::info!(features, "all members know these features: switching them on");
    let command = MetaCommand::ActivateFeatures { features };
    if let Err(error) = meta.write(command.encode()).await {
        tracing::warn!(%error, "switching features on failed, trying again");
    }
}

/// Whether this process may take part: it knows all that is switched on.
pub(crate) fn check(known: u64, topology: &Topology) -> Result<(), NodeFailure> {
    match topology.features & !known {
        0 => Ok(()),
        missing => Err(NodeFailure::FeaturesMissing { missing }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{member::Member, replica::Placement, topology::Settings};

    fn topology(features: u64) -> Topology {
        let ids = [NodeId(1), NodeId(2), NodeId(3)];
        let member = |id| Member::first(id, format!("node-{id}:1"), String::new());
        Topology {
            version: 1,
            members: ids.into_iter().map(member).collect(),
            meta: Placement::formed(&ids),
            shards: Vec::new(),
            settings: Settings::default(),
            features,
        }
    }

    #[test]
    fn only_what_every_member_announces_is_ready_and_only_once() {
        assert_eq!(ready(&topology(0), |_| 0b11), 0b11);
        assert_eq!(ready(&topology(0b01), |_| 0b11), 0b10);
        assert_eq!(ready(&topology(0), |node| u64::from(node.0)), 0, "1, 2 and 3 share no bit");
        assert_eq!(ready(&topology(0), |node| if node == NodeId(2) { 0 } else { 0b11 }), 0);
        let mut invited = topology(0);
        invited.members.push(Member::invited(NodeId(4), "node-4:1".into(), String::new(), None));
        assert_eq!(ready(&invited, |node| if node == NodeId(4) { 0 } else { 1 }), 1);
    }

    #[test]
    fn who_does_not_know_what_is_on_cannot_take_part() {
        assert_eq!(check(0b111, &topology(0b101)), Ok(()));
        let missing = check(0b001, &topology(0b101));
        assert_eq!(missing, Err(NodeFailure::FeaturesMissing { missing: 0b100 }));
    }
}
