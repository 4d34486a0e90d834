//! The keyed fingerprints by which a shard knows a message again (design decision 20).

use crate::Outgoing;

/// See [`crate::machine::Enqueue`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fingerprints {
    /// Of recipient and message id.
    pub(crate) message: u128,
    /// Of the sender.
    pub(crate) sender: u64,
    /// Of the content.
    pub(crate) content: u64,
}

impl Fingerprints {
    /// Those of `message` under the cluster's key. The same on every node.
    pub(crate) fn of(message: &Outgoing, key: &[u8; 32]) -> Self {
        let recipient = message.recipient.as_str().as_bytes();
        let id = message.message_id.as_str().as_bytes();
        let whole = digest(key, b"message", [recipient, id]);
        let sender = digest(key, b"sender", [message.sender.as_str().as_bytes()]);
        let content = digest(key, b"content", [&message.content]);
        let mut wide = [0; 16];
        wide.copy_from_slice(&whole[..16]);
        Self {
            message: u128::from_le_bytes(wide),
            sender: narrow(&sender),
            content: narrow(&content),
        }
    }
}

/// What is hashed in one go. 1 KiB: a chunk of BLAKE3; nearly all ids and most contents fit.
const WHOLE_BYTES_MAX: usize = 1024;

fn digest<const N: usize>(key: &[u8; 32], kind: &[u8], parts: [&[u8]; N]) -> [u8; 32] {
    // With its length: what is at a part's end cannot move to the next one's beginning.
    let lengths = parts.map(|part| (part.len() as u64).to_le_bytes());
    let pieces = || {
        let parts = lengths.iter().zip(parts).flat_map(|(length, part)| [&length[..], part]);
        std::iter::once(kind).chain(parts)
    };
    let bytes: usize = pieces().map(<[u8]>::len).sum();
    if bytes <= WHOLE_BYTES_MAX {
        // A hasher is two kilobytes of tables to be set up; a chunk needs none.
        let mut whole = [0; WHOLE_BYTES_MAX];
        let mut at = 0;
        for piece in pieces() {
            whole[at..at + piece.len()].copy_from_slice(piece);
            at += piece.len();
        }
        return *blake3::keyed_hash(key, &whole[..bytes]).as_bytes();
    }
    let mut hasher = blake3::Hasher::new_keyed(key);
    for piece in pieces() {
        hasher.update(piece);
    }
    *hasher.finalize().as_bytes()
}

fn narrow(digest: &[u8; 32]) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&digest[..8]);
    u64::from_le_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::model::{DeviceId, MessageId, Priority};

    fn of(sender: &str, recipient: &str, id: &str, content: &'static str) -> Fingerprints {
        let message = Outgoing {
            sender: DeviceId::new(sender).unwrap(),
            recipient: DeviceId::new(recipient).unwrap(),
            message_id: MessageId::new(id).unwrap(),
            priority: Priority::Normal,
            ttl: None,
            content: Bytes::from_static(content.as_bytes()),
        };
        Fingerprints::of(&message, &[3; 32])
    }

    #[test]
    fn a_digest_is_that_of_its_pieces_whatever_its_size() {
        for bytes in [0, 1, 500, WHOLE_BYTES_MAX - 15, WHOLE_BYTES_MAX - 14, 5_000] {
            let content = vec![7; bytes];
            let mut hasher = blake3::Hasher::new_keyed(&[3; 32]);
            hasher.update(b"content");
            hasher.update(&(bytes as u64).to_le_bytes());
            hasher.update(&content);
            let expected = *hasher.finalize().as_bytes();
            assert_eq!(digest(&[3; 32], b"content", [&content]), expected, "{bytes} bytes");
        }
    }

    #[test]
    fn each_part_tells_on_its_own_fingerprint_alone() {
        let base = of("a", "b", "id", "x");
        assert_eq!(of("a", "b", "id", "x"), base);
        let other_sender = of("c", "b", "id", "x");
        assert_ne!(other_sender.sender, base.sender);
        assert_eq!((other_sender.message, other_sender.content), (base.message, base.content));
        let other_content = of("a", "b", "id", "y");
        assert_ne!(other_content.content, base.content);
        assert_eq!((other_content.message, other_content.sender), (base.message, base.sender));
        assert_ne!(of("a", "bi", "d", "x").message, base.message);
    }

    #[test]
    fn fingerprints_keep_their_values() {
        // They are in the rows of running clusters.
        let base = of("a", "b", "id", "x");
        let Fingerprints { message, sender, content } = base;
        assert_eq!(
            format!("{message:032x} {sender:016x} {content:016x}"),
            "51e7f0e795689e9c3cc271a90d09971e 7957e9608466e34a 54ab39c57bfa05a0"
        );
    }
}
