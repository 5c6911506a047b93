//! What is written: random keys, values that no disk can make smaller.

use crate::case::Case;
use rand::{RngCore, SeedableRng, rngs::SmallRng};
use spinney_bench_harness::Pool;

pub(crate) const KEY_BYTES: usize = 24;
pub(crate) const VALUE_BYTES: usize = 150;
/// Random bytes that values are cut from: few enough for a cache, for it is not memory that is measured.
pub(crate) const POOL_BYTES: usize = 1 << 20;

/// One measurement's work.
#[derive(Clone, Copy)]
pub(crate) struct Job<'a> {
    pub(crate) case: Case,
    /// Of each writer.
    pub(crate) commits: u32,
    /// Of the database.
    pub(crate) memory_bytes: u64,
    pub(crate) values: &'a Pool,
}

impl<'a> Job<'a> {
    /// The key of a record, which is its writer's or, before anything is timed, its family's. It follows from these numbers alone,
    /// so that what was stored can be looked for without having been kept.
    pub(crate) fn key(&self, writer: u32, record: u64) -> [u8; KEY_BYTES] {
        let mut key = [0; KEY_BYTES];
        SmallRng::seed_from_u64(number(writer, record)).fill_bytes(&mut key);
        key
    }

    pub(crate) fn value(&self, writer: u32, record: u64) -> &'a [u8] {
        self.values.cut(number(writer, record), VALUE_BYTES)
    }

    /// The records of a writer's commit: they come after all that its family had before.
    pub(crate) fn records_of(&self, commit: u32) -> std::ops::Range<u64> {
        let records = u64::from(self.case.workload.records());
        let first = self.case.workload.records_before() + u64::from(commit) * records;
        first..first + records
    }

    pub(crate) fn commits_total(&self) -> u64 {
        u64::from(self.case.writers) * u64::from(self.commits)
    }
}

fn number(writer: u32, record: u64) -> u64 {
    u64::from(writer) << 40 | record
}
