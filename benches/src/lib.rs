//! Criterion benchmarks, one file per question: what every file in `benches/` has in common.
//!
//! A file is named for its question (`commit_latency_by_batch.rs`), and its header says which answer would
//! change a decision. This is a package of its own so that no crate of the engine compiles criterion, and the one
//! package that may use every layer.

use criterion::Criterion;
use rand::{RngCore, SeedableRng, rngs::SmallRng};
use std::time::Duration;

/// Criterion as all our benchmarks use it: short enough to run them all in a coffee break, and never a verdict
/// below 5 %, which is what one run differs from the next on a shared machine.
pub fn settings() -> Criterion {
    Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(3))
        .noise_threshold(0.05)
        .configure_from_args()
}

/// Random choices that are the same in every run.
pub fn random(seed: u64) -> SmallRng {
    SmallRng::seed_from_u64(seed)
}

/// Bytes that neither a file system nor a disk can make smaller: zeros would measure their cleverness.
pub fn incompressible(seed: u64, bytes: usize) -> Vec<u8> {
    let mut value = vec![0; bytes];
    random(seed).fill_bytes(&mut value);
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_differ_by_seed_and_repeat_with_it() {
        let value = incompressible(1, 1000);
        assert_eq!(value.len(), 1000);
        assert_eq!(value, incompressible(1, 1000));
        assert_ne!(value, incompressible(2, 1000));
    }
}
