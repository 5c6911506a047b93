//! What one run of one case gives.

use crate::{
    case::Case,
    steps::Steps,
    workload::{KEY_BYTES, VALUE_BYTES},
};
use spinney_bench_harness::{Counts, Outcomes, quantile, ratio};
use std::{ops::AddAssign, time::Duration};

/// Every case in every run.
pub(crate) type Measurements = Outcomes<Case, Measured>;

/// How often something was done, and how long it took.
#[derive(Clone, Debug, Default)]
pub(crate) struct Speed {
    pub(crate) elapsed: Duration,
    pub(crate) commits: u64,
    /// Of each commit, or of some, in no order.
    pub(crate) latencies: Vec<Duration>,
}

impl Speed {
    pub(crate) fn per_second(&self) -> f64 {
        ratio(self.commits as f64, self.elapsed.as_secs_f64())
    }

    /// What so many percent did not exceed, in microseconds.
    pub(crate) fn latency_us(&self, percent: usize) -> f64 {
        quantile(&self.latencies, percent).as_secs_f64() * 1e6
    }
}

impl AddAssign for Speed {
    fn add_assign(&mut self, other: Self) {
        self.elapsed += other.elapsed;
        self.commits += other.commits;
        self.latencies.extend(other.latencies);
    }
}

/// The bare disk, half before and half after what is compared with it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Yardstick {
    /// By one thread.
    pub(crate) alone: Speed,
    /// By as many threads as there are writers, where that is more.
    pub(crate) together: Option<Speed>,
}

/// Everything a case is asked for, of the timed part alone, all writers together.
#[derive(Clone, Debug, Default)]
pub(crate) struct Measured {
    pub(crate) speed: Speed,
    pub(crate) counts: Counts,
    /// Where commits wait for the disk.
    pub(crate) bare: Option<Yardstick>,
    /// One by one, where there is one writer that waits for the disk.
    pub(crate) steps: Option<Steps>,
    /// Of each commit.
    pub(crate) records: u32,
}

impl Measured {
    pub(crate) fn per_second(&self) -> f64 {
        self.speed.per_second()
    }

    /// A count, per commit.
    pub(crate) fn per_commit(&self, count: u64) -> f64 {
        ratio(count as f64, self.speed.commits as f64)
    }

    pub(crate) fn commits_per_sync(&self) -> f64 {
        ratio(self.speed.commits as f64, self.counts.syncs as f64)
    }

    /// The rate beside one thread of the bare disk.
    pub(crate) fn of_bare(&self) -> Option<f64> {
        self.bare.as_ref().map(|bare| ratio(self.per_second(), bare.alone.per_second()))
    }

    /// Bytes of the log beside those of keys and values.
    pub(crate) fn log_share(&self) -> f64 {
        let user_bytes = self.speed.commits * u64::from(self.records) * (KEY_BYTES + VALUE_BYTES) as u64;
        ratio(self.counts.log_bytes as f64, user_bytes as f64)
    }
}
