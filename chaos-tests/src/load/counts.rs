//! What the clients of a run count, and how their messages are told apart and timed.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result};
use serde::Deserialize;
use tokio::time::Instant;

use super::{times::Times, traffic::Traffic};

/// The part of a frame, or of an answer, that load looks at.
#[derive(Debug, Deserialize)]
pub(super) struct Glance<'a> {
    #[serde(borrow, rename = "type")]
    pub(super) kind: Cow<'a, str>,
    #[serde(borrow, default)]
    pub(super) message_id: Option<Cow<'a, str>>,
    /// What an error is.
    #[serde(borrow, default)]
    pub(super) code: Option<Cow<'a, str>>,
    #[serde(default)]
    pub(super) seq: u64,
}

/// Reads a frame.
pub(super) fn glance(text: &str) -> Result<Glance<'_>> {
    serde_json::from_str(text).context("a frame that is not as agreed")
}

/// A `message` frame, which is a body for REST, too: fields that are not known are ignored. Ids and
/// Base64 need no escapes.
pub(super) fn message(mailbox: &str, id: &str, content: &str) -> String {
    format!(
        r#"{{"type":"message","recipient_id":"{mailbox}","message_id":"{id}","content":"{content}"}}"#
    )
}

/// When a message was (to be) sent: it is in its id, so that whoever sees it can tell its age.
pub(super) fn id(run: u32, sent: Duration, number: u64) -> String {
    format!("{run:08x}-{:x}-{number:x}", sent.as_micros())
}

/// The time in an id of this run.
pub(super) fn sent(run: u32, id: &str) -> Option<Duration> {
    let mut parts = id.split('-');
    let (ours, micros) = (parts.next()?, parts.next()?);
    let ours = u32::from_str_radix(ours, 16).ok()? == run;
    ours.then_some(Duration::from_micros(u64::from_str_radix(micros, 16).ok()?))
}

/// What all clients of a run count.
#[derive(Debug)]
pub(super) struct Counts {
    /// Tells this run's messages.
    pub(super) run: u32,
    /// Zero of the run's clock.
    pub(super) started: Instant,
    /// What was sent before this time is not measured.
    pub(super) measure_from: Duration,
    /// What happens after this time is not measured.
    pub(super) measure_until: Duration,
    pub(super) accepted: AtomicU64,
    pub(super) accepted_measured: AtomicU64,
    pub(super) delivered: AtomicU64,
    pub(super) delivered_measured: AtomicU64,
    refused: Mutex<BTreeMap<String, u64>>,
    pub(super) out_of_order: AtomicU64,
    pub(super) accept: Times,
    pub(super) deliver: Times,
}

impl Counts {
    pub(super) fn new(traffic: &Traffic) -> Arc<Self> {
        Arc::new(Self {
            run: rand::random(),
            started: Instant::now(),
            measure_from: traffic.warm_up,
            measure_until: traffic.warm_up + traffic.time,
            accepted: AtomicU64::new(0),
            accepted_measured: AtomicU64::new(0),
            delivered: AtomicU64::new(0),
            delivered_measured: AtomicU64::new(0),
            refused: Mutex::default(),
            out_of_order: AtomicU64::new(0),
            accept: Times::default(),
            deliver: Times::default(),
        })
    }

    /// Whether nothing is to be sent any more.
    pub(super) fn is_over(&self) -> bool {
        self.started.elapsed() >= self.measure_until
    }

    /// Counts a message that was accepted now.
    pub(super) fn note_accepted(&self, id: &str) {
        self.accepted.fetch_add(1, Ordering::Relaxed);
        if let Some(age) = self.age(id) {
            self.accepted_measured.fetch_add(1, Ordering::Relaxed);
            self.accept.record(age);
        }
    }

    /// Counts a message that was delivered now as number `seq` of its mailbox, and answers with what
    /// number the next one comes. One priority is used: numbers rise by one.
    pub(super) fn note_delivered(&self, id: &str, seq: u64, due: u64) -> u64 {
        self.delivered.fetch_add(1, Ordering::Relaxed);
        if seq != due {
            self.out_of_order.fetch_add(1, Ordering::Relaxed);
        }
        if let Some(age) = self.age(id) {
            self.delivered_measured.fetch_add(1, Ordering::Relaxed);
            self.deliver.record(age);
        }
        seq + 1
    }

    /// Counts an answer other than *accepted*.
    pub(super) fn note_refused(&self, code: &str) {
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        match refused.get_mut(code) {
            Some(count) => *count += 1,
            None => drop(refused.insert(code.to_owned(), 1)),
        }
    }

    /// Answers other than *accepted*, by code.
    pub(super) fn refusals(&self) -> BTreeMap<String, u64> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How far the run is, for whoever waits for it.
    pub(super) fn progress(&self) -> String {
        let seconds = self.started.elapsed().as_secs();
        let of = self.measure_until.as_secs();
        let [accepted, delivered] =
            [&self.accepted, &self.delivered].map(|count| count.load(Ordering::Relaxed));
        let refused: u64 = self.refusals().into_values().sum();
        format!(
            "{seconds} s of {of}: {accepted} accepted, {delivered} delivered, {refused} refused"
        )
    }

    /// How long ago a message was sent, if that is measured.
    fn age(&self, id: &str) -> Option<Duration> {
        let now = self.started.elapsed();
        let sent = sent(self.run, id)?;
        let measured = sent >= self.measure_from && now < self.measure_until;
        measured.then(|| now.saturating_sub(sent))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::traffic::Over;

    #[test]
    fn ids_carry_the_time_of_sending() {
        let id = id(7, Duration::from_micros(123_456), 9);
        assert_eq!(sent(7, &id), Some(Duration::from_micros(123_456)));
        assert_eq!(sent(8, &id), None);
        for foreign in ["", "x", "00000007", "00000007-zz"] {
            assert_eq!(sent(7, foreign), None, "{foreign}");
        }
    }

    #[test]
    fn a_glance_reads_what_load_needs() {
        let frame = glance(r#"{"type":"message","message_id":"a\u002db","seq":4}"#).unwrap();
        assert_eq!(
            (&*frame.kind, frame.message_id.as_deref(), frame.seq),
            ("message", Some("a-b"), 4)
        );
        let error = glance(r#"{"type":"error","code":"mailbox_full","retry_after":1}"#).unwrap();
        assert_eq!(error.code.as_deref(), Some("mailbox_full"));
        assert!(glance("[]").is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn gaps_and_repetitions_are_out_of_order_and_refusals_have_codes() {
        let second = Duration::from_secs(1);
        let traffic = Traffic {
            over: Over::Ws,
            mailboxes: 1,
            content_bytes: 1,
            warm_up: Duration::ZERO,
            time: second,
        };
        let counts = Counts::new(&traffic);
        let mut due = 1;
        for seq in [1, 2, 2, 4] {
            due = counts.note_delivered("x", seq, due);
        }
        assert_eq!((due, counts.out_of_order.load(Ordering::Relaxed)), (5, 2));
        for code in ["mailbox_full", "overloaded", "mailbox_full"] {
            counts.note_refused(code);
        }
        assert_eq!(counts.refusals()["mailbox_full"], 2);
        let progress = "0 s of 1: 0 accepted, 4 delivered, 3 refused";
        assert_eq!(counts.progress(), progress);
    }
}
