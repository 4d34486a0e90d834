//! A connection from its first frame on: who is it?

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use futures_util::future::BoxFuture;
use heliograph_cluster::{ApiKey, Principal, RelayError, ResumeTicket, model::Priority};
use tokio::time::Instant;

use super::{
    super::{Gateway, fields::Object, wire::parse_received},
    frames,
    open::{Entry, Open},
};
use crate::{
    entropy::Entropy,
    problem::{Code, Problem},
    websocket::{
        Acknowledgement, Outbox, Protocol,
        codec::{CloseCode, Flow},
    },
};

enum Stage {
    /// Nothing came yet.
    Silent { until: Instant },
    /// The cluster looks at the key.
    Asking(Box<Asking>),
    /// Authenticated.
    Open(Box<Open>),
    /// Refused; the connection closes.
    Refused,
}

/// A key that is being looked at, and what its bearer wants.
struct Asking {
    question: BoxFuture<'static, Result<Principal, RelayError>>,
    wishes: Wishes,
}

/// What else an `auth` frame says.
struct Wishes {
    acknowledgement: Acknowledgement,
    /// What the device got over an earlier connection.
    received: Vec<(Priority, u64)>,
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
        let wishes = match self.wishes(object) {
            Ok(wishes) => wishes,
            Err(problem) => {
                self.refuse(&problem, CloseCode::Unauthenticated, out);
                return;
            }
        };
        // A ticket that is no good is no harm where a key is there as well.
        let ticket = object.text("ticket").ok().flatten();
        let bearer =
            ticket.map(|ticket| self.gateway.relay.resume(&ResumeTicket::from_text(&ticket)));
        if let Some(Ok(principal)) = bearer {
            self.open((principal, Entry::Ticket), &wishes, out);
            return;
        }
        let token = match object.required_text("token") {
            Ok(token) => token,
            Err(error) => {
                let problem = bearer.and_then(Result::err).map_or(vec![error].into(), Into::into);
                self.refuse(&problem, CloseCode::Unauthenticated, out);
                return;
            }
        };
        let key = ApiKey::from_text(&token);
        let relay = Arc::clone(&self.gateway.relay);
        let deadline = self.gateway.deadline();
        let question = Box::pin(async move { relay.authenticate(&key, deadline).await });
        self.stage = Stage::Asking(Box::new(Asking { question, wishes }));
    }

    fn wishes(&self, object: &Object<'_>) -> Result<Wishes, Problem> {
        let explicit = object.text("ack").ok().flatten().as_deref() == Some("explicit");
        let acknowledgement = if explicit {
            Acknowledgement::Explicit
        } else {
            self.gateway.websocket.acknowledgement
        };
        Ok(Wishes { acknowledgement, received: parse_received(object)? })
    }

    fn open(&mut self, who: (Principal, Entry), wishes: &Wishes, out: &mut Outbox) {
        let ack = match wishes.acknowledgement {
            Acknowledgement::Pong => "pong",
            Acknowledgement::Explicit => "explicit",
        };
        let server_time = self.gateway.clock.now_ms() / 1000;
        out.text(&frames::auth_success(&who.0.device, ack, server_time, who.1));
        let gateway = Arc::clone(&self.gateway);
        let Wishes { acknowledgement, received } = wishes;
        let open = Open::new(gateway, who, *acknowledgement, received, self.entropy.fork());
        self.stage = Stage::Open(Box::new(open));
    }

    fn poll_asking(&mut self, out: &mut Outbox, cx: &mut Context<'_>) {
        let Stage::Asking(asking) = &mut self.stage else { return };
        let Poll::Ready(answer) = asking.question.as_mut().poll(cx) else { return };
        let Stage::Asking(asking) = std::mem::replace(&mut self.stage, Stage::Refused) else {
            return;
        };
        match answer {
            Ok(principal) => self.open((principal, Entry::Key), &asking.wishes, out),
            Err(error) => {
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
            Stage::Asking(_) | Stage::Refused => Flow::Pause,
        }
    }

    fn takes_input(&self) -> bool {
        match &self.stage {
            Stage::Silent { .. } => true,
            Stage::Open(open) => open.takes_input(),
            Stage::Asking(_) | Stage::Refused => false,
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
            Stage::Open(open) => open.deadline(),
            _ => None,
        }
    }

    fn expired(&mut self, out: &mut Outbox) {
        match &mut self.stage {
            Stage::Silent { .. } => {
                self.refuse(&Code::AuthTimeout.into(), CloseCode::Unauthenticated, out);
            }
            Stage::Open(open) => open.expired(out),
            Stage::Asking(_) | Stage::Refused => {}
        }
    }

    fn leave(&mut self, out: &mut Outbox) {
        match &mut self.stage {
            Stage::Open(open) => open.leave(),
            Stage::Silent { .. } | Stage::Asking(_) => out.close(CloseCode::Restart),
            Stage::Refused => {}
        }
    }
}
