//! What is written: keys in order, values that no disk can make smaller.

use spinney_bench_harness::Pool;

/// Records of one transaction.
pub(crate) const RECORDS: u32 = 1000;
/// Bytes of one value.
pub(crate) const VALUE_BYTES: usize = 1024;
/// Random bytes that values are cut from: beyond any cache, far below the memory of eight writers' values.
const POOL_BYTES: usize = 32 << 20;

/// Every value of every writer. A value follows from writer and record alone.
pub(crate) struct Values {
    pool: Pool,
}

impl Values {
    pub(crate) fn new() -> Self {
        Self { pool: Pool::new(POOL_BYTES) }
    }

    /// The value of a record; `version` grows when it is overwritten.
    pub(crate) fn of(&self, writer: u32, record: u64, version: u32) -> &[u8] {
        self.pool.cut(record ^ u64::from(writer) << 40 ^ u64::from(version) << 48, VALUE_BYTES)
    }

    /// One page of random bytes.
    pub(crate) fn page(&self, writer: u32, page: u64, bytes: usize) -> &[u8] {
        self.pool.cut(page ^ u64::from(writer) << 40, bytes)
    }
}

/// One measurement's work.
#[derive(Clone, Copy)]
pub(crate) struct Job<'a> {
    pub(crate) writers: u32,
    /// Of each writer.
    pub(crate) transactions: u32,
    pub(crate) values: &'a Values,
}

impl Job<'_> {
    pub(crate) fn transactions_total(&self) -> u64 {
        u64::from(self.writers) * u64::from(self.transactions)
    }

    pub(crate) fn records_of_writer(&self) -> u64 {
        u64::from(self.transactions) * u64::from(RECORDS)
    }

    /// The records of a writer's transaction.
    pub(crate) fn records_of(&self, transaction: u32) -> std::ops::Range<u64> {
        let first = u64::from(transaction) * u64::from(RECORDS);
        first..first + u64::from(RECORDS)
    }
}
