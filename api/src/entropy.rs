//! Unforeseeable but cheap numbers for jitter, nonces and masks, from one seed a process part.

/// SplitMix64 (Steele, Lea, Flood 2014): eight bytes of state, so that a connection can own one.
/// Not for keys.
#[derive(Debug, Clone)]
pub(crate) struct Entropy(u64);

impl Entropy {
    /// Seeded by the operating system.
    pub(crate) fn from_system() -> Self {
        let mut seed = [0; 8];
        getrandom::fill(&mut seed).expect("the operating system has randomness");
        Self(u64::from_le_bytes(seed))
    }

    /// The next number.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A child with its own sequence.
    pub(crate) fn fork(&mut self) -> Self {
        Self(self.next())
    }

    /// A number in `low..=high`.
    pub(crate) fn between(&mut self, low: u64, high: u64) -> u64 {
        let width = high.saturating_sub(low).saturating_add(1);
        low + if width == 0 { self.next() } else { self.next() % width }
    }
}
