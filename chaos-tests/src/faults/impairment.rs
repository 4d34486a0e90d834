//! What a bad link does to datagrams: pure, decided by a seed.

use std::{fmt, time::Duration};

use rand::{Rng as _, rngs::SmallRng};
use serde::{Deserialize, Serialize};

/// The most copies that one datagram becomes.
const COPIES_MAX: usize = 2;

/// How a link is impaired. All zero is a sound one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Impairment {
    /// So many datagrams of a thousand are lost.
    pub loss_per_mille: u16,
    /// Each takes so much longer.
    pub delay_ms: u32,
    /// And up to so much more: where it is longer than the time between two, they change places.
    pub jitter_ms: u32,
    /// So many of a thousand come at once and overtake what is delayed.
    pub reorder_per_mille: u16,
    /// So many of a thousand come twice.
    pub duplicate_per_mille: u16,
    /// In so many of a thousand one bit is wrong.
    pub corrupt_per_mille: u16,
    /// More bytes a second than this wait, and are lost when the queue is full; 0 for no bound.
    pub rate_bytes: u64,
}

/// What becomes of one datagram.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fate {
    /// When each copy leaves, from now; none when it is lost.
    pub copies: Vec<Duration>,
    /// Which bit is wrong.
    pub flipped_bit: Option<usize>,
}

impl Impairment {
    /// Decides what becomes of a datagram of `bytes` bytes; the rate is the proxy's business.
    pub fn decide(&self, bytes: usize, rng: &mut SmallRng) -> Fate {
        let mut happens = |per_mille: u16| per_mille > 0 && rng.random_range(0..1000) < per_mille;
        if happens(self.loss_per_mille) {
            return Fate::default();
        }
        let (overtakes, doubled) =
            (happens(self.reorder_per_mille), happens(self.duplicate_per_mille));
        let corrupted = happens(self.corrupt_per_mille);
        let copies = if doubled { COPIES_MAX } else { 1 };
        let delay = |rng: &mut SmallRng| match overtakes {
            true => Duration::ZERO,
            false => {
                let jitter = rng.random_range(0..=u64::from(self.jitter_ms) * 1000);
                Duration::from_micros(u64::from(self.delay_ms) * 1000 + jitter)
            }
        };
        let copies = (0..copies).map(|_| delay(rng)).collect();
        let flipped_bit = (corrupted && bytes > 0).then(|| rng.random_range(0..bytes * 8));
        Fate { copies, flipped_bit }
    }

    /// Whether it does nothing.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

impl fmt::Display for Impairment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let per_mille = |value: u16, word: &str| (value > 0).then(|| format!("{value} ‰ {word}"));
        let words = [
            per_mille(self.loss_per_mille, "lost"),
            (self.delay_ms > 0).then(|| format!("{} ms", self.delay_ms)),
            (self.jitter_ms > 0).then(|| format!("jitter {} ms", self.jitter_ms)),
            per_mille(self.reorder_per_mille, "overtake"),
            per_mille(self.duplicate_per_mille, "doubled"),
            per_mille(self.corrupt_per_mille, "corrupted"),
            (self.rate_bytes > 0).then(|| format!("{} KB/s", self.rate_bytes / 1000)),
        ];
        let words: Vec<String> = words.into_iter().flatten().collect();
        write!(f, "{}", words.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;

    use super::*;

    fn fates(impairment: Impairment, seed: u64) -> Vec<Fate> {
        let mut rng = SmallRng::seed_from_u64(seed);
        (0..10_000).map(|_| impairment.decide(1200, &mut rng)).collect()
    }

    #[test]
    fn a_sound_link_changes_nothing() {
        let sound = Fate { copies: vec![Duration::ZERO], flipped_bit: None };
        assert!(fates(Impairment::default(), 1).iter().all(|fate| *fate == sound));
    }

    #[test]
    fn each_impairment_happens_as_often_as_it_is_asked_for() {
        let impairment = Impairment {
            loss_per_mille: 100,
            delay_ms: 10,
            jitter_ms: 5,
            reorder_per_mille: 200,
            duplicate_per_mille: 50,
            corrupt_per_mille: 20,
            rate_bytes: 0,
        };
        let fates = fates(impairment, 7);
        let count = |is: &dyn Fn(&Fate) -> bool| fates.iter().filter(|fate| is(fate)).count();
        assert!((800..1200).contains(&count(&|fate| fate.copies.is_empty())));
        assert!((300..600).contains(&count(&|fate| fate.copies.len() == 2)));
        assert!((100..300).contains(&count(&|fate| fate.flipped_bit.is_some())));
        let at_once = |fate: &Fate| fate.copies.first() == Some(&Duration::ZERO);
        assert!((1500..2100).contains(&count(&at_once)));
        let late = fates.iter().flat_map(|fate| &fate.copies).filter(|delay| !delay.is_zero());
        for delay in late {
            assert!((10_000..=15_000).contains(&delay.as_micros()), "{delay:?}");
        }
        assert_eq!(fates, super::tests::fates(impairment, 7), "a seed decides everything");
        assert_ne!(fates, super::tests::fates(impairment, 8));
    }
}
