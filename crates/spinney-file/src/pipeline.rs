//! The commit pipeline: append under a short lock, then one leader writes and syncs for everybody who waits.
//!
//! ```text
//!   append (short lock)            leader (one at a time)           readers
//!   seq, tips, queue   -- queue --> group, write, sync  -- publish --> visible version
//! ```
//! Always `visible <= appended` and `durable <= written <= appended`, each a [`Seq`]; none ever falls.
//!
//! There is no timer: whoever wants durability while no leader is active becomes the leader, and takes along
//! whatever was appended meanwhile (greedy group commit; Helland et al., "Group Commit Timers and High Volume
//! Transaction Systems", 1988, shows what timers cost).
#![expect(clippy::cast_possible_truncation, reason = "lengths of buffers in memory fit a usize")]

use crate::{
    disk::Disk,
    error::FileError,
    log::{BLOCK_BYTES, GROUP_HEADER_BYTES, GroupHeader, LogId, RingLayout},
    options::{FileOptions, Sabotage},
    owners::OwnerTable,
    version::{OwnerRoot, Version, leaf_of},
    waiting::{Failed, Progress, Waiting},
};
use arc_swap::ArcSwap;
use parking_lot::{Mutex, MutexGuard};
use spinney_alloc::{Delta, Owner, Seq};
use std::{
    collections::{BTreeSet, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Instant,
};

/// A group is closed when its records reach this size; more records make another group in the same sync.
const GROUP_BYTES_MAX: usize = 4 << 20;
/// Blocks never reserved by commits: for the record of a checkpoint, the two in which records of recoveries take turns, two more in
/// case commits come between a checkpoint that fails and the next, and one so that a full log and an empty one differ.
pub(crate) const KEPT_BLOCKS: u64 = 6;

/// What a caller waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Goal {
    /// New snapshots show it.
    Visible,
    /// Visible, and its group is with the operating system.
    Written,
    /// On stable storage.
    Durable,
}

/// A commit ready to be appended: its pages are written.
pub(crate) struct Prepared {
    pub(crate) record: Vec<u8>,
    /// Log blocks that were reserved for it.
    pub(crate) blocks: u64,
    pub(crate) immediate: bool,
    /// Bytes of its pages that no sync has covered yet.
    pub(crate) unsynced_bytes: u64,
    pub(crate) roots: Vec<(Owner, OwnerRoot)>,
    /// Filled in with the seq and kept for the next checkpoint.
    pub(crate) deltas: Vec<Delta>,
}

/// What a checkpoint covers, captured in the critical section that gave it its seq.
pub(crate) struct Cut {
    pub(crate) seq: Seq,
    pub(crate) version: Arc<Version>,
    pub(crate) deltas: Vec<Delta>,
    /// Owner table pages with changes.
    pub(crate) changed: BTreeSet<u32>,
    /// Pages that the commits in it freed.
    pub(crate) freed_pages: u64,
}

/// Where the log goes on after a checkpoint's group.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CutPosition {
    pub(crate) seq: Seq,
    pub(crate) block: u64,
    pub(crate) chain: u64,
}

struct Queued {
    record: Vec<u8>,
    blocks: u64,
    unsynced_bytes: u64,
    /// The record of a checkpoint, with the layout that holds after it.
    cut: Option<RingLayout>,
}

struct Pending {
    immediate: bool,
    version: Arc<Version>,
}

#[derive(Default)]
struct Append {
    next: u64,
    queue: VecDeque<Queued>,
    /// Appended and not yet visible, oldest first.
    pending: VecDeque<Pending>,
    deltas: Vec<Delta>,
    freed_pages: u64,
    changed: BTreeSet<u32>,
    /// The newest record, when a checkpoint may cover everything up to it without a record of its own: that of a checkpoint which
    /// failed, or of the recovery. So neither uses up the log by being repeated.
    closing: Option<Arc<Version>>,
}

struct LogWriter {
    layout: RingLayout,
    /// The block where a recovery would begin to read.
    tail: u64,
    head: u64,
    chain: u64,
    epoch: u64,
    /// Groups were written without a sync since the last sync.
    plain: bool,
    /// Un-synced bytes of images in groups written without a sync.
    unsynced_bytes: u64,
    cut: Option<CutPosition>,
    buffer: Vec<u8>,
}

#[derive(Clone, Copy, Debug, Default)]
struct LogRoom {
    blocks: u64,
    used: u64,
    reserved: u64,
}

/// The log as statistics show it, in blocks of 4 KiB.
#[derive(Clone, Copy, Debug, Default)]
pub struct LogStats {
    /// The ring's size.
    pub blocks: u64,
    /// Needed by a recovery.
    pub used_blocks: u64,
    /// Promised to commits on their way.
    pub reserved_blocks: u64,
    /// Groups written since opening.
    pub groups: u64,
    /// Records written since opening.
    pub records: u64,
    /// Bytes written since opening, padding included.
    pub bytes: u64,
}

/// See the module.
pub(crate) struct Pipeline {
    file_id: LogId,
    append: Mutex<Append>,
    log: Mutex<LogWriter>,
    room: Mutex<LogRoom>,
    waiting: Waiting<(Seq, Goal)>,
    newest: ArcSwap<Version>,
    visible: ArcSwap<Version>,
    appended: AtomicU64,
    visible_seq: AtomicU64,
    written: AtomicU64,
    durable: AtomicU64,
    seq_limit: AtomicU64,
    /// Bytes of appended images that no sync has covered.
    unsynced_bytes: AtomicU64,
    poisoned: AtomicBool,
    groups: AtomicU64,
    records: AtomicU64,
    log_bytes: AtomicU64,
}

/// Where the pipeline starts after creation or recovery.
pub(crate) struct PipelineStart {
    pub(crate) file_id: LogId,
    pub(crate) layout: RingLayout,
    /// Where the log of the newest checkpoint begins, and where the next group goes.
    pub(crate) tail: u64,
    pub(crate) head: u64,
    pub(crate) chain: u64,
    pub(crate) epoch: u64,
    pub(crate) version: Version,
    pub(crate) seq_limit: Seq,
    /// Pages that the recovered commits freed.
    pub(crate) freed_pages: u64,
    pub(crate) changed: BTreeSet<u32>,
}

impl Pipeline {
    pub(crate) fn new(start: PipelineStart) -> Self {
        let version = Arc::new(start.version);
        let seq = version.seq.0;
        Self {
            file_id: start.file_id,
            append: Mutex::new(Append {
                next: seq + 1,
                freed_pages: start.freed_pages,
                changed: start.changed,
                closing: Some(Arc::clone(&version)),
                ..Append::default()
            }),
            room: Mutex::new(LogRoom {
                blocks: start.layout.blocks(),
                used: start.layout.distance(start.tail, start.head),
                reserved: 0,
            }),
            log: Mutex::new(LogWriter {
                tail: start.tail,
                layout: start.layout,
                head: start.head,
                chain: start.chain,
                epoch: start.epoch,
                plain: false,
                unsynced_bytes: 0,
                cut: Some(CutPosition { seq: version.seq, block: start.head, chain: start.chain }),
                buffer: Vec::new(),
            }),
            waiting: Waiting::new(),
            newest: ArcSwap::new(Arc::clone(&version)),
            visible: ArcSwap::new(version),
            appended: AtomicU64::new(seq),
            visible_seq: AtomicU64::new(seq),
            written: AtomicU64::new(seq),
            durable: AtomicU64::new(seq),
            seq_limit: AtomicU64::new(start.seq_limit.0),
            unsynced_bytes: AtomicU64::new(0),
            poisoned: AtomicBool::new(false),
            groups: AtomicU64::new(0),
            records: AtomicU64::new(0),
            log_bytes: AtomicU64::new(0),
        }
    }

    /// What new snapshots show.
    pub(crate) fn visible(&self) -> Arc<Version> {
        self.visible.load_full()
    }

    /// The tips: what the next writer of each owner builds on. Stable for owners whose slot the caller holds.
    pub(crate) fn tips(&self) -> Arc<Version> {
        self.newest.load_full()
    }

    pub(crate) fn appended(&self) -> Seq {
        Seq(self.appended.load(Ordering::Acquire))
    }

    pub(crate) fn visible_seq(&self) -> Seq {
        Seq(self.visible_seq.load(Ordering::Acquire))
    }

    pub(crate) fn durable(&self) -> Seq {
        Seq(self.durable.load(Ordering::Acquire))
    }

    pub(crate) fn seq_limit(&self) -> Seq {
        Seq(self.seq_limit.load(Ordering::Relaxed))
    }

    /// A higher limit is durable.
    pub(crate) fn raise_seq_limit(&self, limit: Seq) {
        self.seq_limit.fetch_max(limit.0, Ordering::Relaxed);
    }

    pub(crate) fn unsynced_bytes(&self) -> u64 {
        self.unsynced_bytes.load(Ordering::Relaxed)
    }

    pub(crate) fn is_poisoned(&self) -> bool {
        self.poisoned.load(Ordering::Acquire)
    }

    /// Rule 9: nothing more is accepted, and everybody who waits is told.
    pub(crate) fn poison(&self) {
        self.fail();
        self.waiting.wake_reached(self);
    }

    /// Pages freed by commits since the last checkpoint began.
    pub(crate) fn freed_pages(&self) -> u64 {
        self.append.lock().freed_pages
    }

    /// Whether nothing was appended since the last checkpoint began, except its own record.
    pub(crate) fn is_clean(&self) -> bool {
        let append = self.append.lock();
        append.changed.is_empty() && append.deltas.is_empty()
    }

    pub(crate) fn stats(&self) -> LogStats {
        let room = *self.room.lock();
        LogStats {
            blocks: room.blocks,
            used_blocks: room.used,
            reserved_blocks: room.reserved,
            groups: self.groups.load(Ordering::Relaxed),
            records: self.records.load(Ordering::Relaxed),
            bytes: self.log_bytes.load(Ordering::Relaxed),
        }
    }

    pub(crate) fn layout(&self) -> RingLayout {
        self.log.lock().layout.clone()
    }

    // ---- room in the log (rule 5) ----

    /// Blocks that a record of `bytes` may need, alone in its group.
    pub(crate) fn blocks_for(bytes: usize) -> u64 {
        ((GROUP_HEADER_BYTES + bytes) as u64).div_ceil(BLOCK_BYTES)
    }

    /// Reserves room; `false` when only a checkpoint can make it.
    pub(crate) fn reserve(&self, blocks: u64) -> bool {
        let mut room = self.room.lock();
        let fits = room.used + room.reserved + blocks + KEPT_BLOCKS <= room.blocks;
        if fits {
            room.reserved += blocks;
        }
        fits
    }

    pub(crate) fn unreserve(&self, blocks: u64) {
        self.room.lock().reserved -= blocks;
    }

    /// Whether a commit of that many blocks fits into an otherwise empty log.
    pub(crate) fn could_hold(&self, blocks: u64) -> bool {
        blocks + 2 * KEPT_BLOCKS <= self.room.lock().blocks
    }

    /// Whether the log is so full that a checkpoint should start now.
    pub(crate) fn half_full(&self) -> bool {
        let room = self.room.lock();
        2 * (room.used + room.reserved) > room.blocks
    }

    // ---- append (rule 6) ----

    /// Gives the commit its seq and its place; from here only a crash or poison undoes it. The leaves of its owners must be
    /// loaded in `owners`.
    ///
    /// # Errors
    /// [`FileError::Poisoned`].
    pub(crate) fn append(
        &self,
        options: &FileOptions,
        owners: &OwnerTable,
        commit: Prepared,
    ) -> Result<Seq, FileError> {
        let mut append = self.append.lock();
        if self.is_poisoned() {
            return Err(FileError::Poisoned);
        }
        let seq = self.next_seq(&mut append);
        let mut version = (*self.newest.load_full()).clone();
        version.seq = seq;
        for (owner, root) in commit.roots {
            set_root(&mut version, owners, owner, root);
            append.changed.insert(owners.page_of(leaf_of(owner)));
        }
        append.freed_pages += freed_pages(&commit.deltas);
        append.deltas.extend(commit.deltas.into_iter().map(|delta| Delta { seq, ..delta }));
        self.unsynced_bytes.fetch_add(commit.unsynced_bytes, Ordering::Relaxed);
        append.queue.push_back(Queued {
            record: commit.record,
            blocks: commit.blocks,
            unsynced_bytes: commit.unsynced_bytes,
            cut: None,
        });
        let version = Arc::new(version);
        self.newest.store(Arc::clone(&version));
        append.pending.push_back(Pending { immediate: commit.immediate, version });
        self.appended.store(seq.0, Ordering::Release);
        if options.broken(Sabotage::ShowsUndurable) {
            append.pending.iter_mut().for_each(|p| p.immediate = false);
        }
        let shown = self.advance_visible(&mut append, self.durable());
        drop(append);
        if shown > 1 {
            // Others' commits too, and they may be waiting for it.
            self.waiting.wake_reached(self);
        }
        Ok(seq)
    }

    /// Whether the newest record is one that a checkpoint may cover without a record of its own.
    pub(crate) fn is_closed(&self) -> bool {
        let append = self.append.lock();
        append.closing.as_ref().is_some_and(|version| version.seq.0 + 1 == append.next)
    }

    /// Appends the record of a checkpoint, unless the newest record will do, and takes what it covers, in one critical section
    /// (rule 13). `log` is the layout from here on; one that grew needs a record.
    pub(crate) fn append_checkpoint(&self, record: Vec<u8>, log: RingLayout) -> Result<Cut, FileError> {
        let has_room = {
            let room = self.room.lock();
            // The last blocks are a recovery's.
            room.used + room.reserved + 4 <= room.blocks
        };
        let mut append = self.append.lock();
        if self.is_poisoned() {
            return Err(FileError::Poisoned);
        }
        let closing = append.closing.take().filter(|version| version.seq.0 + 1 == append.next);
        let version = match closing {
            Some(version) if log.blocks() == self.room.lock().blocks => version,
            _ if !has_room => return Err(FileError::Full { bytes_wanted: BLOCK_BYTES }),
            _ => {
                let seq = self.next_seq(&mut append);
                self.push_empty(&mut append, seq, record, Some(log))
            }
        };
        Ok(Cut {
            seq: version.seq,
            version,
            deltas: std::mem::take(&mut append.deltas),
            changed: std::mem::take(&mut append.changed),
            freed_pages: std::mem::take(&mut append.freed_pages),
        })
    }

    /// Appends the record that shows where the log of a new superblock begins. It uses a block that commits never get.
    pub(crate) fn append_anchor(&self, record: Vec<u8>) -> Result<Seq, FileError> {
        let mut append = self.append.lock();
        if self.is_poisoned() {
            return Err(FileError::Poisoned);
        }
        let seq = self.next_seq(&mut append);
        self.push_empty(&mut append, seq, record, None);
        Ok(seq)
    }

    /// Queues a record that changes no root, as an Immediate commit.
    fn push_empty(
        &self,
        append: &mut MutexGuard<'_, Append>,
        seq: Seq,
        record: Vec<u8>,
        cut: Option<RingLayout>,
    ) -> Arc<Version> {
        let mut version = (*self.newest.load_full()).clone();
        version.seq = seq;
        let version = Arc::new(version);
        self.newest.store(Arc::clone(&version));
        append.queue.push_back(Queued { record, blocks: 0, unsynced_bytes: 0, cut });
        append.pending.push_back(Pending { immediate: true, version: Arc::clone(&version) });
        self.appended.store(seq.0, Ordering::Release);
        version
    }

    /// A checkpoint failed: the next one covers what this one did, and what is freed still waits for it. (The allocator keeps the deltas.)
    pub(crate) fn take_back(&self, cut: Cut) {
        let mut append = self.append.lock();
        append.changed.extend(cut.changed);
        append.freed_pages += cut.freed_pages;
        append.closing = Some(cut.version);
    }

    fn next_seq(&self, append: &mut MutexGuard<'_, Append>) -> Seq {
        let seq = append.next;
        assert!(seq < self.seq_limit.load(Ordering::Relaxed), "rule 21: no seq at or above the durable limit");
        append.next += 1;
        Seq(seq)
    }

    /// Rule 8: publishes the newest version with no undurable Immediate commit at or below it. Returns how many commits it shows that
    /// were not shown before.
    fn advance_visible(&self, append: &mut MutexGuard<'_, Append>, durable: Seq) -> usize {
        if self.is_poisoned() {
            return 0;
        }
        let mut newest = None;
        let pending_before = append.pending.len();
        while append.pending.front().is_some_and(|p| p.version.seq <= durable || !p.immediate) {
            newest = append.pending.pop_front();
        }
        if let Some(Pending { version, .. }) = newest {
            let seq = version.seq.0;
            // Whoever loads this version sees every page it names: they were written before it was appended.
            self.visible.store(version);
            self.visible_seq.store(seq, Ordering::Release);
        }
        pending_before - append.pending.len()
    }

    // ---- leader and followers (rules 7 to 9) ----

    /// Waits until `seq` has reached `goal`, leading if nobody else does.
    ///
    /// # Errors
    /// [`FileError::CommitOutcomeUnknown`] when the log was poisoned before that.
    pub(crate) fn wait(&self, disk: &Disk, options: &FileOptions, seq: Seq, goal: Goal) -> Result<(), FileError> {
        let begun = Instant::now();
        let done = self.waiting.wait(self, (seq, goal), || {
            // Another Immediate commit may be what keeps `seq` from being visible: then durability is what helps.
            let durable = goal == Goal::Durable || self.written.load(Ordering::Acquire) >= seq.0;
            self.lead(disk, options, durable)
        });
        disk.counters.latencies.log_wait.record(begun.elapsed());
        done.map_err(|Failed| FileError::CommitOutcomeUnknown { seq })
    }

    /// Writes what is queued, as one group or several, and syncs it if asked or if an Immediate commit is in it.
    fn lead(&self, disk: &Disk, options: &FileOptions, durable: bool) -> Result<(), FileError> {
        let mut log = self.log.lock();
        let (mut queue, target, immediate) = {
            let mut append = self.append.lock();
            let immediate = append.pending.iter().any(|p| p.immediate);
            (std::mem::take(&mut append.queue), self.appended(), immediate)
        };
        let durable = durable || immediate;
        let unsynced: u64 = queue.iter().map(|q| q.unsynced_bytes).sum();
        log.unsynced_bytes += unsynced;
        // `write_sync` covers its own range only: whatever else must be durable needs a sync of the whole file.
        let mut whole = log.plain || log.unsynced_bytes > 0;
        if options.broken(Sabotage::GroupCoversItselfOnly) {
            whole = false;
        }
        let mut first = target.0 + 1 - queue.len() as u64;
        while !queue.is_empty() {
            let count = batch_len(&queue);
            let batch: Vec<Queued> = queue.drain(..count).collect();
            self.write_group(disk, &mut log, Seq(first), &batch, durable && !whole)?;
            first += count as u64;
        }
        self.written.fetch_max(target.0, Ordering::AcqRel);
        let mut covered = target;
        if durable {
            if whole {
                let mut synced = disk.sync();
                if options.broken(Sabotage::RetriesSync) && synced.is_err() {
                    synced = disk.sync();
                }
                synced?;
            }
            if !options.broken(Sabotage::RetriesSync) {
                disk.settled()?;
            }
            self.unsynced_bytes.fetch_sub(log.unsynced_bytes, Ordering::Relaxed);
            log.plain = false;
            log.unsynced_bytes = 0;
            if options.broken(Sabotage::DurableReadLate) {
                covered = self.appended();
            }
        } else {
            log.plain = true;
            covered = self.durable();
        }
        drop(log);
        // Visible first: whoever returns because its commit is durable finds it in the next snapshot, and a checkpoint that is
        // durable frees only what no new snapshot can reach.
        self.advance_visible(&mut self.append.lock(), covered);
        self.durable.fetch_max(covered.0, Ordering::AcqRel);
        Ok(())
    }

    /// Writes one group at the head and moves the head behind it.
    fn write_group(
        &self,
        disk: &Disk,
        log: &mut LogWriter,
        first: Seq,
        batch: &[Queued],
        synced: bool,
    ) -> Result<(), FileError> {
        let mut buffer = std::mem::take(&mut log.buffer);
        buffer.clear();
        buffer.resize(GROUP_HEADER_BYTES, 0);
        batch.iter().for_each(|q| buffer.extend_from_slice(&q.record));
        let end = buffer.len();
        let blocks = (end as u64).div_ceil(BLOCK_BYTES);
        buffer.resize((blocks * BLOCK_BYTES) as usize, 0);
        let header = GroupHeader {
            file_id: self.file_id,
            epoch: log.epoch,
            previous: log.chain,
            first,
            last: Seq(first.0 + batch.len() as u64 - 1),
            durable: self.durable(),
            records: u32::try_from(batch.len()).expect("bounded by the group's bytes"),
        };
        let chain = header.seal(&mut buffer, end);
        let mut from = 0;
        for (at, bytes) in log.layout.pieces(log.head, blocks) {
            let piece = &buffer[from..from + bytes as usize];
            if synced {
                disk.write_sync(at, piece)?
            } else {
                disk.write(at, piece)?
            }
            from += bytes as usize;
        }
        if buffer.capacity() <= GROUP_BYTES_MAX {
            log.buffer = buffer;
        }
        log.chain = chain;
        let cut = batch.last().and_then(|q| q.cut.clone());
        let layout = cut.clone().unwrap_or_else(|| log.layout.clone());
        log.head = head_after(&log.layout, &layout, log.head, blocks);
        log.layout = layout;
        if cut.is_some() {
            log.cut = Some(CutPosition { seq: header.last, block: log.head, chain });
        }
        self.groups.fetch_add(1, Ordering::Relaxed);
        self.records.fetch_add(batch.len() as u64, Ordering::Relaxed);
        self.log_bytes.fetch_add(blocks * BLOCK_BYTES, Ordering::Relaxed);
        let mut room = self.room.lock();
        room.reserved -= batch.iter().map(|q| q.blocks).sum::<u64>();
        // Not one more than before: a log that grew while it was wrapped has its new blocks between tail and head, and they are
        // of no use until the tail has moved.
        room.used = log.layout.distance(log.tail, log.head);
        room.blocks = log.layout.blocks();
        assert!(room.used + room.reserved < room.blocks, "rule 5: the log never overtakes its own tail");
        Ok(())
    }

    /// Where the log goes on after the checkpoint `seq`, once its group is written.
    pub(crate) fn cut_position(&self, seq: Seq) -> CutPosition {
        let cut = self.log.lock().cut.expect("a durable checkpoint record was written");
        assert_eq!(cut.seq, seq, "one checkpoint at a time");
        cut
    }

    /// The superblock of the checkpoint that ended at `cut` is durable and the older one is marked: blocks before it are free, and groups
    /// from now on carry the next epoch.
    pub(crate) fn free_before(&self, cut: CutPosition) {
        let mut log = self.log.lock();
        log.epoch += 1;
        log.tail = cut.block;
        let mut room = self.room.lock();
        room.used = log.layout.distance(log.tail, log.head);
    }

    pub(crate) fn epoch(&self) -> u64 {
        self.log.lock().epoch
    }
}

impl Progress for Pipeline {
    type Goal = (Seq, Goal);

    fn reached(&self, (seq, goal): (Seq, Goal)) -> bool {
        match goal {
            Goal::Visible => self.visible_seq() >= seq,
            Goal::Written => self.visible_seq() >= seq && self.written.load(Ordering::Acquire) >= seq.0,
            Goal::Durable => self.durable() >= seq,
        }
    }

    fn failed(&self) -> bool {
        self.is_poisoned()
    }

    fn fail(&self) {
        self.poisoned.store(true, Ordering::Release);
    }
}

/// How many queued records go into the next group: up to a checkpoint's record, which closes its group.
fn batch_len(queue: &VecDeque<Queued>) -> usize {
    let mut bytes = 0;
    for (i, queued) in queue.iter().enumerate() {
        bytes += queued.record.len();
        if queued.cut.is_some() {
            return i + 1;
        }
        if bytes > GROUP_BYTES_MAX && i > 0 {
            return i;
        }
    }
    queue.len()
}

/// The block after a group. A layout that grew goes on in its new blocks instead of wrapping.
pub(crate) fn head_after(before: &RingLayout, after: &RingLayout, head: u64, blocks: u64) -> u64 {
    let next = head + blocks;
    let next = if next > before.blocks() { next - before.blocks() } else { next };
    next % after.blocks()
}

/// Puts a root into a version; the owner's leaf as it was at opening must be loaded.
pub(crate) fn set_root(version: &mut Version, owners: &OwnerTable, owner: Owner, root: OwnerRoot) {
    version.set(owner, root, || {
        Box::new(owners.loaded(leaf_of(owner)).copied().unwrap_or([OwnerRoot::NONE; crate::version::FAN_OUT]))
    });
}

fn freed_pages(deltas: &[Delta]) -> u64 {
    deltas.iter().flat_map(|d| &d.freed).map(|f| f.extent.pages).sum()
}

impl std::fmt::Debug for Pipeline {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pipeline")
            .field("appended", &self.appended())
            .field("visible", &self.visible_seq())
            .field("durable", &self.durable())
            .field("poisoned", &self.is_poisoned())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{log::Record, storage::MemStorage};
    use spinney_alloc::Extent;

    fn commit(pipeline: &Pipeline, disk: &Disk, options: &FileOptions, owners: &OwnerTable) {
        let record = Record::Anchor.encode();
        assert!(pipeline.reserve(1), "there is room for one");
        let prepared =
            Prepared { record, blocks: 1, immediate: true, unsynced_bytes: 0, roots: Vec::new(), deltas: Vec::new() };
        let seq = pipeline.append(options, owners, prepared).unwrap();
        pipeline.wait(disk, options, seq, Goal::Durable).unwrap();
    }

    #[test]
    fn a_log_that_grows_while_it_wraps_offers_no_block_before_its_tail_moves() {
        let disk = Disk::new(Arc::new(MemStorage::new()), 4096);
        let options = FileOptions::default();
        let owners = OwnerTable::new(4096, Vec::new());
        let (old, gained) = (Extent::new(10, 16).unwrap(), Extent::new(100, 16).unwrap());
        let layout = RingLayout::new(vec![old], 4096).unwrap();
        let pipeline = Pipeline::new(PipelineStart {
            file_id: [1; 16],
            layout: layout.clone(),
            // The tail is at block 8, and the log goes on to 14.
            head: 14,
            tail: 8,
            chain: 0,
            epoch: 0,
            version: Version::at_opening(Seq(0)),
            seq_limit: Seq(1 << 30),
            freed_pages: 0,
            changed: BTreeSet::new(),
        });
        for _ in 0..3 {
            commit(&pipeline, &disk, &options, &owners); // 14, 15, 0
        }
        let larger = RingLayout::new(vec![old, gained], 4096).unwrap();
        let record = Record::Checkpoint { log: larger.extents().to_vec() }.encode();
        let cut = pipeline.append_checkpoint(record, larger.clone()).unwrap();
        pipeline.wait(&disk, &options, cut.seq, Goal::Durable).unwrap(); // 1
        let position = pipeline.cut_position(cut.seq);
        assert_eq!(position.block, 2);
        let mut reserved = 0;
        while pipeline.reserve(1) {
            reserved += 1;
        }
        assert!(position.block + reserved < 8, "{reserved} blocks before the tail at 8");
        pipeline.free_before(position);
        assert!(pipeline.reserve(20), "the whole ring is free but for what is kept");
    }
}
