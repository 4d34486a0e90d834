//! Tickets: a node that goes away gives each connection one for the next node, which takes it once
//! in place of the API key.
//!
//! A ticket is `hgt1_` and unpadded base64url over target's boot (u64 BE) ‖ its node id (u16 BE) ‖
//! expiry by the target's uptime in milliseconds (u64 BE) ‖ nonce (16) ‖ key id (u64 BE) ‖ device id
//! ‖ BLAKE3 of all before (32), keyed from the cluster's secret. Expiry counts by the target's own
//! monotonic clock, and a restarted target takes none of its earlier tickets: no wall clock is
//! asked, and what a restart forgets it need not know.

use std::{collections::BTreeMap, time::Duration};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use heliograph_transport::NodeId;
use parking_lot::Mutex;
use subtle::ConstantTimeEq;

use crate::{ResumeTicket, model::DeviceId, neighbours::Home};

/// What every ticket's text begins with.
const PREFIX: &str = "hgt1_";
/// How long a ticket may be used: reconnecting takes seconds at most, also in a paced herd.
pub(crate) const TICKET_LIFE: Duration = Duration::from_secs(30);
/// How far the issuer's idea of the target's uptime may be ahead of it: never, but for rounding
/// and a beat that overtook a pause of the target.
const UPTIME_SLACK: Duration = Duration::from_secs(5);
/// Boot, node, expiry, nonce, key id.
const FIELDS_BYTES: usize = 8 + 2 + 8 + 16 + 8;
const MAC_BYTES: usize = 32;
/// Longer text is no ticket: the longest device id has 128 bytes.
const TEXT_BYTES_MAX: usize = 512;
/// Used tickets remembered until they expire: more than a node has connections. Past it tickets
/// are refused, and their clients authenticate with their keys.
const USED_MAX: usize = 131_072;

/// Whom a ticket stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Bearer {
    pub(crate) device: DeviceId,
    pub(crate) key_id: u64,
}

fn mac_key(secret_key: &[u8; 32]) -> [u8; 32] {
    blake3::derive_key("heliograph 2026 resume ticket v1", secret_key)
}

/// Writes a ticket for `bearer` to `home`.
pub(crate) fn issue(
    secret_key: &[u8; 32],
    home: &Home,
    bearer: &Bearer,
    nonce: [u8; 16],
) -> ResumeTicket {
    let life = u64::try_from(TICKET_LIFE.as_millis()).unwrap_or(u64::MAX);
    let expires_ms = home.uptime_ms.saturating_add(life);
    let device = bearer.device.as_str().as_bytes();
    let mut bytes = Vec::with_capacity(FIELDS_BYTES + device.len() + MAC_BYTES);
    bytes.extend_from_slice(&home.boot.to_be_bytes());
    bytes.extend_from_slice(&home.node.0.to_be_bytes());
    bytes.extend_from_slice(&expires_ms.to_be_bytes());
    bytes.extend_from_slice(&nonce);
    bytes.extend_from_slice(&bearer.key_id.to_be_bytes());
    bytes.extend_from_slice(device);
    let mac = blake3::keyed_hash(&mac_key(secret_key), &bytes);
    bytes.extend_from_slice(mac.as_bytes());
    ResumeTicket::from_text(&format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes)))
}

/// The target's side: takes each ticket once.
#[derive(Debug)]
pub(crate) struct Tickets {
    node: NodeId,
    boot: u64,
    /// Nonces of used tickets, by expiry.
    used: Mutex<BTreeMap<(u64, [u8; 16]), ()>>,
}

impl Tickets {
    pub(crate) fn new(node: NodeId, boot: u64) -> Self {
        Self { node, boot, used: Mutex::default() }
    }

    /// Takes a ticket at `uptime_ms`; `None` for one that is not for this process, expired, used or
    /// forged.
    pub(crate) fn take(
        &self,
        secret_key: &[u8; 32],
        ticket: &ResumeTicket,
        uptime_ms: u64,
    ) -> Option<Bearer> {
        let text = ticket.expose().strip_prefix(PREFIX)?;
        if text.len() > TEXT_BYTES_MAX {
            return None;
        }
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let (signed, mac) = bytes.split_at_checked(bytes.len().checked_sub(MAC_BYTES)?)?;
        let right = blake3::keyed_hash(&mac_key(secret_key), signed);
        if !bool::from(right.as_bytes().ct_eq(mac)) {
            return None;
        }
        let (fields, device) = signed.split_at_checked(FIELDS_BYTES)?;
        let number = |at: usize| Some(u64::from_be_bytes(fields.get(at..at + 8)?.try_into().ok()?));
        let node = u16::from_be_bytes(fields.get(8..10)?.try_into().ok()?);
        if number(0)? != self.boot || node != self.node.0 {
            return None;
        }
        let (expires_ms, nonce) = (number(10)?, fields.get(18..34)?.try_into().ok()?);
        let bearer = Bearer {
            device: DeviceId::new(std::str::from_utf8(device).ok()?).ok()?,
            key_id: number(34)?,
        };
        self.spend(expires_ms, nonce, uptime_ms).then_some(bearer)
    }

    /// Notes the use of a nonce; answers whether it is the first and in time.
    fn spend(&self, expires_ms: u64, nonce: [u8; 16], uptime_ms: u64) -> bool {
        let latest = u64::try_from((TICKET_LIFE + UPTIME_SLACK).as_millis()).unwrap_or(u64::MAX);
        if expires_ms < uptime_ms || expires_ms - uptime_ms > latest {
            return false;
        }
        let mut used = self.used.lock();
        *used = used.split_off(&(uptime_ms, [0; 16]));
        used.len() < USED_MAX && used.insert((expires_ms, nonce), ()).is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: [u8; 32] = [3; 32];

    fn home() -> Home {
        Home { node: NodeId(2), boot: 0x0102_0304_0506_0708, uptime_ms: 10_000, url: None }
    }

    fn bearer() -> Bearer {
        Bearer { device: DeviceId::new("bob").unwrap(), key_id: 0x1122_3344_5566_7788 }
    }

    fn target() -> Tickets {
        Tickets::new(NodeId(2), home().boot)
    }

    fn life_ms() -> u64 {
        u64::try_from(TICKET_LIFE.as_millis()).unwrap()
    }

    #[test]
    fn the_text_of_a_ticket_keeps_its_form() {
        let ticket = issue(&SECRET, &home(), &bearer(), [9; 16]);
        let fields = URL_SAFE_NO_PAD.decode(&ticket.expose()[PREFIX.len()..]).unwrap();
        let hex: String = fields[..FIELDS_BYTES + 3].iter().map(|b| format!("{b:02x}")).collect();
        let wanted = "0102030405060708".to_owned()
            + "0002"
            + "0000000000009c40"
            + &"09".repeat(16)
            + "1122334455667788"
            + "626f62";
        assert_eq!(hex, wanted);
        assert_eq!(fields.len(), FIELDS_BYTES + 3 + MAC_BYTES);
    }

    #[test]
    fn a_ticket_is_taken_once() {
        let (tickets, ticket) = (target(), issue(&SECRET, &home(), &bearer(), [9; 16]));
        assert_eq!(tickets.take(&SECRET, &ticket, 11_000), Some(bearer()));
        assert_eq!(tickets.take(&SECRET, &ticket, 11_000), None);
        // Up to its last moment.
        assert_eq!(tickets.take(&SECRET, &ticket, 10_000 + life_ms()), None);
        let other = issue(&SECRET, &home(), &bearer(), [8; 16]);
        assert_eq!(tickets.take(&SECRET, &other, 11_000), Some(bearer()));
    }

    #[test]
    fn only_the_target_process_takes_it() {
        let ticket = issue(&SECRET, &home(), &bearer(), [9; 16]);
        let elsewhere = Tickets::new(NodeId(3), home().boot);
        assert_eq!(elsewhere.take(&SECRET, &ticket, 11_000), None);
        let restarted = Tickets::new(NodeId(2), home().boot + 1);
        assert_eq!(restarted.take(&SECRET, &ticket, 11_000), None);
        assert_eq!(target().take(&[4; 32], &ticket, 11_000), None, "another cluster");
    }

    #[test]
    fn it_expires_and_is_not_taken_from_the_far_future() {
        let ticket = issue(&SECRET, &home(), &bearer(), [9; 16]);
        assert_eq!(target().take(&SECRET, &ticket, 10_001 + life_ms()), None);
        assert_eq!(target().take(&SECRET, &ticket, 1_000), None);
        assert_eq!(target().take(&SECRET, &ticket, 10_000 + life_ms()), Some(bearer()));
    }

    #[test]
    fn any_changed_byte_voids_it() {
        let ticket = issue(&SECRET, &home(), &bearer(), [9; 16]);
        let bytes = URL_SAFE_NO_PAD.decode(&ticket.expose()[PREFIX.len()..]).unwrap();
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            let text = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(changed));
            assert_eq!(target().take(&SECRET, &ResumeTicket::from_text(&text), 11_000), None);
        }
        for text in ["", "hgt1_", "hgt1_!", "hg1_AAAA", &format!("hgt1_{}", "A".repeat(10_000))] {
            assert_eq!(target().take(&SECRET, &ResumeTicket::from_text(text), 11_000), None);
        }
    }

    #[test]
    fn used_tickets_are_forgotten_once_they_expired() {
        let tickets = target();
        for count in 0..100_u64 {
            let later = Home { uptime_ms: 10_000 + count * 1_000, ..home() };
            let ticket = issue(&SECRET, &later, &bearer(), [9; 16]);
            assert!(tickets.take(&SECRET, &ticket, later.uptime_ms).is_some());
            assert!(tickets.used.lock().len() <= 31);
        }
    }
}
