//! The node's [`ClusterAdmin`]: asks all nodes and composes what they tell.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::future::join_all;
use heliograph_transport::{BoxFuture, Lane, NodeId};
use tokio::time::Instant;

use super::{
    AdminCommand, AdminError, AdminOutcome, ClusterAdmin, ClusterStatus, GroupCopy,
    ask::ask,
    change::change,
    compose::{Heard, Known, compose},
    copy, rebalance,
    report::report,
    wire::{self, AdminAnswer, AdminRequest, NodeReport},
};
use crate::context::Context;

/// How long a node may take to tell how it does. A busy one answers in milliseconds; one that
/// takes longer is shown as not answering.
const REPORT_DEADLINE: Duration = Duration::from_secs(2);

/// The node's [`ClusterAdmin`].
pub(crate) struct Admin {
    context: Arc<Context>,
}

impl Admin {
    pub(crate) fn new(context: &Arc<Context>) -> Self {
        Self { context: Arc::clone(context) }
    }

    async fn compose_status(&self, deadline: Instant) -> Result<ClusterStatus, AdminError> {
        let context = &self.context;
        let topology = context.topology().ok_or(AdminError::NotFormed)?;
        let deadline = deadline.min(Instant::now() + REPORT_DEADLINE);
        let asked = topology.members.iter().map(|member| async move {
            let report = match member.id == context.local() {
                true => Some(report(context).await),
                false => reported(context, member.id, deadline).await,
            };
            let silence = context.detector.lock().silence(member.id, Instant::now());
            (member.id, Heard { report, silence })
        });
        let heard: BTreeMap<NodeId, Heard> = join_all(asked).await.into_iter().collect();
        Ok(compose(&Known {
            cluster_id: context.config.cluster_id,
            asked: context.local(),
            topology: &topology,
            heard,
        }))
    }
}

impl ClusterAdmin for Admin {
    fn status(&self, deadline: Instant) -> BoxFuture<'_, Result<ClusterStatus, AdminError>> {
        Box::pin(self.compose_status(deadline))
    }

    fn change(
        &self,
        command: AdminCommand,
        deadline: Instant,
    ) -> BoxFuture<'_, Result<AdminOutcome, AdminError>> {
        Box::pin(change(&self.context, command, deadline))
    }

    fn rebalance(&self, deadline: Instant) -> BoxFuture<'_, Result<(), AdminError>> {
        Box::pin(rebalance::rebalance(&self.context, deadline))
    }

    fn copy(&self, group: u32, deadline: Instant) -> BoxFuture<'_, Result<GroupCopy, AdminError>> {
        Box::pin(copy::copy(&self.context, group, deadline))
    }

    fn piece(
        &self,
        copy: GroupCopy,
        offset: u64,
        deadline: Instant,
    ) -> BoxFuture<'_, Result<Bytes, AdminError>> {
        Box::pin(copy::piece(&self.context, copy, offset, deadline))
    }
}

async fn reported(context: &Context, node: NodeId, deadline: Instant) -> Option<NodeReport> {
    match ask(context, node, Lane::Urgent, &AdminRequest::Report, deadline).await? {
        AdminAnswer::Report(report) => Some(report),
        _ => None,
    }
}

/// Answers a peer; none for what this build does not know.
pub(crate) async fn answer(context: Arc<Context>, body: Bytes, deadline: Instant) -> Option<Bytes> {
    let answer = match wire::decode(&body)? {
        AdminRequest::Report => AdminAnswer::Report(report(&context).await),
        AdminRequest::Rebalance => rebalance::rebalance_here(&context),
        AdminRequest::Copy { group } => copy::copy_here(&context, group, deadline).await?,
        AdminRequest::Piece { copy, offset } => copy::piece_here(&context, &copy, offset).await,
    };
    // Peers read answers without an envelope.
    Some(wire::encode(&answer).slice(1..))
}
