//! What to paste into a shell to see the cluster work.

use std::collections::BTreeMap;

use super::layout::Layout;
use crate::console::say;

/// Prints the nodes, a conversation between two devices, and where to look.
pub(super) fn print(layout: &Layout, pids: &BTreeMap<u16, u32>) {
    say!("\nThe cluster is ready.\n");
    for node in &layout.nodes {
        let pid = pids.get(&node.id).copied().unwrap_or_default();
        say!("  node {}  {}  pid {pid:<8} log {}", node.id, node.http_url(), node.log().display());
    }
    say!("\nA conversation to paste into a shell:\n");
    for line in text(layout).lines() {
        say!("  {line}");
    }
    say!("\nkill -9 a node while you talk: what was accepted arrives all the same.");
    say!("Ctrl-C stops the cluster; the same command brings it back with all its data.");
}

/// The conversation: two devices on two nodes; the second reads on a third, if there is one.
fn text(layout: &Layout) -> String {
    let url = |index: usize| layout.nodes[index % layout.nodes.len()].http_url();
    SCRIPT
        .replace("{A}", &url(0))
        .replace("{B}", &url(1))
        .replace("{C}", &url(2))
        .replace("{KEY}", KEY)
}

/// The public key of RFC 8032, test 1: not any 32 bytes are one.
const KEY: &str = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";

const SCRIPT: &str = r#"A={A} B={B} C={C} run=$(date +%s)
call() { curl -sS -H 'Content-Type: application/json' -H "X-MOSA-Timestamp: $(date +%s)" "$@"; echo; }
key={KEY} # an Ed25519 public key; real devices have their own
register() { call $1/api/v1/auth/register -d '{"device_id":"'$2'","public_key":"'$key'"}' | sed 's/.*"api_key":"\([^"]*\)".*/\1/'; }
# two devices, on different nodes
alice=$(register $A alice-$run); bob=$(register $B bob-$run)
# alice sends through her node: 202 means that a majority has it on disk
call $A/api/v1/messages/send -H "Authorization: Bearer $alice" -d '{"recipient_id":"bob-'$run'","message_id":"m1","priority":"normal","content":"'$(printf 'hello bob' | base64)'"}'
# bob receives on any node
call $C/api/v1/messages/receive/bob-$run -H "Authorization: Bearer $bob"
# and acknowledges on another: now the cluster forgets it
call $B/api/v1/messages/acknowledge -H "Authorization: Bearer $bob" -d '{"message_ids":["m1"]}'
call $A/api/v1/messages/receive/bob-$run -H "Authorization: Bearer $bob""#;
