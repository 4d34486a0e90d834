//! Why a call of the stock client did not succeed.

/// Why a call did not succeed, by what is known of its effect.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// There is no connection: the request was not sent.
    #[error("not connected: {0}")]
    NotConnected(#[source] std::io::Error),
    /// The request was sent, perhaps in part, and the answer did not come: *unknown*.
    #[error("the connection broke: {0}")]
    Broken(#[source] hyper::Error),
    /// The WebSocket broke: *unknown*.
    #[error("the WebSocket broke: {0}")]
    Socket(#[source] Box<tokio_tungstenite::tungstenite::Error>),
    /// The server closed the WebSocket.
    #[error("closed with {code:?}")]
    Closed {
        /// The close code, if there was one.
        code: Option<u16>,
    },
    /// No answer in time: *unknown*.
    #[error("no answer in time")]
    Timeout,
    /// The server answered something that the contract does not know here.
    #[error("unexpected answer: {status} {body}")]
    Unexpected {
        /// HTTP status, 0 on a WebSocket.
        status: u16,
        /// What came.
        body: serde_json::Value,
    },
    /// An answer that is not JSON.
    #[error("an answer that is not JSON: {0}")]
    NotJson(#[source] serde_json::Error),
}

impl From<tokio_tungstenite::tungstenite::Error> for WireError {
    fn from(error: tokio_tungstenite::tungstenite::Error) -> Self {
        use tokio_tungstenite::tungstenite::Error;
        match error {
            Error::ConnectionClosed | Error::AlreadyClosed => Self::Closed { code: None },
            other => Self::Socket(Box::new(other)),
        }
    }
}
