//! What a run leaves: a folder with the history, the verdict, a report for people and a picture.

mod markdown;
mod series;
mod timeline;

use std::{fs, path::Path};

use anyhow::{Context as _, Result};
use serde::Serialize;

pub use self::series::{Recovery, Second, Series, Summary};
use crate::{
    checker::{Outcome, Verdict},
    history::History,
};

/// The history, one event a line.
pub const HISTORY: &str = "history.jsonl";
/// The verdict, for programs.
pub const VERDICT: &str = "verdict.json";
/// The report, for people.
pub const REPORT: &str = "report.md";
/// The picture.
pub const TIMELINE: &str = "timeline.svg";

/// What is known of a run beside its history.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct About {
    /// The profile's name.
    pub profile: String,
    /// What the profile is for.
    pub about: String,
    /// What decided it.
    pub seed: u64,
    /// For how long faults were inflicted.
    pub minutes: f64,
    /// How many nodes.
    pub nodes: u16,
    /// The build under test.
    pub build: String,
    /// What does the same again.
    pub command: String,
    /// Why it ended before its time, if it did.
    pub cut_short: Option<String>,
    /// Answers that a correct relay never gives to a correct client.
    pub refused: Vec<String>,
}

/// A run, judged.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Judged<'a> {
    /// What all of it comes to.
    pub outcome: Outcome,
    /// What is known of the run.
    pub about: About,
    /// What was counted.
    pub summary: Summary,
    /// What each check says.
    pub verdict: &'a Verdict,
    #[serde(skip)]
    history: &'a History,
}

impl<'a> Judged<'a> {
    /// Judges a run: as its checks do, but that one that was cut short, or in which a correct client
    /// was refused, is never valid.
    pub fn new(about: About, history: &'a History, verdict: &'a Verdict) -> Self {
        let outcome = match verdict.outcome() {
            Outcome::Invalid => Outcome::Invalid,
            _ if !about.refused.is_empty() => Outcome::Invalid,
            _ if about.cut_short.is_some() => Outcome::Unknown,
            outcome => outcome,
        };
        let summary = Summary::of(history, verdict);
        Self { outcome, about, summary, verdict, history }
    }

    /// Writes the folder.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn write(&self, dir: &Path) -> Result<()> {
        fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        self.history.save(&dir.join(HISTORY))?;
        fs::write(dir.join(VERDICT), serde_json::to_vec_pretty(self)?)?;
        fs::write(dir.join(REPORT), self.markdown())?;
        let series = Series::of(self.history);
        fs::write(dir.join(TIMELINE), timeline::draw(&series, &series::bands(self.history)))?;
        Ok(())
    }
}

#[cfg(test)]
#[path = "report_test.rs"]
mod tests;
