//! Lost quorum: forms new quorums out of what is left. Offline, on stopped nodes, by an operator
//! who knows that the other nodes never come back.
//!
//! - `survey`: what the survivors hold.
//! - `plan`: which groups have lost their quorum and what becomes of them, pure.
//! - `apply`: writes it into the survivors' logs.
//!
//! Of each lost group the survivor with the longest log gets one more entry: a membership of the
//! survivors alone, in a term above all that was ever heard of. As Raft has it, that survivor is
//! then the only one that can lead, and the others take over its log. The registry gets one more
//! command, which strikes out the lost nodes: they are refused from then on.

mod apply;
mod plan;
mod survey;

use heliograph_transport::NodeId;

pub use apply::apply;
pub use plan::{GroupPlan, RecoveryPlan, plan};
pub use survey::{Holding, Survey, Survivor, survey};

/// Why nothing was recovered. Nothing was changed, except where [`RecoveryError::Storage`] came
/// from [`apply`]: then it can be repeated.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum RecoveryError {
    /// A survivor's storage cannot be read or written.
    #[error("node {node}: {reason}")]
    Storage {
        /// Whose.
        node: NodeId,
        /// Why.
        reason: std::sync::Arc<str>,
    },
    /// No group needs it.
    #[error(
        "every group has its quorum among these nodes: start them, and take the lost ones out with `heliograph cluster remove`"
    )]
    NothingLost,
    /// A group is gone altogether.
    #[error(
        "no survivor holds {group}: what it held is lost, and without it the cluster cannot go on; restore a backup"
    )]
    NoSurvivor {
        /// `meta` or `shard 3`.
        group: String,
    },
    /// The registry cannot be written to safely.
    #[error(
        "some shard has lost its quorum, but so many nodes of the registry survive that they could outvote a forced change: start with fewer of them, those that hold the lost shards among them"
    )]
    RegistryTooWhole,
    /// The survivors' registry does not know one of them.
    #[error("the registry does not know node {0}: leave its data directory out")]
    Stranger(NodeId),
    /// There is no registry.
    #[error("these nodes never were in a formed cluster")]
    NotFormed,
}
