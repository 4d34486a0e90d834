//! A node from its first to its last moment.

use std::{future::Future, sync::Arc, time::Duration};

use anyhow::Context as _;
use heliograph_api::{Server, StartError as ServerStartError, server::Security};
use heliograph_cluster::{Node, NodeFailure, StartError, Surroundings};
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::{task::JoinHandle, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    disk::{self, Probe},
    parts,
};
use crate::{
    config::Config,
    data_dir::DataDir,
    exit::{Failure, Reason},
    signals::{Asked, Signals},
    telemetry,
};

/// How often a node that is not ready says why.
const NOT_READY_NOTICE: Duration = Duration::from_secs(10);
/// How long a node that failed may take to close: nothing that was accepted depends on it.
const FAILED_CLOSE: Duration = Duration::from_secs(3);

/// Why the node does not serve (any more).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
enum LifecycleError {
    /// A second signal came during shutdown.
    #[error("ended at once by a second signal")]
    Interrupted,
}

/// A running node.
struct Running {
    node: Node,
    server: Server,
    /// The operators' port, where it is open.
    admin: Option<Server>,
    /// Falls when the node goes away.
    stopping: CancellationToken,
    upkeep: JoinHandle<()>,
    /// Held for as long as anything may write there.
    _data_dir: Arc<DataDir>,
}

/// How serving ended.
enum End {
    /// As it was asked.
    Asked,
    /// By itself.
    Failed(NodeFailure),
    /// The disk failed, and is well again.
    DiskWell {
        /// How often in a row the process has begun anew.
        begun: u32,
    },
}

/// What the process does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Ends.
    End,
    /// Begins anew: what was in memory is not trusted after a disk's error.
    BeginAnew {
        /// How often in a row it has done so.
        begun: u32,
    },
}

/// Serves until a signal, the parent's end, or a failure.
pub(super) async fn run(
    config: &Config,
    recorder: PrometheusHandle,
    parent: Option<CancellationToken>,
) -> Result<Next, Failure> {
    let mut signals = Signals::listen().context("cannot listen for signals")?;
    let running = tokio::select! {
        biased; // who is stopped while starting need not start
        () = asked_to_end(&mut signals, parent.as_ref()) => return Ok(Next::End),
        running = start(config, recorder) => running?,
    };
    let end = serve(&running, config, &mut signals, parent.as_ref()).await;
    match end {
        End::Asked => {
            let deadline = config.shutdown.deadline;
            tracing::info!(?deadline, "shutting down");
            let Some(()) = unless_asked_again(&mut signals, running.stop(config)).await else {
                return Err(Failure::new(Reason::Interrupted, LifecycleError::Interrupted));
            };
            tracing::info!("stopped");
            Ok(Next::End)
        }
        End::DiskWell { begun } => {
            tracing::info!("the disk is well: beginning anew");
            running.stopping.cancel();
            // Clients are told to go on elsewhere meanwhile.
            let close = async {
                running.server.stopped().await;
                running.node.shutdown(Duration::ZERO).await;
            };
            if tokio::time::timeout(FAILED_CLOSE, close).await.is_err() {
                tracing::warn!("the node did not close in time");
            }
            Ok(Next::BeginAnew { begun })
        }
        End::Failed(failure) => {
            running.stopping.cancel();
            let close = tokio::time::timeout(FAILED_CLOSE, running.node.shutdown(Duration::ZERO));
            if close.await.is_err() {
                tracing::warn!("the node did not close in time");
            }
            Err(failed(failure))
        }
    }
}

async fn start(config: &Config, recorder: PrometheusHandle) -> Result<Running, Failure> {
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        node = config.node.id,
        data_dir = %config.node.data_dir.display(),
        "starting"
    );
    // The cheap and likely failures first: addresses, then the disk.
    let admin = parts::admin_port(config)?;
    let opening = config.clone();
    let data_dir = disk::when_well(config, move || parts::data_dir(&opening)).await?;
    let data_dir = Arc::new(data_dir);
    let network = parts::network(config, &data_dir)?;
    let (opening, dir) = (config.storage.clone(), Arc::clone(&data_dir));
    let storages = disk::when_well(config, move || parts::storages(&opening, &dir)).await?;
    let node = Node::start(parts::cluster(config)?, storages, network, Surroundings::system())
        .await
        .map_err(not_started)?;
    let stopping = CancellationToken::new();
    let upkeep = tokio::spawn(telemetry::upkeep(recorder.clone(), stopping.clone()));
    let server =
        Server::start(parts::client_port(config), node.relay(), recorder, stopping.clone())
            .map_err(|error| no_port("the client port", error))?;
    let admin = admin
        .map(|admin| heliograph_api::admin::start(admin, node.admin(), stopping.clone()))
        .transpose()
        .map_err(|error| no_port("the admin port", error))?;
    Ok(Running { node, server, admin, stopping, upkeep, _data_dir: data_dir })
}

/// Serves; says when it is ready, and why while it is not.
async fn serve(
    running: &Running,
    config: &Config,
    signals: &mut Signals,
    parent: Option<&CancellationToken>,
) -> End {
    let mut becoming_ready = Some(Box::pin(running.node.ready()));
    let mut disk_well = std::pin::pin!(recovered(running, config));
    let mut notice = Instant::now() + NOT_READY_NOTICE;
    let shares = parts::StopShares::of(config.shutdown.deadline);
    let mut is_draining = false;
    let mut sending_off = None;
    loop {
        tokio::select! {
            // The end goes before everything; failing before being ready.
            biased;
            asked = signals.next() => match asked {
                Asked::Stop => return End::Asked,
                Asked::Hangup => reload(&running.server, config),
            },
            () = ended(parent) => return End::Asked,
            failure = running.node.failed() => return End::Failed(failure),
            begun = &mut disk_well => return End::DiskWell { begun },
            ready = pending_unless(&mut becoming_ready) => {
                becoming_ready = None;
                if let Err(failure) = ready {
                    return End::Failed(failure);
                }
                tracing::info!(address = %running.server.local_addr(), "ready");
            }
            // As for a shutdown, without its end: the node keeps its replicas.
            () = running.node.asked_to_drain(), if !is_draining => {
                is_draining = true;
                running.server.leave();
                sending_off = Some(Box::pin(async {
                    running.node.hand_over(shares.hand_over).await;
                    running.server.send_off(shares.send_off).await;
                }));
            }
            () = running.node.asked_to_stay(), if is_draining => {
                (is_draining, sending_off) = (false, None);
                running.server.stay();
            }
            () = pending_unless(&mut sending_off) => {
                sending_off = None;
                tracing::info!("drained: no leadership and no client is left");
            }
            () = tokio::time::sleep_until(notice), if becoming_ready.is_some() => {
                notice = Instant::now() + NOT_READY_NOTICE;
                let reason = running.node.not_ready_reason().unwrap_or("almost ready");
                tracing::warn!(reason, "not ready yet");
            }
        }
    }
}

/// Waits until the disk has failed and is well again; answers how often in a row the process has
/// begun anew.
async fn recovered(running: &Running, config: &Config) -> u32 {
    let began = Instant::now();
    let why = running.node.disk_failed().await;
    tracing::error!(%why, "fail-safe: clients are served through the other nodes");
    let begun = disk::begun_anew(began.elapsed());
    Probe::of(config, begun).until_well().await;
    begun
}

impl Running {
    /// Not ready any more; leaderships move away; WebSockets are sent to other nodes one after the
    /// other; requests under way are finished and the port closes; the rest is written. All
    /// within the deadline: past it the process ends regardless, and what was accepted is on disk.
    async fn stop(self, config: &Config) {
        let shares = parts::StopShares::of(config.shutdown.deadline);
        let stop = async {
            // Who asks over HTTP is told with the next answer; the port stays open until the end,
            // for balancers that have not noticed yet.
            self.server.leave();
            self.node.drain(shares.hand_over).await;
            self.server.send_off(shares.send_off).await;
            self.stopping.cancel();
            self.server.stopped().await;
            if let Some(admin) = self.admin {
                admin.stopped().await;
            }
            self.node.shutdown(shares.close).await;
            if let Err(error) = self.upkeep.await {
                tracing::warn!(%error, "the metrics' upkeep had ended before");
            }
        };
        if tokio::time::timeout(config.shutdown.deadline, stop).await.is_err() {
            tracing::warn!("the shutdown's deadline passed; what was accepted is on disk");
        }
    }
}

/// Waits for a stop signal or the parent's end; other signals mean nothing yet.
async fn asked_to_end(signals: &mut Signals, parent: Option<&CancellationToken>) {
    loop {
        tokio::select! {
            asked = signals.next() => if asked == Asked::Stop { return },
            () = ended(parent) => return,
        }
    }
}

/// Runs `work`; answers none when a signal to stop comes first.
async fn unless_asked_again(signals: &mut Signals, work: impl Future<Output = ()>) -> Option<()> {
    tokio::select! {
        biased; // a person's impatience first
        () = asked_to_end(signals, None) => None,
        () = work => Some(()),
    }
}

async fn ended(parent: Option<&CancellationToken>) {
    match parent {
        Some(parent) => parent.cancelled().await,
        None => std::future::pending().await,
    }
}

async fn pending_unless<F: Future + Unpin>(future: &mut Option<F>) -> F::Output {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}

/// Reads the client port's certificate again; the old one stays when that fails.
fn reload(server: &Server, config: &Config) {
    let Security::Tls(tls) = parts::security(config) else { return };
    match server.reload_tls(&tls) {
        Ok(()) => tracing::info!("the client port's certificate was read again"),
        Err(error) => tracing::error!(%error, "the client port keeps its old certificate"),
    }
}

fn not_started(error: StartError) -> Failure {
    match error {
        StartError::Failure(failure) => failed(failure),
        error => Failure::new(Reason::Configuration, error),
    }
}

fn failed(failure: NodeFailure) -> Failure {
    let reason = match failure {
        NodeFailure::DiskLost
        | NodeFailure::JoinRefused(_)
        | NodeFailure::FeaturesMissing { .. } => Reason::Cluster,
        _ => Reason::Failed,
    };
    Failure::new(reason, failure)
}

fn no_port(port: &'static str, error: ServerStartError) -> Failure {
    let reason = match &error {
        ServerStartError::Listen { source, .. }
            if source.kind() == std::io::ErrorKind::AddrInUse =>
        {
            Reason::AddressInUse
        }
        _ => Reason::Configuration,
    };
    Failure::new(reason, anyhow::Error::new(error).context(port))
}
