//! The names of what this crate measures.

/// Commands in one Raft entry.
pub(crate) const ENTRY_COMMANDS: &str = "heliograph_cluster_entry_commands";
/// Shards this node leads.
pub(crate) const SHARDS_LED: &str = "heliograph_cluster_shards_led";
/// Elections this node began after a peer was condemned.
pub(crate) const ELECTIONS_TOTAL: &str = "heliograph_cluster_elections_total";
/// Peers newly suspected.
pub(crate) const SUSPICIONS_TOTAL: &str = "heliograph_cluster_suspicions_total";
/// Seconds a checkpoint took.
pub(crate) const CHECKPOINT_SECONDS: &str = "heliograph_cluster_checkpoint_duration_seconds";
/// Bytes of changes not yet checkpointed, all groups.
pub(crate) const OVERLAY_BYTES: &str = "heliograph_cluster_overlay_bytes";
