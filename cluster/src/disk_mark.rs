//! The mark of a disk: drawn once and kept in the log itself, so that a node without its log cannot
//! bring it. The registry notes it when it admits the node.

use heliograph_storage::{Error, GroupId};
use tokio::sync::oneshot;

use crate::{config::Storages, surroundings::Surroundings};

/// The group under whose vote the log keeps the mark: the last of 20 bits, far above any shard.
const MARK: GroupId = GroupId(0xF_FFFF);

/// Reads the mark of this disk; a new disk gets one, durable before this returns.
pub(crate) async fn of(
    storages: &Storages,
    surroundings: &Surroundings,
) -> Result<[u8; 16], Error> {
    let kept = storages.log.group(MARK).vote;
    if let Some(mark) = kept.and_then(|bytes| <[u8; 16]>::try_from(bytes.as_ref()).ok()) {
        return Ok(mark);
    }
    let mut mark = [0; 16];
    surroundings.entropy.fill(&mut mark);
    let (done, durable) = oneshot::channel();
    let told = move |result| {
        // Whoever waits for it is there: this function.
        let _ = done.send(result);
    };
    storages.log.save_vote(MARK, mark.to_vec().into(), Box::new(told));
    durable.await.unwrap_or(Err(Error::Closed))?;
    Ok(mark)
}
