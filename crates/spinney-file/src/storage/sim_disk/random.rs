//! Repeatable randomness: the same seed makes the same run on every machine.

/// A stream of numbers fixed by its seed.
///
/// Source: Steele, Lea, Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014 (SplitMix64).
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        scramble(self.0)
    }

    /// A number below `limit`, which is not 0. The bias for limits near 2^64 does not matter here.
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    pub(crate) fn index(&mut self, count: usize) -> usize {
        usize::try_from(self.below(count as u64)).expect("below a usize")
    }

    /// True `eighths` times out of eight.
    pub(crate) fn chance(&mut self, eighths: u64) -> bool {
        self.below(8) < eighths
    }
}

/// Spreads every bit of the input over the whole output; a bijection.
pub(crate) fn scramble(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    bits ^ (bits >> 31)
}

/// One number out of several, for seeds of parts.
pub(crate) fn combine(parts: &[u64]) -> u64 {
    parts.iter().fold(0x243F_6A88_85A3_08D3, |sum, part| scramble(sum.wrapping_mul(31).wrapping_add(*part)))
}

/// Visits `0..count` in an order that looks random, each number once, without a list of them: a Feistel network over
/// the next power of four, walked until it lands inside.
#[derive(Clone, Debug)]
pub(crate) struct Shuffle {
    count: u64,
    half_bits: u32,
    seed: u64,
}

impl Shuffle {
    pub(crate) fn new(count: u64, seed: u64) -> Self {
        let bits = u64::BITS - count.saturating_sub(1).leading_zeros();
        Self { count, half_bits: bits.div_ceil(2).max(1), seed }
    }

    /// The number at `place`, which is below the count.
    pub(crate) fn at(&self, place: u64) -> u64 {
        assert!(place < self.count, "place {place} of {}", self.count);
        let half = (1u64 << self.half_bits) - 1;
        let mut number = place;
        loop {
            let (mut left, mut right) = (number >> self.half_bits, number & half);
            for round in 0..4 {
                (left, right) = (right, left ^ (combine(&[self.seed, round, right]) & half));
            }
            number = (left << self.half_bits) | right;
            if number < self.count {
                return number;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shuffle_visits_every_number_once() {
        for count in [1, 2, 3, 15, 16, 17, 1000] {
            for seed in 0..3 {
                let shuffle = Shuffle::new(count, seed);
                let mut seen: Vec<u64> = (0..count).map(|place| shuffle.at(place)).collect();
                seen.sort_unstable();
                assert_eq!(seen, (0..count).collect::<Vec<_>>(), "count {count} seed {seed}");
            }
        }
    }
}
