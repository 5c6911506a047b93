//! What is stored: random keys, values that no disk can make smaller. Both follow from a number, so that nothing is kept.

use rand::{Rng, rngs::SmallRng};
use spinney_bench_harness::Pool;

pub(crate) const KEY_BYTES: usize = 24;
/// Of a small record.
pub(crate) const VALUE_BYTES: usize = 150;

pub(crate) type Key = [u8; KEY_BYTES];

/// A random key, another one for each number.
pub(crate) fn key(number: u64) -> Key {
    let mut key = [0; KEY_BYTES];
    for (part, bytes) in (0..).zip(key.chunks_exact_mut(8)) {
        bytes.copy_from_slice(&mixed(3 * number + part).to_be_bytes());
    }
    key
}

/// The number of a family's record.
pub(crate) fn number(family: u32, record: u64) -> u64 {
    u64::from(family) << 40 | record
}

/// A record of `0..records`, the lower the likelier: the first hundredth gets a fifth of all, the first tenth not quite half. Which
/// keys that are is random, as keys are.
pub(crate) fn skewed(random: &mut SmallRng, records: u64) -> u64 {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "below `records`, and not negative")]
    let record = (random.random::<f64>().powi(3) * records as f64) as u64;
    record.min(records - 1)
}

/// So many records of a family with their keys, in the order of these. Made before anything is timed.
pub(crate) fn in_order(family: u32, records: u64) -> Vec<(Key, u64)> {
    let mut entries: Vec<_> = (0..records).map(|record| number(family, record)).map(|n| (key(n), n)).collect();
    entries.sort_unstable_by_key(|(key, _)| *key);
    entries
}

/// A small record's value.
pub(crate) fn value(pool: &Pool, number: u64) -> &[u8] {
    pool.cut(number, VALUE_BYTES)
}

/// The finalizer of `SplitMix64`: one to one, so that keys differ.
fn mixed(number: u64) -> u64 {
    let mut z = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use std::collections::BTreeSet;

    #[test]
    fn keys_differ() {
        let keys: BTreeSet<_> = (0..2).flat_map(|family| (0..1000).map(move |n| key(number(family, n)))).collect();
        assert_eq!(keys.len(), 2000);
    }

    #[test]
    fn the_first_tenth_gets_not_quite_half() {
        let mut random = SmallRng::seed_from_u64(1);
        let hits = (0..100_000).filter(|_| skewed(&mut random, 1000) < 100).count();
        assert!((44_000..49_000).contains(&hits), "{hits}");
    }
}
