//! API keys on the node that is asked: their text, their hash, and the cache that lives under the
//! leases of their shards (design decision 21).

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use parking_lot::Mutex;
use subtle::ConstantTimeEq;

use super::{links::Grant, wire::KeyRecord};
use crate::{
    ApiKey, Surroundings,
    model::{MailboxKey, SLOTS, ShardId, Slot},
};

/// What every key's text begins with.
const PREFIX: &str = "hg1_";
/// Slot (2), key id (8), secret (32).
const KEY_BYTES: usize = 42;
/// Keys a node keeps: ten times the connections it is sized for.
const CACHED_MAX: usize = 100_000;

/// An API key's parts.
pub(crate) struct KeyParts {
    pub(crate) slot: Slot,
    pub(crate) key_id: u64,
    secret: [u8; 32],
}

impl KeyParts {
    /// A new key for a device of `slot`.
    pub(crate) fn fresh(slot: Slot, surroundings: &Surroundings) -> Self {
        let mut secret = [0; 32];
        surroundings.entropy.fill(&mut secret);
        Self { slot, key_id: surroundings.random(), secret }
    }

    /// Reads a key's text; `None` for what is none.
    pub(crate) fn parse(key: &ApiKey) -> Option<Self> {
        let text = key.expose().strip_prefix(PREFIX)?;
        let mut bytes = [0; KEY_BYTES];
        // Longer text is refused by the decoder, for want of room.
        let length = URL_SAFE_NO_PAD.decode_slice(text, &mut bytes).ok()?;
        if length != KEY_BYTES {
            return None;
        }
        let slot = u16::from_be_bytes([bytes[0], bytes[1]]);
        let key_id = u64::from_be_bytes(bytes[2..10].try_into().ok()?);
        let secret = bytes[10..].try_into().ok()?;
        (slot < SLOTS).then_some(Self { slot: Slot(slot), key_id, secret })
    }

    /// The text, for its owner.
    pub(crate) fn text(&self) -> ApiKey {
        let mut bytes = Vec::with_capacity(KEY_BYTES);
        bytes.extend_from_slice(&self.slot.0.to_be_bytes());
        bytes.extend_from_slice(&self.key_id.to_be_bytes());
        bytes.extend_from_slice(&self.secret);
        ApiKey(format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes)))
    }

    /// What the shard keeps of it: BLAKE3 of slot, key id and secret under the cluster's key. The
    /// id salts it: equal secrets have different hashes.
    pub(crate) fn hash(&self, secret_key: &[u8; 32]) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_keyed(secret_key);
        hasher.update(b"heliograph api key v1");
        hasher.update(&self.slot.0.to_be_bytes());
        hasher.update(&self.key_id.to_be_bytes());
        hasher.update(&self.secret);
        *hasher.finalize().as_bytes()
    }

    /// Whether this is the key that the shard keeps; takes the same time for every wrong secret.
    pub(crate) fn is(&self, record: &KeyRecord, secret_key: &[u8; 32]) -> bool {
        self.hash(secret_key).ct_eq(&record.hash).into()
    }
}

#[derive(Clone)]
struct Cached {
    record: KeyRecord,
    shard: ShardId,
    grant: Grant,
}

/// Keys of devices that use this node. An entry counts only while its grant does.
#[derive(Default)]
pub(crate) struct KeyCache {
    entries: Mutex<BTreeMap<(Slot, u64), Cached>>,
    /// Counts revocations: what was asked for before one must not be kept after it.
    drops: AtomicU64,
}

impl KeyCache {
    /// The key, with what it was granted under.
    pub(crate) fn get(&self, slot: Slot, key_id: u64) -> Option<(KeyRecord, ShardId, Grant)> {
        let entries = self.entries.lock();
        let cached = entries.get(&(slot, key_id))?;
        Some((cached.record.clone(), cached.shard, cached.grant))
    }

    /// To be taken before a key is asked for.
    pub(crate) fn revocations(&self) -> u64 {
        self.drops.load(Ordering::Acquire)
    }

    /// Keeps a key that was asked for when `revocations` had this value; when there is no room,
    /// those whose grant does not count make some.
    pub(crate) fn keep(
        &self,
        (slot, key_id): (Slot, u64),
        record: KeyRecord,
        (shard, grant): (ShardId, Grant),
        revocations: u64,
        counts: impl Fn(ShardId, Grant) -> bool,
    ) -> Kept {
        let mut entries = self.entries.lock();
        if self.drops.load(Ordering::Acquire) != revocations {
            return Kept::Overtaken;
        }
        if entries.len() >= CACHED_MAX {
            entries.retain(|_, cached| counts(cached.shard, cached.grant));
        }
        if entries.len() < CACHED_MAX {
            entries.insert((slot, key_id), Cached { record, shard, grant });
        }
        Kept::Yes
    }

    /// Forgets revoked keys.
    pub(crate) fn drop_keys(&self, mailbox: &MailboxKey, key_id: Option<u64>) {
        let mut entries = self.entries.lock();
        self.drops.fetch_add(1, Ordering::AcqRel);
        let slot = mailbox.slot();
        match key_id {
            Some(key_id) => drop(entries.remove(&(slot, key_id))),
            None => {
                let of_device: Vec<_> = entries
                    .range((slot, 0)..=(slot, u64::MAX))
                    .filter(|(_, cached)| cached.record.mailbox == *mailbox)
                    .map(|(key, _)| *key)
                    .collect();
                for key in of_device {
                    entries.remove(&key);
                }
            }
        }
    }
}

/// Whether an answer about a key may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kept {
    /// It may.
    Yes,
    /// A revocation came between question and answer: ask again.
    Overtaken,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{DeviceId, KeyHasher};

    fn parts(slot: u16) -> KeyParts {
        KeyParts { slot: Slot(slot), key_id: 0x0102_0304_0506_0708, secret: [7; 32] }
    }

    #[test]
    fn the_text_of_a_key_keeps_its_form() {
        let text = parts(0x0abc).text();
        assert_eq!(text.expose(), "hg1_CrwBAgMEBQYHCAcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcH");
        let read = KeyParts::parse(&text).unwrap();
        assert_eq!((read.slot, read.key_id), (Slot(0x0abc), 0x0102_0304_0506_0708));
        assert_eq!(read.secret, [7; 32]);
    }

    #[test]
    fn other_texts_are_no_keys() {
        let good = parts(1).text().expose().to_owned();
        let wrong = [
            String::new(),
            "hg1_".to_owned(),
            good[4..].to_owned(),
            format!("{good}A"),
            format!("{good}AAAA"),
            good[..59].to_owned(),
            good.replace("hg1_", "hg2_"),
            format!("hg1_{}", "!".repeat(56)),
            "k".repeat(10_000),
            parts(SLOTS).text().expose().to_owned(),
        ];
        for text in wrong {
            assert!(KeyParts::parse(&ApiKey::from_text(&text)).is_none());
        }
    }

    #[test]
    fn only_the_very_key_passes() {
        let record = |key: &KeyParts| KeyRecord {
            device: DeviceId::new("d").unwrap(),
            mailbox: MailboxKey([0; 16]),
            hash: key.hash(&[1; 32]),
        };
        let key = parts(1);
        assert!(key.is(&record(&key), &[1; 32]));
        assert!(!key.is(&record(&key), &[2; 32]));
        assert!(!key.is(&record(&parts(2)), &[1; 32]));
        let other = KeyParts { secret: [8; 32], ..parts(1) };
        assert!(!other.is(&record(&key), &[1; 32]));
    }

    #[test]
    fn a_key_asked_for_before_a_revocation_is_not_kept_after_it() {
        let mailbox = KeyHasher::new([0; 32]).mailbox(&DeviceId::new("d").unwrap());
        let record = KeyRecord { device: DeviceId::new("d").unwrap(), mailbox, hash: [0; 32] };
        let grant = Grant { node: heliograph_transport::NodeId(1), lease: 1, term: 1 };
        let under = (ShardId(0), grant);
        let cache = KeyCache::default();
        let before = cache.revocations();
        let keep = |id, before| {
            cache.keep((mailbox.slot(), id), record.clone(), under, before, |_, _| true)
        };
        assert_eq!(keep(1, before), Kept::Yes);
        assert_eq!(keep(2, before), Kept::Yes);
        cache.drop_keys(&mailbox, Some(1));
        assert!(cache.get(mailbox.slot(), 1).is_none());
        assert!(cache.get(mailbox.slot(), 2).is_some());
        assert_eq!(keep(1, before), Kept::Overtaken);
        assert!(cache.get(mailbox.slot(), 1).is_none());
        cache.drop_keys(&mailbox, None);
        assert!(cache.get(mailbox.slot(), 2).is_none());
    }
}
