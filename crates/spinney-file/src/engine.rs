//! What all handles of one open file share, and the paths that everybody takes: reading a page, drawing a stamp,
//! waiting for room in the log.

use crate::{
    appetite::Appetites,
    budget::{Budget, Charge},
    buffers::Buffers,
    cache::{PageCache, Pin},
    checkpoint::Checkpoints,
    disk::Disk,
    error::FileError,
    maintenance::Signal,
    options::{FileOptions, Sabotage},
    owners::OwnerTable,
    page::PagePtr,
    pipeline::{Goal, Pipeline},
    process,
    readers::{REGISTERING, Readers},
    recovery::LogTail,
    slots::WriterSlots,
    space::Space,
    version::{OwnerRoot, Version, leaf_of},
};
use bytes::Bytes;
use spinney_alloc::{Allocator, Extent, Owner, Protect, Seq, Stamp};
use std::sync::{
    Arc, Weak,
    atomic::{AtomicU64, Ordering},
};

/// Part of the budget that small commits may take before a checkpoint is due, as a divisor.
const UNWRITTEN_SHARE: u64 = 4;

/// More effects of one commit are not worth being written twice, to the log and later in pages.
const EFFECT_BYTES_MAX: u64 = 256 << 10;

/// Stamps below the limit that only checkpoints draw, so that one can always be made to raise it.
const CHECKPOINT_STAMPS: u64 = 1024;

/// One open file. **Lock order:** the turn of checkpoints, owner table homes, map, append; the leader's log lock
/// before append. Held across I/O: the turn, the leader's own, and the owner table's while a directory page is read.
#[derive(Debug)]
pub(crate) struct Engine {
    pub(crate) disk: Disk,
    pub(crate) options: FileOptions,
    /// The process that may use it.
    pub(crate) opened_by: u32,
    pub(crate) space: Space,
    pub(crate) cache: PageCache,
    pub(crate) budget: Arc<Budget>,
    pub(crate) buffers: Arc<Buffers>,
    pub(crate) owners: OwnerTable,
    pub(crate) readers: Readers,
    pub(crate) slots: WriterSlots,
    pub(crate) pipeline: Pipeline,
    pub(crate) checkpoints: Checkpoints,
    pub(crate) signal: Arc<Signal>,
    pub(crate) next_stamp: AtomicU64,
    pub(crate) stamp_limit: AtomicU64,
    pub(crate) appetites: Appetites,
    /// What the log had when the file was opened.
    pub(crate) recovered: LogTail,
    /// Itself: a merge makes a part, which keeps the engine.
    pub(crate) me: Weak<Self>,
    #[cfg(any(test, feature = "testing"))]
    pub(crate) shadow: crate::shadow::Shadow,
}

impl Engine {
    // ---- reading ----

    /// The page behind `ptr`, from the cache or verified from storage.
    pub(crate) fn page<'p>(&self, pin: &'p Pin, owner: Owner, ptr: PagePtr) -> Result<&'p Bytes, FileError> {
        if self.options.broken(Sabotage::FramesByNumber)
            && let Some(bytes) = self.cache.any(pin, ptr.page)
        {
            return Ok(bytes);
        }
        self.cache.get_or_load(pin, ptr, || self.load(owner, ptr))
    }

    /// From storage, verified.
    pub(crate) fn load(&self, owner: Owner, ptr: PagePtr) -> Result<Bytes, FileError> {
        let mut page = self.buffers.any();
        self.disk.read_page_into(ptr, Some(owner), &mut page)?;
        match (self.options.page_check)(&page) {
            Ok(()) => Ok(page.share()),
            Err(why) => {
                Err(FileError::Corrupt { page: ptr.page, owner: Some(owner), at: self.disk.offset(ptr.page), why })
            }
        }
    }

    /// An owner's root in a version; its `stamp` is 0 when it was never committed.
    pub(crate) fn root_in(&self, version: &Version, owner: Owner) -> Result<OwnerRoot, FileError> {
        match version.changed(owner) {
            Some(root) => Ok(*root),
            None => {
                let leaf = self.owners.at_opening(&self.disk, leaf_of(owner))?;
                Ok(leaf[owner.0 as usize % leaf.len()])
            }
        }
    }

    /// The stamp of an owner's root without I/O: exact for owners that changed since opening, which are the only ones with freed pages.
    fn stamp_in(&self, version: &Version, owner: Owner) -> Stamp {
        match version.changed(owner) {
            Some(root) => root.stamp,
            None => {
                self.owners.loaded(leaf_of(owner)).map_or(Stamp(0), |leaf| leaf[owner.0 as usize % leaf.len()].stamp)
            }
        }
    }

    // ---- numbers (rule 21) ----

    /// A stamp nobody had before. Taken with the slots held, so that stamps and seqs grow together within an owner.
    ///
    /// # Errors
    /// Those of a checkpoint, which raises the limit when it is reached.
    pub(crate) fn draw_stamp(&self) -> Result<Stamp, FileError> {
        loop {
            let limit = self.stamp_limit.load(Ordering::Acquire);
            let drawn = self.next_stamp.fetch_update(Ordering::AcqRel, Ordering::Relaxed, |next| {
                (next < limit.saturating_sub(CHECKPOINT_STAMPS)).then_some(next + 1)
            });
            if let Ok(stamp) = drawn {
                return Ok(Stamp(stamp));
            }
            self.checkpoint_unless(|| self.stamp_limit.load(Ordering::Acquire) > limit)?;
        }
    }

    /// A stamp for a merge, which cannot wait for a checkpoint to raise the limit: it may be part of one.
    pub(crate) fn draw_kept_stamp(&self) -> Result<Stamp, FileError> {
        let limit = self.stamp_limit.load(Ordering::Acquire);
        let drawn = self
            .next_stamp
            .fetch_update(Ordering::AcqRel, Ordering::Relaxed, |next| (next + 1 < limit).then_some(next + 1));
        drawn.map(Stamp).map_err(|_| FileError::Option("too many stamps are in use between two checkpoints"))
    }

    /// Effects of one commit that take more than this are not worth a place in the log (rule 3), nor in memory.
    pub(crate) fn effect_bytes_max(&self) -> usize {
        let in_memory = (self.budget.limit() / 16).max(16 << 10);
        let in_log = self.options.tuning.log_bytes_max / 16;
        usize::try_from(EFFECT_BYTES_MAX.min(in_log).min(in_memory)).unwrap_or(usize::MAX)
    }

    /// The number of a checkpoint that may become the newest after `newest`: a stamp, so that no attempt that failed, now or before a
    /// crash, has left it on a page. Odd and even take turns, as the slots of the superblock do.
    ///
    /// With the limit reached and hundreds of failures since, the last number repeats: then a lost write may go unnoticed, but a
    /// checkpoint that succeeds still raises the limit.
    pub(crate) fn draw_checkpoint_number(&self, newest: u64) -> u64 {
        let limit = self.stamp_limit.load(Ordering::Acquire);
        let number = |next: u64| {
            let least = next.max(newest + 1);
            least + u64::from(least % 2 == newest % 2)
        };
        let drawn = self.next_stamp.fetch_update(Ordering::AcqRel, Ordering::Relaxed, |next| {
            (number(next) + 1 < limit).then_some(number(next) + 1)
        });
        let (Ok(next) | Err(next)) = drawn;
        number(next)
    }

    // ---- room in the log (rule 5) ----

    /// Makes room for a record of so many blocks, by checkpoints if need be. The caller holds writer slots only.
    pub(crate) fn make_log_room(&self, blocks: u64) -> Result<(), FileError> {
        let mut checkpoints_tried = 0;
        loop {
            if self.pipeline.has_room(blocks) {
                return Ok(());
            }
            if self.pipeline.is_poisoned() {
                return Err(FileError::Poisoned);
            }
            if !self.pipeline.could_hold(blocks) {
                self.checkpoints.want_log_blocks(2 * blocks + 64);
            }
            checkpoints_tried += 1;
            let mut served = false;
            let done = self.checkpoint_unless(|| {
                served = self.pipeline.has_room(blocks);
                served
            });
            match done {
                Ok(_) if served => return Ok(()),
                Ok(_) if checkpoints_tried < 64 => {}
                Ok(_) => return Err(FileError::Full { bytes_wanted: blocks * crate::log::BLOCK_BYTES }),
                Err(FileError::Poisoned) => return Err(FileError::Poisoned),
                Err(error) => return Err(FileError::CheckpointFailed(Arc::new(error))),
            }
        }
    }

    // ---- space ----

    /// Runs `reserve`; when the file is full, waits for a checkpoint, which frees what commits released, and tries once more.
    pub(crate) fn with_space<T>(&self, reserve: impl Fn() -> Result<T, FileError>) -> Result<T, FileError> {
        self.collect_ended_snapshots();
        match reserve() {
            Err(FileError::Full { .. }) => {
                let finished = self.checkpoints.finished();
                if self.pipeline.freed_pages() > 0 || self.space.map(|map| map.stats().awaiting_checkpoint) > 0 {
                    self.checkpoint_unless(|| self.checkpoints.finished() > finished + 1)?;
                }
                reserve()
            }
            other => other,
        }
    }

    /// Frees what only ended snapshots still held.
    pub(crate) fn collect_ended_snapshots(&self) {
        for ended in self.readers.take_ended() {
            self.forget(&self.freeing(|map| map.release(ended, self)));
        }
    }

    /// The same for what might have been needed by snapshots that were just registering.
    pub(crate) fn collect_registering(&self) {
        self.forget(&self.freeing(|map| map.release(REGISTERING, self)));
    }

    /// Runs `f`, which returns pages to the free map. (The shadow learns of it before anybody can be granted them.)
    pub(crate) fn freeing(&self, f: impl FnOnce(&mut Allocator) -> Vec<Extent>) -> Vec<Extent> {
        self.space.map(|map| {
            let free = f(map);
            #[cfg(any(test, feature = "testing"))]
            free.iter().for_each(|&extent| self.shadow.freed(extent));
            free
        })
    }

    /// Frames of pages that returned to the free map are worth nothing.
    pub(crate) fn forget(&self, free: &[Extent]) {
        free.iter().for_each(|&extent| self.cache.remove_extent(extent));
    }

    // ---- waiting and housekeeping ----

    /// Waits until `seq` has reached `goal`.
    pub(crate) fn wait(&self, seq: Seq, goal: Goal) -> Result<(), FileError> {
        self.pipeline.wait(&self.disk, &self.options, seq, goal)
    }

    /// Waits until all that was appended is durable.
    pub(crate) fn flush_appended(&self) -> Result<(), FileError> {
        self.wait(self.pipeline.appended(), Goal::Durable)
    }

    /// Whether a checkpoint should run now.
    pub(crate) fn checkpoint_due(&self) -> bool {
        let freed = self.pipeline.freed_pages() * self.disk.page_bytes as u64;
        let limit = self.options.tuning.checkpoint_after_freed_bytes;
        self.pipeline.half_full()
            || self.unwritten_due()
            || freed > limit && freed > self.space.map(|m| m.file_pages()) * self.disk.page_bytes as u64 / 4
    }

    /// Whether small commits have left so much in memory that a checkpoint should merge it.
    pub(crate) fn unwritten_due(&self) -> bool {
        self.budget.spent(Charge::Unwritten) > self.budget.limit() / UNWRITTEN_SHARE
    }

    /// # Errors
    /// [`FileError::Forked`] in any other process than the one that opened the file.
    pub(crate) fn check_process(&self) -> Result<(), FileError> {
        if process::id() == self.opened_by { Ok(()) } else { Err(FileError::Forked) }
    }

    /// # Errors
    /// [`FileError::Forked`], [`FileError::Closed`], [`FileError::ReadOnly`] or [`FileError::Poisoned`] when the file takes no changes.
    pub(crate) fn check_writable(&self) -> Result<(), FileError> {
        self.check_process()?;
        if self.pipeline.is_closed() {
            Err(FileError::Closed)
        } else if self.options.read_only {
            Err(FileError::ReadOnly)
        } else if self.pipeline.is_poisoned() {
            Err(FileError::Poisoned)
        } else {
            Ok(())
        }
    }
}

impl Engine {
    /// Whether the next snapshot, or the transaction that is open on the owner, reaches a page: only merges replace pages behind their
    /// backs, so it is asked again soon.
    fn is_read_without_snapshot(&self, owner: Owner, birth: Stamp, death: Stamp) -> bool {
        if self.options.small_commits.is_none() {
            return false;
        }
        let visible = self.stamp_in(&self.pipeline.visible(), owner);
        birth <= visible && visible < death
            || self.slots.reaches(owner, birth, death) && !self.options.broken(Sabotage::ForgetsWriters)
    }
}

/// Rule 10, as far as snapshots go: checkpoints and images are protected because of the pages they know nothing freed after C_d is offered
/// to the allocator before the next checkpoint is durable.
impl Protect for Engine {
    fn holder(&self, owner: Owner, birth: Stamp, death: Stamp) -> Option<u64> {
        if self.options.broken(Sabotage::ForgetsSnapshots) {
            return None;
        }
        let holder = self.readers.holder(owner, birth, death, |version, owner| self.stamp_in(version, owner));
        let holder =
            holder.filter(|&holder| holder != REGISTERING || !self.options.broken(Sabotage::ForgetsRegistering));
        holder.or_else(|| self.is_read_without_snapshot(owner, birth, death).then_some(REGISTERING))
    }
}
