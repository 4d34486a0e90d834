//! What commands tell a person on standard output.

use std::{fmt, io::Write as _};

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

pub(crate) use say;
