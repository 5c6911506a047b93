//! A commit: log its effects, or write its pages and log its roots; then wait as long as the caller asked (rules 3 to 8).
//!
//! ```text
//!   part --few effects, many pages--> ops:   [record]                 pages stay in the cache, unwritten
//!     `----many effects-------------> image: pages --> [record]       with all that earlier ops left
//! ```

use crate::{
    counters::FlushCounters,
    desk::KEPT_PAGES_MAX,
    engine::Engine,
    error::FileError,
    flusher::{Flusher, WrittenRun},
    log::{ImagePart, LogPart, OpsPart, RECORD_HEADER_BYTES, Record, RunClaim},
    options::{Durability, Sabotage},
    page::PagePtr,
    part::Part,
    pipeline::{Appended, Goal, Pipeline, Prepared},
    unwritten::Inherited,
    version::{OwnerRoot, leaf_of},
};
use bytes::Bytes;
use spinney_alloc::{Extent, ExtentSet, Freed, Owner, PageNo, Seq, Stamp};
use std::io::IoSlice;

/// Un-synced images start a leader by themselves when there is this much of them.
const UNSYNCED_BYTES_MAX: u64 = 64 << 20;

/// Shorter runs are left to the sync: their way to the disk is not worth a call of its own.
const WRITEBACK_BYTES_MIN: u64 = 64 << 10;

/// A part is logged as effects if so many times their bytes are less than the owner's unwritten pages have (rule 3).
const LOG_BYTES_WEIGHT: u64 = 2;

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
        let mut changed: Vec<&mut Part> = parts.iter_mut().filter(|part| part.is_changed()).collect();
        let mut shares = Vec::with_capacity(changed.len());
        for part in &mut changed {
            shares.push(if self.fits_the_log(part) { self.take_ops(part) } else { Self::take_image(part) });
        }
        let done = if shares.iter().all(Share::is_ops) {
            self.append_ops(&mut shares, durability)
        } else {
            self.append_images(&mut shares, durability)
        };
        let done = match done {
            Ok(done) => done,
            Err(error) => {
                // What is written, or was to be, the parts still know.
                shares.iter().for_each(|share| self.forget_share(share));
                return Err(error);
            }
        };
        for (part, share) in changed.into_iter().zip(shares) {
            part.written_early.clear(); // from the append on these pages belong to the commit
            part.keeps_arena = share.is_ops();
            part.desk.appetite = match &share.kind {
                Kind::Image { .. } => share.written.pages(),
                // Small commits: a larger arena each time.
                Kind::Ops { .. } if part.reserved_pages > 0 => (2 * part.reserved_pages).min(KEPT_PAGES_MAX),
                Kind::Ops { .. } => part.desk.appetite,
            };
            part.desk.add(&share.freed, part.first_stamp, done.seq, done.round);
        }
        done.superseded.iter().for_each(|&page| self.cache.supersede(page));
        Ok(done)
    }

    /// Rule 3: whether the log tells about this part, or its pages do.
    fn fits_the_log(&self, part: &Part) -> bool {
        let Some(effects) = part.effects.as_ref().filter(|_| !self.options.tuning.images_only) else {
            return self.options.broken(Sabotage::LogsGivenUpEffects);
        };
        let pages = self.pipeline.unwritten_pages(part.owner) + part.claimed_pages();
        LOG_BYTES_WEIGHT * (effects.len() as u64) < pages * self.disk.page_bytes as u64
    }

    /// A part that the log tells about: its pages become frames that are nowhere else.
    fn take_ops(&self, part: &mut Part) -> Share {
        let effects = part.effects.take().unwrap_or_default();
        let (pages, raw) = part.take_unwritten();
        let dirty = pages.iter().map(|(ptr, _)| *ptr).collect();
        self.cache.insert_dirty(pages);
        Share::new(part, Kind::Ops { effects, raw, dirty })
    }

    /// A part whose pages are written before it is appended.
    fn take_image(part: &mut Part) -> Share {
        let spilled = !part.written_early.is_empty();
        let pages = part.take_private();
        Share::new(part, Kind::Image { pages, spilled, inherited: Inherited::default(), claims: ExtentSet::default() })
    }

    /// Small commits: one record, and nothing is written before it.
    fn append_ops(&self, shares: &mut [Share], durability: Durability) -> Result<Appended, FileError> {
        shares.iter_mut().try_for_each(|share| self.write_raw_of(share))?;
        let parts = shares.iter_mut().map(Share::log_ops).collect();
        let record = Record::Commit { synced: true, parts }.encode();
        loop {
            let prepared = Prepared {
                record: &record,
                reserved_blocks: 0,
                immediate: durability == Durability::Immediate,
                unsynced_bytes: 0,
                shares: &mut *shares,
            };
            if let Some(done) = self.pipeline.append(&self.options, &self.owners, prepared)? {
                return Ok(done);
            }
            self.make_log_room(Pipeline::blocks_for(record.len()))?;
        }
    }

    fn write_raw_of(&self, share: &mut Share) -> Result<(), FileError> {
        if let Kind::Ops { raw, .. } = &mut share.kind
            && !raw.raw.is_empty()
        {
            self.flush_images(&std::mem::take(raw))?;
        }
        Ok(())
    }

    /// Commits with images: everything they need is written first.
    fn append_images(&self, shares: &mut [Share], durability: Durability) -> Result<Appended, FileError> {
        // Pages of earlier small commits must not be taken by a checkpoint meanwhile: no record names what another has saved and freed.
        let mut turn = None;
        let blocks = loop {
            let inherits = shares.iter().any(|s| !s.is_ops() && self.pipeline.unwritten_pages(s.owner) > 0);
            if inherits && turn.is_none() {
                turn = Some(self.checkpoints.turn());
                continue; // one may have just ended
            }
            for share in shares.iter_mut() {
                share.inherit(self);
            }
            let bytes = shares.iter().map(Share::record_bytes);
            let blocks = Pipeline::blocks_for(RECORD_HEADER_BYTES + bytes.sum::<usize>());
            if self.pipeline.reserve(blocks) {
                break blocks;
            }
            turn = None;
            self.make_log_room(blocks)?;
        };
        #[cfg(any(test, feature = "testing"))]
        let claimed: Vec<Extent> = shares.iter().flat_map(Share::claims).collect();
        let done = self.write_images(shares, durability).and_then(|(record, unsynced_bytes)| {
            #[cfg(any(test, feature = "testing"))]
            self.shadow.claimed(&claimed);
            let prepared = Prepared {
                record: &record,
                reserved_blocks: blocks,
                immediate: durability == Durability::Immediate,
                unsynced_bytes,
                shares: &mut *shares,
            };
            self.pipeline.append(&self.options, &self.owners, prepared).inspect_err(|_| {
                #[cfg(any(test, feature = "testing"))]
                claimed.iter().for_each(|&extent| self.shadow.freed(extent));
            })
        });
        drop(turn);
        match done {
            Ok(Some(done)) => {
                shares.iter().for_each(|share| self.cache.written(share.inherited()));
                Ok(done)
            }
            Ok(None) => unreachable!("its room was reserved"),
            Err(error) => {
                self.pipeline.unreserve(blocks);
                Err(error)
            }
        }
    }

    /// Writes the pages of images, with those that earlier small commits left; the record, and how many bytes no sync covers.
    fn write_images(&self, shares: &mut [Share], durability: Durability) -> Result<(Vec<u8>, u64), FileError> {
        let tuning = &self.options.tuning;
        let sync_above = match durability {
            Durability::Immediate => tuning.sync_first_bytes,
            Durability::Buffered | Durability::Eventual => tuning.sync_first_eventual_bytes,
        };
        let mut unsynced_bytes: u64 =
            shares.iter().map(|share| share.claimed_pages()).sum::<u64>() * self.disk.page_bytes as u64;
        // Pages that were written before have no digest in memory any more.
        let mut synced =
            unsynced_bytes == 0 || unsynced_bytes > sync_above || shares.iter().any(Share::was_written_before);
        let mut parts = Vec::with_capacity(shares.len());
        for share in shares.iter_mut() {
            let Kind::Image { pages, inherited, claims, .. } = &mut share.kind else {
                self.write_raw_of(share)?;
                parts.push(share.log_ops());
                continue;
            };
            let mut runs = Vec::new();
            if synced {
                self.flush_images(pages)?;
                self.write_unwritten(&mut inherited.cached, &self.disk.counters.images)?;
            } else {
                let own = pages.sealed.len();
                pages.sealed.extend(self.sealed_copies(&inherited.cached));
                runs = self.flush_images(pages)?;
                pages.sealed.truncate(own); // the others are in the cache
            }
            for (page, bytes) in std::mem::take(&mut pages.sealed) {
                self.cache.insert(PagePtr { page, stamp: share.root.stamp }, bytes);
            }
            pages.raw.clear();
            let claims = if synced {
                claims.iter().map(|extent| RunClaim { extent, digest: 0 }).collect()
            } else {
                runs.iter().map(|run| RunClaim { extent: run.extent, digest: run.digest }).collect()
            };
            let image = ImagePart {
                owner: share.owner,
                stamp: share.root.stamp,
                root: share.root.root,
                claims,
                releases: inherited.releases.iter().collect(),
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

    /// Takes in a part whose commits were repeated from the log: as a small commit, but the log has it already.
    pub(crate) fn adopt(&self, mut part: Part) -> Result<(), FileError> {
        if part.broken {
            return Err(FileError::TransactionBroken);
        }
        if part.is_changed() {
            let mut share = self.take_ops(&mut part);
            self.write_raw_of(&mut share).inspect_err(|_| self.forget_share(&share))?;
            self.pipeline.adopt(&self.owners, &mut share);
            part.written_early.clear();
            part.keeps_arena = true;
        }
        Ok(())
    }

    /// The append was refused, and the part still knows its pages as written early: those in the cache only are added.
    fn forget_share(&self, share: &Share) {
        if let Kind::Ops { dirty, .. } = &share.kind {
            self.cache.remove_pages(dirty.iter().map(|ptr| ptr.page));
            self.space.give_back(dirty.iter().map(|ptr| Extent::page(ptr.page)));
        }
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

pub(crate) enum Kind {
    /// Its effects are in the log.
    Ops {
        effects: Vec<u8>,
        /// What is not read through the cache, and cannot wait in it.
        raw: DirtyPages,
        /// Its pages, in the cache only.
        dirty: Vec<PagePtr>,
    },
    /// Its pages are in their place.
    Image {
        /// Those of this transaction that are not written yet.
        pages: DirtyPages,
        /// Some were written before.
        spilled: bool,
        /// What earlier small commits left.
        inherited: Inherited,
        /// All that its record claims.
        claims: ExtentSet,
    },
}

impl Share {
    /// Of a part whose private pages have been taken.
    fn new(part: &mut Part, kind: Kind) -> Self {
        Self {
            owner: part.owner,
            root: OwnerRoot { root: part.root, stamp: part.stamp },
            death: part.first_stamp,
            freed: std::mem::take(&mut part.freed),
            written: part.written_early.clone(),
            kind,
        }
    }

    pub(crate) fn is_ops(&self) -> bool {
        matches!(self.kind, Kind::Ops { .. })
    }

    fn inherited(&self) -> &[PagePtr] {
        match &self.kind {
            Kind::Image { inherited, .. } => &inherited.cached,
            Kind::Ops { .. } => &[],
        }
    }

    /// For the record; leaves the effects behind it empty.
    fn log_ops(&mut self) -> LogPart {
        let Kind::Ops { effects, .. } = &mut self.kind else { unreachable!("asked of ops only") };
        LogPart::Ops(OpsPart { owner: self.owner, effects: std::mem::take(effects) })
    }

    /// Rule 4: an image has all pages of the tip, also those that earlier small commits left in memory.
    fn inherit(&mut self, engine: &Engine) {
        if let Kind::Image { inherited, claims, spilled, .. } = &mut self.kind {
            *inherited = engine.pipeline.inherited(self.owner, &self.freed);
            if engine.options.broken(Sabotage::ImageForgetsUnwritten) {
                inherited.cached.clear();
            }
            let cached = inherited.cached.iter().map(|ptr| Extent::page(ptr.page));
            *claims = self.written.iter().chain(inherited.written.iter()).chain(cached).collect();
            *spilled |= !inherited.written.is_empty() || !inherited.cached.iter().all(|&ptr| engine.is_unwritten(ptr));
        }
    }

    fn claimed_pages(&self) -> u64 {
        match &self.kind {
            Kind::Image { claims, .. } => claims.pages(),
            Kind::Ops { .. } => 0,
        }
    }

    fn was_written_before(&self) -> bool {
        matches!(self.kind, Kind::Image { spilled: true, .. })
    }

    #[cfg(any(test, feature = "testing"))]
    fn claims(&self) -> Vec<Extent> {
        match &self.kind {
            Kind::Image { claims, .. } => claims.iter().collect(),
            Kind::Ops { .. } => Vec::new(),
        }
    }

    /// What its part of the record takes at most.
    fn record_bytes(&self) -> usize {
        match &self.kind {
            Kind::Image { claims, inherited, .. } => ImagePart::encoded_bytes(claims.runs(), inherited.releases.runs()),
            Kind::Ops { effects, .. } => OpsPart::encoded_bytes(effects.len()),
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
