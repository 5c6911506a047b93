//! A commit: log its effects, or write its pages and log its roots; then wait as long as the caller asked (rules 3 to 8).
//!
//! ```text
//!   part --small-----> ops:   [record], and in memory above the root      merged into pages later, with many others
//!     `----in pages--> image: pages --> [record]
//! ```

use crate::{
    budget::Charge,
    counters::FlushCounters,
    engine::Engine,
    error::FileError,
    flusher::{Flusher, WrittenRun},
    log::{ImagePart, LogPart, OpsPart, RECORD_HEADER_BYTES, Record, RunClaim},
    options::{Durability, Sabotage, Told},
    page::PagePtr,
    part::Part,
    pipeline::{Appended, Goal, Outcome, Pipeline, Prepared},
    version::{Above, OwnerRoot, leaf_of},
};
use bytes::Bytes;
use smallvec::SmallVec;
use spinney_alloc::{Extent, ExtentSet, Freed, Owner, PageNo, Seq, Stamp};
use std::{
    io::IoSlice,
    sync::{Arc, atomic::Ordering},
};

/// Un-synced images start a leader by themselves when there is this much of them.
const UNSYNCED_BYTES_MAX: u64 = 64 << 20;

/// Shorter runs are left to the sync: their way to the disk is not worth a call of its own.
const WRITEBACK_BYTES_MIN: u64 = 64 << 10;

/// Pages ready to be written, in order.
#[derive(Debug, Default)]
pub(crate) struct DirtyPages {
    /// Whole pages with headers.
    pub(crate) sealed: Vec<(PageNo, Bytes)>,
    /// Runs of raw pages, by first page.
    pub(crate) raw: Vec<(PageNo, Bytes)>,
}

impl DirtyPages {
    /// The runs they form.
    pub(crate) fn extents(&self, page_bytes: usize) -> Vec<Extent> {
        let mut extents: Vec<Extent> = Vec::new();
        let sealed = self.sealed.iter().map(|(page, _)| Extent::page(*page));
        let raw =
            self.raw.iter().map(|(start, data)| Extent { start: *start, pages: (data.len() / page_bytes) as u64 });
        for extent in sealed.chain(raw) {
            match extents.last_mut() {
                Some(last) if last.end() == extent.start.get() => last.pages += extent.pages,
                _ => extents.push(extent),
            }
        }
        extents
    }
}

impl Engine {
    /// Writes pages of images.
    pub(crate) fn flush_images(&self, pages: &DirtyPages) -> Result<Vec<WrittenRun>, FileError> {
        self.flush_pages(pages, &self.disk.counters.images)
    }

    /// Writes pages, coalesced and un-synced. Long runs set out for the disk at once, while other writers still work, so that
    /// the sync finds little to wait for.
    pub(crate) fn flush_pages(
        &self,
        pages: &DirtyPages,
        counters: &FlushCounters,
    ) -> Result<Vec<WrittenRun>, FileError> {
        let mut flusher = Flusher {
            page_bytes: self.disk.page_bytes,
            merge: self.options.tuning.merge,
            counters,
            latency: &self.disk.counters.latencies.write,
            write: |at, run: &[IoSlice<'_>]| self.disk.write_run(at, run),
        };
        let skipped = usize::from(self.options.broken(Sabotage::ImageSkipsAPage)).min(pages.sealed.len());
        let runs = flusher.flush(&pages.sealed[skipped..], &pages.raw)?.runs;
        for run in runs.iter().filter(|run| self.bytes_of(run.extent) >= WRITEBACK_BYTES_MIN) {
            self.disk.storage.begin_writeback(self.disk.offset(run.extent.start), self.bytes_of(run.extent));
        }
        Ok(runs)
    }

    fn bytes_of(&self, extent: Extent) -> u64 {
        extent.pages * self.disk.page_bytes as u64
    }

    /// Commits `parts`, whose slots the caller holds until `appended` is called: with the append done, the next writers
    /// may go on.
    ///
    /// # Errors
    /// Before the append: a clean abort. Afterwards only [`FileError::CommitOutcomeUnknown`].
    pub(crate) fn commit(
        &self,
        mut parts: Vec<Part>,
        durability: Durability,
        appended: impl FnOnce(),
    ) -> Result<Seq, FileError> {
        self.check_writable()?;
        if parts.iter().any(|part| part.broken) {
            return Err(FileError::TransactionBroken);
        }
        if parts.len() > usize::from(u16::MAX) {
            return Err(FileError::Option("a transaction changes at most 65535 owners"));
        }
        if !parts.iter().any(Part::is_changed) {
            // Nothing to write; but what was read is certain only once it cannot be taken back.
            let seq = self.pipeline.appended();
            drop(parts);
            appended();
            self.wait(seq, goal(durability))?;
            return Ok(seq);
        }
        for part in parts.iter().filter(|part| part.is_changed()) {
            let leaf = leaf_of(part.owner);
            self.owners.at_opening(&self.disk, leaf)?;
            if !part.base.exists() {
                self.home_for(leaf)?;
            }
        }
        let done = self.append_commit(&mut parts, durability)?;
        drop(parts);
        appended();
        if done.queue_is_long {
            self.wait(done.seq, Goal::Written)?;
        }
        if self.pipeline.unsynced_bytes() > UNSYNCED_BYTES_MAX {
            self.wait(done.seq, Goal::Durable)?;
        }
        let shown_is_enough =
            durability == Durability::Buffered && self.options.broken(Sabotage::BufferedReturnsAtOnce);
        self.wait(done.seq, if shown_is_enough { Goal::Visible } else { goal(durability) })?;
        if durability != Durability::Immediate {
            self.signal.unsynced();
        }
        let freed_bytes = done.freed_pages * self.disk.page_bytes as u64;
        if done.work_is_due || self.unwritten_due() || freed_bytes > self.options.tuning.checkpoint_after_freed_bytes {
            self.after_commit();
        }
        Ok(done.seq)
    }

    /// Everything up to and including the append: rules 3 to 6.
    fn append_commit(&self, parts: &mut [Part], durability: Durability) -> Result<Appended, FileError> {
        let mut changed: SmallVec<[&mut Part; 1]> = parts.iter_mut().filter(|part| part.is_changed()).collect();
        changed.iter_mut().try_for_each(|part| part.assure_merge())?;
        let mut shares: SmallVec<[Share; 1]> = changed.iter_mut().map(|part| Share::of(part)).collect();
        let done = if shares.iter().all(Share::is_small) {
            self.append_small(&mut shares, durability)?
        } else {
            // What is written, or was to be, the parts still know if this fails.
            self.append_images(&mut shares, durability, true)?
        };
        for (part, share) in changed.into_iter().zip(shares) {
            part.written_early.clear(); // from the append on these pages belong to the commit
            part.promised_pages = 0; // and what it was promised to what it left
            if !share.is_small() {
                self.appetites.note(share.owner, share.written.pages());
            }
        }
        done.superseded.iter().for_each(|&page| self.cache.supersede(page));
        Ok(done)
    }

    /// Small commits: one record, and nothing is written before it.
    fn append_small(&self, shares: &mut [Share], durability: Durability) -> Result<Appended, FileError> {
        self.wait_for_memory()?;
        let record = Record::encode_ops(shares.iter().map(|share| (share.owner, share.effects())));
        let blocks = Pipeline::blocks_for(record.len());
        // First: nothing may go wrong any more once the effects are in memory.
        while !self.pipeline.reserve(blocks) {
            self.make_log_room(blocks)?;
        }
        self.append_reserved(&record, blocks, durability, 0, shares)
    }

    /// What small commits leave is bounded: whoever finds half of the budget taken by it waits until a checkpoint has merged it.
    fn wait_for_memory(&self) -> Result<(), FileError> {
        let is_full = || self.budget.spent(Charge::Unwritten) > self.budget.limit() / 2;
        if is_full() {
            self.checkpoint_unless(|| !is_full()).map_err(|error| match error {
                FileError::Poisoned => error,
                other => FileError::CheckpointFailed(Arc::new(other)),
            })?;
        }
        Ok(())
    }

    /// Appends a record whose room was reserved. Effects go to memory directly before; again if what they stand on was divided
    /// meanwhile. After that only a file that takes no commit any more can refuse, so that what is in memory and was not
    /// appended is never below a commit.
    fn append_reserved(
        &self,
        record: &[u8],
        reserved_blocks: u64,
        durability: Durability,
        unsynced_bytes: u64,
        shares: &mut [Share],
    ) -> Result<Appended, FileError> {
        let done = loop {
            if shares.iter().any(Share::is_small) {
                let tips = self.pipeline.tips();
                let added = shares.iter_mut().try_for_each(|share| share.add(self, tips.above(share.owner)));
                if let Err(why) = added {
                    break Err(FileError::Option(why));
                }
            }
            let prepared = Prepared {
                record,
                reserved_blocks,
                immediate: durability == Durability::Immediate,
                unsynced_bytes,
                shares: &mut *shares,
            };
            match self.pipeline.append(&self.options, &self.owners, prepared) {
                Ok(Outcome::Appended(done)) => break Ok(done),
                Ok(Outcome::Divided) => {}
                Err(error) => break Err(error),
            }
        };
        match done {
            Ok(done) => {
                let small = shares.iter().filter(|share| share.is_small()).count();
                self.disk.counters.small_commits.fetch_add(small as u64, Ordering::Relaxed);
                if self.budget.total() > self.budget.limit() {
                    self.cache.shrink_to_budget();
                }
                Ok(done)
            }
            Err(error) => {
                self.pipeline.unreserve(reserved_blocks);
                Err(error)
            }
        }
    }

    /// Commits with images: everything they need is written first. Only with `may_wait` a checkpoint is made when the log has no room.
    pub(crate) fn append_images(
        &self,
        shares: &mut [Share],
        durability: Durability,
        may_wait: bool,
    ) -> Result<Appended, FileError> {
        let bytes = shares.iter().map(Share::record_bytes);
        let blocks = Pipeline::blocks_for(RECORD_HEADER_BYTES + bytes.sum::<usize>());
        while !self.pipeline.reserve(blocks) {
            if !may_wait {
                return Err(FileError::Full { bytes_wanted: blocks * crate::log::BLOCK_BYTES });
            }
            self.make_log_room(blocks)?;
        }
        #[cfg(any(test, feature = "testing"))]
        let claimed: Vec<Extent> = shares.iter().flat_map(Share::claims).collect();
        let (record, unsynced_bytes) =
            self.write_images(shares, durability).inspect_err(|_| self.pipeline.unreserve(blocks))?;
        #[cfg(any(test, feature = "testing"))]
        self.shadow.claimed(&claimed);
        let done = self.append_reserved(&record, blocks, durability, unsynced_bytes, shares);
        #[cfg(any(test, feature = "testing"))]
        if done.is_err() {
            claimed.iter().for_each(|&extent| self.shadow.freed(extent));
        }
        done
    }

    /// Writes the pages of images; the record, and how many bytes no sync covers.
    fn write_images(&self, shares: &mut [Share], durability: Durability) -> Result<(Vec<u8>, u64), FileError> {
        let tuning = &self.options.tuning;
        let sync_above = match durability {
            Durability::Immediate => tuning.sync_first_bytes,
            Durability::Buffered | Durability::Eventual => tuning.sync_first_eventual_bytes,
        };
        let mut unsynced_bytes: u64 =
            shares.iter().map(|share| share.written.pages()).sum::<u64>() * self.disk.page_bytes as u64;
        // Pages that were written before have no digest in memory any more.
        let mut synced =
            unsynced_bytes == 0 || unsynced_bytes > sync_above || shares.iter().any(Share::was_written_before);
        let mut parts = Vec::with_capacity(shares.len());
        for share in shares.iter_mut() {
            let Kind::Image { pages, .. } = &mut share.kind else {
                let effects = Bytes::copy_from_slice(share.effects());
                parts.push(LogPart::Ops(OpsPart { owner: share.owner, effects }));
                continue;
            };
            let runs = self.flush_images(pages)?;
            for (page, bytes) in std::mem::take(&mut pages.sealed) {
                self.cache.insert(PagePtr { page, stamp: share.root.stamp }, bytes);
            }
            pages.raw.clear();
            let claims = if synced {
                share.written.iter().map(|extent| RunClaim { extent, digest: 0 }).collect()
            } else {
                runs.iter().map(|run| RunClaim { extent: run.extent, digest: run.digest }).collect()
            };
            if self.options.broken(Sabotage::LogsGivenUpEffects) {
                parts.push(LogPart::Ops(OpsPart { owner: share.owner, effects: Bytes::new() }));
                continue;
            }
            let image = ImagePart {
                owner: share.owner,
                stamp: share.root.stamp,
                root: share.root.root,
                claims,
                releases: share.freed.iter().map(|freed| freed.extent).collect::<ExtentSet>().iter().collect(),
            };
            parts.push(LogPart::Image(image));
        }
        if synced && unsynced_bytes > 0 {
            if !self.options.broken(Sabotage::ImageClaimsSync) {
                self.disk.sync().inspect_err(|_| self.pipeline.poison())?;
                self.disk.settled().inspect_err(|_| self.pipeline.poison())?;
            }
            self.disk.counters.images.count_sync();
            unsynced_bytes = 0;
        }
        if self.options.broken(Sabotage::ImageClaimsSync) {
            (synced, unsynced_bytes) = (true, 0);
        }
        Ok((Record::Commit { synced, parts }.encode(), unsynced_bytes))
    }
}

/// One owner's share of a commit, on its way to the log.
pub(crate) struct Share {
    pub(crate) owner: Owner,
    pub(crate) root: OwnerRoot,
    /// The first stamp of the transaction: where the lives of the pages it frees end.
    pub(crate) death: Stamp,
    pub(crate) freed: Vec<Freed>,
    /// Pages of this transaction that are in their place when it is appended.
    pub(crate) written: ExtentSet,
    pub(crate) kind: Kind,
}

/// What effects take: in memory, and in pages when they are merged.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Weight {
    pub(crate) bytes: usize,
    pub(crate) keys: usize,
    pub(crate) promised_pages: u64,
}

pub(crate) enum Kind {
    /// Its effects are in the log, and in memory.
    Small {
        effects: Vec<u8>,
        weight: Weight,
        /// What stood above the owner's root when they were added, and what does then.
        before: Option<Above>,
        after: Option<Above>,
    },
    /// Its pages are in their place.
    Image {
        /// Those that are not written yet.
        pages: DirtyPages,
        /// Some were written before.
        spilled: bool,
    },
}

impl Share {
    /// Of a part, whose private pages, freed pages and effects it takes. What it is to write, the part knows as written early.
    pub(crate) fn of(part: &mut Part) -> Self {
        let kind = if part.in_pages {
            let spilled = !part.written_early.is_empty();
            Kind::Image { pages: part.take_private(), spilled }
        } else {
            Kind::Small { weight: part.weight(), effects: std::mem::take(&mut part.effects), before: None, after: None }
        };
        Self {
            owner: part.owner,
            root: OwnerRoot { root: part.root, stamp: part.stamp },
            death: part.first_stamp,
            freed: std::mem::take(&mut part.freed),
            written: if part.in_pages { part.written_early.clone() } else { ExtentSet::default() },
            kind,
        }
    }

    pub(crate) fn is_small(&self) -> bool {
        matches!(self.kind, Kind::Small { .. })
    }

    /// Adds the effects of a small share to what stands above its owner's root now.
    fn add(&mut self, engine: &Engine, now: Option<&Above>) -> Result<(), &'static str> {
        let Kind::Small { effects, before, after, .. } = &mut self.kind else { return Ok(()) };
        let add = engine.options.small_commits.as_ref().ok_or("effects of a layer that keeps none")?.add;
        *after = Some(add(now, self.root.stamp, Told::Lent(effects))?);
        *before = now.cloned();
        Ok(())
    }

    /// Whether this is still what stands above its owner's root.
    pub(crate) fn stands_on(&self, now: Option<&Above>) -> bool {
        match (&self.kind, now) {
            (Kind::Small { before: None, .. }, None) | (Kind::Image { .. }, _) => true,
            (Kind::Small { before: Some(before), .. }, Some(now)) => Arc::ptr_eq(before, now),
            (Kind::Small { .. }, _) => false,
        }
    }

    /// Those of a small share.
    fn effects(&self) -> &[u8] {
        let Kind::Small { effects, .. } = &self.kind else { unreachable!("asked of small shares only") };
        effects
    }

    fn was_written_before(&self) -> bool {
        matches!(self.kind, Kind::Image { spilled: true, .. })
    }

    #[cfg(any(test, feature = "testing"))]
    fn claims(&self) -> Vec<Extent> {
        self.written.iter().collect()
    }

    /// What its part of the record takes at most.
    fn record_bytes(&self) -> usize {
        match &self.kind {
            Kind::Image { .. } => ImagePart::encoded_bytes(self.written.runs(), self.freed.len()),
            Kind::Small { effects, .. } => OpsPart::encoded_bytes(effects.len()),
        }
    }
}

fn goal(durability: Durability) -> Goal {
    match durability {
        Durability::Immediate => Goal::Durable,
        Durability::Buffered => Goal::Written,
        Durability::Eventual => Goal::Visible,
    }
}

/// Sorts what was freed and joins neighbours of one birth, so that the list is short.
pub(crate) fn joined_freed(mut freed: Vec<Freed>) -> Vec<Freed> {
    freed.sort_unstable_by_key(|f| f.extent.start);
    freed.dedup_by(|next, last| {
        let joins = last.extent.end() == next.extent.start.get()
            && last.birth == next.birth
            && last.extent.pages + next.extent.pages <= u64::from(u32::MAX);
        if joins {
            last.extent.pages += next.extent.pages;
        }
        joins
    });
    freed
}

/// What recovery makes of a part whose readers are all gone: a life nobody can have seen.
pub(crate) fn freed_before_opening(extents: &[Extent]) -> Vec<Freed> {
    extents.iter().map(|&extent| Freed { extent, birth: Stamp(0) }).collect()
}
