//! What openraft needs of a histogram, without tables.
//!
//! openraft counts its batches with a crate of this name, which makes lookup tables of sixteen
//! precisions when the first group starts: 26 MiB of every node, of which 4 KiB are ever read. This
//! one, written for Heliograph alone and with the same interface as far as openraft uses it, takes
//! some bytes for each magnitude that occurred. `Cargo.toml` of the workspace puts it in place of
//! the other (`[patch.crates-io]`); an openraft that needs more of it does not compile, and a test
//! of the workspace fails when the other is back. Nothing of Heliograph uses it itself.

mod chart;
mod histogram;
mod percentiles;

pub use chart::{AsciiChart, Bars};
pub use histogram::Histogram;
pub use percentiles::PercentileStats;
