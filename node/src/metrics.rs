//! What this crate measures.

/// 1, labelled with the version of the running binary.
pub(crate) const BUILD_INFO: &str = "heliograph_node_build_info";
/// When the process began to serve, seconds since the Unix epoch.
pub(crate) const START_TIME: &str = "heliograph_node_start_time_seconds";

/// Describes all metrics, and sets what does not change while the process runs.
pub(crate) fn start(start_time_seconds: f64) {
    heliograph_transport::describe_metrics();
    heliograph_api::metrics::describe();
    metrics::describe_gauge!(BUILD_INFO, "1, labelled with the version of the running binary");
    metrics::describe_gauge!(START_TIME, metrics::Unit::Seconds, "When the process began to serve");
    metrics::gauge!(BUILD_INFO, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    metrics::gauge!(START_TIME).set(start_time_seconds);
}
