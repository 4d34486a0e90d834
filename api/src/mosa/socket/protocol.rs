//! A connection from its first frame on: who is it?

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use futures_util::future::BoxFuture;
use heliograph_cluster::{Principal, RelayError};
use tokio::time::Instant;

use super::{
    super::{Gateway, fields::Object},
    frames,
    open::Open,
};
use crate::{
    entropy::Entropy,
    problem::{Code, Problem},
    websocket::{
        Acknowledgement, Outbox, Protocol,
        codec::{CloseCode, Flow},
    },
};
use heliograph_cluster::ApiKey;

enum Stage {
    /// Nothing came yet.
    Silent { until: Instant },
    /// The cluster looks at the key.
    Asking(BoxFuture<'static, Result<Principal, RelayError>>, Acknowledgement),
    /// Authenticated.
    Open(Box<Open>),
    /// Refused; the connection closes.
    Refused,
}

/// What frames mean on a device's connection.
pub(super) struct DeviceProtocol {
    gateway: Arc<Gateway>,
    entropy: Entropy,
    stage: Stage,
}

impl DeviceProtocol {
    pub(super) fn new(gateway: Arc<Gateway>, entropy: Entropy) -> Self {
        let until = Instant::now() + gateway.websocket.auth_timeout;
        Self { gateway, entropy, stage: Stage::Silent { until } }
    }

    fn refuse(&mut self, problem: &Problem, code: CloseCode, out: &mut Outbox) {
        out.text(&frames::auth_error(problem));
        out.close(code);
        self.stage = Stage::Refused;
    }

    /// The first frame.
    fn authenticate(&mut self, object: &Object<'_>, out: &mut Outbox) {
        let kind = object.text("type").ok().flatten();
        if kind.as_deref() != Some("auth") {
            self.refuse(&Code::AuthRequired.into(), CloseCode::Unauthenticated, out);
            return;
        }
        let token = match object.required_text("token") {
            Ok(token) => token,
            Err(error) => {
                self.refuse(&vec![error].into(), CloseCode::Unauthenticated, out);
                return;
            }
        };
        let explicit = object.text("ack").ok().flatten().as_deref() == Some("explicit");
        let acknowledgement = if explicit {
            Acknowledgement::Explicit
        } else {
            self.gateway.websocket.acknowledgement
        };
        let key = ApiKey::from_text(&token);
        let relay = Arc::clone(&self.gateway.relay);
        let deadline = self.gateway.deadline();
        let asking = Box::pin(async move { relay.authenticate(&key, deadline).await });
        self.stage = Stage::Asking(asking, acknowledgement);
    }

    fn poll_asking(&mut self, out: &mut Outbox, cx: &mut Context<'_>) {
        let Stage::Asking(asking, acknowledgement) = &mut self.stage else { return };
        let acknowledgement = *acknowledgement;
        match asking.as_mut().poll(cx) {
            Poll::Pending => {}
            Poll::Ready(Ok(principal)) => {
                let ack = match acknowledgement {
                    Acknowledgement::Pong => "pong",
                    Acknowledgement::Explicit => "explicit",
                };
                let server_time = self.gateway.clock.now_ms() / 1000;
                out.text(&frames::auth_success(&principal.device, ack, server_time));
                let gateway = Arc::clone(&self.gateway);
                let open = Open::new(gateway, &principal, acknowledgement, self.entropy.fork());
                self.stage = Stage::Open(Box::new(open));
            }
            Poll::Ready(Err(error)) => {
                let code = match error {
                    RelayError::Unauthenticated => CloseCode::Unauthenticated,
                    _ => CloseCode::TryAgainLater,
                };
                self.refuse(&error.into(), code, out);
            }
        }
    }
}

impl Protocol for DeviceProtocol {
    fn text(&mut self, text: &str, out: &mut Outbox, cx: &mut Context<'_>) -> Flow {
        let Ok(object) = Object::parse(text.as_bytes()) else {
            out.close(CloseCode::Invalid);
            return Flow::Pause;
        };
        match &mut self.stage {
            Stage::Silent { .. } => {
                self.authenticate(&object, out);
                Flow::Pause
            }
            Stage::Open(open) => open.frame(&object, out, cx),
            Stage::Asking(..) | Stage::Refused => Flow::Pause,
        }
    }

    fn takes_input(&self) -> bool {
        match &self.stage {
            Stage::Silent { .. } => true,
            Stage::Open(open) => open.takes_input(),
            Stage::Asking(..) | Stage::Refused => false,
        }
    }

    fn pong(&mut self, nonce: u64) {
        if let Stage::Open(open) = &mut self.stage {
            open.pong(nonce);
        }
    }

    fn poll(&mut self, out: &mut Outbox, cx: &mut Context<'_>) {
        self.poll_asking(out, cx);
        if let Stage::Open(open) = &mut self.stage {
            open.poll(out, cx);
        }
    }

    fn flushed(&mut self) {
        if let Stage::Open(open) = &mut self.stage {
            open.flushed();
        }
    }

    fn deadline(&self) -> Option<Instant> {
        match &self.stage {
            Stage::Silent { until } => Some(*until),
            _ => None,
        }
    }

    fn expired(&mut self, out: &mut Outbox) {
        if matches!(self.stage, Stage::Silent { .. }) {
            self.refuse(&Code::AuthTimeout.into(), CloseCode::Unauthenticated, out);
        }
    }
}
