//! What commands tell a person on standard output.

use std::{fmt, io::Write as _, time::Duration};

use indicatif::{ProgressBar, ProgressStyle};

/// How often a progress bar moves.
const TICK: Duration = Duration::from_millis(100);

/// Writes a line to standard output. A reader that has gone away must not end a supervisor, so
/// errors are passed over.
pub(crate) fn line(text: fmt::Arguments<'_>) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}

/// [`line()`] with the arguments of `format!`.
macro_rules! say {
    () => { $crate::console::line(format_args!("")) };
    ($($argument:tt)*) => { $crate::console::line(format_args!($($argument)*)) };
}

/// A progress bar of `length` steps that moves by itself, too; shown on a terminal alone.
pub(crate) fn progress_bar(template: &str, length: u64) -> ProgressBar {
    let style = ProgressStyle::with_template(template).expect("templates are constant");
    let bar = ProgressBar::new(length).with_style(style);
    bar.enable_steady_tick(TICK);
    bar
}

pub(crate) use say;
