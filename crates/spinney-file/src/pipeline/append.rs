//! The append: a commit gets its seq and its place (rule 6), and room in the log before that (rule 5).

use super::{
    Append, Appended, Cut, CutPosition, Group, KEPT_BLOCKS, LogRoom, LogWriter, Pending, Pipeline, Prepared, set_root,
};
use crate::{
    commit::{Kind, Share, joined_freed},
    error::FileError,
    log::{BLOCK_BYTES, GROUP_HEADER_BYTES, RingLayout},
    options::{FileOptions, Sabotage},
    owners::OwnerTable,
    page::PagePtr,
    unwritten::{Inherited, Unwritten},
    version::{Version, leaf_of},
};
use parking_lot::MutexGuard;
use spinney_alloc::{Delta, Freed, Owner, PageNo, Seq, Stamp};
use std::sync::{Arc, atomic::Ordering};

/// Seqs below the limit that are not promised: for what has a promise already, and for checkpoints.
const SEQS_KEPT: u64 = 1024;
/// Whoever appends beyond this writes the queue, so that memory stays bounded.
const QUEUE_BLOCKS_MAX: u64 = (1 << 20) / BLOCK_BYTES;
/// The background thread looks for work whenever this part of the log has been filled, as a divisor.
const WORK_PARTS: u64 = 4;

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

    /// Whether the log is so full that a checkpoint should start now.
    pub(crate) fn half_full(&self) -> bool {
        let room = self.append.lock().room;
        2 * room.promised() > room.blocks
    }

    // ---- append (rule 6) ----

    /// Gives the commit its seq and its place; from here only a crash or poison undoes it. The leaves of its owners must be
    /// loaded in `owners`. `None`: it reserved no room, and there is none without a checkpoint.
    ///
    /// # Errors
    /// [`FileError::Poisoned`], [`FileError::Closed`].
    pub(crate) fn append(
        &self,
        options: &FileOptions,
        owners: &OwnerTable,
        commit: Prepared<'_>,
    ) -> Result<Option<Appended>, FileError> {
        let early = options.broken(Sabotage::TipsBeforeLock).then(|| self.newest.load_full());
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
        let blocks = Self::blocks_for(commit.record.len());
        if commit.reserved_blocks == 0 && !append.has_room(blocks, self.seq_limit()) {
            return Ok(None);
        }
        let seq = self.next_seq(&mut append);
        if late {
            MutexGuard::unlocked(&mut append, || options.interlude());
        }
        let mut version = (*early.unwrap_or_else(|| self.newest.load_full())).clone();
        version.seq = seq;
        let mut superseded = Vec::new();
        for share in commit.shares {
            set_root(&mut version, owners, share.owner, share.root);
            append.changed.insert(owners.page_of(leaf_of(share.owner)));
            append.note_pages(seq, share, &mut superseded);
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
        let (room, round, freed_pages) = (append.room, append.unwritten.round(), append.freed_pages);
        drop(append);
        if shown > 1 {
            // Others' commits too, and they may be waiting for it.
            self.waiting.wake_reached(self);
        }
        let part = (room.blocks / WORK_PARTS).max(1);
        Ok(Some(Appended {
            seq,
            superseded,
            round,
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
    pub(crate) fn append_checkpoint(&self, record: &[u8], log: RingLayout) -> Result<Cut, FileError> {
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
        let version = self.newest.load_full();
        let (unwritten, held) = append.unwritten.freeze();
        let fresh = unwritten.iter().map(|(&owner, unwritten)| Delta {
            seq: version.seq,
            owner,
            death: Stamp(0),
            allocated: unwritten.fresh_extents().collect(),
            freed: Vec::new(),
        });
        let fresh: Vec<Delta> = fresh.filter(|delta| !delta.allocated.is_empty()).collect();
        let mut deltas = std::mem::take(&mut append.deltas);
        deltas.extend(fresh);
        Ok(Cut {
            seq: version.seq,
            version,
            deltas,
            changed: std::mem::take(&mut append.changed),
            freed_pages: std::mem::take(&mut append.freed_pages),
            unwritten,
            held,
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
        let mut version = (*self.newest.load_full()).clone();
        version.seq = seq;
        append.push(record, 0, cut);
        self.tell(append, version, true);
        seq
    }

    /// The newest version from here on.
    fn tell(&self, append: &mut MutexGuard<'_, Append>, version: Version, immediate: bool) {
        let (seq, version) = (version.seq, Arc::new(version));
        self.newest.store(Arc::clone(&version));
        append.pending.push_back(Pending { immediate, version });
        self.appended.store(seq.0, Ordering::Release);
    }

    /// The checkpoint is durable: what it covers is written, and no longer anybody's to write.
    pub(crate) fn forget_frozen(&self) {
        self.append.lock().unwritten.forget_frozen();
    }

    /// A checkpoint failed: the next one covers what this one did, and what is freed still waits for it. (The allocator keeps the
    /// deltas.)
    pub(crate) fn take_back(&self, cut: Cut) {
        let Cut { changed, freed_pages, unwritten, .. } = cut;
        drop(unwritten);
        let mut append = self.append.lock();
        append.changed.extend(changed);
        append.freed_pages += freed_pages;
        append.unwritten.take_back();
    }

    /// The newest version with the root of an owner whose commits were repeated: as the log says it was, only now in memory.
    pub(crate) fn adopt(&self, owners: &OwnerTable, share: &mut Share) {
        let mut append = self.append.lock();
        let mut version = (*self.newest.load_full()).clone();
        set_root(&mut version, owners, share.owner, share.root);
        append.changed.insert(owners.page_of(leaf_of(share.owner)));
        append.note_pages(version.seq, share, &mut Vec::new());
        let version = Arc::new(version);
        self.newest.store(Arc::clone(&version));
        self.visible.store(version);
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

    // ---- pages of small commits ----

    /// Pages of `owner`'s tip that its next image has to write or claim.
    pub(crate) fn unwritten_pages(&self, owner: Owner) -> u64 {
        self.append.lock().unwritten.now.get(&owner).map_or(0, Unwritten::pages)
    }

    /// What an image of `owner` that frees `freed` takes over from the small commits before it.
    pub(crate) fn inherited(&self, owner: Owner, freed: &[Freed]) -> Inherited {
        match self.append.lock().unwritten.now.get(&owner) {
            Some(unwritten) => unwritten.inherited(freed),
            None => Inherited { releases: freed.iter().map(|f| f.extent).collect(), ..Inherited::default() },
        }
    }

    /// Superseded pages that a snapshot keeps in memory are written with the others; returns the round after which they are.
    pub(crate) fn write_held(&self, pages: impl IntoIterator<Item = PagePtr>) -> u64 {
        let mut append = self.append.lock();
        append.unwritten.held.extend(pages);
        append.unwritten.rounds.0 + 1
    }

    /// Rounds of writing pages of several commits that are over.
    pub(crate) fn rounds_finished(&self) -> u64 {
        self.rounds_finished.load(Ordering::Acquire)
    }

    /// Begins a round that writes pages born before `stamp`, those of them that nobody has written.
    pub(crate) fn begin_round(&self, stamp: Stamp) -> Vec<PagePtr> {
        let mut append = self.append.lock();
        let unwritten = &mut append.unwritten;
        unwritten.rounds.0 += 1;
        let mut pages = std::mem::take(&mut unwritten.held);
        pages.extend(unwritten.now.values().flat_map(Unwritten::cached).filter(|ptr| ptr.stamp < stamp));
        pages
    }

    /// Ends the round that a checkpoint or [`begin_round`](Self::begin_round) began.
    pub(crate) fn end_round(&self) {
        let rounds = &mut self.append.lock().unwritten.rounds;
        rounds.1 = rounds.0;
        self.rounds_finished.store(rounds.1, Ordering::Release);
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
        group.records += 1;
        group.unsynced_bytes += unsynced_bytes;
        group.cut = cut;
        self.room.queued += group.blocks();
    }

    /// Notes which pages a share of a commit made and freed. Leaves in the share what it freed that no map knows.
    fn note_pages(&mut self, seq: Seq, share: &mut Share, superseded: &mut Vec<PageNo>) {
        let older = self.unwritten.free(share.owner, &mut share.freed);
        superseded.extend(older.iter().filter(|f| f.extent.pages == 1).map(|f| f.extent.start));
        self.freed_pages += older.iter().map(|f| f.extent.pages).sum::<u64>();
        let allocated = match &share.kind {
            Kind::Ops { dirty, .. } => {
                let unwritten = self.unwritten.now.entry(share.owner).or_default();
                unwritten.add(dirty.iter().copied(), &share.written);
                Vec::new()
            }
            Kind::Image { .. } => {
                let mut all = share.written.clone();
                if let Some(unwritten) = self.unwritten.now.remove(&share.owner) {
                    all.extend(unwritten.fresh_extents());
                }
                all.iter().collect()
            }
        };
        if !allocated.is_empty() || !older.is_empty() {
            let freed = joined_freed(older);
            self.deltas.push(Delta { seq, owner: share.owner, death: share.death, allocated, freed });
        }
    }
}

impl LogRoom {
    /// The leader has taken the queue.
    pub(super) fn take_queue(&mut self) {
        self.writing += std::mem::take(&mut self.queued);
    }
}
