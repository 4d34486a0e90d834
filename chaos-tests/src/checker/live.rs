//! Live streams: forwarded as they are, to whom they are for, or not at all.

use std::collections::HashMap;

use super::verdict::{Check, Finding};
use crate::history::{History, Intact, MailboxNumber, MessageNumber, Operation};

/// Checks that each frame that was seen had been sent, to that device, and is what was sent. Frames
/// may be lost: nothing is stored. Counts frames that were seen.
pub fn check(history: &History) -> Check {
    let mut check = Check::new("live");
    let mut sent: HashMap<MessageNumber, MailboxNumber> = HashMap::new();
    for event in &history.events {
        match &event.operation {
            Operation::SendLive { mailbox, frame } => drop(sent.insert(*frame, *mailbox)),
            Operation::SeeLive { mailbox, frame, intact } => {
                check.counted += 1;
                let known = frame.as_ref().and_then(|frame| sent.get(frame));
                if known != Some(mailbox) || *intact == Intact::No {
                    check.find(Finding::LiveWrong { mailbox: *mailbox, frame: *frame });
                }
            }
            _ => {}
        }
    }
    check
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        checker::histories::{A, B, then},
        history::Phase,
    };

    #[test]
    fn invented_misled_and_changed_frames_are_found() {
        let frame = MessageNumber(5);
        let sent = Operation::SendLive { mailbox: A, frame };
        let sent = then(History::default(), Phase::Ok, sent);
        assert!(!check(&sent).passed(), "nothing was seen");
        let see = |mailbox, frame, intact| {
            let seen = Operation::SeeLive { mailbox, frame, intact };
            check(&then(sent.clone(), Phase::Ok, seen))
        };
        assert!(see(A, Some(frame), Intact::Yes).passed());
        for (mailbox, frame, intact) in [
            (B, Some(frame), Intact::Yes),
            (A, Some(frame), Intact::No),
            (A, Some(MessageNumber(6)), Intact::Yes),
            (A, None, Intact::Yes),
        ] {
            assert_eq!(see(mailbox, frame, intact).broken, 1, "{mailbox:?} {frame:?} {intact:?}");
        }
    }
}
