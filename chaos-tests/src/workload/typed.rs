//! Sending and reading with the product's own client, as an application would.

use std::net::SocketAddr;

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use heliograph_api::{
    client::{
        AckItem, ApiKey, Client, ClientConfig, ClientError, Event, Letter, send_until_accepted,
    },
    websocket::Acknowledgement,
};
use heliograph_cluster::model::{DeviceId, MessageId, Priority};
use serde_json::json;
use tokio::time::{Instant, timeout};

use super::{
    recipient::{BURST_PAUSE, DEADLINE, Recipient, SILENCE},
    sender::{PERSISTENCE, Sender},
};
use crate::{
    history::{MessageNumber, Operation, Phase},
    wire::{Received, WireError},
};

fn client(node: SocketAddr, key: &str) -> Client {
    let config = ClientConfig { timeout: DEADLINE, ..ClientConfig::default() };
    let client = Client::new(&format!("http://{node}"), &config);
    client.expect("an address makes a URL").with_key(ApiKey::from_text(key))
}

impl Sender {
    /// Sends a message, first to the node at `at`, until it is accepted.
    pub(super) async fn send_typed(
        &self,
        at: usize,
        message: MessageNumber,
        priority: u8,
    ) -> Phase {
        let order = (at..at + self.nodes.len()).map(|at| self.nodes[at % self.nodes.len()]);
        let clients: Vec<Client> = order.map(|node| client(node, &self.device.key)).collect();
        let content = BASE64.decode(self.letters.content(message)).expect("it was just encoded");
        let letter = Letter {
            message_id: MessageId::new(&self.letters.id(message)).expect("our ids are valid"),
            priority: Priority::try_from(priority).expect("our priorities are valid"),
            ..Letter::new(DeviceId::new(&self.recipient).expect("our ids are valid"), content)
        };
        match send_until_accepted(&clients, &letter, Instant::now() + PERSISTENCE).await {
            Ok(_) => Phase::Ok,
            Err(error) => {
                if !error.is_retryable() {
                    self.progress.refused(format!("typed send: {error}"));
                }
                // An earlier attempt may have been taken.
                Phase::Unknown
            }
        }
    }
}

impl Recipient {
    /// Reads and acknowledges by number.
    pub(super) async fn listen_typed(&self, node: SocketAddr) -> Result<(), WireError> {
        let reading = self.begin();
        let connection = client(node, &self.device.key).connect(Acknowledgement::Explicit).await;
        let (sender, mut events) = connection.map_err(|error| self.judge(&error))?;
        let mut unacknowledged: Vec<(AckItem, Option<MessageNumber>)> = Vec::new();
        let mut taken = 0;
        while taken < self.moves_every {
            let patience = if unacknowledged.is_empty() { SILENCE } else { BURST_PAUSE };
            match timeout(patience, events.next()).await {
                Ok(Some(Event::Message(message))) => {
                    let number = self.letters.number(message.message_id.as_str());
                    unacknowledged.push((message.ack(), number));
                    self.note(reading, &untyped(&message));
                    taken += 1;
                }
                Ok(Some(Event::Skipped { priority, from, to, .. })) => {
                    let (mailbox, priority) = (self.mailbox, priority.level());
                    let skipped = Operation::Skipped { mailbox, reading, priority, from, to };
                    self.recorder.record(self.process, Phase::Ok, skipped);
                }
                Ok(Some(Event::Resumed(entry))) => self.progress.resumed(entry),
                Ok(Some(Event::Closed(code))) => return Err(WireError::Closed { code }),
                Ok(Some(_)) => {}
                Ok(None) => return Err(WireError::Closed { code: None }),
                Err(_) if unacknowledged.is_empty() => return Err(WireError::Timeout),
                Err(_) => self.acknowledge_typed(&sender, &mut unacknowledged).await?,
            }
            if unacknowledged.len() >= self.ack_batch() {
                self.acknowledge_typed(&sender, &mut unacknowledged).await?;
            }
        }
        Ok(())
    }

    async fn acknowledge_typed(
        &self,
        sender: &heliograph_api::client::Sender,
        waiting: &mut Vec<(AckItem, Option<MessageNumber>)>,
    ) -> Result<(), WireError> {
        let (items, numbers): (Vec<_>, Vec<_>) = std::mem::take(waiting).into_iter().unzip();
        let messages = numbers.into_iter().flatten().collect();
        let operation = Operation::Acknowledge { mailbox: self.mailbox, messages };
        self.recorder.record(self.process, Phase::Invoke, operation);
        sender.acknowledge(&items).await.map_err(|error| self.judge(&error))
    }

    fn judge(&self, error: &ClientError) -> WireError {
        if !error.is_retryable() && !matches!(error, ClientError::Closed(_)) {
            self.progress.refused(format!("typed read: {error}"));
        }
        WireError::Closed { code: None }
    }
}

/// A message as the stock client has it, so that both are held against what was sent.
fn untyped(message: &heliograph_api::client::Received) -> Received {
    Received {
        message_id: message.message_id.as_str().to_owned(),
        sender_id: message.sender.as_str().to_owned(),
        content: BASE64.encode(&message.content),
        priority: json!(message.priority.level()),
        seq: message.seq,
    }
}
