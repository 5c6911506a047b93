//! A checkpoint: a durable image of one version, and a superblock that points to it (rules 13 and 14).
//!
//! It takes no writer slot and walks no tree. Commits go on meanwhile; theirs belong to the next checkpoint.
#![expect(clippy::cast_possible_truncation, reason = "lengths of buffers in memory fit a usize")]

use crate::{
    engine::Engine,
    error::FileError,
    live_map::LiveMap,
    log::{BLOCK_BYTES, LOG_BLOCKS_MAX, Record, RingLayout},
    merge::Unfinished,
    options::Sabotage,
    owners::{NO_OWNER, SavedOwners},
    page::{PageHeader, PagePtr},
    pipeline::{Cut, Goal, set_root},
    space::Room,
    space::{KIND_MAP_DIRECTORY, KIND_MAP_REGION},
    superblock::{SLOT_AT, Superblock},
    version::{Version, leaf_of},
};
use parking_lot::{Mutex, MutexGuard};
use spinney_alloc::{Extent, PageNo, Seq, Stamp};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

/// How much larger the log becomes while checkpoints come because it is full: few steps, as each is a checkpoint too.
const LOG_GROWTH: u64 = 8;

/// A log that is mostly padding, because a single writer fills a block with each commit, does not grow beyond this.
const LOG_BYTES_PADDED: u64 = 16 << 20;

/// The newest durable checkpoint, and the turn to make the next.
#[derive(Debug)]
pub(crate) struct Checkpoints {
    /// Locked for as long as a checkpoint runs, or what small commits left of an owner is merged: one at a time.
    turn: Mutex<Turn>,
    /// Log blocks that some commit needs and the log does not have.
    wanted_blocks: AtomicU64,
    finished: AtomicU64,
    failed: AtomicU64,
    /// C_d, for readers of statistics.
    seq: AtomicU64,
}

/// What whoever has the turn knows.
#[derive(Debug)]
pub(crate) struct Turn {
    /// The newest durable checkpoint's.
    pub(crate) superblock: Superblock,
    /// Merges that a checkpoint made and then failed.
    pub(crate) unfinished: Unfinished,
}

impl Checkpoints {
    pub(crate) fn new(newest: Superblock) -> Self {
        Self {
            seq: AtomicU64::new(newest.seq.0),
            turn: Mutex::new(Turn { superblock: newest, unfinished: Unfinished::default() }),
            wanted_blocks: AtomicU64::new(0),
            finished: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        }
    }

    /// Keeps checkpoints from beginning; waits for the one in progress.
    pub(crate) fn turn(&self) -> MutexGuard<'_, Turn> {
        self.turn.lock()
    }

    /// A commit needs a log of at least that many blocks: the next checkpoint enlarges it.
    pub(crate) fn want_log_blocks(&self, blocks: u64) {
        self.wanted_blocks.fetch_max(blocks, Ordering::Relaxed);
    }

    pub(crate) fn finished(&self) -> u64 {
        self.finished.load(Ordering::Acquire)
    }

    pub(crate) fn failed(&self) -> u64 {
        self.failed.load(Ordering::Acquire)
    }

    pub(crate) fn seq(&self) -> Seq {
        Seq(self.seq.load(Ordering::Acquire))
    }
}

impl Engine {
    /// Makes a checkpoint.
    ///
    /// # Errors
    /// Whatever kept it from being durable. Unless the file is poisoned nothing is lost: the next one covers it all.
    pub(crate) fn checkpoint_now(&self) -> Result<Seq, FileError> {
        self.checkpoint_unless(|| false)
    }

    /// Waits for its turn and makes a checkpoint, unless `served` says by then that others' were enough.
    pub(crate) fn checkpoint_unless(&self, served: impl FnOnce() -> bool) -> Result<Seq, FileError> {
        let mut turn = self.checkpoints.turn();
        if served() {
            return Ok(turn.superblock.seq);
        }
        self.checkpoint_in_turn(&mut turn).map(|(seq, _)| seq)
    }

    /// Makes a checkpoint for whoever has the turn; returns what it covers, and the version it is of.
    pub(crate) fn checkpoint_in_turn(&self, turn: &mut Turn) -> Result<(Seq, Arc<Version>), FileError> {
        if self.pipeline.is_poisoned() {
            return Err(FileError::Poisoned);
        }
        let begun = Instant::now();
        let done = self.run_checkpoint(turn);
        match &done {
            Ok(_) => {
                self.checkpoints.finished.fetch_add(1, Ordering::AcqRel);
                self.disk.counters.latencies.checkpoint.record(begun.elapsed());
            }
            Err(_) => drop(self.checkpoints.failed.fetch_add(1, Ordering::AcqRel)),
        }
        done
    }

    fn run_checkpoint(&self, turn: &mut Turn) -> Result<(Seq, Arc<Version>), FileError> {
        let number = self.draw_checkpoint_number(turn.superblock.number);
        let (layout, grown) = self.enlarged_log()?;
        let record = Record::Checkpoint { log: layout.extents().to_vec() }.encode();
        let small = self.options.small_commits;
        let mut cut = match self.pipeline.append_checkpoint(&self.owners, small, &record, layout.clone()) {
            Ok(cut) => cut,
            Err(error) => {
                self.space.give_back(grown);
                return Err(error);
            }
        };
        self.checkpoints.wanted_blocks.store(0, Ordering::Relaxed);
        self.options.interlude();
        if self.options.broken(Sabotage::MapAfterCut) {
            self.pipeline.add_later(&mut cut);
        }
        self.space.map(|map| {
            if let Some(extent) = grown {
                map.mark_permanent(extent);
            }
            for delta in std::mem::take(&mut cut.deltas) {
                map.commit(delta);
            }
        });
        let merged = self.merge_cut(&cut, &mut turn.unfinished);
        let saved = merged.and_then(|()| {
            self.space.map(|map| {
                map.begin_checkpoint(cut.seq);
                map.save_as(number);
            });
            let version = self.merged_version(turn, &mut cut);
            let saved = self.save(turn, number, &layout, &cut, &version);
            let saved = saved.inspect_err(|_| self.space.map(|map| map.fail_checkpoint()))?;
            Ok((saved, version))
        });
        match saved {
            Ok(((superblock, owners), version)) => {
                self.finish(turn, superblock, owners);
                self.anchor()?;
                Ok((cut.seq, Arc::new(version)))
            }
            Err(error) => {
                self.pipeline.take_back(cut);
                Err(error)
            }
        }
    }

    /// The cut's version with everything in pages.
    fn merged_version(&self, turn: &Turn, cut: &mut Cut) -> Version {
        let mut version = (*cut.version).clone();
        for (&owner, merged) in &turn.unfinished {
            set_root(&mut version, &self.owners, owner, Some(merged.root), None);
            cut.changed.insert(self.owners.page_of(leaf_of(owner)));
        }
        version
    }

    /// Everything up to and including the durable superblock.
    fn save(
        &self,
        turn: &Turn,
        number: u64,
        layout: &RingLayout,
        cut: &Cut,
        version: &Version,
    ) -> Result<(Superblock, SavedOwners), FileError> {
        self.wait(cut.seq, Goal::Durable)?;
        let position = self.pipeline.cut_position(cut.seq);

        while let Err(need) = self.owners.freeze_with(|| self.space.map(|map| map.apply_checkpoint())) {
            self.space.satisfy(&self.disk, need)?;
        }
        let used_end = self.space.with(&self.disk, |map| map.durable_used_end())?;
        let owners = self.owners.save(&self.disk, &self.options, version, &cut.changed, number)?;
        let mut live = LiveMap::if_broken(self)?;
        self.save_map(number, live.as_mut())?;
        let ahead = self.options.tuning.numbers_ahead;
        let superblock = Superblock {
            number,
            epoch: self.pipeline.epoch(),
            seq: cut.seq,
            seq_limit: self.pipeline.seq_limit().max(Seq(self.pipeline.appended().0 + ahead)),
            stamp_limit: Stamp(
                self.stamp_limit.load(Ordering::Acquire).max(self.next_stamp.load(Ordering::Acquire) + ahead),
            ),
            log_start: position.block,
            log_chain: position.chain,
            file_pages: self.space.map(|map| map.file_pages()),
            used_end,
            log: layout.clone(),
            map: LiveMap::entries(live, self.space.map(|map| map.superblock_entries())),
            owners: self.owners.superblock_entries(&owners),
            page_bytes: turn.superblock.page_bytes,
            file_id: turn.superblock.file_id,
        };
        let first = self.options.broken(Sabotage::SuperblockFirst);
        if !first {
            self.disk.sync().inspect_err(|_| self.pipeline.poison())?;
            self.disk.settled().inspect_err(|_| self.pipeline.poison())?;
        }
        let in_turn = !self.options.broken(Sabotage::SuperblockInOneSlot);
        let slot = SLOT_AT[if in_turn { superblock.slot() } else { 0 }];
        // A superblock that fails half-way may be on disk or not; only reopening can tell.
        self.disk.write_sync(slot, &superblock.encode()).inspect_err(|_| self.pipeline.poison())?;
        self.disk.settled().inspect_err(|_| self.pipeline.poison())?;
        if first {
            self.disk.sync().inspect_err(|_| self.pipeline.poison())?;
        }
        self.pipeline.free_before(position);
        Ok((superblock, owners))
    }

    /// The superblock is durable: what it no longer needs may be granted, unless somebody reaches it.
    fn finish(&self, turn: &mut Turn, superblock: Superblock, owners: SavedOwners) {
        self.install_merged(&mut turn.unfinished);
        self.owners.finish(owners);
        self.pipeline.raise_seq_limit(superblock.seq_limit);
        self.stamp_limit.fetch_max(superblock.stamp_limit.0, Ordering::AcqRel);
        self.checkpoints.seq.store(superblock.seq.0, Ordering::Release);
        turn.superblock = superblock;
        let free = self.freeing(|map| {
            let free = map.finish_checkpoint(self);
            map.trim();
            free
        });
        self.forget(&free);
        self.collect_registering();
        self.collect_ended_snapshots();
    }

    /// Appends a record that chains from the new superblock. When the *other* slot is found damaged later, this shows that it was the
    /// older one; without it nobody could tell an empty log from one that a newer checkpoint has recycled.
    fn anchor(&self) -> Result<(), FileError> {
        if self.options.broken(Sabotage::NoAnchor) {
            return Ok(());
        }
        let seq = self.pipeline.append_anchor(&Record::Anchor.encode())?;
        self.wait(seq, Goal::Durable)
    }

    /// Writes the changed map pages and their directories to the homes that are not current.
    fn save_map(&self, number: u64, mut live: Option<&mut LiveMap>) -> Result<(), FileError> {
        let mut page = vec![0; self.disk.page_bytes];
        for region in self.space.map(|map| map.changed_regions()) {
            page.fill(0);
            let home = self.space.map(|map| map.encode_region(region, &mut page));
            live.iter_mut().for_each(|live| live.put(KIND_MAP_REGION, &mut page));
            self.write_map_page(home, number, KIND_MAP_REGION, &mut page)?;
        }
        for directory in self.space.map(|map| map.changed_directories()) {
            page.fill(0);
            let home = self.space.map(|map| map.encode_directory(directory, &mut page));
            live.iter_mut().for_each(|live| live.put(KIND_MAP_DIRECTORY, &mut page));
            self.write_map_page(home, number, KIND_MAP_DIRECTORY, &mut page)?;
        }
        Ok(())
    }

    fn write_map_page(&self, home: PageNo, number: u64, kind: u8, page: &mut [u8]) -> Result<(), FileError> {
        page[PageHeader::KIND] = kind;
        if self.options.broken(Sabotage::MapInBothHomes) {
            // Pairs of homes begin at even pages, but for pages of 64 KiB.
            let twin = PageNo::new(home.get() ^ 1).expect("homes are behind the header");
            self.disk.write_page(PagePtr { page: twin, stamp: Stamp(number) }, NO_OWNER, page)?;
        }
        self.disk.write_page(PagePtr { page: home, stamp: Stamp(number) }, NO_OWNER, page)
    }

    /// The log's layout after this checkpoint, and the extent it gained: eight times as large while checkpoints come because the log
    /// is full, or as large as a waiting commit needs. Where there is no larger one to be had it stays as it is: a small log works,
    /// slower, and only a commit that needs more fails, with its own error.
    ///
    /// # Errors
    /// A sync that failed, which poisons.
    fn enlarged_log(&self) -> Result<(RingLayout, Option<Extent>), FileError> {
        let layout = self.pipeline.layout();
        let wanted = self.checkpoints.wanted_blocks.load(Ordering::Relaxed);
        let blocks = layout.blocks();
        let limit = self.options.tuning.log_bytes_max / BLOCK_BYTES;
        let limit = if self.pipeline.is_mostly_padding() { limit.min(LOG_BYTES_PADDED / BLOCK_BYTES) } else { limit };
        let grown = if self.pipeline.half_full() { (LOG_GROWTH * blocks).min(limit) } else { 0 };
        let goal = grown.max(wanted).min(LOG_BLOCKS_MAX);
        // The record that says so takes a block that commits do not get.
        let may_grow = layout.extents().len() < RingLayout::EXTENTS_MAX && self.pipeline.has_room(0);
        if goal <= blocks || !may_grow {
            return Ok((layout, None));
        }
        let bytes = (goal - blocks) * BLOCK_BYTES;
        let most = self.space.map(|map| map.geometry().max_run_pages());
        let pages = bytes.div_ceil(self.disk.page_bytes as u64).min(most);
        let Ok(extent) = self.space.reserve_run(&self.disk, pages, Room::Adds) else { return Ok((layout, None)) };
        let extents = layout.extents().iter().copied().chain([extent]).collect();
        match RingLayout::new(extents, newest_page_bytes(self)).filter(|_| self.zero(extent).is_ok()) {
            Some(larger) => Ok((larger, Some(extent))),
            None => {
                self.space.give_back([extent]);
                if self.pipeline.is_poisoned() { Err(FileError::Poisoned) } else { Ok((layout, None)) }
            }
        }
    }

    /// The new blocks are zero on disk before anything names them, so that no old bytes can be mistaken for groups.
    fn zero(&self, extent: Extent) -> Result<(), FileError> {
        let zeros = vec![0; (extent.pages * self.disk.page_bytes as u64).min(1 << 20) as usize];
        let mut at = self.disk.offset(extent.start);
        let end = at + extent.pages * self.disk.page_bytes as u64;
        while at < end {
            let len = (end - at).min(zeros.len() as u64);
            self.disk.write(at, &zeros[..len as usize])?;
            at += len;
        }
        self.disk.sync().inspect_err(|_| self.pipeline.poison())
    }
}

fn newest_page_bytes(engine: &Engine) -> u32 {
    u32::try_from(engine.disk.page_bytes).expect("64 KiB at most")
}
