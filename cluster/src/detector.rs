//! Who seems dead. Pure: functions of (what was heard, when).
//!
//! A node is *suspected* by one peer when its tripwire broke or its beats stayed away, and
//! *condemned* when at least two live nodes suspect it: only then do elections begin (design
//! decision 3). In a cluster of two there is no majority without the other anyway. A node that names
//! itself, because its disk failed or is full, is condemned by that alone: it must not lead.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use heliograph_transport::NodeId;
use tokio::time::Instant;

/// How often beats go out. The design's least: faster beats would not find more, since the
/// tripwire finds dead processes at once.
pub(crate) const BEAT_INTERVAL: Duration = Duration::from_millis(500);
/// How often silence is looked at: what this adds to the time it takes to find it.
pub(crate) const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// A look so long after the one before says that this node stood still, not its peers. A busy machine
/// has a task wait for some tens of milliseconds.
const LATE: Duration = Duration::from_millis(250);
/// Silence shorter than this is never suspicious. Two beats in a row may be late or lost; the third
/// may not, or an election could not follow within two seconds of a partition. Longer than a cut-off
/// leader's licence (`FENCE_LEASE`, a second).
const SILENCE_MIN: Duration = Duration::from_millis(1500);
/// Silence longer than this many usual intervals is suspicious.
const SILENCE_INTERVALS: u32 = 3;
/// Weight of the newest interval in the usual one: one eighth, as TCP does for round trips.
const SMOOTHING: u32 = 8;
/// How long another node's suspicion counts after its last beat.
const SUSPICION_LIFE: Duration = Duration::from_secs(5);

#[derive(Debug)]
struct Peer {
    last_heard: Instant,
    /// How much of the silence since then does not count: nobody here could have heard.
    excused: Duration,
    usual_interval: Duration,
    tripwire_broken: bool,
    is_suspected: bool,
    is_condemned: bool,
    /// What this peer says of others, and when it said so.
    suspects: BTreeSet<NodeId>,
}

/// What changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// Nodes newly suspected by this node: tell the others now.
    pub(crate) suspected: Vec<NodeId>,
    /// Nodes newly condemned: begin elections.
    pub(crate) condemned: Vec<NodeId>,
    /// Nodes heard of again.
    pub(crate) recovered: Vec<NodeId>,
}

impl Verdict {
    /// Whether nothing changed.
    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// What one node believes of its peers.
#[derive(Debug, Default)]
pub(crate) struct Detector {
    peers: BTreeMap<NodeId, Peer>,
    last_look: Option<Instant>,
}

impl Detector {
    /// Notes a beat of `from`, with whom `from` suspects.
    pub(crate) fn beat(
        &mut self,
        from: NodeId,
        suspects: BTreeSet<NodeId>,
        now: Instant,
    ) -> Verdict {
        self.look(now);
        let peer = self.peers.entry(from).or_insert_with(|| Peer {
            last_heard: now,
            excused: Duration::ZERO,
            usual_interval: BEAT_INTERVAL,
            tripwire_broken: false,
            is_suspected: false,
            is_condemned: false,
            suspects: BTreeSet::new(),
        });
        let interval = now.saturating_duration_since(peer.last_heard);
        // Extra beats (news of a suspicion) do not make the usual interval shorter.
        if interval >= BEAT_INTERVAL / 2 && interval < SILENCE_MIN {
            peer.usual_interval = (peer.usual_interval * (SMOOTHING - 1) + interval) / SMOOTHING;
        }
        peer.last_heard = now;
        peer.excused = Duration::ZERO;
        peer.tripwire_broken = false;
        peer.suspects = suspects;
        self.judge(now)
    }

    /// Notes that `node`'s process ended.
    pub(crate) fn tripwire_broken(&mut self, node: NodeId, now: Instant) -> Verdict {
        self.look(now);
        if let Some(peer) = self.peers.get_mut(&node) {
            peer.tripwire_broken = true;
        }
        self.judge(now)
    }

    /// Looks at the time: to be called every [`LOOK_INTERVAL`].
    pub(crate) fn tick(&mut self, now: Instant) -> Verdict {
        self.look(now);
        self.judge(now)
    }

    /// Who comes late to look was itself stopped or starved, and its peers' beats wait to be read.
    fn look(&mut self, now: Instant) {
        let Some(last_look) = self.last_look.replace(now) else { return };
        let since = now.saturating_duration_since(last_look);
        if since > LATE {
            for peer in self.peers.values_mut() {
                peer.excused += since - LOOK_INTERVAL;
            }
        }
    }

    /// Whom this node suspects.
    pub(crate) fn suspects(&self) -> BTreeSet<NodeId> {
        let suspected = self.peers.iter().filter(|(_, peer)| peer.is_suspected);
        suspected.map(|(node, _)| *node).collect()
    }

    /// Whether `node` was heard and is not suspected.
    pub(crate) fn is_live(&self, node: NodeId) -> bool {
        self.peers.get(&node).is_some_and(|peer| !peer.is_suspected)
    }

    /// For how long `node` has been silent; none when it was never heard.
    pub(crate) fn silence(&self, node: NodeId, now: Instant) -> Option<Duration> {
        let peer = self.peers.get(&node)?;
        Some(now.saturating_duration_since(peer.last_heard))
    }

    fn judge(&mut self, now: Instant) -> Verdict {
        let mut verdict = Verdict::default();
        for (node, peer) in &mut self.peers {
            let silence = now.saturating_duration_since(peer.last_heard);
            let silence = silence.saturating_sub(peer.excused);
            let bound = SILENCE_MIN.max(peer.usual_interval * SILENCE_INTERVALS);
            let says_unfit = peer.suspects.contains(node);
            let is_suspected = peer.tripwire_broken || silence > bound || says_unfit;
            if is_suspected && !peer.is_suspected {
                verdict.suspected.push(*node);
            }
            if peer.is_suspected && !is_suspected {
                verdict.recovered.push(*node);
            }
            peer.is_suspected = is_suspected;
        }
        let voices: Vec<(NodeId, BTreeSet<NodeId>)> = self
            .peers
            .iter()
            .filter(|(_, peer)| {
                !peer.is_suspected
                    && now.saturating_duration_since(peer.last_heard) < SUSPICION_LIFE
            })
            .filter(|(_, peer)| !peer.suspects.is_empty())
            .map(|(node, peer)| (*node, peer.suspects.clone()))
            .collect();
        for (node, peer) in &mut self.peers {
            // Asked of suspects alone: all peers' voices on all peers, with each beat, would cost a
            // core at a thousand nodes.
            let is_seconded =
                || voices.iter().any(|(voice, suspects)| voice != node && suspects.contains(node));
            // Nobody knows better than the node itself.
            let says_unfit = peer.suspects.contains(node);
            let is_condemned = peer.is_suspected && (says_unfit || is_seconded());
            if is_condemned && !peer.is_condemned {
                verdict.condemned.push(*node);
            }
            peer.is_condemned = is_condemned;
        }
        verdict
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: NodeId = NodeId(2);
    const B: NodeId = NodeId(3);

    /// Looks as often as one should until `time` has passed; what was found, one after the other.
    fn look_on(detector: &mut Detector, from: Instant, time: Duration) -> (Instant, Verdict) {
        let (mut now, mut found) = (from, Verdict::default());
        while now < from + time {
            now += LOOK_INTERVAL;
            let verdict = detector.tick(now);
            found.suspected.extend(verdict.suspected);
            found.condemned.extend(verdict.condemned);
        }
        (now, found)
    }

    fn beats(detector: &mut Detector, start: Instant, seconds: u64) -> Instant {
        let mut now = start;
        for _ in 0..seconds * 2 {
            now = look_on(detector, now, BEAT_INTERVAL).0;
            assert!(detector.beat(A, BTreeSet::new(), now).is_empty());
            assert!(detector.beat(B, BTreeSet::new(), now).is_empty());
        }
        now
    }

    #[test]
    fn a_node_that_names_itself_is_condemned_until_it_no_longer_does() {
        let mut detector = Detector::default();
        let now = beats(&mut detector, Instant::now(), 3);
        let verdict = detector.beat(A, BTreeSet::from([A]), now);
        assert_eq!((verdict.suspected, verdict.condemned), (vec![A], vec![A]));
        assert!(!detector.is_live(A) && detector.is_live(B));
        assert!(detector.beat(A, BTreeSet::from([A]), now).is_empty(), "once is enough");
        let verdict = detector.beat(A, BTreeSet::new(), now);
        assert_eq!(verdict.recovered, [A]);
        assert!(detector.is_live(A));
    }

    #[test]
    fn one_voice_condemns_nobody() {
        let mut detector = Detector::default();
        let now = beats(&mut detector, Instant::now(), 3);
        let verdict = detector.tripwire_broken(A, now);
        assert_eq!(verdict, Verdict { suspected: vec![A], ..Verdict::default() });
    }

    #[test]
    fn two_voices_condemn_once() {
        let mut detector = Detector::default();
        let now = beats(&mut detector, Instant::now(), 3);
        detector.tripwire_broken(A, now);
        let verdict = detector.beat(B, BTreeSet::from([A]), now);
        assert_eq!(verdict.condemned, [A]);
        assert!(detector.beat(B, BTreeSet::from([A]), now).is_empty());
    }

    #[test]
    fn anothers_suspicion_alone_is_not_enough() {
        let mut detector = Detector::default();
        let now = beats(&mut detector, Instant::now(), 3);
        assert!(detector.beat(B, BTreeSet::from([A]), now).is_empty());
    }

    #[test]
    fn a_suspects_own_voice_does_not_count() {
        let mut detector = Detector::default();
        let now = beats(&mut detector, Instant::now(), 3);
        detector.beat(B, BTreeSet::from([A]), now);
        detector.tripwire_broken(B, now);
        let verdict = detector.tripwire_broken(A, now);
        assert_eq!(verdict.condemned, []);
    }

    #[test]
    fn silence_is_suspicious_and_a_beat_recovers() {
        let mut detector = Detector::default();
        let now = beats(&mut detector, Instant::now(), 3);
        let (now, found) = look_on(&mut detector, now, SILENCE_MIN);
        assert!(found.is_empty(), "two beats may be missing");
        let (now, found) = look_on(&mut detector, now, LOOK_INTERVAL);
        assert_eq!(found.suspected, [A, B]);
        assert!(!detector.is_live(A));
        assert_eq!(detector.beat(A, BTreeSet::new(), now).recovered, [A]);
        assert!(detector.is_live(A));
    }

    #[test]
    fn a_slow_peer_is_given_more_time() {
        let mut detector = Detector::default();
        let mut now = Instant::now();
        for _ in 0..40 {
            now = look_on(&mut detector, now, Duration::from_millis(1200)).0;
            assert!(detector.beat(A, BTreeSet::new(), now).is_empty());
        }
        assert!(look_on(&mut detector, now, Duration::from_secs(3)).1.is_empty());
    }

    #[test]
    fn who_stood_still_itself_suspects_nobody_for_that() {
        let mut detector = Detector::default();
        let now = beats(&mut detector, Instant::now(), 3);
        let awake = now + Duration::from_secs(30);
        assert!(detector.tick(awake).is_empty());
        assert_eq!(detector.silence(A, awake), Some(Duration::from_secs(30)));
        // The first that is read then is no reason to suspect the others either.
        assert!(detector.beat(A, BTreeSet::new(), awake).is_empty());
        // Who stays silent is suspected as soon as somebody can know.
        let (_, found) = look_on(&mut detector, awake, SILENCE_MIN + LOOK_INTERVAL);
        assert_eq!(found.suspected, [B, A]);
    }
}
