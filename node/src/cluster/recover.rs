//! `heliograph cluster recover`: new quorums out of what is left. Offline.

use std::path::PathBuf;

use anyhow::Context as _;
use heliograph_cluster::{
    NodeId,
    recovery::{self, GroupPlan, RecoveryError, RecoveryPlan, Survivor},
};

use super::{args::RecoverArgs, block_on, table::table};
use crate::{
    cli::Output,
    config::StorageSection,
    console::say,
    data_dir::DataDir,
    exit::{Failure, OrExit as _, Reason},
    serve,
};

/// What must be typed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
enum RecoverError {
    /// The option is not there.
    #[error(
        "nothing was changed: read the above, make sure that the lost nodes never start again, then repeat with --yes-lose-data"
    )]
    NotConfirmed,
    /// A directory stands twice.
    #[error("two of the directories are node {0}'s: name each survivor once")]
    Twice(NodeId),
    /// Directories of different clusters.
    #[error("{0} is of another cluster than the first directory")]
    OtherCluster(PathBuf),
}

/// Runs the command.
pub(super) fn run(args: &RecoverArgs) -> Result<(), Failure> {
    block_on(async {
        let (survivors, _locks) = open(args)?;
        let recovered = recover(args, &survivors).await;
        for survivor in &survivors {
            survivor.storages.log.close();
        }
        recovered
    })
}

async fn recover(args: &RecoverArgs, survivors: &[Survivor]) -> Result<(), Failure> {
    let survey = recovery::survey(survivors).await.map_err(failure)?;
    let nodes: Vec<NodeId> = survivors.iter().map(|survivor| survivor.node).collect();
    let plan = recovery::plan(&survey, &nodes).map_err(failure)?;
    match args.output {
        Output::Text => say!("{}", describe(&plan)),
        Output::Json => say!("{}", serde_json::to_string(&plan).context("cannot write JSON")?),
    }
    if !args.yes_lose_data {
        return Err(Failure::new(Reason::Configuration, RecoverError::NotConfirmed));
    }
    recovery::apply(&plan, survivors).await.map_err(failure)?;
    if args.output == Output::Text {
        say!("Written. Start the survivors, all of them; then replace what was lost.");
    }
    Ok(())
}

/// Locks and opens each directory: a running node keeps it.
fn open(args: &RecoverArgs) -> Result<(Vec<Survivor>, Vec<DataDir>), Failure> {
    let (mut survivors, mut locks): (Vec<Survivor>, Vec<DataDir>) = (Vec::new(), Vec::new());
    let mut cluster = None;
    for path in &args.data_dir {
        let (dir, owner) = DataDir::open_known(path).or_exit(Reason::DataDirectory)?;
        if *cluster.get_or_insert(owner.cluster_id) != owner.cluster_id {
            let error = RecoverError::OtherCluster(path.clone());
            return Err(Failure::new(Reason::Configuration, error));
        }
        let node = NodeId(owner.node);
        if survivors.iter().any(|survivor| survivor.node == node) {
            return Err(Failure::new(Reason::Configuration, RecoverError::Twice(node)));
        }
        // Bounds of writing: any will do for what is read and the few bytes that are written.
        let storages = serve::storages(&StorageSection::default(), &dir)?;
        survivors.push(Survivor { node, storages });
        locks.push(dir);
    }
    Ok((survivors, locks))
}

fn failure(error: RecoveryError) -> Failure {
    let reason = match &error {
        RecoveryError::Storage { .. } => Reason::DataDirectory,
        _ => Reason::Cluster,
    };
    Failure::new(reason, error)
}

fn list(nodes: &[NodeId]) -> String {
    match nodes {
        [] => "-".to_owned(),
        nodes => nodes.iter().map(ToString::to_string).collect::<Vec<_>>().join(","),
    }
}

fn describe(plan: &RecoveryPlan) -> String {
    let head = ["GROUP", "KEPT FROM", "UP TO", "SURELY COMMITTED", "SURVIVORS HOLD", "LOST VOTERS"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    rows.extend(plan.lost().map(row));
    let kept = plan.groups.len() - plan.lost().count();
    format!(
        "RECOVERY OF A LOST QUORUM\n\n\
         Survivors: {}. Struck out for ever: {}.\n\
         {} groups have lost their quorum, {kept} have not.\n\n{}\n\
         Of each group above, what was accepted after \"up to\" (term:index) and was only on lost\n\
         voters IS LOST. It cannot be told how much that was: the survivors never heard of it.\n\
         Clients that were answered \"accepted\" will not send it again.\n\
         If a lost node is started again it may serve clients from its old data: destroy its disk.\n",
        list(&plan.survivors),
        list(&plan.removed),
        plan.lost().count(),
        table(&rows),
    )
}

fn row(group: &GroupPlan) -> Vec<String> {
    let best = group.holdings.iter().find(|holding| holding.node == group.kept_from);
    let committed = group.holdings.iter().map(|holding| holding.applied_index).max();
    let hold = |holding: &recovery::Holding| {
        format!("{} {}:{}", holding.node, holding.last_term, holding.last_index)
    };
    vec![
        group.name.clone(),
        format!("node {}", group.kept_from),
        best.map_or("-".to_owned(), |best| format!("{}:{}", best.last_term, best.last_index)),
        committed.unwrap_or(0).to_string(),
        group.holdings.iter().map(hold).collect::<Vec<_>>().join(", "),
        list(&group.lost),
    ]
}
