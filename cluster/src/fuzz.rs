//! What fuzzers feed: each function takes any bytes as a peer or a disk would give them, and panics where a
//! promise is broken. `fuzz/` runs them under libFuzzer, the tests below on a kept corpus.

use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    delivery::wire::{self, RelayAnswer, RelayNotice, RelayRequest},
    envelope,
    machine::CommandBatch,
    meta::MetaCommand,
    node_wire::{self, Beat, NodeAnswer, NodeRequest},
    raft,
};

/// What decodes must encode to bytes that say the same.
fn again<T: Serialize + DeserializeOwned>(
    input: &[u8],
    decode: impl Fn(&[u8]) -> Option<T>,
    encode: impl Fn(&T) -> Bytes,
) {
    let Some(message) = decode(input) else { return };
    let once = encode(&message);
    let read = decode(&once).expect("what was encoded decodes");
    assert_eq!(encode(&read), once, "and says the same");
}

/// Reads the input as what node actors say to each other.
pub fn node_wire(input: &[u8]) {
    let encode = |message: Bytes| message.slice(1..);
    again(input, node_wire::decode::<NodeRequest>, |message| encode(node_wire::encode(message)));
    again(input, node_wire::decode::<NodeAnswer>, |message| encode(node_wire::encode(message)));
    again(input, node_wire::decode::<Beat>, |message| encode(node_wire::encode(message)));
}

/// Reads the input as what delivery says between nodes.
pub fn delivery_wire(input: &[u8]) {
    let body = |message: Bytes| message.slice(1..);
    again(input, wire::decode::<RelayRequest>, |m| body(wire::encode_outgoing(m, 0)));
    again(input, wire::decode::<RelayNotice>, |m| body(wire::encode_outgoing(m, 0)));
    again(input, wire::decode::<RelayAnswer>, wire::encode_answer);
}

/// Reads the input as a call of Raft, envelope first, and as its answers.
pub fn rpc(input: &[u8]) {
    let Some((kind, body)) = envelope::open(Bytes::copy_from_slice(input)) else { return };
    if kind == envelope::RAFT {
        raft::fuzz_rpc(body);
    }
}

/// Reads the input as what the log holds: a batch, a change of meta, a payload of Raft.
pub fn log_payload(input: &[u8]) {
    again(input, |bytes| CommandBatch::decode(bytes).ok(), CommandBatch::encode);
    again(input, MetaCommand::decode, MetaCommand::encode);
    raft::fuzz_payload(input);
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    fn corpus(target: &str, run: impl Fn(&[u8])) {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(target);
        let mut files: Vec<_> =
            fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        assert!(!files.is_empty(), "{} is empty", dir.display());
        for file in files {
            println!("{}", file.display());
            run(&fs::read(&file).unwrap());
        }
    }

    #[test]
    fn corpus_of_the_node_wire_passes() {
        corpus("node_wire", node_wire);
    }

    #[test]
    fn corpus_of_the_delivery_wire_passes() {
        corpus("delivery_wire", delivery_wire);
    }

    #[test]
    fn corpus_of_raft_calls_passes() {
        corpus("rpc", rpc);
    }

    #[test]
    fn corpus_of_log_payloads_passes() {
        corpus("log_payload", log_payload);
    }
}
