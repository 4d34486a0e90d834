//! Waiting until a node says that it is ready.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::{Request, StatusCode, header::HOST};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, time::Instant};

/// How often a node is asked. Nobody notices a fifth of a second.
const INTERVAL: Duration = Duration::from_millis(200);
/// How long one question may take.
const QUESTION: Duration = Duration::from_secs(2);
/// How much of an answer is read.
const ANSWER_BYTES_MAX: usize = 16 << 10;

/// What a node said last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    /// It is ready.
    Ready,
    /// It is not, and says why.
    NotReady(String),
    /// It does not answer.
    Silent,
}

/// Asks until the node at `address` is ready; at `deadline`, answers what it said last.
pub(super) async fn wait(address: SocketAddr, deadline: Instant) -> Answer {
    let mut last = Answer::Silent;
    while Instant::now() < deadline {
        if let Ok(Some(answer)) = tokio::time::timeout(QUESTION, ask(address)).await {
            if answer == Answer::Ready {
                return answer;
            }
            last = answer;
        }
        tokio::time::sleep(INTERVAL).await;
    }
    last
}

/// Asks once.
async fn ask(address: SocketAddr) -> Option<Answer> {
    let stream = TcpStream::connect(address).await.ok()?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.ok()?;
    let request = Request::get("/readyz")
        .header(HOST, address.to_string())
        .body(Empty::<Bytes>::new())
        .ok()?;
    let exchange = async move {
        let response = sender.send_request(request).await.ok()?;
        if response.status() == StatusCode::OK {
            return Some(Answer::Ready);
        }
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await.ok()?;
        Some(Answer::NotReady(String::from_utf8_lossy(&body.to_bytes()).trim().to_owned()))
    };
    // The connection ends by itself once the exchange has dropped its sender.
    let (answer, _) = tokio::join!(exchange, connection);
    answer
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::*;

    async fn server(answers: Vec<&'static str>) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            for answer in answers {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = [0; 1024];
                assert!(stream.read(&mut request).await.unwrap() > 0);
                assert!(request.starts_with(b"GET /readyz HTTP/1.1\r\n"));
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
            std::future::pending::<()>().await;
        });
        address
    }

    const NOT_READY: &str = "HTTP/1.1 503 x\r\ncontent-length: 4\r\n\r\nwhy\n";
    const READY: &str = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";

    #[tokio::test]
    async fn waits_through_refusals_until_ready() {
        let address = server(vec![NOT_READY, "garbage\r\n\r\n", READY]).await;
        let deadline = Instant::now() + Duration::from_secs(20);
        assert_eq!(wait(address, deadline).await, Answer::Ready);
    }

    #[tokio::test]
    async fn tells_the_last_answer_at_the_deadline() {
        let address = server(vec![NOT_READY]).await;
        let deadline = Instant::now() + Duration::from_secs(1);
        assert_eq!(wait(address, deadline).await, Answer::NotReady("why".to_owned()));
    }

    #[tokio::test]
    async fn nobody_there_is_silence() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let deadline = Instant::now() + Duration::from_millis(300);
        assert_eq!(wait(address, deadline).await, Answer::Silent);
    }
}
