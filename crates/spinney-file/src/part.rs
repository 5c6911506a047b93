//! One family's share of a write transaction: its private pages and the root it will publish.
#![expect(clippy::cast_possible_truncation, reason = "lengths of buffers in memory fit a usize")]

use crate::{
    Descriptor,
    budget::Charge,
    cache::Pin,
    commit::DirtyPages,
    desk::{Desk, KEPT_PAGES_MAX},
    engine::Engine,
    error::FileError,
    options::Sabotage,
    page::PagePtr,
    pages::Pages,
    version::OwnerRoot,
};
use bytes::Bytes;
use rustc_hash::FxHashMap;
use spinney_alloc::{Extent, ExtentSet, Freed, Owner, PageNo, Stamp};
use std::{collections::BTreeMap, sync::Arc};

/// The first arena of a transaction whose owner nothing is known of, and the largest, in pages.
const ARENA_PAGES_MIN: u64 = 16;
const ARENA_BYTES_MAX: u64 = 4 << 20;
/// The budget is charged this fraction of itself at a time, at most [`CHARGE_BYTES_MAX`].
const CHARGE_STEPS: u64 = 256;
const CHARGE_BYTES_MAX: u64 = 256 << 10;
/// The largest extent handed out: a larger value takes several.
const EXTENT_BYTES_MAX: u64 = 16 << 20;

/// See the module. Pages are private until they are written: at commit, or early when the budget asks for it (*spill*).
///
/// Always: every page reserved from the map is unused in the arena, private, or written early.
#[derive(Debug)]
pub struct Part {
    pub(crate) engine: Arc<Engine>,
    pub(crate) owner: Owner,
    /// The tip this part builds on.
    pub(crate) base: OwnerRoot,
    pub(crate) root: Descriptor,
    pub(crate) first_stamp: Stamp,
    pub(crate) stamp: Stamp,
    pub(crate) desk: Desk,
    /// Pages reserved by this transaction.
    pub(crate) reserved_pages: u64,
    /// Committed as effects: the next writer goes on with the arena.
    pub(crate) keeps_arena: bool,
    dirty: FxHashMap<PageNo, Box<[u8]>>,
    /// Raw pages not yet written, by first page.
    raw: BTreeMap<u64, Bytes>,
    private_bytes: u64,
    /// What the budget was charged for them: as much or a little more.
    charged_bytes: u64,
    /// What they were when the limits were looked at last.
    relieved_bytes: u64,
    /// A spill failed: pages are missing, and the part can only be aborted.
    pub(crate) broken: bool,
    pub(crate) written_early: ExtentSet,
    pub(crate) freed: Vec<Freed>,
    /// What was done, for the log; `None` once it was too much: then the commit writes its pages.
    pub(crate) effects: Option<Vec<u8>>,
    /// Part of the commit even if nothing changed.
    logs_root: bool,
}

impl Part {
    /// A part on the newest root of `owner`, whose slot the caller holds.
    pub(crate) fn new(engine: Arc<Engine>, owner: Owner) -> Result<Self, FileError> {
        let base = engine.root_in(&engine.pipeline.tips(), owner)?;
        let stamp = engine.draw_stamp()?;
        Ok(Self {
            owner,
            base,
            root: base.root,
            first_stamp: stamp,
            stamp,
            desk: engine.take_desk(owner),
            reserved_pages: 0,
            keeps_arena: false,
            dirty: FxHashMap::default(),
            raw: BTreeMap::new(),
            private_bytes: 0,
            charged_bytes: 0,
            relieved_bytes: 0,
            broken: false,
            written_early: ExtentSet::default(),
            freed: Vec::new(),
            effects: engine.options.replay.map(|_| Vec::new()),
            logs_root: false,
            engine,
        })
    }

    /// Whose part this is.
    pub fn owner(&self) -> Owner {
        self.owner
    }

    /// Whether effects are still gathered. Once there are too many, or when the file was opened without
    /// [`replay`](crate::FileOptions::replay), the commit writes pages, and nobody needs them.
    #[inline]
    pub fn logs_effects(&self) -> bool {
        self.effects.is_some()
    }

    /// Adds an effect to what the log will tell about this commit: opaque bytes, given back to
    /// [`replay`](crate::FileOptions::replay) after a crash.
    pub fn log_effect(&mut self, pieces: &[&[u8]]) {
        let limit = self.engine.effect_bytes_max();
        if let Some(effects) = &mut self.effects {
            let bytes: usize = pieces.iter().map(|piece| piece.len()).sum();
            if effects.len() + bytes > limit {
                self.effects = None;
            } else {
                pieces.iter().for_each(|piece| effects.extend_from_slice(piece));
            }
        }
    }

    /// All effects so far, to be shortened: what they amount to must stay the same.
    pub fn effects_mut(&mut self) -> Option<&mut Vec<u8>> {
        self.effects.as_mut()
    }

    /// This commit cannot be told by effects: it writes its pages.
    pub fn write_pages(&mut self) {
        self.effects = None;
    }

    /// The commit logs this root itself, even if nothing changes: whatever small commits before it amount to when they are
    /// repeated, this is what comes of them.
    pub fn write_root(&mut self) {
        self.effects = None;
        self.logs_root = true;
    }

    /// The descriptor: the family's tip at begin, later what [`set_root`](Part::set_root) stored.
    pub fn root(&self) -> &Descriptor {
        &self.root
    }

    /// What this part's commit will publish.
    pub fn set_root(&mut self, root: Descriptor) {
        self.root = root;
    }

    /// What pages allocated now carry. Grows when the part spills.
    pub fn stamp(&self) -> Stamp {
        self.stamp
    }

    /// Whether the page behind `ptr` may be changed in place: this part made it, and it has not been written yet.
    #[inline]
    pub fn is_private(&self, ptr: PagePtr) -> bool {
        ptr.stamp == self.stamp
    }

    /// A new private page, all zero. Its header is filled in when it is written; bytes 28..32 of it are the caller's.
    ///
    /// # Errors
    /// [`FileError::Full`], and those of reading map pages.
    pub fn allocate(&mut self) -> Result<PagePtr, FileError> {
        let page = self.take_page()?;
        self.dirty.insert(page, self.engine.buffers.zeroed());
        Ok(PagePtr { page, stamp: self.stamp })
    }

    /// A new private page with the bytes of another.
    ///
    /// # Errors
    /// As [`allocate`](Part::allocate).
    pub fn allocate_copy(&mut self, of: &[u8]) -> Result<PagePtr, FileError> {
        let page = self.take_page()?;
        self.dirty.insert(page, self.engine.buffers.copy_of(of));
        Ok(PagePtr { page, stamp: self.stamp })
    }

    fn take_page(&mut self) -> Result<PageNo, FileError> {
        let page = match self.desk.arena.take_page() {
            Some(page) => page,
            None => {
                self.refill()?;
                self.desk.arena.take_page().ok_or(FileError::Full { bytes_wanted: self.page_len() })?
            }
        };
        self.charge(self.page_len());
        Ok(page)
    }

    /// The bytes of a private page, to change in place.
    ///
    /// # Panics
    /// When `ptr` is not private: a defect of the caller.
    pub fn page_mut(&mut self, ptr: PagePtr) -> &mut [u8] {
        assert!(self.is_private(ptr), "{ptr:?} is not private");
        self.dirty.get_mut(&ptr.page).expect("a private page is in memory")
    }

    /// Two private pages at once.
    ///
    /// # Panics
    /// When they are equal or not private: a defect of the caller.
    pub fn page_mut2(&mut self, a: PagePtr, b: PagePtr) -> (&mut [u8], &mut [u8]) {
        assert!(self.is_private(a) && self.is_private(b), "{a:?} or {b:?} is not private");
        match self.dirty.get_disjoint_mut([&a.page, &b.page]) {
            [Some(a), Some(b)] => (a, b),
            _ => panic!("a private page is in memory"),
        }
    }

    /// The page is no longer reachable from this part's root. A page of this part is free at once; an older one when
    /// nothing protected can reach it any more (rule 10).
    pub fn free(&mut self, ptr: PagePtr) {
        self.free_extent(ptr, 1);
    }

    /// A run of adjacent raw pages, at most [`max_extent_pages`](Part::max_extent_pages), to be filled by
    /// [`write_raw`](Part::write_raw).
    ///
    /// # Errors
    /// [`FileError::Full`] when there is no such run and the file cannot grow.
    pub fn allocate_extent(&mut self, pages: u64) -> Result<PagePtr, FileError> {
        assert!((1..=self.max_extent_pages()).contains(&pages), "{pages} pages in one extent");
        let run = match self.desk.arena.take_run(pages) {
            Some(run) => run,
            None => {
                let engine = &self.engine;
                engine.with_space(|| engine.space.with(&engine.disk, |map| map.reserve_run(pages)))?
            }
        };
        // Known as written early until bytes arrive: whatever happens, it is accounted for.
        self.written_early.insert(run);
        Ok(PagePtr { page: run.start, stamp: self.stamp })
    }

    /// The largest extent that [`allocate_extent`](Part::allocate_extent) gives, in pages.
    pub fn max_extent_pages(&self) -> u64 {
        EXTENT_BYTES_MAX / self.page_len()
    }

    /// Fills pages of an extent of this part with `data`, a whole number of pages. Each page is filled once. The bytes leave at
    /// commit, or when the part spills.
    pub fn write_raw(&mut self, at: PageNo, data: Bytes) -> Result<(), FileError> {
        let pages = data.len() as u64 / self.page_len();
        assert!(pages > 0 && pages * self.page_len() == data.len() as u64, "whole pages only");
        let extent = Extent { start: at, pages };
        assert!(self.written_early.remove(extent), "{extent:?} is not an unfilled extent of this part");
        self.charge(data.len() as u64);
        self.raw.insert(at.get(), data);
        Ok(())
    }

    /// An extent is no longer reachable from this part's root; see [`free`](Part::free).
    pub fn free_extent(&mut self, start: PagePtr, pages: u64) {
        let extent = Extent { start: start.page, pages };
        if start.stamp < self.first_stamp {
            if self.engine.options.broken(Sabotage::ReusesAtOnce) {
                self.desk.arena.add([extent]);
            } else {
                self.freed.push(Freed { extent, birth: start.stamp });
            }
            return;
        }
        // Private pages, unwritten raw pieces, and what was written early: all of it is this part's own.
        let mut at = extent.start.get();
        while at < extent.end() {
            let page = PageNo::new(at).expect("inside an extent");
            if let Some(buffer) = self.dirty.remove(&page) {
                self.engine.buffers.give_back(buffer);
                self.credit(self.page_len());
                self.desk.arena.recycle(page);
                at += 1;
            } else if let Some(data) = self.raw.remove(&at) {
                self.credit(data.len() as u64);
                let pages = data.len() as u64 / self.page_len();
                self.desk.arena.add([Extent { start: page, pages }]);
                at += pages;
            } else {
                let was_ours = self.written_early.remove(Extent::page(page));
                assert!(was_ours, "{page:?} freed twice, or not of this part");
                self.engine.cache.remove(page);
                self.desk.arena.recycle(page);
                at += 1;
            }
        }
    }

    /// Called between operations, when no page of this part is borrowed and no private pointer is remembered elsewhere than in
    /// pages and roots: over the limit, spills.
    ///
    /// # Errors
    /// Those of [`spill`](Part::spill).
    pub fn relieve(&mut self) -> Result<(), FileError> {
        if self.private_bytes <= self.relieved_bytes {
            return Ok(()); // nothing was added since the last look
        }
        self.relieved_bytes = self.private_bytes;
        let budget = &self.engine.budget;
        let over = self.private_bytes > self.engine.options.tuning.spill_bytes
            || self.private_bytes > self.page_len()
                && budget.spent(Charge::Dirty) + budget.spent(Charge::Unwritten) > budget.limit() / 2;
        if over { self.spill() } else { Ok(()) }
    }

    /// Writes every private page to its final place, un-synced, and draws a fresh stamp, so that a page that changes again
    /// gets a new place and a new stamp (rule 2: one write per page and stamp).
    ///
    /// # Errors
    /// Those of writing. The part can only be aborted then.
    pub fn spill(&mut self) -> Result<(), FileError> {
        if self.private_bytes == 0 {
            return Ok(());
        }
        let stamp = self.engine.draw_stamp()?;
        self.broken = true; // until all of them are written
        let pages = self.take_private();
        self.engine.flush_images(&pages)?;
        self.broken = false;
        self.keep_frames(pages);
        self.relieved_bytes = 0;
        if !self.engine.options.broken(Sabotage::SpillKeepsStamp) {
            self.stamp = stamp;
        }
        Ok(())
    }

    /// Takes the private pages out for a small commit: those that stay in memory, and raw runs, which are written now.
    pub(crate) fn take_unwritten(&mut self) -> (Vec<(PagePtr, Bytes)>, DirtyPages) {
        let (owner, stamp) = (self.owner, self.stamp);
        let pages = std::mem::take(&mut self.dirty).into_iter().map(|(page, mut bytes)| {
            let ptr = PagePtr { page, stamp };
            crate::page::label(&mut bytes, ptr, owner);
            (ptr, self.engine.buffers.share(bytes))
        });
        let pages: Vec<_> = pages.collect();
        (pages, self.take_private())
    }

    /// Takes the private pages out, sealed and in order, ready to be written. From here on they count as written early: whatever
    /// happens to the write, their numbers are accounted for.
    pub(crate) fn take_private(&mut self) -> DirtyPages {
        let (owner, stamp) = (self.owner, self.stamp);
        let mut sealed: Vec<(PageNo, Bytes)> = Vec::with_capacity(self.dirty.len());
        for (page, mut bytes) in self.dirty.drain() {
            crate::page::seal(&mut bytes, page, stamp, owner);
            sealed.push((page, self.engine.buffers.share(bytes)));
        }
        sealed.sort_unstable_by_key(|(page, _)| *page);
        let raw: Vec<(PageNo, Bytes)> = std::mem::take(&mut self.raw)
            .into_iter()
            .map(|(start, data)| (PageNo::new(start).expect("the start of an extent"), data))
            .collect();
        let pages = DirtyPages { sealed, raw };
        for extent in pages.extents(self.engine.disk.page_bytes) {
            self.written_early.insert(extent);
        }
        #[cfg(any(test, feature = "testing"))]
        self.engine.shadow.writes(&pages.extents(self.engine.disk.page_bytes), stamp);
        self.credit(self.private_bytes);
        pages
    }

    /// Pages just written become clean frames: the next reader finds them.
    pub(crate) fn keep_frames(&self, pages: DirtyPages) {
        for (page, bytes) in pages.sealed {
            self.engine.cache.insert(PagePtr { page, stamp: self.stamp }, bytes);
        }
    }

    /// Unused pages of the arena, to be given back.
    pub(crate) fn take_remainder(&mut self) -> Vec<Extent> {
        std::mem::take(&mut self.desk.arena).remainder()
    }

    /// Whether committing this part would change anything.
    pub(crate) fn is_changed(&self) -> bool {
        self.root != self.base.root || !self.freed.is_empty() || self.logs_root
    }

    /// Pages that a commit now would claim.
    pub fn claimed_pages(&self) -> u64 {
        self.private_bytes / self.page_len() + self.written_early.pages()
    }

    /// Pages that a commit now would release.
    pub fn released_pages(&self) -> u64 {
        self.freed.iter().map(|f| f.extent.pages).sum()
    }

    /// Extents that a commit now would release, and the stamps they were born with.
    pub fn released(&self) -> Vec<(PagePtr, u64)> {
        self.freed.iter().map(|f| (PagePtr { page: f.extent.start, stamp: f.birth }, f.extent.pages)).collect()
    }

    /// Another arena: as large as this transaction so far, or as the owner's last one.
    fn refill(&mut self) -> Result<(), FileError> {
        let engine = &self.engine;
        let most = ARENA_BYTES_MAX / self.page_len();
        let want = match self.reserved_pages {
            _ if !engine.options.tuning.arenas => 1,
            0 => self.desk.appetite.clamp(ARENA_PAGES_MIN, most),
            so_far => so_far.clamp(ARENA_PAGES_MIN, most),
        };
        let reserve = |pages| engine.with_space(|| engine.space.with(&engine.disk, |map| map.reserve(pages)));
        let extents = match reserve(want) {
            // No room for an arena; there may be room for a page.
            Err(FileError::Full { .. }) if want > 1 => reserve(1)?,
            other => other?,
        };
        self.reserved_pages += extents.iter().map(|e| e.pages).sum::<u64>();
        self.desk.arena.add(extents);
        Ok(())
    }

    fn page_len(&self) -> u64 {
        self.engine.disk.page_bytes as u64
    }

    /// Counts private bytes. The budget, which all writers share, is charged a step ahead, so that they rarely meet there.
    fn charge(&mut self, bytes: u64) {
        self.private_bytes += bytes;
        if self.private_bytes > self.charged_bytes {
            let budget = &self.engine.budget;
            let step = (budget.limit() / CHARGE_STEPS).clamp(self.page_len(), CHARGE_BYTES_MAX).max(bytes);
            budget.charge(Charge::Dirty, step);
            self.charged_bytes += step;
            if budget.total() > budget.limit() {
                self.engine.cache.shrink_to_budget();
            }
        }
    }

    fn credit(&mut self, bytes: u64) {
        self.private_bytes -= bytes;
        if self.private_bytes == 0 {
            self.engine.budget.credit(Charge::Dirty, self.charged_bytes);
            self.charged_bytes = 0;
        }
    }
}

impl Pages for Part {
    fn page<'a>(&'a self, pin: &'a Pin, owner: Owner, ptr: PagePtr) -> Result<&'a [u8], FileError> {
        if self.is_private(ptr) {
            // A pointer with this part's stamp that leads nowhere came from a damaged page.
            self.dirty.get(&ptr.page).map(|page| &**page).ok_or(FileError::Corrupt {
                page: ptr.page,
                owner: Some(owner),
                at: self.engine.disk.offset(ptr.page),
                why: "it is pointed to as a page of the running transaction, and is not one",
            })
        } else {
            self.engine.page(pin, owner, ptr).map(|bytes| &**bytes)
        }
    }

    fn page_bytes_shared(&self, owner: Owner, ptr: PagePtr) -> Result<Bytes, FileError> {
        let pin = Pin::new();
        if self.is_private(ptr) {
            self.page(&pin, owner, ptr).map(Bytes::copy_from_slice)
        } else {
            self.engine.page(&pin, owner, ptr).cloned()
        }
    }

    fn read_raw(&self, at: PageNo, offset: u64, len: usize) -> Result<Bytes, FileError> {
        let page_len = self.page_len();
        let mut from = at.get() * page_len + offset;
        let end = from + len as u64;
        let piece_at = |byte: u64| {
            let (&start, data) = self.raw.range(..=byte / page_len).next_back()?;
            let skip = byte - start * page_len;
            (skip < data.len() as u64).then_some((data, skip as usize))
        };
        match piece_at(from) {
            Some((data, skip)) if data.len() - skip >= len => return Ok(data.slice(skip..skip + len)),
            None if self.raw.range(from / page_len..end.div_ceil(page_len)).next().is_none() => {
                return self.engine.disk.read_raw(at, offset, len);
            }
            _ => {}
        }
        let mut out = Vec::with_capacity(len);
        while from < end {
            let left = (end - from) as usize;
            match piece_at(from) {
                Some((data, skip)) => out.extend_from_slice(&data[skip..data.len().min(skip + left)]),
                None => {
                    let page = PageNo::new(from / page_len).expect("inside an extent");
                    let upto = left.min((page_len - from % page_len) as usize);
                    out.extend_from_slice(&self.engine.disk.read_raw(page, from % page_len, upto)?);
                }
            }
            from = end - (len - out.len()) as u64;
        }
        Ok(out.into())
    }

    fn page_bytes(&self) -> usize {
        self.engine.disk.page_bytes
    }
}

/// Abort: every page of this part is free at once. After a commit there is nothing left to return.
impl Drop for Part {
    fn drop(&mut self) {
        // A broken engine does not wait for the end of a write.
        let late = self.engine.options.broken(Sabotage::ReturnsDuringWrite).then(|| self.take_private());
        let keeps = self.keeps_arena && self.desk.arena.len() <= KEPT_PAGES_MAX;
        let mut pages = if keeps { Vec::new() } else { self.take_remainder() };
        pages.extend(self.dirty.drain().map(|(page, _)| Extent::page(page)));
        let page_len = self.page_len();
        pages.extend(std::mem::take(&mut self.raw).into_iter().map(|(start, data)| Extent {
            start: PageNo::new(start).expect("the start of an extent"),
            pages: data.len() as u64 / page_len,
        }));
        self.credit(self.private_bytes);
        // Frames first: a page number may be granted to others from the moment it is given back.
        for extent in std::mem::take(&mut self.written_early).iter() {
            self.engine.cache.remove_extent(extent);
            pages.push(extent);
        }
        if !pages.is_empty() {
            self.engine.space.give_back(pages);
        }
        self.engine.leave_desk(self.owner, std::mem::take(&mut self.desk));
        self.engine.options.interlude();
        if let Some(late) = late {
            drop(self.engine.flush_images(&late));
        }
    }
}
