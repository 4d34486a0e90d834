//! What operators may change.

use heliograph_transport::NodeId;

use crate::{
    join_token::JoinToken, member::MemberState, meta::MetaCommand, surroundings::Entropy,
    topology::Topology,
};

/// A change that an operator asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AdminCommand {
    /// Names a node that may join, and makes its one-use token.
    Invite {
        /// The node: an id that no other node had.
        node: NodeId,
        /// Where its peers will reach it, "host:port".
        address: String,
        /// Where it will stand; may be empty.
        zone: String,
    },
    /// The node has lost its disk: it may come back with an empty one, and the token that this
    /// makes.
    Replace {
        /// The node.
        node: NodeId,
    },
    /// The node keeps its replicas and leads nothing.
    Drain {
        /// The node.
        node: NodeId,
    },
    /// The node takes its full part again; also ends a leaving that is under way.
    Undrain {
        /// The node.
        node: NodeId,
    },
    /// The node's replicas move away. Asked again once it holds nothing, the node is forgotten.
    Remove {
        /// The node.
        node: NodeId,
    },
}

/// What came of an [`AdminCommand`]: a majority of the meta group has it on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AdminOutcome {
    /// Done, or so already.
    Done,
    /// Begun: status tells how far it is.
    Begun,
    /// Done; the node must bring this token. It is shown once.
    Token(JoinToken),
}

impl AdminCommand {
    /// The node it is about.
    pub fn node(&self) -> NodeId {
        match self {
            Self::Invite { node, .. }
            | Self::Replace { node }
            | Self::Drain { node }
            | Self::Undrain { node }
            | Self::Remove { node } => *node,
        }
    }

    /// Its name, for logs.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Invite { .. } => "invite",
            Self::Replace { .. } => "replace",
            Self::Drain { .. } => "drain",
            Self::Undrain { .. } => "undrain",
            Self::Remove { .. } => "remove",
        }
    }

    /// What the meta group is told for it, and what the operator is told when that is done.
    pub(super) fn prepare(
        self,
        topology: &Topology,
        entropy: &dyn Entropy,
    ) -> (MetaCommand, AdminOutcome) {
        let state = |node, state| MetaCommand::SetState { node, state };
        match self {
            Self::Invite { node, address, zone } => {
                let token = JoinToken::new(entropy);
                let hash = Some(token.hash());
                let command = MetaCommand::Invite { node, address, zone, token: hash };
                (command, AdminOutcome::Token(token))
            }
            Self::Replace { node } => {
                let token = JoinToken::new(entropy);
                let command = MetaCommand::Replace { node, token: Some(token.hash()) };
                (command, AdminOutcome::Token(token))
            }
            Self::Drain { node } => (state(node, MemberState::Draining), AdminOutcome::Done),
            Self::Undrain { node } => (state(node, MemberState::Active), AdminOutcome::Done),
            Self::Remove { node } if has_left(topology, node) => {
                (MetaCommand::Remove { node }, AdminOutcome::Done)
            }
            Self::Remove { node } => (state(node, MemberState::Leaving), AdminOutcome::Begun),
        }
    }
}

/// Whether nothing is left of a node but its entry in the registry.
fn has_left(topology: &Topology, node: NodeId) -> bool {
    let Some(member) = topology.member(node) else { return false };
    let mut groups = std::iter::once(&topology.meta).chain(&topology.shards);
    let is_free = groups.all(|group| !group.is_on(node));
    is_free && matches!(member.state, MemberState::Leaving | MemberState::Invited)
}
