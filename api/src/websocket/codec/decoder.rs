//! Bytes in, messages out: an incremental, bounded decoder with no I/O.
//!
//! An idle decoder owns no heap memory. A message that lies whole in the input is handed out
//! without a copy.

use super::{
    CONTROL_BYTES_MAX, Fin, HEAD_BYTES_MAX, Head, Opcode, ProtocolError, apply_mask,
    is_valid_received,
};

/// Which side of the connection decodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Frames must be masked.
    Server,
    /// Frames must not be masked.
    Client,
}

/// What the peer sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// A whole text message.
    Text(&'a str),
    /// A whole binary message.
    Binary(&'a [u8]),
    /// A Ping: answer with the same payload.
    Ping(&'a [u8]),
    /// A Pong.
    Pong(&'a [u8]),
    /// The closing handshake, with the peer's code if it gave one.
    Close(Option<u16>),
}

/// Whether the receiver of an event takes another one now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// Go on.
    Continue,
    /// Stop after this event; the rest of the input is fed later.
    Pause,
}

#[derive(Debug, Clone, Copy)]
enum Phase {
    Head,
    Payload { head: Head, done: u64 },
}

/// Turns a byte stream into [`Event`]s.
#[derive(Debug)]
pub struct Decoder {
    role: Role,
    phase: Phase,
    head: [u8; HEAD_BYTES_MAX],
    head_bytes: u8,
    /// The opcode of the fragmented message under way.
    fragmented: Option<Opcode>,
    data: Vec<u8>,
    /// How much of `data` is known to be UTF-8.
    utf8_bytes: usize,
    control: Vec<u8>,
    message_bytes_max: usize,
}

impl Decoder {
    /// A decoder that refuses messages over `message_bytes_max`.
    pub fn new(role: Role, message_bytes_max: usize) -> Self {
        Self {
            role,
            phase: Phase::Head,
            head: [0; HEAD_BYTES_MAX],
            head_bytes: 0,
            fragmented: None,
            data: Vec::new(),
            utf8_bytes: 0,
            control: Vec::new(),
            message_bytes_max,
        }
    }

    /// Decodes `input` (unmasking in place) and hands each event to `take`, until the input ends
    /// or `take` pauses. The answer is how many bytes were consumed.
    ///
    /// # Errors
    /// When the peer breaks the protocol or a limit; the decoder must not be used afterwards.
    pub fn feed(
        &mut self,
        input: &mut [u8],
        mut take: impl FnMut(Event<'_>) -> Flow,
    ) -> Result<usize, ProtocolError> {
        let mut at = 0;
        loop {
            let (head, done) = match self.phase {
                Phase::Payload { head, done } => (head, done),
                Phase::Head => match self.read_head(&input[at..])? {
                    (used, None) => return Ok(at + used),
                    (used, Some(head)) => {
                        at += used;
                        (head, 0)
                    }
                },
            };
            let left = head.payload_bytes - done;
            let available = (input.len() - at).min(usize::try_from(left).unwrap_or(usize::MAX));
            let chunk = &mut input[at..at + available];
            if let Some(mask) = head.mask {
                apply_mask(chunk, mask, done);
            }
            at += available;
            let complete = available as u64 == left;
            let flow = if complete && done == 0 && self.is_whole(&head) {
                self.phase = Phase::Head;
                Some(whole(&head, chunk, &mut take)?)
            } else {
                self.append(&head, chunk)?;
                self.phase = Phase::Payload { head, done: done + available as u64 };
                if complete {
                    self.phase = Phase::Head;
                    self.finish(&head, &mut take)?
                } else {
                    None
                }
            };
            if flow == Some(Flow::Pause) || at == input.len() {
                return Ok(at);
            }
        }
    }

    /// Whether nothing of a message or frame is held back.
    pub fn is_idle(&self) -> bool {
        matches!(self.phase, Phase::Head) && self.head_bytes == 0 && self.fragmented.is_none()
    }

    fn read_head(&mut self, input: &[u8]) -> Result<(usize, Option<Head>), ProtocolError> {
        let before = usize::from(self.head_bytes);
        let taken = input.len().min(HEAD_BYTES_MAX - before);
        self.head[before..before + taken].copy_from_slice(&input[..taken]);
        let Some((head, length)) = Head::parse(&self.head[..before + taken])? else {
            self.head_bytes += taken as u8;
            return Ok((taken, None));
        };
        self.head_bytes = 0;
        self.check(&head)?;
        // A header that was incomplete before ends within this input.
        Ok((length - before, Some(head)))
    }

    fn check(&self, head: &Head) -> Result<(), ProtocolError> {
        match (self.role, head.mask) {
            (Role::Server, None) => return Err(ProtocolError::Unmasked),
            (Role::Client, Some(_)) => return Err(ProtocolError::Masked),
            _ => {}
        }
        match (head.opcode, self.fragmented) {
            (Opcode::Continuation, None) => return Err(ProtocolError::NothingToContinue),
            (Opcode::Text | Opcode::Binary, Some(_)) => {
                return Err(ProtocolError::ExpectedContinuation);
            }
            _ => {}
        }
        let room = (self.message_bytes_max - self.data.len()) as u64;
        if !head.opcode.is_control() && head.payload_bytes > room {
            return Err(ProtocolError::MessageTooLarge);
        }
        Ok(())
    }

    /// Whether the frame is a message by itself.
    fn is_whole(&self, head: &Head) -> bool {
        head.opcode.is_control() || (head.fin == Fin::Final && head.opcode != Opcode::Continuation)
    }

    fn append(&mut self, head: &Head, chunk: &[u8]) -> Result<(), ProtocolError> {
        if head.opcode.is_control() {
            debug_assert!(self.control.len() + chunk.len() <= CONTROL_BYTES_MAX);
            self.control.extend_from_slice(chunk);
            return Ok(());
        }
        // Grows as bytes arrive, never by what a header promises.
        self.data.extend_from_slice(chunk);
        let opcode = match head.opcode {
            Opcode::Continuation => self.fragmented,
            opcode => Some(opcode),
        };
        if opcode == Some(Opcode::Text) {
            self.utf8_bytes += valid_prefix(&self.data[self.utf8_bytes..])?;
        }
        Ok(())
    }

    fn finish(
        &mut self,
        head: &Head,
        take: &mut impl FnMut(Event<'_>) -> Flow,
    ) -> Result<Option<Flow>, ProtocolError> {
        if head.opcode.is_control() {
            let mut control = std::mem::take(&mut self.control);
            return whole(head, &mut control, take).map(Some);
        }
        let opcode = match head.opcode {
            Opcode::Continuation => self.fragmented.expect("checked with the header"),
            opcode => opcode,
        };
        if head.fin == Fin::More {
            self.fragmented = Some(opcode);
            return Ok(None);
        }
        self.fragmented = None;
        let utf8_bytes = std::mem::take(&mut self.utf8_bytes);
        let mut data = std::mem::take(&mut self.data);
        if opcode == Opcode::Text && utf8_bytes != data.len() {
            return Err(ProtocolError::NotUtf8);
        }
        whole(&Head { opcode, ..*head }, &mut data, take).map(Some)
    }
}

/// How many bytes of `bytes` are whole UTF-8 characters.
fn valid_prefix(bytes: &[u8]) -> Result<usize, ProtocolError> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(text.len()),
        Err(error) if error.error_len().is_none() => Ok(error.valid_up_to()),
        Err(_) => Err(ProtocolError::NotUtf8),
    }
}

fn whole(
    head: &Head,
    payload: &mut [u8],
    take: &mut impl FnMut(Event<'_>) -> Flow,
) -> Result<Flow, ProtocolError> {
    let event = match head.opcode {
        Opcode::Text => {
            Event::Text(std::str::from_utf8(payload).map_err(|_| ProtocolError::NotUtf8)?)
        }
        Opcode::Binary | Opcode::Continuation => Event::Binary(payload),
        Opcode::Ping => Event::Ping(payload),
        Opcode::Pong => Event::Pong(payload),
        Opcode::Close => Event::Close(close_code(payload)?),
    };
    Ok(take(event))
}

fn close_code(payload: &[u8]) -> Result<Option<u16>, ProtocolError> {
    if payload.is_empty() {
        return Ok(None);
    }
    let Some((code, reason)) = payload.split_first_chunk::<2>() else {
        return Err(ProtocolError::BadClose);
    };
    let code = u16::from_be_bytes(*code);
    if !is_valid_received(code) {
        return Err(ProtocolError::BadClose);
    }
    std::str::from_utf8(reason).map_err(|_| ProtocolError::NotUtf8)?;
    Ok(Some(code))
}

#[cfg(test)]
#[path = "decoder_test.rs"]
mod tests;
