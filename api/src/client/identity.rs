//! A device's key pair, and the file that keeps it.

use std::{
    fs::OpenOptions,
    io::{ErrorKind, Write as _},
    path::Path,
};

use ed25519_dalek::{Signer as _, SigningKey};
use zeroize::Zeroizing;

/// Why a key file cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyFileError {
    /// It cannot be read or written.
    #[error("cannot use the key file")]
    Io(#[from] std::io::Error),
    /// It holds something else.
    #[error("the key file must hold 64 hex digits")]
    Content,
}

/// An Ed25519 key pair. Its secret is wiped from memory when it is dropped.
#[derive(Clone)]
pub struct DeviceKey(SigningKey);

impl std::fmt::Debug for DeviceKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DeviceKey(…)")
    }
}

impl DeviceKey {
    /// A fresh key.
    pub fn generate() -> Self {
        let mut secret = Zeroizing::new([0; 32]);
        getrandom::fill(secret.as_mut()).expect("the operating system has randomness");
        Self(SigningKey::from_bytes(&secret))
    }

    /// The key of a secret.
    pub fn from_secret(secret: &[u8; 32]) -> Self {
        Self(SigningKey::from_bytes(secret))
    }

    /// Reads the key from `path`; makes one there, readable by its owner alone, when the file does
    /// not exist.
    ///
    /// # Errors
    /// When the file cannot be read or written, or holds something else.
    pub fn load_or_generate(path: &Path) -> Result<Self, KeyFileError> {
        match std::fs::read_to_string(path).map(Zeroizing::new) {
            Ok(text) => {
                let mut secret = Zeroizing::new([0; 32]);
                hex::decode_to_slice(text.trim(), secret.as_mut())
                    .map_err(|_| KeyFileError::Content)?;
                Ok(Self::from_secret(&secret))
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let key = Self::generate();
                key.create(path)?;
                Ok(key)
            }
            Err(error) => Err(error.into()),
        }
    }

    fn create(&self, path: &Path) -> Result<(), KeyFileError> {
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let text = Zeroizing::new(hex::encode(Zeroizing::new(self.0.to_bytes())) + "\n");
        let mut file = options.open(path)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        Ok(())
    }

    /// The public key.
    pub fn public(&self) -> [u8; 32] {
        self.0.verifying_key().to_bytes()
    }

    /// Signs.
    pub fn sign(&self, text: &[u8]) -> [u8; 64] {
        self.0.sign(text).to_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_file_is_made_once_and_kept_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("device.key");
        let made = DeviceKey::load_or_generate(&path).unwrap();
        let read = DeviceKey::load_or_generate(&path).unwrap();
        assert_eq!(made.public(), read.public());
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        }
        std::fs::write(&path, "no key").unwrap();
        assert!(matches!(DeviceKey::load_or_generate(&path), Err(KeyFileError::Content)));
    }
}
