//! One storage key: seals bodies and opens them.
//!
//! A sealed body is a counter (8 bytes, little-endian), the ciphertext, and a tag (16 bytes). The
//! nonce is four zero bytes and the counter. A key seals only in the life of the process that drew
//! it, and there counts its seals: so no nonce is used twice, whatever is killed or restored from
//! an old image, since the next process draws a key of its own.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, Tag, UnboundKey};
use zeroize::Zeroizing;

/// The length of a key.
pub(super) const KEY_BYTES: usize = 32;
/// What sealing adds to a body.
pub(crate) const SEAL_BYTES: usize = COUNTER_BYTES + TAG_BYTES;

/// Where in a sealed body what it opens to begins.
pub(crate) const SEALED_AT: usize = COUNTER_BYTES;

const COUNTER_BYTES: usize = 8;
const TAG_BYTES: usize = 16;

/// A key's secret bytes, wiped when dropped.
pub(super) type Secret = Zeroizing<[u8; KEY_BYTES]>;

/// A key.
pub(super) struct StorageKey {
    number: u32,
    cipher: LessSafeKey,
    /// The next nonce.
    counter: AtomicU64,
    /// Who may be sealing with it now.
    sealers: AtomicUsize,
}

impl StorageKey {
    pub(super) fn new(number: u32, secret: &Secret) -> StorageKey {
        let key = UnboundKey::new(&AES_256_GCM, &secret[..]).expect("the length is AES-256's");
        let cipher = LessSafeKey::new(key);
        StorageKey { number, cipher, counter: AtomicU64::new(0), sealers: AtomicUsize::new(0) }
    }

    pub(super) fn number(&self) -> u32 {
        self.number
    }

    /// A counter that nothing is sealed with.
    pub(super) fn unique(&self) -> u64 {
        self.counter.fetch_add(1, Ordering::Relaxed)
    }

    /// Appends `plain`, sealed, to `out`. What is sealed opens only with the same `aad`.
    pub(super) fn seal(&self, aad: &[u8], plain: &[u8], out: &mut Vec<u8>) {
        // 2^64 seals do not happen.
        let counter = self.unique().to_le_bytes();
        out.extend_from_slice(&counter);
        let start = out.len();
        out.extend_from_slice(plain);
        let sealed = self.cipher.seal_in_place_separate_tag(
            nonce(counter),
            Aad::from(aad),
            &mut out[start..],
        );
        let tag = sealed.expect("bodies are far below AES-GCM's 64 GiB");
        out.extend_from_slice(tag.as_ref());
    }

    /// Opens what was sealed, in place; answers the body, or `None` where it is not what was sealed.
    pub(super) fn open<'a>(&self, aad: &[u8], sealed: &'a mut [u8]) -> Option<&'a mut [u8]> {
        let (counter, body) = sealed.split_first_chunk_mut::<COUNTER_BYTES>()?;
        self.cipher.open_in_place(nonce(*counter), Aad::from(aad), body).ok()
    }

    /// Opens what was sealed and answers the body, in memory of just its length; `None` where it is not
    /// what was sealed.
    pub(super) fn open_copy(&self, aad: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
        let (counter, sealed) = sealed.split_first_chunk::<COUNTER_BYTES>()?;
        let (body, tag) = sealed.split_last_chunk::<TAG_BYTES>()?;
        let (mut body, nonce) = (body.to_vec(), nonce(*counter));
        let (aad, tag) = (Aad::from(aad), Tag::from(*tag));
        self.cipher.open_in_place_separate_tag(nonce, aad, tag, &mut body, 0..).ok()?;
        Some(body)
    }

    pub(super) fn begin_sealing(&self) {
        self.sealers.fetch_add(1, Ordering::AcqRel);
    }

    pub(super) fn end_sealing(&self) {
        self.sealers.fetch_sub(1, Ordering::AcqRel);
    }

    /// Whether somebody may be sealing with it.
    pub(super) fn is_sealing(&self) -> bool {
        self.sealers.load(Ordering::Acquire) > 0
    }
}

fn nonce(counter: [u8; COUNTER_BYTES]) -> Nonce {
    let mut bytes = [0; NONCE_LEN];
    bytes[NONCE_LEN - COUNTER_BYTES..].copy_from_slice(&counter);
    Nonce::assume_unique_for_key(bytes)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn key() -> StorageKey {
        StorageKey::new(7, &Zeroizing::new([7; KEY_BYTES]))
    }

    #[test]
    fn sealed_body_opens_with_key_and_place_alone() {
        let key = key();
        for body in [&b""[..], b"x", &[9; 70_000]] {
            let mut sealed = b"before".to_vec();
            key.seal(b"place", body, &mut sealed);
            assert_eq!(sealed.len(), 6 + body.len() + SEAL_BYTES);
            let sealed = &sealed[6..];
            assert_eq!(key.open(b"place", &mut sealed.to_vec()).unwrap(), body);
            assert_eq!(key.open_copy(b"place", sealed).unwrap(), body);
            assert!(key.open_copy(b"other", sealed).is_none());
            assert!(key.open(b"other", &mut sealed.to_vec()).is_none());
            let other = StorageKey::new(7, &Zeroizing::new([8; KEY_BYTES]));
            assert!(other.open(b"place", &mut sealed.to_vec()).is_none());
            for at in [0, 7, sealed.len() / 2, sealed.len() - 1] {
                let mut flipped = sealed.to_vec();
                flipped[at] ^= 1;
                assert!(key.open_copy(b"place", &flipped).is_none(), "byte {at}");
                assert!(key.open(b"place", &mut flipped).is_none(), "byte {at}");
            }
            assert!(key.open(b"place", &mut sealed[..SEAL_BYTES - 1].to_vec()).is_none());
            assert!(key.open_copy(b"place", &sealed[..SEAL_BYTES - 1]).is_none());
        }
    }

    #[test]
    fn nonces_never_repeat() {
        let key = std::sync::Arc::new(key());
        let threads = [(); 4].map(|()| {
            let key = key.clone();
            std::thread::spawn(move || {
                let seal = |_| {
                    let mut sealed = Vec::new();
                    key.seal(b"", b"body", &mut sealed);
                    <[u8; 8]>::try_from(&sealed[..8]).unwrap()
                };
                (0..1_000).map(seal).collect::<Vec<_>>()
            })
        });
        let nonces: BTreeSet<_> = threads.into_iter().flat_map(|t| t.join().unwrap()).collect();
        assert_eq!(nonces.len(), 4_000);
    }

    /// Bytes that an independent implementation (Python's `cryptography`) seals alike.
    #[test]
    fn layout_stays() {
        let mut sealed = Vec::new();
        let key = key();
        key.counter.store(0x0102, Ordering::Relaxed);
        key.seal(b"place", b"body", &mut sealed);
        let hex: String = sealed.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "0201000000000000940b9756108a4ed7b2721af7c9ff8da4562033c6");
    }
}
