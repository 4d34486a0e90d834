//! What a backup holds: plain data, the same in JSON as here. Fields are added, never renamed.

use serde::{Deserialize, Serialize};

use super::Tally;
use crate::admin::GroupCopy;

/// The version of the manifest and of the directory it describes.
pub const BACKUP_FORMAT: u32 = 1;

/// A whole backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`BACKUP_FORMAT`] of the release that wrote it.
    pub format: u32,
    /// 32 hexadecimal digits: which backup it is.
    pub backup_id: String,
    /// The release that wrote it.
    pub release: String,
    /// The cluster it was taken from.
    pub cluster_id: String,
    /// When the first group was asked for, milliseconds since the Unix epoch by the clock of the
    /// machine that took it: what was accepted before is in it.
    pub begun_ms: u64,
    /// When the last group was there: what was acknowledged after it is in it still.
    pub ended_ms: u64,
    /// How many shards the mailboxes are spread over.
    pub shards: u16,
    /// What all shards hold together.
    pub total: Tally,
    /// In words, for whoever finds it: what it holds, and until when.
    pub notice: String,
    /// Meta first, then the shards.
    pub groups: Vec<Copied>,
}

/// One group of a backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Copied {
    /// `"meta"` or `"shard 3"`.
    pub name: String,
    /// Whose copy it is, and of which position.
    pub copy: GroupCopy,
    /// BLAKE3 of the copy's blocks as they were received, hexadecimal.
    pub blake3: String,
    /// What it holds.
    pub tally: Tally,
}

impl Manifest {
    /// What is said in [`Manifest::notice`].
    pub const NOTICE: &str = "Every message that was accepted and not acknowledged when this was taken, sealed as the \
        devices sealed it; who sent it to whom, and when; the devices' public keys; hashes of their \
        API keys, and the cluster's secret key. It is sealed with the keys in the key directory \
        that was named when it was taken, and holds all this until they are destroyed: ending key \
        epochs in the cluster, acknowledging, expiring and revoking change nothing here.";
}
