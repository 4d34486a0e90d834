//! `/api/v1/messages/…`: send, receive, acknowledge.

use std::time::Duration;

use heliograph_cluster::{
    Fetch, Outgoing,
    model::{DeviceId, Message, Priority},
};
use http::{StatusCode, request::Parts};
use hyper::body::Incoming;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{
    fields::{self, Gather, Object, field, missing, parse_priority},
    gateway::{Gateway, Known, json as answer_json, raw_json},
    wire::{MessageRequest, parse_acknowledgement, write_message},
};
use crate::{
    problem::{Code, FieldError, Problem},
    server::handler::Answer,
};

/// Messages that one receive answers at most, and by default.
pub(crate) const RECEIVE_LIMIT_MAX: usize = 1_000;
const RECEIVE_LIMIT_DEFAULT: usize = 100;
/// The longest long poll: proxies commonly cut a silent response after 60 s.
pub(crate) const RECEIVE_WAIT_MAX: Duration = Duration::from_secs(60);
/// Content that one receive answers at most; the rest comes with the next one.
const RECEIVE_BYTES_MAX: usize = 4 * 1024 * 1024;

impl Gateway {
    pub(super) async fn send(
        &self,
        parts: &Parts,
        body: Incoming,
        known: &mut Known,
    ) -> Result<Answer, Problem> {
        let sender = self.authorize(parts, known).await?.device;
        let body = self.read_body(&parts.headers, body).await?;
        let object = Object::parse(&body)?;
        let request = MessageRequest::parse(&object, || self.relay.status().ttl_max)?;
        let Some(message_id) = request.message_id else {
            return Err(vec![missing("message_id")].into());
        };
        let outgoing = Outgoing {
            sender,
            recipient: request.recipient,
            message_id: message_id.clone(),
            priority: request.priority,
            ttl: request.ttl,
            content: request.content,
        };
        let accepted = self.relay.send(outgoing, self.deadline()).await?;
        let mut body = json!({
            "success": true,
            "message_id": message_id.as_str(),
            "status": "queued",
            "timestamp": accepted.accepted_ms / 1000,
        });
        if accepted.duplicate {
            body["duplicate"] = Value::Bool(true);
        }
        Ok(answer_json(StatusCode::ACCEPTED, &body))
    }

    pub(super) async fn receive(
        &self,
        parts: &Parts,
        user: Option<&str>,
        known: &mut Known,
    ) -> Result<Answer, Problem> {
        let device = self.authorize(parts, known).await?.device;
        let Some(user) = user else {
            return Err(vec![field("userId", "invalid", "must be percent-encoded UTF-8")].into());
        };
        let user = fields::device("userId", user).map_err(|error| vec![error])?;
        if user != device {
            return Err(Code::Forbidden.into());
        }
        let fetch = parse_fetch(parts.uri.query().unwrap_or(""))?;
        let deadline = Instant::now() + fetch.wait + self.config.request_timeout;
        let messages = tokio::select! {
            // What is there goes out even while the node goes away.
            biased;
            messages = self.relay.receive(&device, fetch, deadline) => messages?,
            () = self.departures.leaving(), if !fetch.wait.is_zero() => Vec::new(),
        };
        Ok(raw_json(StatusCode::OK, write_messages(&messages, &device)))
    }

    pub(super) async fn acknowledge(
        &self,
        parts: &Parts,
        body: Incoming,
        known: &mut Known,
    ) -> Result<Answer, Problem> {
        let device = self.authorize(parts, known).await?.device;
        let body = self.read_body(&parts.headers, body).await?;
        let items = parse_acknowledgement(&Object::parse(&body)?)?;
        let acknowledged = if items.is_empty() {
            0
        } else {
            self.relay.acknowledge(&device, items, self.deadline()).await?
        };
        let body = json!({ "success": true, "acknowledged": acknowledged });
        Ok(answer_json(StatusCode::OK, &body))
    }
}

fn write_messages(messages: &[Message], recipient: &DeviceId) -> Vec<u8> {
    let mut body = Vec::with_capacity(
        256 + messages.iter().map(|m| m.content.len() * 2).sum::<usize>().min(RECEIVE_BYTES_MAX),
    );
    body.push(b'[');
    let mut content_bytes = 0;
    for (index, message) in messages.iter().enumerate() {
        content_bytes += message.content.len();
        if index > 0 {
            if content_bytes > RECEIVE_BYTES_MAX {
                break;
            }
            body.push(b',');
        }
        write_message(&mut body, message, recipient);
    }
    body.push(b']');
    body
}

/// Reads `limit`, `wait` and `after`; other parameters are somebody else's.
fn parse_fetch(query: &str) -> Result<Fetch, Problem> {
    let mut fetch = Fetch { limit: RECEIVE_LIMIT_DEFAULT, wait: Duration::ZERO, after: None };
    let mut errors = Gather::default();
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        match name.as_ref() {
            "limit" => {
                let limit = in_range("limit", &value, 1, RECEIVE_LIMIT_MAX as u64);
                fetch.limit = errors.take(limit).map_or(fetch.limit, |limit| limit as usize);
            }
            "wait" => {
                let wait = in_range("wait", &value, 0, RECEIVE_WAIT_MAX.as_secs());
                fetch.wait = errors.take(wait).map_or(fetch.wait, Duration::from_secs);
            }
            "after" => fetch.after = errors.take(parse_after(&value)),
            _ => {}
        }
    }
    errors.finish()?;
    Ok(fetch)
}

fn in_range(name: &'static str, text: &str, min: u64, max: u64) -> Result<u64, FieldError> {
    match text.parse() {
        Ok(number) if (min..=max).contains(&number) => Ok(number),
        _ => Err(field(name, "out_of_range", format!("must be a whole number, {min} to {max}"))),
    }
}

fn parse_after(text: &str) -> Result<(Priority, u64), FieldError> {
    let parse = || {
        let (priority, seq) = text.split_once(':')?;
        Some((parse_priority(priority)?, seq.parse().ok()?))
    };
    let detail = "must be priority:seq of the last message seen, such as normal:42";
    parse().ok_or_else(|| field("after", "invalid", detail))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn query_has_defaults_and_limits() {
        let fetch = parse_fetch("").unwrap();
        assert_eq!((fetch.limit, fetch.wait, fetch.after), (100, Duration::ZERO, None));
        let fetch = parse_fetch("limit=5&wait=60&after=urgent%3A9&other=1").unwrap();
        assert_eq!(fetch.limit, 5);
        assert_eq!(fetch.wait, Duration::from_secs(60));
        assert_eq!(fetch.after, Some((Priority::Urgent, 9)));
        assert_eq!(parse_fetch("after=2:7").unwrap().after, Some((Priority::High, 7)));
    }

    #[test]
    fn each_wrong_parameter_is_named() {
        let problem = parse_fetch("limit=0&wait=61&after=x").unwrap_err();
        let names: Vec<_> = problem.errors().iter().map(|error| error.field).collect();
        assert_eq!(names, ["limit", "wait", "after"]);
        for bad in ["limit=1001", "limit=x", "limit=", "wait=-1", "wait=1.5", "after=normal:"] {
            assert!(parse_fetch(bad).is_err(), "{bad}");
        }
    }
}
