//! Identifiers that clients choose.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// The longest device id, in bytes. MOSA ids are hashes or names; 128 bytes hold any of them.
pub const DEVICE_ID_BYTES_MAX: usize = 128;
/// The longest message id, in bytes. UUIDs take 36.
pub const MESSAGE_ID_BYTES_MAX: usize = 128;

/// Why a text is not an identifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// The text is empty.
    #[error("must not be empty")]
    Empty,
    /// The text is too long.
    #[error("must be at most {bytes_max} bytes")]
    TooLong {
        /// The limit.
        bytes_max: usize,
    },
    /// The text has a control character or white space at an end.
    #[error("must not contain control characters")]
    Control,
}

fn check(text: &str, bytes_max: usize) -> Result<(), IdError> {
    if text.is_empty() {
        return Err(IdError::Empty);
    }
    if text.len() > bytes_max {
        return Err(IdError::TooLong { bytes_max });
    }
    // Most ids are plain, and each replica checks each.
    let is_plain = text.bytes().all(|byte| (b' '..0x7F).contains(&byte));
    if !is_plain && text.chars().any(char::is_control) {
        return Err(IdError::Control);
    }
    Ok(())
}

macro_rules! id {
    ($(#[$meta:meta])* $name:ident, $bytes_max:expr) => {
        $(#[$meta])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks `text`.
            ///
            /// # Errors
            /// When it is empty, too long, or has control characters.
            pub fn new(text: &str) -> Result<Self, IdError> {
                check(text, $bytes_max)?;
                Ok(Self(Arc::from(text)))
            }

            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Visitor;
                impl de::Visitor<'_> for Visitor {
                    type Value = $name;
                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str("an identifier")
                    }
                    fn visit_str<E: de::Error>(self, text: &str) -> Result<$name, E> {
                        $name::new(text).map_err(E::custom)
                    }
                }
                deserializer.deserialize_str(Visitor)
            }
        }

        /// Identities never reach a log: only the length shows.
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({} bytes)"), self.0.len())
            }
        }
    };
}

id!(
    /// A device: a phone, a gateway, later a mesh node. It has one mailbox.
    DeviceId, DEVICE_ID_BYTES_MAX
);
id!(
    /// A message's id, chosen by its sender; unique per (sender, recipient).
    MessageId, MESSAGE_ID_BYTES_MAX
);
