//! The append: a commit gets its seq and its place (rule 6), and room in the log before that (rule 5).

use super::{
    Append, Appended, Cut, CutPosition, Group, KEPT_BLOCKS, LogRoom, LogWriter, Outcome, Pending, Pipeline, Prepared,
    Size, set_root,
};
use crate::{
    budget::Charge,
    commit::{Kind, Share, Weight, joined_freed},
    error::FileError,
    log::{BLOCK_BYTES, GROUP_HEADER_BYTES, RingLayout},
    merge::Merged,
    options::{FileOptions, Sabotage, SmallCommits},
    owners::OwnerTable,
    version::{Above, Version, leaf_of},
};
use parking_lot::MutexGuard;
use spinney_alloc::{Delta, Owner, Seq};
use std::sync::{Arc, atomic::Ordering};

/// Seqs below the limit that are not promised: for what has a promise already, and for checkpoints.
const SEQS_KEPT: u64 = 1024;
/// Whoever appends beyond this writes the queue, so that memory stays bounded.
const QUEUE_BLOCKS_MAX: u64 = (1 << 20) / BLOCK_BYTES;
/// The background thread looks for work whenever this part of the log has been filled, as a divisor.
const WORK_PARTS: u64 = 4;
/// A log is mostly padding when records have less than this part of it, as a divisor.
const RECORDS_SHARE: u64 = 4;
/// What takes memory above a root beside the effects themselves: the first nodes that find them, each commit, and each key in it. As measured
/// (`unwritten.rs` among the tests of the fuzz cases), and a little more.
const FIRST_BYTES: u64 = 4096;
const COMMIT_BYTES: u64 = 8;
const KEY_BYTES: u64 = 104;

impl Pipeline {
    // ---- room in the log (rule 5) ----

    /// Blocks that a record of `bytes` may need, alone in its group.
    pub(crate) fn blocks_for(bytes: usize) -> u64 {
        ((GROUP_HEADER_BYTES + bytes) as u64).div_ceil(BLOCK_BYTES)
    }

    /// Reserves room; `false` when only a checkpoint can make it.
    pub(crate) fn reserve(&self, blocks: u64) -> bool {
        let mut append = self.append.lock();
        let has_room = append.has_room(blocks, self.seq_limit());
        append.room.reserved += if has_room { blocks } else { 0 };
        has_room
    }

    pub(crate) fn unreserve(&self, blocks: u64) {
        self.append.lock().room.reserved -= blocks;
    }

    /// Whether a record of so many blocks would find room now.
    pub(crate) fn has_room(&self, blocks: u64) -> bool {
        self.append.lock().has_room(blocks, self.seq_limit())
    }

    /// Whether a commit of that many blocks fits into an otherwise empty log.
    pub(crate) fn could_hold(&self, blocks: u64) -> bool {
        blocks + 2 * KEPT_BLOCKS <= self.append.lock().room.blocks
    }

    /// Whether most of what was appended since a checkpoint began is padding of groups: then a larger log hardly means fewer pages.
    pub(crate) fn is_mostly_padding(&self) -> bool {
        let append = self.append.lock();
        RECORDS_SHARE * append.record_bytes < (append.room.promised() - append.room.reserved) * BLOCK_BYTES
    }

    /// Whether the log is so full that a checkpoint should start now.
    pub(crate) fn half_full(&self) -> bool {
        let room = self.append.lock().room;
        2 * room.promised() > room.blocks
    }

    // ---- append (rule 6) ----

    /// Gives the commit its seq and its place; from here only a crash or poison undoes it. The leaves of its owners must be
    /// loaded in `owners`, and its room reserved.
    ///
    /// # Errors
    /// [`FileError::Poisoned`], [`FileError::Closed`].
    pub(crate) fn append(
        &self,
        options: &FileOptions,
        owners: &OwnerTable,
        commit: Prepared<'_>,
    ) -> Result<Outcome, FileError> {
        let early = options.broken(Sabotage::TipsBeforeLock).then(|| self.tips());
        let late = options.broken(Sabotage::QueuesLate);
        if !late {
            options.interlude();
        }
        let mut append = self.append.lock();
        if self.is_poisoned() {
            return Err(FileError::Poisoned);
        }
        if self.is_closed() {
            return Err(FileError::Closed);
        }
        let newest = early.unwrap_or_else(|| Arc::clone(&append.newest));
        if !commit.shares.iter().all(|share| share.stands_on(newest.above(share.owner))) {
            return Ok(Outcome::Divided);
        }
        let seq = self.next_seq(&mut append);
        if late {
            MutexGuard::unlocked(&mut append, || options.interlude());
        }
        let mut version = (*newest).clone();
        version.seq = seq;
        let mut superseded = Vec::new();
        for share in commit.shares {
            append.changed.insert(owners.page_of(leaf_of(share.owner)));
            match &mut share.kind {
                Kind::Small { weight, after, .. } => {
                    self.note_above(&mut append, share.owner, *weight);
                    set_root(&mut version, owners, share.owner, None, after.take());
                }
                Kind::Image { .. } => {
                    set_root(&mut version, owners, share.owner, Some(share.root), None);
                    self.forget_above(&mut append, share.owner);
                    superseded.extend(share.freed.iter().filter(|f| f.extent.pages == 1).map(|f| f.extent.start));
                    append.note_pages(seq, share);
                }
            }
        }
        append.room.reserved -= commit.reserved_blocks;
        let before = append.room.promised();
        append.push(commit.record, commit.unsynced_bytes, None);
        self.unsynced_bytes.fetch_add(commit.unsynced_bytes, Ordering::Relaxed);
        self.tell(&mut append, version, commit.immediate);
        if options.broken(Sabotage::ShowsUndurable) {
            append.pending.iter_mut().for_each(|p| p.immediate = false);
        }
        let shown = self.advance_visible(&mut append, self.durable());
        let (room, freed_pages) = (append.room, append.freed_pages);
        drop(append);
        if shown > 1 {
            // Others' commits too, and they may be waiting for it.
            self.waiting.wake_reached(self);
        }
        let part = (room.blocks / WORK_PARTS).max(1);
        Ok(Outcome::Appended(Appended {
            seq,
            superseded,
            queue_is_long: room.queued > QUEUE_BLOCKS_MAX,
            work_is_due: room.promised() / part > before / part,
            freed_pages,
        }))
    }

    /// Takes what a checkpoint covers: everything appended so far, in one critical section (rule 13). The newest record closes its
    /// group, so that the log after it begins with a group. Only a log that grew - `log` is its layout from here on - needs
    /// `record`, which says so. Waits for the group that is being written.
    ///
    /// # Errors
    /// [`FileError::Poisoned`].
    pub(crate) fn append_checkpoint(
        &self,
        owners: &OwnerTable,
        small: Option<SmallCommits>,
        record: &[u8],
        log: RingLayout,
    ) -> Result<Cut, FileError> {
        let mut writer = self.log.lock();
        let mut append = self.append.lock();
        if self.is_poisoned() {
            return Err(FileError::Poisoned);
        }
        if log.blocks() > append.layout(&writer).blocks() {
            self.push_empty(&mut append, record, Some(log));
        } else if let Some(newest) = append.groups.back_mut() {
            newest.cut = Some(log);
        } else {
            // All that was appended is in groups already.
            writer.cut = Some(CutPosition { seq: self.appended(), block: writer.head, chain: writer.chain });
        }
        // What small commits left is divided: effects of commits after this one are kept apart. Contents stay the same, so versions
        // that are shown already may stay as they are.
        let mut version = (*append.newest).clone();
        let mut frozen = Vec::with_capacity(append.above.len());
        for (&owner, size) in &mut append.above {
            let small = small.expect("only a layer that keeps effects has some");
            let above = (small.freeze)(version.above(owner).expect("noted as being there"));
            size.frozen = size.all;
            set_root(&mut version, owners, owner, None, Some(Above::clone(&above)));
            frozen.push((owner, above));
        }
        append.record_bytes = 0;
        let version = Arc::new(version);
        append.newest = Arc::clone(&version);
        Ok(Cut {
            seq: version.seq,
            version,
            deltas: std::mem::take(&mut append.deltas),
            changed: std::mem::take(&mut append.changed),
            freed_pages: std::mem::take(&mut append.freed_pages),
            frozen,
        })
    }

    /// For a broken engine: what was committed after a checkpoint's cut, as if the cut had it.
    pub(crate) fn add_later(&self, cut: &mut Cut) {
        let later = std::mem::take(&mut self.append.lock().deltas);
        cut.deltas.extend(later.into_iter().map(|delta| Delta { seq: cut.seq, ..delta }));
    }

    /// Appends the record that shows where the log of a new superblock begins. It uses a block that commits never get.
    pub(crate) fn append_anchor(&self, record: &[u8]) -> Result<Seq, FileError> {
        let mut append = self.append.lock();
        if self.is_poisoned() {
            return Err(FileError::Poisoned);
        }
        Ok(self.push_empty(&mut append, record, None))
    }

    /// Queues a record that changes no root, as an Immediate commit.
    fn push_empty(&self, append: &mut MutexGuard<'_, Append>, record: &[u8], cut: Option<RingLayout>) -> Seq {
        let seq = self.next_seq(append);
        let mut version = (*append.newest).clone();
        version.seq = seq;
        append.push(record, 0, cut);
        self.tell(append, version, true);
        seq
    }

    /// The newest version from here on.
    fn tell(&self, append: &mut MutexGuard<'_, Append>, version: Version, immediate: bool) {
        let (seq, version) = (version.seq, Arc::new(version));
        append.newest = Arc::clone(&version);
        append.pending.push_back(Pending { immediate, version });
        self.appended.store(seq.0, Ordering::Release);
    }

    /// A checkpoint failed: the next one covers what this one did, and what is freed still waits for it. (The allocator keeps the
    /// deltas.)
    pub(crate) fn take_back(&self, cut: Cut) {
        let mut append = self.append.lock();
        append.changed.extend(cut.changed);
        append.freed_pages += cut.freed_pages;
    }

    /// The checkpoint is durable: owners continue on their merged roots, and what was frozen is gone from memory. Nobody else has
    /// changed these roots meanwhile. Contents stay the same.
    pub(crate) fn install(&self, options: &FileOptions, owners: &OwnerTable, merged: &[(Owner, Merged)]) {
        let Some(small) = options.small_commits.as_ref().filter(|_| !merged.is_empty()) else { return };
        let mut append = self.append.lock();
        let mut version = (*append.newest).clone();
        for (owner, merged) in merged {
            let mut above = version.above(*owner).and_then(small.merged);
            if options.broken(Sabotage::MergeSwallowsLater) {
                above = None;
            }
            let is_empty = above.is_none();
            set_root(&mut version, owners, *owner, Some(merged.root), above);
            if let Some(size) = append.above.get_mut(owner) {
                let frozen = std::mem::take(&mut size.frozen);
                size.all = Size { bytes: size.all.bytes - frozen.bytes, pages: size.all.pages - frozen.pages };
                self.merged(frozen);
            }
            if is_empty {
                self.forget_above(&mut append, *owner);
            }
        }
        let version = Arc::new(version);
        append.newest = Arc::clone(&version);
        // Versions before the newest that are still to be shown have the old roots; the allocator asks for those.
        match append.pending.back_mut() {
            Some(newest) => newest.version = version,
            None => self.visible.store(version),
        }
    }

    /// The newest version with what repeated commits of an owner amount to: as the log says it was.
    pub(crate) fn adopt(&self, owners: &OwnerTable, owner: Owner, above: Above, effects: Weight) {
        let mut append = self.append.lock();
        let mut version = (*append.newest).clone();
        set_root(&mut version, owners, owner, None, Some(above));
        append.changed.insert(owners.page_of(leaf_of(owner)));
        self.note_above(&mut append, owner, effects);
        let version = Arc::new(version);
        append.newest = Arc::clone(&version);
        self.visible.store(version);
    }

    /// Effects were added above an owner's root.
    fn note_above(&self, append: &mut MutexGuard<'_, Append>, owner: Owner, effects: Weight) {
        let size = append.above.entry(owner).or_default();
        let is_first = size.all.bytes == size.frozen.bytes;
        let bytes =
            effects.bytes as u64 + KEY_BYTES * effects.keys as u64 + COMMIT_BYTES + u64::from(is_first) * FIRST_BYTES;
        size.all = Size { bytes: size.all.bytes + bytes, pages: size.all.pages + effects.promised_pages };
        self.budget.charge(Charge::Unwritten, bytes);
    }

    /// What was above a root is in pages.
    fn merged(&self, size: Size) {
        self.budget.credit(Charge::Unwritten, size.bytes);
        self.promises.end(size.pages);
    }

    /// Nothing is above an owner's root any more.
    fn forget_above(&self, append: &mut MutexGuard<'_, Append>, owner: Owner) {
        if let Some(size) = append.above.remove(&owner) {
            self.merged(size.all);
        }
    }

    fn next_seq(&self, append: &mut MutexGuard<'_, Append>) -> Seq {
        let seq = append.next;
        assert!(seq < self.seq_limit.load(Ordering::Relaxed), "rule 21: no seq at or above the durable limit");
        append.next += 1;
        Seq(seq)
    }

    /// Rule 8: publishes the newest version with no undurable Immediate commit at or below it. Returns how many commits it shows that
    /// were not shown before.
    pub(super) fn advance_visible(&self, append: &mut MutexGuard<'_, Append>, durable: Seq) -> usize {
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
            // Whoever loads this version sees every page it names: they were written before it was appended, or are in the cache.
            self.visible.store(version);
            self.visible_seq.store(seq, Ordering::Release);
        }
        pending_before - append.pending.len()
    }
}

impl Append {
    /// Whether a record of so many blocks may be promised a place, and a number below the durable limit (rules 5 and 21).
    fn has_room(&self, blocks: u64, seq_limit: Seq) -> bool {
        let room = &self.room;
        room.promised() + blocks + KEPT_BLOCKS <= room.blocks && self.next + SEQS_KEPT < seq_limit.0
    }

    /// The log's layout once all groups are written. A checkpoint that failed may have left one with which the log grows.
    pub(super) fn layout(&self, writer: &LogWriter) -> RingLayout {
        let promised = self.groups.iter().rev().find_map(|group| group.cut.as_ref());
        promised.unwrap_or(&writer.layout).clone()
    }

    /// Puts a record into the open group, or opens another.
    fn push(&mut self, record: &[u8], unsynced_bytes: u64, cut: Option<RingLayout>) {
        if !self.groups.back().is_some_and(|group| group.is_open(record.len())) {
            self.groups.push_back(Group::new(std::mem::take(&mut self.spare)));
        } else if let Some(group) = self.groups.back() {
            self.room.queued -= group.blocks();
        }
        let group = self.groups.back_mut().expect("one was pushed if there was none");
        group.buffer.extend_from_slice(record);
        self.record_bytes += record.len() as u64;
        group.records += 1;
        group.unsynced_bytes += unsynced_bytes;
        group.cut = cut;
        self.room.queued += group.blocks();
    }

    /// Notes which pages an image made and freed.
    fn note_pages(&mut self, seq: Seq, share: &mut Share) {
        let freed = std::mem::take(&mut share.freed);
        self.freed_pages += freed.iter().map(|f| f.extent.pages).sum::<u64>();
        let allocated: Vec<_> = share.written.iter().collect();
        if !allocated.is_empty() || !freed.is_empty() {
            self.deltas.push(Delta {
                seq,
                owner: share.owner,
                death: share.death,
                allocated,
                freed: joined_freed(freed),
            });
        }
    }
}

impl LogRoom {
    /// The leader has taken the queue.
    pub(super) fn take_queue(&mut self) {
        self.writing += std::mem::take(&mut self.queued);
    }
}
