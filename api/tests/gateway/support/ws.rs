//! A WebSocket client for tests, over tungstenite: an implementation that is not ours.

use std::{collections::VecDeque, net::SocketAddr};

use futures_util::{SinkExt as _, StreamExt as _};
use heliograph_api::websocket::codec::{Decoder, Event, Flow, Opcode, Role, write_masked_frame};
use heliograph_cluster::ApiKey;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{Message, protocol::CloseFrame},
};

use super::within;

pub struct Ws(pub WebSocketStream<TcpStream>);

/// What came.
#[derive(Debug)]
pub enum Got {
    Json(Value),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<u16>),
    End,
}

impl Ws {
    pub async fn connect(address: SocketAddr) -> Self {
        within(async {
            let stream = TcpStream::connect(address).await.unwrap();
            let (ws, _) = client_async(format!("ws://{address}/ws"), stream).await.unwrap();
            Self(ws)
        })
        .await
    }

    /// Connects and authenticates.
    pub async fn open(address: SocketAddr, key: &ApiKey) -> Self {
        let mut ws = Self::connect(address).await;
        ws.send(&json!({"type": "auth", "token": key.expose()})).await;
        assert_eq!(ws.json().await["type"], "auth_success");
        ws
    }

    pub async fn send(&mut self, frame: &Value) {
        self.raw(Message::text(frame.to_string())).await;
    }

    pub async fn raw(&mut self, message: Message) {
        within(self.0.send(message)).await.unwrap();
    }

    /// The next thing that comes, Pings included.
    pub async fn next(&mut self) -> Got {
        within(async {
            match self.0.next().await {
                Some(Ok(Message::Text(text))) => Got::Json(serde_json::from_str(&text).unwrap()),
                Some(Ok(Message::Ping(payload))) => Got::Ping(payload.to_vec()),
                Some(Ok(Message::Pong(payload))) => Got::Pong(payload.to_vec()),
                Some(Ok(Message::Close(frame))) => {
                    Got::Close(frame.map(|CloseFrame { code, .. }| code.into()))
                }
                Some(Ok(other)) => panic!("{other:?}"),
                Some(Err(_)) | None => Got::End,
            }
        })
        .await
    }

    /// The next JSON frame.
    pub async fn json(&mut self) -> Value {
        loop {
            match self.next().await {
                Got::Json(value) => return value,
                Got::Ping(_) | Got::Pong(_) => {}
                other => panic!("a frame was expected, {other:?} came"),
            }
        }
    }

    /// The code the server closes with.
    pub async fn closed(&mut self) -> u16 {
        loop {
            match self.next().await {
                Got::Close(code) => return code.expect("a code"),
                Got::End => panic!("the connection ended without a close frame"),
                _ => {}
            }
        }
    }
}

/// A client that answers nothing by itself, over our own codec.
pub struct Bare {
    stream: TcpStream,
    decoder: Decoder,
    got: VecDeque<Got>,
}

impl Bare {
    /// Connects and authenticates.
    pub async fn open(address: SocketAddr, key: &ApiKey) -> Self {
        let request = super::http::get("/ws")
            .header("connection", "Upgrade")
            .header("upgrade", "websocket")
            .header("sec-websocket-version", "13")
            .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
        let stream = within(async {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(&request.bytes()).await.unwrap();
            let response = super::http::read_response(&mut stream).await.unwrap();
            assert_eq!(response.status, 101);
            stream
        })
        .await;
        let decoder = Decoder::new(Role::Client, 1024 * 1024);
        let mut bare = Self { stream, decoder, got: VecDeque::new() };
        let auth = json!({"type": "auth", "token": key.expose()}).to_string();
        bare.send(Opcode::Text, auth.as_bytes()).await;
        assert!(matches!(bare.next().await, Got::Json(auth) if auth["type"] == "auth_success"));
        bare
    }

    pub async fn send(&mut self, opcode: Opcode, payload: &[u8]) {
        assert!(self.try_send(opcode, payload).await);
    }

    /// Whether the socket still took it.
    pub async fn try_send(&mut self, opcode: Opcode, payload: &[u8]) -> bool {
        let mut bytes = Vec::new();
        write_masked_frame(&mut bytes, opcode, payload, [1, 2, 3, 4]);
        within(self.stream.write_all(&bytes)).await.is_ok()
    }

    pub async fn next(&mut self) -> Got {
        while self.got.is_empty() {
            let mut chunk = [0; 4096];
            let bytes = within(self.stream.read(&mut chunk)).await.unwrap();
            if bytes == 0 {
                return Got::End;
            }
            let got = &mut self.got;
            self.decoder
                .feed(&mut chunk[..bytes], |event| {
                    got.push_back(match event {
                        Event::Text(text) => Got::Json(serde_json::from_str(text).unwrap()),
                        Event::Ping(payload) => Got::Ping(payload.to_vec()),
                        Event::Pong(payload) => Got::Pong(payload.to_vec()),
                        Event::Close(code) => Got::Close(code),
                        Event::Binary(_) => panic!("the gateway sends no binary frames"),
                    });
                    Flow::Continue
                })
                .unwrap();
        }
        self.got.pop_front().unwrap()
    }
}
