//! A connection that outlives its nodes: when one goes away (1012) it goes on at the next.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Uri, uri::Scheme};
use serde_json::{Value, json};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout_at},
};

use super::{
    Client, Entry, Event,
    line::{self, Ended, Hint, Leg},
    socket::{Shared, ack_frame, auth_frame},
};
use crate::{
    entropy::Entropy,
    stream::Stream,
    websocket::{Acknowledgement, codec::CloseCode},
};

/// Between two rounds of attempts to go on, before jitter.
const PAUSE: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// See the module.
pub(super) struct Journey {
    pub(super) client: Client,
    pub(super) acknowledgement: Acknowledgement,
    pub(super) shared: Arc<Shared>,
    pub(super) commands: mpsc::Receiver<Vec<u8>>,
    pub(super) events: mpsc::Sender<Event>,
}

impl Drop for Journey {
    fn drop(&mut self) {
        // Whoever waits for an answer learns that none comes.
        *self.shared.waiting.lock() = None;
    }
}

impl Journey {
    /// Runs from the first connection to the last.
    pub(super) async fn run(mut self, first: Leg) {
        let mut leg = first;
        let mut search: Option<Search> = None;
        let code = loop {
            let credential = leg.credential;
            let ended = line::run(leg, &self.shared, &mut self.commands, &self.events).await;
            let Ended { code, hint, was_let_in, is_done } = ended;
            if is_done || self.events.is_closed() {
                break code;
            }
            if was_let_in {
                if code != Some(CloseCode::Restart.code()) {
                    break code;
                }
                search = Some(Search::new(hint, self.client.timeout));
            }
            let is_refused = code == Some(CloseCode::KeyRevoked.code())
                || (credential == Entry::Key && code == Some(CloseCode::Unauthenticated.code()));
            let Some(search) = search.as_mut().filter(|_| !is_refused) else { break code };
            match self.next(search).await {
                Some(next) => leg = next,
                None => break code,
            }
        };
        *self.shared.waiting.lock() = None;
        // Nobody may read events any more.
        let _ = self.events.send(Event::Closed(code)).await;
    }

    /// The next connection: by ticket where the hint says, else by key where the first one was.
    async fn next(&self, search: &mut Search) -> Option<Leg> {
        // A ticket is good for one attempt.
        if let Some(hint) = search.hint.take()
            && let Some(uri) = self.aim(&hint.url)
            && let Ok(Ok(dialled)) =
                timeout_at(search.deadline, line::dial(&self.client, &uri)).await
        {
            return Some(self.leg(dialled, Entry::Ticket, json!({ "ticket": hint.ticket })));
        }
        // The key goes where the application sent it, and nowhere else.
        let uri = self.client.endpoint.at("/ws");
        let key = self.client.key.as_ref()?;
        loop {
            search.pause().await?;
            if let Ok(Ok(dialled)) =
                timeout_at(search.deadline, line::dial(&self.client, &uri)).await
            {
                return Some(self.leg(dialled, Entry::Key, json!({ "token": key.expose() })));
            }
        }
    }

    /// The address in a hint; none where it would be less safe than what the application chose.
    fn aim(&self, url: &str) -> Option<Uri> {
        let http = url.strip_prefix("ws").map(|rest| format!("http{rest}"))?;
        let uri: Uri = http.parse().ok()?;
        uri.host()?;
        let is_tls = uri.scheme() == Some(&Scheme::HTTPS);
        let must_be_tls = self.client.endpoint.uri.scheme() == Some(&Scheme::HTTPS);
        (is_tls || !must_be_tls).then_some(uri)
    }

    /// Says who it is and what it has, then again what may not have arrived.
    fn leg(&self, (stream, read): (Stream, Bytes), credential: Entry, mut auth: Value) -> Leg {
        let memory = self.shared.memory.lock();
        auth["received"] = Value::Array(memory.presented());
        let mut opening = vec![auth_frame(auth, self.acknowledgement)];
        let items = memory.to_acknowledge();
        drop(memory);
        if !items.is_empty() {
            opening.push(ack_frame(&items).to_string().into_bytes());
        }
        if let Some(waiting) = self.shared.waiting.lock().as_ref() {
            let mut letters: Vec<_> = waiting.values().collect();
            letters.sort_by_key(|letter| letter.number);
            opening.extend(letters.into_iter().map(|letter| letter.frame.clone()));
        }
        Leg { stream, read, opening, credential, first: None }
    }
}

/// Looking for a node to go on at, for as long as a call may take.
struct Search {
    hint: Option<Hint>,
    deadline: Instant,
    pause: Duration,
    entropy: Entropy,
}

impl Search {
    fn new(hint: Option<Hint>, patience: Duration) -> Self {
        let deadline = Instant::now() + patience;
        Self { hint, deadline, pause: Duration::ZERO, entropy: Entropy::from_system() }
    }

    /// Waits before the next attempt; none before the first, none when the time is up.
    async fn pause(&mut self) -> Option<()> {
        if Instant::now() + self.pause >= self.deadline {
            return None;
        }
        let percent = u32::try_from(self.entropy.between(50, 100)).unwrap_or(100);
        sleep(self.pause * percent / 100).await;
        self.pause = (self.pause * 2).clamp(PAUSE, PAUSE_MAX);
        Some(())
    }
}
