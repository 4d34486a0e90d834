//! The bar that shows how far the reading is.

use std::{collections::BTreeMap, path::PathBuf};

use indicatif::{ProgressBar, ProgressStyle};

/// A bar on standard error; none where that is no terminal.
pub(super) struct Progress(ProgressBar);

impl Progress {
    /// A bar for reading `files`. The state database is copied and then read.
    pub(super) fn new(files: &BTreeMap<PathBuf, u64>) -> Self {
        let bytes = |(path, bytes): (&PathBuf, &u64)| match path.starts_with("state") {
            true => bytes * 2,
            false => *bytes,
        };
        let bar = ProgressBar::new(files.iter().map(bytes).sum());
        let style = "{bar:40} {bytes}/{total_bytes} {bytes_per_sec} {eta}";
        bar.set_style(ProgressStyle::with_template(style).expect("the template is constant"));
        Self(bar)
    }

    /// So many bytes more were read.
    pub(super) fn advance(&self, bytes: u64) {
        self.0.inc(bytes);
    }

    /// Removes the bar.
    pub(super) fn end(&self) {
        self.0.finish_and_clear();
    }
}
