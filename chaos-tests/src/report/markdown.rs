//! The report for people.

use std::fmt::Write as _;

use super::{HISTORY, Judged, TIMELINE, series};
use crate::checker::Outcome;

/// How many doubts and findings of a check are shown; the rest is in the verdict's file.
const SHOWN_MAX: usize = 5;

impl Judged<'_> {
    /// The report, in Markdown.
    pub(super) fn markdown(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = self.head(&mut text);
        let _ = self.checks(&mut text);
        let _ = self.recovery(&mut text);
        let _ = self.faults(&mut text);
        text
    }

    fn head(&self, text: &mut String) -> std::fmt::Result {
        let (about, summary) = (&self.about, &self.summary);
        writeln!(text, "# {}: {}\n", about.profile, self.outcome)?;
        writeln!(text, "{}\n", about.about)?;
        let meaning = match self.outcome {
            Outcome::Valid => "Everything that was promised was kept.",
            Outcome::Unknown => {
                "Nothing broken was seen, but too little was seen to say that nothing is. This is no pass."
            }
            Outcome::Invalid => "A promise was broken.",
        };
        writeln!(text, "**{meaning}**\n")?;
        if let Some(why) = &about.cut_short {
            writeln!(text, "The run was cut short: {why}\n")?;
        }
        for refused in &about.refused {
            writeln!(text, "- A correct client was refused: `{refused}`")?;
        }
        writeln!(text, "| | |\n|---|---|")?;
        writeln!(text, "| build | `{}` |", about.build)?;
        writeln!(text, "| nodes | {} |", about.nodes)?;
        writeln!(text, "| seed | {} |", about.seed)?;
        writeln!(text, "| length | {} s |", summary.seconds)?;
        writeln!(text, "| messages sent | {} |", summary.sent)?;
        writeln!(text, "| accepted | {} |", summary.accepted)?;
        writeln!(text, "| delivered | {} |", summary.delivered)?;
        writeln!(text, "| live frames heard | {} |", summary.live)?;
        writeln!(text, "| devices registered | {} |", summary.registered)?;
        let [p50, p99, max] = summary.waits_ms;
        writeln!(text, "| senders waited | p50 {p50} ms, p99 {p99} ms, longest {max} ms |\n")?;
        writeln!(text, "To do the same again:\n\n```sh\n{}\n```\n", about.command)?;
        writeln!(text, "![What happened when]({TIMELINE})\n")?;
        writeln!(text, "Every event is in `{HISTORY}`, the nodes' logs beside it.\n")
    }

    fn checks(&self, text: &mut String) -> std::fmt::Result {
        writeln!(text, "## Checks\n\n| check | verdict | looked at | broken |\n|---|---|---|---|")?;
        for check in &self.verdict.checks {
            let outcome = check.outcome();
            writeln!(
                text,
                "| {} | {outcome} | {} | {} |",
                check.name, check.counted, check.broken
            )?;
        }
        writeln!(text)?;
        for check in &self.verdict.checks {
            for finding in check.findings.iter().take(SHOWN_MAX) {
                writeln!(text, "- {}: `{finding:?}`", check.name)?;
            }
            for doubt in check.doubts.iter().take(SHOWN_MAX) {
                writeln!(text, "- {}: `{doubt:?}`", check.name)?;
            }
        }
        writeln!(text)
    }

    fn recovery(&self, text: &mut String) -> std::fmt::Result {
        writeln!(text, "## Pauses\n")?;
        writeln!(
            text,
            "How long nothing was accepted in the slowest mailbox, after each kind of fault and remedy.\n"
        )?;
        writeln!(text, "| after | times | p50 | p99 | longest |\n|---|---|---|---|---|")?;
        for (kind, recovery) in &self.summary.recovery {
            writeln!(
                text,
                "| {kind} | {} | {} ms | {} ms | {} ms |",
                recovery.count, recovery.p50_ms, recovery.p99_ms, recovery.max_ms
            )?;
        }
        writeln!(text)
    }

    fn faults(&self, text: &mut String) -> std::fmt::Result {
        writeln!(text, "## Faults\n\n| at | for | fault | outcome | hit | evidence |")?;
        writeln!(text, "|---|---|---|---|---|---|")?;
        for band in series::bands(self.history) {
            writeln!(
                text,
                "| {:.1} s | {:.1} s | {} | {} | {} | {} |",
                band.from.as_secs_f64(),
                (band.to - band.from).as_secs_f64(),
                band.label,
                band.outcome,
                band.hit,
                band.why.replace('|', "/").replace('\n', " ")
            )?;
        }
        Ok(())
    }
}
