//! The words of the relay: identifiers, priorities, messages.

mod id;
mod key;
mod message;
mod priority;

pub use id::{DEVICE_ID_BYTES_MAX, DeviceId, IdError, MESSAGE_ID_BYTES_MAX, MessageId};
pub use key::{KeyHasher, MailboxKey, MailboxKeyHasher, MailboxMap, SLOTS, ShardId, Slot};
pub use message::{CONTENT_BYTES_MAX, Message};
pub use priority::{PRIORITIES, Priority};
