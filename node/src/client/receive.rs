//! `heliograph receive`.

use std::{collections::BTreeMap, io, time::Duration};

use anyhow::Context as _;
use heliograph_api::{
    client::{Client, ClientError, Event, Events, Fetch, Received, Sender},
    websocket::Acknowledgement,
};
use heliograph_cluster::model::Priority;

use super::{
    block_on, output, remote,
    session::{Session, is_unauthenticated},
};
use crate::{cli::ReceiveArgs, exit::Failure, signals::Signals};

/// How many messages are asked for at once.
const PAGE: usize = 100;
/// The pause after every address has failed once; it doubles up to the longest.
const PAUSE: Duration = Duration::from_millis(200);
/// The longest such pause.
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// Runs the command.
pub(crate) fn run(args: &ReceiveArgs) -> Result<(), Failure> {
    block_on(async {
        let mut signals = Signals::listen().context("cannot listen for signals")?;
        let work = async {
            let mut session = Session::open(&args.gateway).await?;
            let outcome = if args.follow {
                follow(args, &mut session).await
            } else {
                fetch(args, &mut session).await
            };
            match outcome {
                Ok(()) => Ok(()),
                Err(End::ReaderGone) => Ok(()),
                Err(End::Remote(error)) => Err(remote(&session.clients, error)),
                Err(End::Failed(failure)) => Err(failure),
            }
        };
        tokio::select! {
            biased; // Ctrl-C is how following ends
            _ = signals.next() => Ok(()),
            outcome = work => outcome,
        }
    })
}

/// Why receiving ends before its time.
enum End {
    /// Nobody reads our output any more.
    ReaderGone,
    /// The gateway.
    Remote(ClientError),
    /// Ourselves.
    Failed(Failure),
}

impl From<ClientError> for End {
    fn from(error: ClientError) -> Self {
        Self::Remote(error)
    }
}

impl From<io::Error> for End {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::ReaderGone,
            _ => Self::Failed(anyhow::Error::new(error).context("cannot write the output").into()),
        }
    }
}

/// Prints what is pending, page after page.
async fn fetch(args: &ReceiveArgs, session: &mut Session) -> Result<(), End> {
    let mut fetch = Fetch { limit: PAGE, wait: args.wait, after: None };
    loop {
        let page = page(session, fetch).await?;
        for message in &page {
            output::received(args.gateway.output, message)?;
            fetch.after = Some((message.priority, message.seq));
        }
        if args.ack && !page.is_empty() {
            let items: Vec<_> = page.iter().map(Received::ack).collect();
            first_that_answers(session, async |client| client.acknowledge(&items).await).await?;
        }
        if page.len() < PAGE {
            return Ok(());
        }
        fetch.wait = Duration::ZERO;
    }
}

async fn page(session: &mut Session, fetch: Fetch) -> Result<Vec<Received>, End> {
    let device = session.device.clone();
    first_that_answers(session, async |client| client.receive(&device, fetch).await).await
}

/// Asks one address after the other; registers again when the API key is not known any more.
async fn first_that_answers<T>(
    session: &mut Session,
    ask: impl AsyncFn(&Client) -> Result<T, ClientError>,
) -> Result<T, End> {
    let mut last = ClientError::NoKey;
    for index in 0..session.clients.len() {
        let mut outcome = ask(&session.clients[index]).await;
        if outcome.as_ref().is_err_and(is_unauthenticated) {
            session.register().await.map_err(End::Failed)?;
            outcome = ask(&session.clients[index]).await;
        }
        match outcome {
            Err(error) if error.is_retryable() => last = error,
            outcome => return Ok(outcome?),
        }
    }
    Err(last.into())
}

/// Prints what is pending and what comes, over WebSocket, at one address after the other.
async fn follow(args: &ReceiveArgs, session: &mut Session) -> Result<(), End> {
    let mut seen = Seen::default();
    let mut pause = PAUSE;
    for attempt in 0_usize.. {
        let connected = first_that_answers(session, async |client| {
            client.connect(Acknowledgement::Explicit).await
        });
        let error = match connected.await {
            Ok((sender, events)) => {
                pause = PAUSE;
                listen(args, &sender, events, &mut seen).await?
            }
            Err(End::Remote(error)) if error.is_retryable() && attempt > 0 => error,
            Err(end) => return Err(end),
        };
        tracing::debug!(%error, "the connection ended");
        // The address that just failed is tried last.
        session.clients.rotate_left(1);
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
    Ok(())
}

/// Prints what comes over one connection; answers why it ended, if another may serve.
async fn listen(
    args: &ReceiveArgs,
    sender: &Sender,
    mut events: Events,
    seen: &mut Seen,
) -> Result<ClientError, End> {
    while let Some(event) = events.next().await {
        match event {
            Event::Message(message) => {
                // After a reconnect what was not acknowledged comes again.
                if seen.is_new(&message) {
                    output::received(args.gateway.output, &message)?;
                }
                if args.ack && sender.acknowledge(&[message.ack()]).await.is_err() {
                    return Ok(ClientError::Lost);
                }
            }
            Event::Skipped { priority, from, to, reason } => {
                output::skipped(args.gateway.output, priority.name(), [from, to], &reason)?;
            }
            Event::Closed(code) => {
                let error = code.map_or(ClientError::Lost, ClientError::Closed);
                // A revoked key is registered again by the next connect.
                if error.is_retryable() || is_unauthenticated(&error) {
                    return Ok(error);
                }
                return Err(error.into());
            }
            _ => {}
        }
    }
    Ok(ClientError::Lost)
}

/// The last number seen of each priority.
#[derive(Default)]
struct Seen(BTreeMap<Priority, u64>);

impl Seen {
    fn is_new(&mut self, message: &Received) -> bool {
        let last = self.0.entry(message.priority).or_insert(0);
        let is_new = message.seq > *last;
        *last = message.seq.max(*last);
        is_new
    }
}
