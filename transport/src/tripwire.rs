//! The tripwire: an idle TCP connection beside QUIC, one per pair of nodes.
//!
//! When a process ends, however it ends, its kernel closes its sockets: the other end of a TCP
//! connection reads that within milliseconds, while QUIC would wait for its idle timeout. The wire
//! carries nothing else. It is bound to its QUIC control connection by a random token that was
//! exchanged inside it; strangers are dropped.
//!
//! A side that ends the wire for any other reason than its own end says so first ([`bye`]): what
//! ends without a word has died.

use std::{fmt, io, net::SocketAddr, sync::Arc, time::Duration};

use parking_lot::Mutex;
use socket2::{SockRef, TcpKeepalive};
use subtle::ConstantTimeEq;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::{Semaphore, mpsc},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

/// What the dialling side says first, before its token. The last byte is the version.
const PREFACE: &[u8; 5] = b"HGTW\x01";

/// What the accepting side answers to a token it knows.
const ACCEPTED: u8 = b'K';

/// What a side says before it ends the wire and lives on.
const BYE: u8 = b'B';

/// How long a stranger may take to say its token, and we to connect. 2 s: two round trips on any
/// network a cluster runs on.
const GREETING_TIMEOUT: Duration = Duration::from_secs(2);

/// Strangers that may be at the door at once; more are dropped. 64: several times the nodes that
/// reconnect at the same time.
const STRANGERS_MAX: usize = 64;

/// When the kernel first probes an idle wire. 30 s: below the time after which firewalls forget.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// The pause after a failed accept (out of file descriptors): it would fail again at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What proves that a TCP connection belongs to a QUIC connection. Never logged.
#[derive(Clone)]
pub(crate) struct Token([u8; Self::BYTES]);

impl Token {
    /// 32: cannot be guessed.
    pub(crate) const BYTES: usize = 32;

    pub(crate) fn new(bytes: [u8; Self::BYTES]) -> Self {
        Self(bytes)
    }

    /// A fresh one, from the operating system's randomness.
    pub(crate) fn random() -> Result<Self, getrandom::Error> {
        let mut bytes = [0; Self::BYTES];
        getrandom::fill(&mut bytes)?;
        Ok(Self(bytes))
    }

    /// The bytes, for the wire.
    pub(crate) fn expose(&self) -> &[u8; Self::BYTES] {
        &self.0
    }
}

impl PartialEq for Token {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for Token {}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// How a wire ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// The peer's kernel closed it without a word from the process: the process has ended.
    Broken,
    /// The peer said it would, or the way was lost: nothing is known of the process.
    Lost,
}

/// Waits for wires of tokens that are expected.
pub(crate) struct Listener {
    listener: TcpListener,
    expected: Mutex<Vec<(Token, mpsc::Sender<TcpStream>)>>,
    strangers: Arc<Semaphore>,
}

/// A token that is expected, for as long as this lives.
pub(crate) struct Expectation {
    listener: Arc<Listener>,
    token: Token,
    wires: mpsc::Receiver<TcpStream>,
}

impl Listener {
    /// Listens on `address`; must be called within a tokio runtime.
    pub(crate) fn bind(address: SocketAddr) -> io::Result<Self> {
        let listener = std::net::TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        Ok(Self {
            listener: TcpListener::from_std(listener)?,
            expected: Mutex::default(),
            strangers: Arc::new(Semaphore::new(STRANGERS_MAX)),
        })
    }

    /// Lets the peer that knows `token` in, one wire at a time.
    pub(crate) fn expect(self: &Arc<Self>, token: Token) -> Expectation {
        let (sender, wires) = mpsc::channel(1);
        self.expected.lock().push((token.clone(), sender));
        Expectation { listener: Arc::clone(self), token, wires }
    }

    /// Greets who connects, until `stop`.
    pub(crate) async fn run(self: Arc<Self>, stop: CancellationToken) {
        loop {
            let accepted = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                accepted = self.listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, _)) => {
                    let Ok(permit) = Arc::clone(&self.strangers).try_acquire_owned() else {
                        continue;
                    };
                    let listener = Arc::clone(&self);
                    tokio::spawn(async move {
                        let greeted = timeout(GREETING_TIMEOUT, listener.greet(stream)).await;
                        if !matches!(greeted, Ok(Ok(()))) {
                            tracing::debug!("dropped a stranger at the tripwire");
                        }
                        drop(permit);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept tripwires");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    async fn greet(&self, mut stream: TcpStream) -> io::Result<()> {
        let mut greeting = [0; PREFACE.len() + Token::BYTES];
        stream.read_exact(&mut greeting).await?;
        let (preface, token) = greeting.split_at(PREFACE.len());
        let token = Token(token.try_into().expect("the array's length"));
        let wires = {
            let expected = self.expected.lock();
            expected.iter().find(|(known, _)| *known == token).map(|(_, wires)| wires.clone())
        };
        // A second wire for a token that has one finds the channel full.
        let slot = wires.as_ref().and_then(|wires| wires.try_reserve().ok());
        let (true, Some(slot)) = (preface == PREFACE, slot) else {
            return Err(io::ErrorKind::PermissionDenied.into());
        };
        prepare(&stream)?;
        stream.write_all(&[ACCEPTED]).await?;
        slot.send(stream);
        Ok(())
    }
}

impl Expectation {
    /// The next wire that presents the token.
    pub(crate) async fn wire(&mut self) -> Option<TcpStream> {
        self.wires.recv().await
    }
}

impl Drop for Expectation {
    fn drop(&mut self) {
        self.listener.expected.lock().retain(|(token, _)| *token != self.token);
    }
}

/// Lays a wire to a listener that expects `token`, from the address of `local` where that is one: on
/// a machine with several, firewalls know the peer by the one that it is configured with.
pub(crate) async fn dial(
    address: SocketAddr,
    local: SocketAddr,
    token: &Token,
) -> io::Result<TcpStream> {
    let laid = timeout(GREETING_TIMEOUT, async {
        let mut stream = connect(address, local).await?;
        prepare(&stream)?;
        let mut greeting = PREFACE.to_vec();
        greeting.extend_from_slice(token.expose());
        stream.write_all(&greeting).await?;
        match stream.read_u8().await? {
            ACCEPTED => Ok(stream),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    });
    laid.await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

async fn connect(address: SocketAddr, local: SocketAddr) -> io::Result<TcpStream> {
    if local.ip().is_unspecified() || local.is_ipv4() != address.is_ipv4() {
        return TcpStream::connect(address).await;
    }
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.bind(SocketAddr::new(local.ip(), 0))?;
    socket.connect(address).await
}

/// Waits for the wire's end.
pub(crate) async fn watch(stream: &mut TcpStream) -> Ended {
    match stream.read_u8().await {
        // Its last word, or nonsense.
        Ok(_) => Ended::Lost,
        Err(error) => match error.kind() {
            io::ErrorKind::UnexpectedEof
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::BrokenPipe => Ended::Broken,
            // Timeouts and unreachable hosts tell of the way, not of the process.
            _ => Ended::Lost,
        },
    }
}

/// Tells the peer that the wire's end is not the process's.
pub(crate) async fn bye(stream: &mut TcpStream) {
    // The send buffer is empty, so this does not wait; if the wire is gone, nobody listens.
    let _ = stream.write_all(&[BYE]).await;
}

fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE);
    SockRef::from(stream).set_tcp_keepalive(&keepalive)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANYWHERE: SocketAddr =
        SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), 0);

    /// A listener, and the wire of a token at both ends.
    async fn wire() -> (Arc<Listener>, SocketAddr, Expectation, TcpStream, TcpStream) {
        let listener = Arc::new(Listener::bind(([127, 0, 0, 1], 0).into()).unwrap());
        let address = listener.listener.local_addr().unwrap();
        tokio::spawn(Arc::clone(&listener).run(CancellationToken::new()));
        let token = Token::random().unwrap();
        let mut expectation = listener.expect(token.clone());
        let ours = dial(address, ANYWHERE, &token).await.unwrap();
        let theirs = expectation.wire().await.unwrap();
        (listener, address, expectation, ours, theirs)
    }

    #[tokio::test]
    async fn wire_is_laid_from_the_address_that_the_peer_knows() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        for (local, from) in [("127.0.0.7:9", "127.0.0.7"), ("0.0.0.0:9", "127.0.0.1")] {
            let (ours, theirs) =
                tokio::join!(connect(address, local.parse().unwrap()), listener.accept());
            assert_eq!(theirs.unwrap().1.ip(), from.parse::<std::net::IpAddr>().unwrap());
            drop(ours.unwrap());
        }
    }

    #[tokio::test]
    async fn wire_closed_without_a_word_is_broken() {
        let (_listener, _, _expectation, mut ours, theirs) = wire().await;
        drop(theirs);
        assert_eq!(watch(&mut ours).await, Ended::Broken);
    }

    #[tokio::test]
    async fn wire_ended_with_a_word_is_lost() {
        let (_listener, _, _expectation, mut ours, mut theirs) = wire().await;
        bye(&mut ours).await;
        drop(ours);
        assert_eq!(watch(&mut theirs).await, Ended::Lost);
    }

    #[tokio::test]
    async fn token_that_is_not_expected_is_refused() {
        let (listener, address, expectation, _ours, _theirs) = wire().await;
        let stranger = dial(address, ANYWHERE, &Token::random().unwrap()).await;
        assert!(stranger.is_err());
        let known = expectation.token.clone();
        drop(expectation);
        assert!(dial(address, ANYWHERE, &known).await.is_err());
        assert!(listener.expected.lock().is_empty());
    }

    #[test]
    fn token_is_never_printed() {
        assert_eq!(format!("{:?}", Token::new([7; Token::BYTES])), "Token(…)");
    }
}
