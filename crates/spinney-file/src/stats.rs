//! Everything that is a number.

use crate::{
    budget::Charge,
    cache::CacheStats,
    counters::{FlushStats, HistogramSnapshot},
    disk::IoStats,
    engine::Engine,
    pipeline::LogStats,
    readers::SnapshotInfo,
    recovery::LogTail,
};
use spinney_alloc::{AllocStats, Seq};
use std::sync::atomic::Ordering::Relaxed;

/// A file at one moment: how far it is, where its bytes are and why, what it did since opening.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct FileStats {
    /// Bytes of a page.
    pub page_bytes: u64,
    /// The newest commit that has its place in the order.
    pub appended: Seq,
    /// The newest commit that new snapshots show.
    pub visible: Seq,
    /// Every commit up to here is on stable storage.
    pub durable: Seq,
    /// The newest durable checkpoint.
    pub checkpoint: Seq,
    /// Checkpoints finished since opening.
    pub checkpoints: u64,
    /// Checkpoints that failed since opening.
    pub checkpoints_failed: u64,
    /// A sync or a log write failed: nothing more is accepted.
    pub poisoned: bool,
    /// Where the file's pages are.
    pub pages: AllocStats,
    /// Pages that only a snapshot still needs, by snapshot id.
    pub pinned_by: Vec<(u64, u64)>,
    /// Live snapshots.
    pub snapshots: Vec<SnapshotInfo>,
    /// The log.
    pub log: LogStats,
    /// What opening found in the log.
    pub recovered: LogTail,
    /// The page cache.
    pub cache: CacheStats,
    /// The memory budget, in bytes.
    pub budget_bytes: u64,
    /// Memory in use of it: clean pages, page table, pages of open transactions, what small commits left.
    pub budget_used_bytes: u64,
    /// Pages of open transactions, in bytes.
    pub dirty_bytes: u64,
    /// What small commits did and no page has yet, with its bookkeeping, in bytes.
    pub unwritten_bytes: u64,
    /// Owners' shares of commits that the log tells about, since opening. They write no pages.
    pub small_commits: u64,
    /// Times that what small commits of an owner left was brought into pages: however many there were, a page is written once.
    pub merges: u64,
    /// Pages written by such merges.
    pub written_out: FlushStats,
    /// Pages written by commits.
    pub images: FlushStats,
    /// Every call to the storage.
    pub io: IoStats,
    /// Time of each write call.
    pub write_time: HistogramSnapshot,
    /// Time of each sync, and of each write that was durable when it returned.
    pub sync_time: HistogramSnapshot,
    /// Time commits waited for the log.
    pub log_wait: HistogramSnapshot,
    /// Time of each checkpoint.
    pub checkpoint_time: HistogramSnapshot,
}

impl Engine {
    pub(crate) fn stats(&self) -> FileStats {
        let latencies = &self.disk.counters.latencies;
        let (mut pages, pinned_by) = self.space.map(|map| (map.stats(), map.pinned_by().collect()));
        // The map learns of commits when a checkpoint begins; here they count at once. (A checkpoint may begin in between.)
        let (allocated, freed) = self.pipeline.recent_pages();
        let moved = allocated.min(pages.lent);
        pages.lent -= moved;
        pages.used += moved;
        let freed = freed.min(pages.used);
        pages.used -= freed;
        pages.awaiting_checkpoint += freed;
        FileStats {
            page_bytes: self.disk.page_bytes as u64,
            appended: self.pipeline.appended(),
            visible: self.pipeline.visible_seq(),
            durable: self.pipeline.durable(),
            checkpoint: self.checkpoints.seq(),
            checkpoints: self.checkpoints.finished(),
            checkpoints_failed: self.checkpoints.failed(),
            poisoned: self.pipeline.is_poisoned(),
            pages,
            pinned_by,
            snapshots: self.readers.infos(),
            log: self.pipeline.stats(),
            recovered: self.recovered,
            cache: self.cache.stats(),
            budget_bytes: self.budget.limit(),
            budget_used_bytes: self.budget.total(),
            dirty_bytes: self.budget.spent(Charge::Dirty),
            unwritten_bytes: self.budget.spent(Charge::Unwritten),
            small_commits: self.disk.counters.small_commits.load(Relaxed),
            merges: self.disk.counters.merges.load(Relaxed),
            written_out: self.disk.counters.checkpoints.snapshot(),
            images: self.disk.counters.images.snapshot(),
            io: self.disk.io_stats(),
            write_time: latencies.write.snapshot(),
            sync_time: latencies.sync.snapshot(),
            log_wait: latencies.log_wait.snapshot(),
            checkpoint_time: latencies.checkpoint.snapshot(),
        }
    }
}
