//! Storage keys: what a node writes is sealed with one, and forgotten with it.
//!
//! A disk cannot be told to forget: a log segment, a page of sled's, a block of an SSD outlives what
//! was deleted in it. So bodies are written sealed (AES-256-GCM) with a key of the current *key
//! epoch*, and are forgotten when the key is destroyed. The owner of the [`Keyring`] rotates it;
//! what still lives under older keys is then moved forward by the stores, and the keys are destroyed.
//!
//! Promises: a key is durable before it seals anything; it is destroyed only once every store has
//! said that nothing living needs it; no nonce is ever used twice under a key. The reasons are in
//! `docs/adr/0003-storage-keys.md`, the bytes in `docs/reference/key-format.md`.
//!
//! - `cipher`: one key, sealing and opening; `key_file`: its bytes on disk.
//! - `key_disk`: where key files are; `ring`: all keys of a node; `user`: what a store owes the ring.

mod cipher;
mod key_disk;
mod key_file;
mod ring;
#[cfg(test)]
mod ring_test;
mod user;

pub(crate) use cipher::{SEAL_BYTES, SEALED_AT};
pub use key_disk::MemoryKeyDisk;
pub use ring::{Entropy, KeyStatus, Keyring, Retirement};
pub(crate) use ring::{KeyView, Sealer};
pub(crate) use user::{KeyUser, Reseal};

/// No storage key: the body is stored as handed in.
pub(crate) const KEY_NONE: u32 = 0;
