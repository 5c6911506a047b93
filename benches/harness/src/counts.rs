//! What a file did between two moments, from its own statistics.

use spinney::{FileStats, HistogramSnapshot};
use std::{ops::AddAssign, time::Duration};

/// Differences of counters. Times are those of all threads together.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// System calls that wrote.
    pub write_calls: u64,
    /// Syncs of the file, and writes that were durable when they returned.
    pub syncs: u64,
    /// Bytes that were written, wherever to.
    pub bytes_written: u64,
    /// Pages written by commits.
    pub image_pages: u64,
    /// The calls that wrote these pages.
    pub image_calls: u64,
    /// Bytes written to the log, padding included.
    pub log_bytes: u64,
    /// Checkpoints finished.
    pub checkpoints: u64,
    /// How long these took.
    pub in_checkpoints: Duration,
    /// Threads in write calls.
    pub in_write: Duration,
    /// Threads in syncs.
    pub in_sync: Duration,
    /// Commits waiting for the log, which includes the syncs of others.
    pub in_log: Duration,
}

impl Counts {
    /// What a file counted from `before` to `after`.
    pub fn between(before: &FileStats, after: &FileStats) -> Self {
        let since = |after: &HistogramSnapshot, before: &HistogramSnapshot| after.total() - before.total();
        let images = after.images.since(&before.images);
        Self {
            write_calls: after.io.writes - before.io.writes,
            syncs: after.io.syncs + after.io.synced_writes - before.io.syncs - before.io.synced_writes,
            bytes_written: after.io.written_bytes - before.io.written_bytes,
            image_pages: images.pages,
            image_calls: images.calls,
            log_bytes: after.log.bytes - before.log.bytes,
            checkpoints: after.checkpoints - before.checkpoints,
            in_checkpoints: since(&after.checkpoint_time, &before.checkpoint_time),
            in_write: since(&after.write_time, &before.write_time),
            in_sync: since(&after.sync_time, &before.sync_time),
            in_log: since(&after.log_wait, &before.log_wait),
        }
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        // Named one by one, so that a new counter is not forgotten.
        let Self {
            write_calls,
            syncs,
            bytes_written,
            image_pages,
            image_calls,
            log_bytes,
            checkpoints,
            in_checkpoints,
            in_write,
            in_sync,
            in_log,
        } = other;
        self.write_calls += write_calls;
        self.syncs += syncs;
        self.bytes_written += bytes_written;
        self.image_pages += image_pages;
        self.image_calls += image_calls;
        self.log_bytes += log_bytes;
        self.checkpoints += checkpoints;
        self.in_checkpoints += in_checkpoints;
        self.in_write += in_write;
        self.in_sync += in_sync;
        self.in_log += in_log;
    }
}
