//! How a batch stands in the log: a version byte and positional MessagePack.

use bytes::Bytes;

use super::CommandBatch;

/// The version of every batch written today.
const VERSION: u8 = 1;

/// Bytes of a command besides its content, about.
const COMMAND_BYTES: usize = 192;

/// Why bytes are not a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// There is no version byte.
    #[error("the batch is empty")]
    Empty,
    /// This build does not know the version.
    #[error("the batch has version {0}, which this build does not read")]
    Version(u8),
    /// The rest is not a batch.
    #[error("the batch is malformed")]
    Malformed,
}

impl CommandBatch {
    /// The batch as it stands in the log.
    pub fn encode(&self) -> Bytes {
        let contents: usize = self.commands.iter().map(super::Command::content_bytes).sum();
        let mut bytes = Vec::with_capacity(16 + contents + self.commands.len() * COMMAND_BYTES);
        bytes.push(VERSION);
        rmp_serde::encode::write(&mut bytes, self)
            .expect("commands are plain data and memory takes them");
        Bytes::from(bytes)
    }

    /// Reads what [`CommandBatch::encode`] wrote. Contents are copied, so that a message does not
    /// keep its whole batch in memory.
    ///
    /// # Errors
    /// When the bytes are not a batch of a known version.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        match bytes.split_first() {
            Some((&VERSION, body)) => {
                rmp_serde::from_slice(body).map_err(|_| DecodeError::Malformed)
            }
            Some((&version, _)) => Err(DecodeError::Version(version)),
            None => Err(DecodeError::Empty),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        machine::{
            Command,
            test_support::{mailbox, message, register},
        },
        model::Priority,
    };

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn one(command: Command) -> CommandBatch {
        CommandBatch { time_ms: 1, commands: vec![command] }
    }

    fn bytes_of(command: Command) -> String {
        hex(&one(command).encode())
    }

    #[test]
    fn batches_keep_their_bytes() {
        let mut enqueue = message(0xab, "s", "m", "content");
        enqueue.fingerprint = 0x0102;
        enqueue.sender_fingerprint = 3;
        enqueue.content_fingerprint = 4;
        enqueue.ttl_ms = 5;
        let key = "c410abababababababababababababababab";
        // Version, [time, [{"Enqueue": [...]}]]; the content is one bin (c4), not an array.
        let expected = format!(
            "01\
             92019181a7456e7175657565\
             99{key}a173a16d0105c4100000000000000000000000000000010203 04c407636f6e74656e74"
        );
        assert_eq!(bytes_of(Command::Enqueue(enqueue)), expected.replace(' ', ""));

        let items = vec![(Priority::Urgent, 7)];
        let acknowledge = Command::Acknowledge { mailbox: mailbox(0xab), items };
        let expected = format!("0192019181ab41636b6e6f776c6564676592{key}91920307");
        assert_eq!(bytes_of(acknowledge), expected);

        let expected = "0192019181a6457870697265 9109";
        assert_eq!(bytes_of(Command::Expire { limit: 9 }), expected.replace(' ', ""));

        let revoke = Command::RevokeKey { mailbox: mailbox(0xab), key_id: None };
        assert_eq!(bytes_of(revoke), format!("0192019181a95265766f6b654b657992{key}c0"));

        let (seven, nine) = ("07".repeat(32), "09".repeat(32));
        let expected = format!(
            "0192019181a852656769737465729 6{key}aa6465766963652d313731c420{seven}c305c420{nine}"
        );
        assert_eq!(bytes_of(Command::Register(register(0xab, 7, 5))), expected.replace(' ', ""));
    }

    #[test]
    fn other_bytes_are_refused() {
        assert_eq!(CommandBatch::decode(&[]), Err(DecodeError::Empty));
        assert_eq!(CommandBatch::decode(&[2, 0]), Err(DecodeError::Version(2)));
        assert_eq!(CommandBatch::decode(&[1, 0xc1]), Err(DecodeError::Malformed));
        let whole = one(Command::Enqueue(message(1, "s", "m", "content"))).encode();
        for cut in 1..whole.len() {
            assert_eq!(CommandBatch::decode(&whole[..cut]), Err(DecodeError::Malformed), "{cut}");
        }
    }

    fn command() -> impl Strategy<Value = Command> {
        let place = (0..4u8, any::<u64>())
            .prop_map(|(level, seq)| (Priority::try_from(level).expect("0 to 3"), seq));
        prop_oneof![
            ("[a-z]{1,20}", "[a-z]{1,20}", ".{0,200}", any::<u64>(), any::<u128>()).prop_map(
                |(sender, id, content, ttl_ms, fingerprint)| {
                    let message = message(1, &sender, &id, &content);
                    Command::Enqueue(crate::machine::Enqueue { ttl_ms, fingerprint, ..message })
                }
            ),
            prop::collection::vec(place, 0..20)
                .prop_map(|items| Command::Acknowledge { mailbox: mailbox(2), items }),
            any::<u32>().prop_map(|limit| Command::Expire { limit }),
            any::<Option<u64>>()
                .prop_map(|key_id| Command::RevokeKey { mailbox: mailbox(3), key_id }),
            (any::<u8>(), any::<u64>())
                .prop_map(|(key, key_id)| Command::Register(register(4, key, key_id))),
        ]
    }

    proptest! {
        #[test]
        fn batches_are_read_back(
            time_ms in any::<u64>(),
            commands in prop::collection::vec(command(), 0..20),
        ) {
            let batch = CommandBatch { time_ms, commands };
            prop_assert_eq!(CommandBatch::decode(&batch.encode()), Ok(batch));
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut batch = vec![1];
            batch.extend(bytes);
            let _ = CommandBatch::decode(&batch);
        }
    }
}
