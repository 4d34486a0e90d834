//! Logging and the metrics recorder: installed once, before anything else runs.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

use crate::config::{LogFormat, LogSection};

/// Reads a log filter.
pub(crate) fn filter(level: &str) -> Option<EnvFilter> {
    if level.trim().is_empty() {
        return None;
    }
    EnvFilter::try_new(level).ok()
}

/// Starts logging to standard error.
pub(crate) fn start_logging(config: &LogSection) {
    let filter = filter(&config.level).expect("the configuration was checked");
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match config.format {
        LogFormat::Json => builder.json().init(),
        LogFormat::Text => builder.with_ansi(std::io::stderr().is_terminal()).init(),
    }
}
