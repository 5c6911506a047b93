//! What one run of one variant gives.

use crate::engine::Variant;
use spinney_bench_harness::{Counts, Outcomes, quantile, ratio};
use std::time::Duration;

/// So many writers, and what they write to.
pub(crate) type Case = (u32, Variant);

/// Every case in every run.
pub(crate) type Measurements = Outcomes<Case, Measured>;

/// Everything a variant is asked for, of the timed part alone, all writers and files together.
#[derive(Clone, Debug, Default)]
pub(crate) struct Measured {
    pub(crate) elapsed: Duration,
    pub(crate) records: u64,
    /// Of each commit, in no order.
    pub(crate) latencies: Vec<Duration>,
    pub(crate) counts: Counts,
    pub(crate) file_bytes: u64,
}

impl Measured {
    pub(crate) fn ops_per_second(&self) -> f64 {
        ratio(self.records as f64, self.elapsed.as_secs_f64())
    }

    /// What so many percent of the commits did not exceed, in milliseconds.
    pub(crate) fn latency_ms(&self, percent: usize) -> f64 {
        quantile(&self.latencies, percent).as_secs_f64() * 1e3
    }

    pub(crate) fn pages_per_call(&self) -> f64 {
        ratio(self.counts.image_pages as f64, self.counts.image_calls as f64)
    }

    /// A time all writers spent together, in milliseconds of each transaction.
    pub(crate) fn ms_per_transaction(&self, time: Duration) -> f64 {
        ratio(time.as_secs_f64() * 1e3, self.latencies.len() as f64)
    }
}
