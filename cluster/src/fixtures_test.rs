//! The bytes of this crate's formats that releases wrote.

#[path = "../../fixtures/kept.rs"]
pub(crate) mod kept;

use bytes::Bytes;
use heliograph_storage::GroupId;
use heliograph_transport::NodeId;

use self::kept::Format;
use crate::{
    delivery::wire::{self, tests as relay},
    join_token::JoinToken,
    machine::{Command, CommandBatch},
    member::MemberState,
    meta::{MetaCommand, MetaOutcome},
    model::{MailboxKey, Priority, ShardId},
    neighbours::{About, Stance},
    node_wire::{self, Beat, NodeAnswer, NodeRequest, Probe},
    raft::samples_test,
    replica::Replica,
};

#[test]
fn bytes_of_kept_releases_are_read_and_those_of_this_one_are_written() {
    kept::check(&formats());
}

/// A format whose samples encode by `encode` and decode by `decode`.
fn format<T: PartialEq + 'static>(
    name: &'static str,
    samples: Vec<T>,
    encode: impl Fn(&T) -> Bytes,
    decode: impl Fn(&[u8]) -> Option<T> + 'static,
) -> Format {
    let written = samples.iter().map(|sample| encode(sample).to_vec()).collect();
    let reads = Box::new(move |number: usize, bytes: &[u8]| {
        decode(bytes).is_some_and(|read| read == samples[number])
    });
    Format { name, written, reads }
}

fn batches() -> Vec<CommandBatch> {
    let mailbox = MailboxKey([0xab; 16]);
    let commands = vec![
        Command::Register(relay::register()),
        Command::RevokeKey { mailbox, key_id: None },
        Command::Enqueue(relay::enqueue()),
        Command::Acknowledge { mailbox, items: vec![(Priority::High, 300)] },
        Command::Expire { limit: 1000 },
    ];
    vec![CommandBatch { time_ms: 1_800_000_000_000, commands }]
}

fn meta() -> Vec<MetaCommand> {
    use MetaCommand as C;
    let (node, group, token) = (NodeId(4), GroupId(2), Some([9; 32]));
    vec![
        C::Invite { node, address: "node-4:7400".into(), zone: "west".into(), token },
        C::Admit { node, incarnation: 1, disk: Some([7; 16]), token },
        C::SetTarget { group, target: vec![NodeId(1), node], expected_changes: 3 },
        C::Settled { group, changes: 4 },
        C::Reseed { node, group, incarnation: 1 },
        C::Replace { node, token: None },
        C::SetState { node, state: MemberState::Draining },
        C::Remove { node },
        C::SetAddress { node, address: "elsewhere:7400".into() },
        C::SetZone { node, zone: "east".into() },
        C::Recover {
            removed: vec![node],
            groups: vec![(group, vec![Replica { node: NodeId(1), incarnation: 2 }])],
        },
        C::ActivateFeatures { features: 1 },
    ]
}

fn beats() -> Vec<Beat> {
    let suspects = [NodeId(2)].into_iter().collect();
    let about = About {
        boot: 5,
        uptime_ms: 6,
        stance: Stance::Draining,
        client_url: Some("wss://node-1/ws".into()),
    };
    let leads = vec![(ShardId(3), 7)];
    let beat = Beat { wall_ms: 1000, leads, suspects, about, registry: 0 };
    vec![Beat { registry: 9, ..beat.clone() }, beat]
}

fn join_token() -> JoinToken {
    "hgj1_q6urq6urq6urq6urq6urq6urq6urq6urq6urq6urq6s".parse().unwrap()
}

fn formats() -> Vec<Format> {
    let body = |bytes: Bytes| bytes.slice(1..);
    let probes = [Probe::Empty, Probe::Forming, Probe::Formed, Probe::AskerAdmitted];
    let mut answers: Vec<_> = probes.into_iter().map(NodeAnswer::Probe).collect();
    answers.extend([
        NodeAnswer::NotLeader(Some(NodeId(1))),
        NodeAnswer::Joined { meta: 4 },
        NodeAnswer::Registry(MetaOutcome::NotAdmitted(NodeId(4))),
        NodeAnswer::LeaderAt { node: NodeId(5), address: "node-5:7400".into() },
    ]);
    let mut formats = vec![
        format("command-batch", batches(), CommandBatch::encode, |bytes| {
            CommandBatch::decode(bytes).ok()
        }),
        format("meta-command", meta(), MetaCommand::encode, MetaCommand::decode),
        format("beat", beats(), move |beat| body(node_wire::encode(beat)), node_wire::decode),
        format(
            "node-request",
            vec![
                NodeRequest::Probe,
                NodeRequest::Join { disk: [9; 16], token: Some(join_token()) },
                NodeRequest::Registry { command: vec![2, 3] },
            ],
            move |request| body(node_wire::encode(request)),
            node_wire::decode,
        ),
        format(
            "node-answer",
            answers,
            move |answer| body(node_wire::encode(answer)),
            node_wire::decode,
        ),
        format(
            "relay-request",
            relay::requests(),
            move |request| body(wire::encode_outgoing(request, 0)),
            wire::decode,
        ),
        format("relay-answer", relay::answers(), wire::encode_answer, wire::decode),
        format(
            "relay-notice",
            relay::notices(),
            move |notice| body(wire::encode_outgoing(notice, 0)),
            wire::decode,
        ),
    ];
    formats.extend(samples_test::formats());
    formats
}
