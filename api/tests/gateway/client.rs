//! The typed client against the real server.

use std::{sync::atomic::Ordering, time::Duration};

use heliograph_api::{
    RegistrationMode,
    client::{
        AckItem, ApiKey, Client, ClientConfig, ClientError, DeviceKey, Entry, Event, Fetch, Letter,
        LiveKind, RevokeScope, send_until_accepted,
    },
    server::{Pem, Security, TlsConfig},
    websocket::Acknowledgement,
};
use heliograph_cluster::{
    CloseReason, Push, RelayError,
    model::{DeviceId, Priority},
};
use serde_json::{Map, json};
use tokio::{net::TcpListener, time::Instant};

use super::support::{PATIENCE, Rig, config, within};

fn device(name: &str) -> DeviceId {
    DeviceId::new(name).unwrap()
}

fn client(rig: &Rig) -> Client {
    Client::new(&format!("http://{}", rig.address), &ClientConfig::default()).unwrap()
}

fn code(error: ClientError) -> String {
    match error {
        ClientError::Refused(refusal) => refusal.code,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn device_registers_sends_and_receives() {
    let mut config = config();
    config.mosa.registration = RegistrationMode::Signed;
    let rig = Rig::with(config);
    let client = client(&rig);
    let status = client.status().await.unwrap();
    assert_eq!((status.status.as_str(), status.version.as_str()), ("online", "1.0"));
    assert_eq!(status.capabilities.registration, "signed");

    let alice = device("alice of/the?cliff & 100%");
    let own = DeviceKey::generate();
    let keyed = client.with_key(client.register(&alice, &own).await.unwrap());
    let taken = client.register(&alice, &DeviceKey::generate()).await.unwrap_err();
    assert_eq!(code(taken), "device_taken");

    let mut letter = Letter::new(alice.clone(), vec![0, 1, 2, 255]);
    letter.priority = Priority::Urgent;
    letter.ttl = Some(Duration::from_secs(60));
    assert!(!keyed.send(&letter).await.unwrap().duplicate);
    assert!(keyed.send(&letter).await.unwrap().duplicate);
    let received = keyed.receive(&alice, Fetch::default()).await.unwrap();
    assert_eq!(received.len(), 1);
    assert_eq!(received[0].message_id, letter.message_id);
    assert_eq!(received[0].content, letter.content);
    assert_eq!((received[0].priority, received[0].seq), (Priority::Urgent, 1));
    assert_eq!(received[0].sender, alice);
    let after = Fetch { after: Some((Priority::Urgent, 1)), ..Fetch::default() };
    assert!(keyed.receive(&alice, after).await.unwrap().is_empty());
    assert_eq!(keyed.acknowledge(&[received[0].ack()]).await.unwrap(), 1);
    assert_eq!(keyed.acknowledge(&[AckItem::Id(letter.message_id.clone())]).await.unwrap(), 0);

    keyed.revoke(RevokeScope::ThisKey).await.unwrap();
    assert_eq!(code(keyed.send(&letter).await.unwrap_err()), "token_invalid");
    assert!(matches!(client.send(&letter).await, Err(ClientError::NoKey)));
}

#[tokio::test]
async fn long_poll_takes_longer_than_the_timeout() {
    let rig = Rig::start();
    let config = ClientConfig { timeout: Duration::from_millis(300), ..ClientConfig::default() };
    let client = Client::new(&format!("http://{}", rig.address), &config).unwrap();
    let client = client.with_key(rig.relay.device("bob"));
    let wait = Fetch { wait: Duration::from_secs(1), ..Fetch::default() };
    assert!(client.receive(&device("bob"), wait).await.unwrap().is_empty());
}

#[tokio::test]
async fn refusals_carry_what_the_gateway_said() {
    let rig = Rig::start();
    let alice = client(&rig).with_key(rig.relay.device("alice"));
    rig.relay.fail_next([RelayError::MailboxFull]);
    let letter = Letter::new(device("bob"), "x");
    let error = alice.send(&letter).await.unwrap_err();
    assert!(error.is_retryable());
    assert!(error.retry_after().unwrap() > Duration::ZERO);
    assert_eq!(code(error), "mailbox_full");
    let empty = Letter::new(device("bob"), "");
    let ClientError::Refused(refusal) = alice.send(&empty).await.unwrap_err() else { panic!() };
    assert_eq!((refusal.status, refusal.fields[0].0.as_str()), (400, "content"));
    assert!(!refusal.is_retryable());
}

#[tokio::test]
async fn unreachable_and_silent_gateways_are_told_apart() {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = free.local_addr().unwrap();
    let config = ClientConfig { timeout: Duration::from_millis(200), ..ClientConfig::default() };
    let silent = Client::new(&format!("http://{address}"), &config).unwrap();
    assert!(matches!(silent.status().await, Err(ClientError::Deadline)));
    drop(free);
    assert!(matches!(silent.status().await, Err(ClientError::Connect(_))));
}

#[tokio::test]
async fn sending_until_accepted_moves_on_and_repeats() {
    let rig = Rig::start();
    let key = rig.relay.device("alice");
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let dead = Client::new(&format!("http://{free}"), &ClientConfig::default()).unwrap();
    let clients = [dead.with_key(key.clone()), client(&rig).with_key(key)];
    let letter = Letter::new(device("bob"), "x");
    let deadline = || Instant::now() + PATIENCE;
    send_until_accepted(&clients, &letter, deadline()).await.unwrap();
    // A lost answer: the second attempt finds the message accepted.
    rig.relay.fail_next([RelayError::Unavailable]);
    let again = send_until_accepted(&clients[1..], &letter, deadline()).await.unwrap();
    assert!(again.duplicate);
    assert_eq!(rig.relay.pending("bob"), 1);
    rig.relay.fail_next([RelayError::MessageConflict]);
    let refused = send_until_accepted(&clients, &letter, deadline()).await.unwrap_err();
    assert_eq!(code(refused), "message_conflict");
    let soon = Instant::now() + Duration::from_millis(200);
    let error = send_until_accepted(&clients[..1], &letter, soon).await.unwrap_err();
    assert!(matches!(error, ClientError::Connect(_)));
}

#[tokio::test]
async fn sockets_talk() {
    let rig = Rig::start();
    let alice = client(&rig).with_key(rig.relay.device("alice"));
    let bob = client(&rig).with_key(rig.relay.device("bob"));
    let (alice, mut to_alice) = within(alice.connect(Acknowledgement::Pong)).await.unwrap();
    let (bob, mut to_bob) = within(bob.connect(Acknowledgement::Explicit)).await.unwrap();

    let letters: Vec<_> = (0..50).map(|n| Letter::new(device("bob"), vec![n; 2_000])).collect();
    let sends = letters.iter().map(|letter| alice.send(letter));
    for receipt in within(futures_util::future::join_all(sends)).await {
        assert!(!receipt.unwrap().duplicate);
    }
    for letter in &letters {
        let Some(Event::Message(got)) = within(to_bob.next()).await else { panic!() };
        assert_eq!((&got.message_id, &got.content), (&letter.message_id, &letter.content));
        bob.acknowledge(&[got.ack()]).await.unwrap();
    }
    rig.relay.until(|relay| relay.pending("bob") == 0).await;

    bob.send(&Letter::new(device("alice"), "x")).await.unwrap();
    assert!(matches!(within(to_alice.next()).await, Some(Event::Message(_))));
    // Its stack answers the Ping; nothing else is needed.
    rig.relay.until(|relay| relay.pending("alice") == 0).await;

    let fields = Map::from_iter([("chunk".to_owned(), json!("AAAA"))]);
    alice.live(LiveKind::Audio, &device("bob"), fields).await.unwrap();
    let Some(Event::Live(frame)) = within(to_bob.next()).await else { panic!() };
    let expected = json!({"type": "audio_stream", "recipient_id": "bob", "sender_id": "alice",
        "chunk": "AAAA"});
    assert_eq!(frame, expected);
    alice.live(LiveKind::Video, &device("nobody"), Map::new()).await.unwrap();
    assert_eq!(within(to_alice.next()).await, Some(Event::Unavailable(device("nobody"))));

    rig.relay.fail_next([RelayError::Overloaded]);
    let error = alice.send(&Letter::new(device("bob"), "x")).await.unwrap_err();
    assert!(error.is_retryable());
    assert_eq!(code(error), "overloaded");
    rig.relay.push("bob", &Push::Close(CloseReason::TryAgainLater));
    assert_eq!(within(to_bob.next()).await, Some(Event::Closed(Some(1013))));
    assert_eq!(within(to_bob.next()).await, None);
}

#[tokio::test]
async fn a_socket_goes_on_at_the_next_node_as_if_nothing_had_happened() {
    let rig = Rig::start();
    let next = rig.beside();
    rig.relay.set_next_home(&format!("ws://{}/ws", next.address));
    let alice = client(&rig).with_key(rig.relay.device("alice"));
    let bob = client(&rig).with_key(rig.relay.device("bob"));
    let (bob, mut to_bob) = within(bob.connect(Acknowledgement::Explicit)).await.unwrap();
    let letters: Vec<_> = (0..3).map(|n| Letter::new(device("bob"), vec![n])).collect();
    let mut got = Vec::new();
    for letter in &letters[..2] {
        alice.send(letter).await.unwrap();
        let Some(Event::Message(message)) = within(to_bob.next()).await else { panic!() };
        got.push(message.ack());
    }
    // One letter's answer is not there when the node goes, and one message not acknowledged.
    let held = rig.relay.hold.clone().write_owned().await;
    let late = Letter::new(device("alice"), "late");
    let sending = bob.send(&late);
    let going = async {
        rig.relay.until(|relay| relay.sends_begun.load(Ordering::SeqCst) == 3).await;
        rig.server().send_off(Duration::ZERO).await;
        drop(held);
    };
    let (receipt, ()) = within(async { tokio::join!(sending, going) }).await;
    receipt.unwrap();
    assert_eq!(within(to_bob.next()).await, Some(Event::Resumed(Entry::Ticket)));
    alice.send(&letters[2]).await.unwrap();
    let Some(Event::Message(message)) = within(to_bob.next()).await else { panic!("repeated") };
    assert_eq!(message.message_id, letters[2].message_id);
    got.push(message.ack());
    bob.acknowledge(&got).await.unwrap();
    rig.relay.until(|relay| relay.pending("bob") == 0).await;
    assert_eq!(rig.relay.pending("alice"), 1, "the letter was accepted once");
    // Where the next node is gone as well it goes back to where it began, by its key.
    rig.server().stay();
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    rig.relay.set_next_home(&format!("ws://{gone}/ws"));
    next.server().send_off(Duration::ZERO).await;
    assert_eq!(within(to_bob.next()).await, Some(Event::Resumed(Entry::Key)));
    drop(alice);
}

#[tokio::test]
async fn socket_needs_a_valid_key() {
    let rig = Rig::start();
    let stranger = client(&rig).with_key(ApiKey::from_text("nobody"));
    let refused = within(stranger.connect(Acknowledgement::Pong)).await.unwrap_err();
    assert_eq!(code(refused), "token_invalid");
    let nobody = within(client(&rig).connect(Acknowledgement::Pong)).await;
    assert!(matches!(nobody, Err(ClientError::NoKey)));
}

#[tokio::test]
async fn letters_on_their_way_learn_of_the_end() {
    let rig = Rig::start();
    let key = rig.relay.device("alice");
    let (alice, _events) =
        within(client(&rig).with_key(key).connect(Acknowledgement::Pong)).await.unwrap();
    let _held = rig.relay.hold.clone().write_owned().await;
    let letter = Letter::new(device("bob"), "x");
    let sent = alice.send(&letter);
    let cut = async {
        rig.relay.until(|relay| relay.sends_begun.load(Ordering::SeqCst) == 1).await;
        rig.relay.push("alice", &Push::Close(CloseReason::TryAgainLater));
    };
    let (sent, ()) = within(async { tokio::join!(sent, cut) }).await;
    assert!(matches!(sent, Err(ClientError::Lost)));
}

#[tokio::test]
async fn dropping_the_sender_says_goodbye() {
    let rig = Rig::start();
    let bob = client(&rig).with_key(rig.relay.device("bob"));
    let (sender, mut events) = within(bob.connect(Acknowledgement::Pong)).await.unwrap();
    rig.relay.until(|relay| relay.sessions("bob").len() == 1).await;
    drop(sender);
    assert_eq!(within(events.next()).await, Some(Event::Closed(Some(1000))));
    rig.relay.until(|relay| relay.sessions("bob").is_empty()).await;
}

#[tokio::test]
async fn all_of_it_works_over_tls() {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let mut config = config();
    config.security = Security::Tls(TlsConfig {
        certificate: Pem::Bytes(made.cert.pem().into_bytes()),
        key: Pem::Bytes(made.signing_key.serialize_pem().into_bytes()),
    });
    let rig = Rig::with(config);
    let url = format!("https://localhost:{}", rig.address.port());
    let trusting =
        ClientConfig { roots_pem: made.cert.pem().into_bytes(), ..ClientConfig::default() };
    let client = Client::new(&url, &trusting).unwrap();
    let status = client.status().await.unwrap();
    assert!(status.capabilities.websocket_url.starts_with("wss://"));
    let bob = client.with_key(rig.relay.device("bob"));
    let (sender, mut events) = within(bob.connect(Acknowledgement::Pong)).await.unwrap();
    // Larger than a TLS record, both ways.
    let letter = Letter::new(device("bob"), vec![7; 60 * 1024]);
    sender.send(&letter).await.unwrap();
    let Some(Event::Message(got)) = within(events.next()).await else { panic!() };
    assert_eq!(got.content, letter.content);
    rig.relay.until(|relay| relay.pending("bob") == 0).await;
    let distrusting = Client::new(&url, &ClientConfig::default()).unwrap();
    assert!(matches!(distrusting.status().await, Err(ClientError::Connect(_))));
    rig.stop().await;
}
