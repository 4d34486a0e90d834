//! The names of what this crate measures, and handles of what is counted for each message.

use std::sync::LazyLock;

use metrics::{Counter, Gauge, Histogram};

/// Commands in one Raft entry.
pub(crate) const ENTRY_COMMANDS: &str = "heliograph_cluster_entry_commands";
/// Shards this node leads.
pub(crate) const SHARDS_LED: &str = "heliograph_cluster_shards_led";
/// Elections this node began after a peer was condemned.
pub(crate) const ELECTIONS_TOTAL: &str = "heliograph_cluster_elections_total";
/// Peers newly suspected.
pub(crate) const SUSPICIONS_TOTAL: &str = "heliograph_cluster_suspicions_total";
/// Log entries applied, all groups: equal on replicas of the same groups that are caught up.
pub(crate) const APPLIED_ENTRIES: &str = "heliograph_cluster_applied_entries";
/// 1 after this node's disk failed.
pub(crate) const FAIL_SAFE: &str = "heliograph_cluster_fail_safe";
/// Bytes free on the file system of the data directory.
pub(crate) const DISK_FREE_BYTES: &str = "heliograph_cluster_disk_free_bytes";
/// Changes of the registry that some peer has applied and this node has not.
pub(crate) const REGISTRY_LAG: &str = "heliograph_cluster_registry_lag_changes";
/// Bytes the scrub has read.
pub(crate) const SCRUB_BYTES_TOTAL: &str = "heliograph_cluster_scrub_bytes_total";
/// Damaged places the scrub has found.
pub(crate) const SCRUB_DAMAGES_TOTAL: &str = "heliograph_cluster_scrub_damages_total";
/// Seconds since the scrub last ended a pass, or since the start.
pub(crate) const SCRUB_PASS_AGE_SECONDS: &str = "heliograph_cluster_scrub_pass_age_seconds";
/// Replicas that were found damaged.
pub(crate) const DAMAGED_REPLICAS_TOTAL: &str = "heliograph_cluster_damaged_replicas_total";
/// Seconds a checkpoint took.
pub(crate) const CHECKPOINT_SECONDS: &str = "heliograph_cluster_checkpoint_duration_seconds";
/// Seconds from the end of a key epoch to the end of its keys.
pub(crate) const KEY_RETIREMENT_SECONDS: &str =
    "heliograph_cluster_key_retirement_duration_seconds";
/// Bytes of changes not yet checkpointed, all groups.
pub(crate) const OVERLAY_BYTES: &str = "heliograph_cluster_overlay_bytes";
/// Groups whose replicas are moving; 0 where this node does not decide.
pub(crate) const GROUPS_MOVING: &str = "heliograph_cluster_groups_moving";
/// Nodes silent for so long that their replicas are made anew; 0 where this node does not decide.
pub(crate) const NODES_GONE: &str = "heliograph_cluster_nodes_gone";
/// Targets written, by reason.
pub(crate) const TARGETS_TOTAL: &str = "heliograph_cluster_targets_total";

// Delivery.

/// Mailbox actors that run on this node.
pub(crate) const MAILBOX_ACTORS: &str = "heliograph_cluster_mailbox_actors";
/// Mailboxes led by this node that somebody listens to, or asked for lately: actors, and at rest.
pub(crate) const MAILBOXES: &str = "heliograph_cluster_mailboxes";
/// Connections whose mailboxes are subscribed from this node.
pub(crate) const SESSIONS: &str = "heliograph_cluster_sessions";
/// Messages handed to connections of this node.
pub(crate) const PUSHED_TOTAL: &str = "heliograph_cluster_pushed_messages_total";
/// Subscriptions asked for, first ones and those made again.
pub(crate) const SUBSCRIPTIONS_TOTAL: &str = "heliograph_cluster_subscriptions_total";
/// Deliveries noticed as lost on the way to this node.
pub(crate) const GAPS_TOTAL: &str = "heliograph_cluster_lost_deliveries_total";
/// Connections closed because their queue was full.
pub(crate) const SLOW_READERS_TOTAL: &str = "heliograph_cluster_slow_readers_total";
/// Requests under way from this node to shard leaders.
pub(crate) const REQUESTS_IN_FLIGHT: &str = "heliograph_cluster_requests_in_flight";
/// Requests refused because too many were under way.
pub(crate) const REQUESTS_SHED_TOTAL: &str = "heliograph_cluster_shed_requests_total";
/// Requests asked again at another node, or of the same one after a pause.
pub(crate) const REQUESTS_REROUTED_TOTAL: &str = "heliograph_cluster_rerouted_requests_total";
/// Live frames sent to a node that holds the recipient's connection.
pub(crate) const LIVE_FORWARDED_TOTAL: &str = "heliograph_cluster_live_forwarded_frames_total";
/// Live frames dropped because a queue on their way was full.
pub(crate) const LIVE_DROPPED_TOTAL: &str = "heliograph_cluster_live_dropped_frames_total";
/// API keys told from a lease, without asking their shard.
pub(crate) const KEY_HITS_TOTAL: &str = "heliograph_cluster_key_lease_hits_total";
/// API keys asked of their shard.
pub(crate) const KEY_MISSES_TOTAL: &str = "heliograph_cluster_key_lease_misses_total";
/// Tickets written for connections of this node, which goes away.
pub(crate) const TICKETS_ISSUED_TOTAL: &str = "heliograph_cluster_tickets_issued_total";
/// Tickets presented to this node, by outcome.
pub(crate) const TICKETS_TOTAL: &str = "heliograph_cluster_tickets_total";

// Resolved once, at the recorder installed by then: a look-up for each message would be one of the
// larger costs of counting it.

/// [`ENTRY_COMMANDS`].
pub(crate) static COMMANDS_OF_ENTRY: LazyLock<Histogram> =
    LazyLock::new(|| metrics::histogram!(ENTRY_COMMANDS));
/// [`REQUESTS_IN_FLIGHT`].
pub(crate) static IN_FLIGHT: LazyLock<Gauge> =
    LazyLock::new(|| metrics::gauge!(REQUESTS_IN_FLIGHT));
/// [`PUSHED_TOTAL`].
pub(crate) static PUSHED: LazyLock<Counter> = LazyLock::new(|| metrics::counter!(PUSHED_TOTAL));
