//! One family's share of a write transaction: its private pages and the root it will publish.
#![expect(clippy::cast_possible_truncation, reason = "lengths of buffers in memory fit a usize")]

use crate::{
    Descriptor,
    budget::Charge,
    buffers::Page,
    cache::Pin,
    commit::{DirtyPages, Weight},
    engine::Engine,
    error::FileError,
    options::{Sabotage, Told},
    page::PagePtr,
    pages::Pages,
    space::Room,
    version::{Above, OwnerRoot},
};
use bytes::Bytes;
use rustc_hash::FxHashMap;
use spinney_alloc::{Arena, Extent, ExtentSet, Freed, Owner, PageNo, Stamp};
use std::{any::Any, collections::BTreeMap, sync::Arc};

/// The first arena of a transaction whose owner nothing is known of, and the largest, in pages.
const ARENA_PAGES_MIN: u64 = 16;
const ARENA_BYTES_MAX: u64 = 4 << 20;
/// The budget is charged this fraction of itself at a time, at most [`CHARGE_BYTES_MAX`].
const CHARGE_STEPS: u64 = 256;
const CHARGE_BYTES_MAX: u64 = 256 << 10;
/// The largest extent handed out: a larger value takes several.
const EXTENT_BYTES_MAX: u64 = 16 << 20;

/// What a transaction keeps of its own above the owner's root, for the layer above.
type Pending = Box<dyn Any + Send + Sync>;

/// See the module. A part begins *small*: the layer above gathers what is done, and no page changes. One that is to change pages
/// [enters the pages](Part::enter_pages) first. Pages are private until they are written: at commit, or early when the budget asks for
/// it (*spill*).
///
/// Always: every page reserved from the map is unused in the arena, private, or written early.
#[derive(Debug)]
pub struct Part {
    pub(crate) engine: Arc<Engine>,
    pub(crate) owner: Owner,
    /// The tip this part builds on.
    pub(crate) base: OwnerRoot,
    /// What small commits left above it; nothing once pages were entered.
    above: Option<Above>,
    /// What this transaction would leave there.
    pending: Option<Pending>,
    /// The same for the log.
    pub(crate) effects: Vec<u8>,
    /// How many keys they are about.
    effect_keys: usize,
    /// Pages that merging them may take, until the commit is appended.
    pub(crate) promised_pages: u64,
    /// Pages may change, and the commit writes them.
    pub(crate) in_pages: bool,
    pub(crate) root: Descriptor,
    pub(crate) first_stamp: Stamp,
    pub(crate) stamp: Stamp,
    arena: Arena,
    /// Pages reserved by this transaction.
    reserved_pages: u64,
    dirty: FxHashMap<PageNo, Page>,
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
    room: Room,
}

impl Part {
    /// A part on the newest root of `owner`, whose slot the caller holds.
    pub(crate) fn new(engine: Arc<Engine>, owner: Owner) -> Result<Self, FileError> {
        let tips = engine.pipeline.tips();
        let base = engine.root_in(&tips, owner)?;
        // Until here the slot has protected all there is (rule 11).
        if engine.options.small_commits.is_some() {
            engine.slots.set_base(owner, Some(base.stamp));
        }
        let above = tips.above(owner).cloned();
        let stamp = engine.draw_stamp()?;
        let in_pages = engine.options.small_commits.is_none() || engine.options.tuning.images_only;
        let mut part = Self::on(engine, owner, base, stamp);
        part.above = above;
        if in_pages {
            part.enter_pages()?;
        }
        Ok(part)
    }

    /// A part that merges what small commits left of an owner into its pages. The caller has the turn of checkpoints, and nobody else
    /// changes pages of the owner.
    pub(crate) fn for_merge(engine: Arc<Engine>, owner: Owner, base: OwnerRoot) -> Result<Self, FileError> {
        let stamp = engine.draw_kept_stamp()?;
        let mut part = Self::on(engine, owner, base, stamp);
        (part.in_pages, part.room) = (true, Room::Merges);
        Ok(part)
    }

    fn on(engine: Arc<Engine>, owner: Owner, base: OwnerRoot, stamp: Stamp) -> Self {
        Self {
            owner,
            base,
            above: None,
            pending: None,
            effects: Vec::new(),
            effect_keys: 0,
            promised_pages: 0,
            in_pages: false,
            root: base.root,
            first_stamp: stamp,
            stamp,
            arena: Arena::new(),
            reserved_pages: 0,
            dirty: FxHashMap::default(),
            raw: BTreeMap::new(),
            private_bytes: 0,
            charged_bytes: 0,
            relieved_bytes: 0,
            broken: false,
            written_early: ExtentSet::default(),
            freed: Vec::new(),
            room: Room::Removes,
            engine,
        }
    }

    /// From here on pages may change, and the commit writes them. What earlier small commits left in memory is merged into pages
    /// first, by a commit of its own; it takes turns with checkpoints and with other such merges. The root may be another one
    /// afterwards, with the same contents. What was gathered so far is the caller's to apply. Costs nothing the second time.
    ///
    /// # Errors
    /// [`FileError::Full`], and those of writing, of a checkpoint, and of the merge itself. Nothing has changed.
    pub fn enter_pages(&mut self) -> Result<(), FileError> {
        if self.in_pages {
            return Ok(());
        }
        if self.above.is_some() && !self.engine.options.broken(Sabotage::ImageForgetsEffects) {
            self.engine.slots.set_base(self.owner, None);
            self.engine.merge_owner(self.owner)?;
            self.base = self.engine.root_in(&self.engine.pipeline.tips(), self.owner)?;
            self.engine.slots.set_base(self.owner, Some(self.base.stamp));
            self.root = self.base.root;
            // Younger than the pages of the merge.
            self.first_stamp = self.engine.draw_stamp()?;
            self.stamp = self.first_stamp;
        }
        self.above = None;
        self.in_pages = true;
        Ok(())
    }

    /// Whether [`enter_pages`](Part::enter_pages) was called. A small part changes no page.
    #[inline]
    pub fn is_in_pages(&self) -> bool {
        self.in_pages
    }

    /// What small commits left above the root that this part builds on.
    pub fn base_above(&self) -> Option<&Above> {
        self.above.as_ref()
    }

    /// What a small transaction keeps of its own: what [`Pages::above`] then returns, instead of
    /// [`base_above`](Part::base_above).
    pub fn set_pending(&mut self, pending: Box<dyn Any + Send + Sync>) {
        self.pending = Some(pending);
    }

    /// What was set, to be changed.
    pub fn pending_mut(&mut self) -> Option<&mut (dyn Any + Send + Sync)> {
        self.pending.as_deref_mut()
    }

    /// What was set; it is gone from here.
    pub fn take_pending(&mut self) -> Option<Box<dyn Any + Send + Sync>> {
        self.pending.take()
    }

    /// What the log will tell about a small commit: given to [`SmallCommits::add`](crate::SmallCommits::add) at the commit, and again
    /// after a crash. None: it changes nothing. `keys` is how many keys it is about.
    pub fn set_effects(&mut self, effects: Vec<u8>, keys: usize) {
        assert!(!self.in_pages || effects.is_empty(), "a part in pages tells of them");
        (self.effects, self.effect_keys) = (effects, keys);
    }

    /// What they take.
    pub(crate) fn weight(&self) -> Weight {
        Weight { bytes: self.effects.len(), keys: self.effect_keys, promised_pages: self.promised_pages }
    }

    /// A small part has the pages promised that merging it will take, or changes pages now, of which it knows how many it takes.
    ///
    /// # Errors
    /// [`FileError::Full`], and those of [`enter_pages`](Part::enter_pages).
    pub(crate) fn assure_merge(&mut self) -> Result<(), FileError> {
        if self.in_pages {
            return Ok(());
        }
        let engine = &self.engine;
        if let Some(pages) = engine.space.promise(&engine.disk, self.effect_keys, self.effects.len(), self.room) {
            self.promised_pages = pages;
            return Ok(());
        }
        let small = engine.options.small_commits.ok_or(FileError::Option("effects of a layer that keeps none"))?;
        let effects = std::mem::take(&mut self.effects);
        self.enter_pages()?;
        let above = (small.add)(None, self.stamp, Told::Lent(&effects)).map_err(FileError::Option)?;
        (small.merge)(self, &(small.freeze)(&above))
    }

    /// What was set.
    pub fn effects(&self) -> &[u8] {
        &self.effects
    }

    /// Effects of one commit that take more are not worth a place in the log, nor in memory: pages are to be entered then. In bytes.
    pub fn effect_bytes_max(&self) -> usize {
        self.engine.effect_bytes_max()
    }

    /// Whose part this is.
    pub fn owner(&self) -> Owner {
        self.owner
    }

    /// This part adds data: from here on it leaves some pages free, so that a full file can be emptied. To be called before something is
    /// added; parts that only remove may use all there are.
    #[inline]
    pub fn adds(&mut self) {
        if self.room == Room::Removes {
            self.room = Room::Adds;
        }
    }

    /// What this part adds serves to remove more: it may use all the pages there are.
    pub fn clears(&mut self) {
        if self.room != Room::Merges {
            self.room = Room::Clears;
        }
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

    /// A new private page with the bytes of another of the owner's, which was committed.
    ///
    /// # Errors
    /// As [`allocate`](Part::allocate), and those of reading the page.
    pub fn allocate_copy(&mut self, of: PagePtr) -> Result<PagePtr, FileError> {
        let copy = self.engine.buffers.copy_of(self.engine.page(&Pin::new(), self.owner, of)?);
        let page = self.take_page()?;
        self.dirty.insert(page, copy);
        Ok(PagePtr { page, stamp: self.stamp })
    }

    fn take_page(&mut self) -> Result<PageNo, FileError> {
        assert!(self.in_pages, "a small transaction makes no page");
        let page = match self.arena.take_page() {
            Some(page) => page,
            None => {
                self.refill()?;
                self.arena.take_page().ok_or(FileError::Full { bytes_wanted: self.page_len() })?
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
        let run = match self.arena.take_run(pages) {
            Some(run) => run,
            None => {
                let engine = &self.engine;
                self.with_space(|| engine.space.reserve_run(&engine.disk, pages, self.room))?
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
                self.arena.add([extent]);
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
                drop(buffer);
                self.credit(self.page_len());
                self.arena.recycle(page);
                at += 1;
            } else if let Some(data) = self.raw.remove(&at) {
                self.credit(data.len() as u64);
                let pages = data.len() as u64 / self.page_len();
                self.arena.add([Extent { start: page, pages }]);
                at += pages;
            } else {
                let was_ours = self.written_early.remove(Extent::page(page));
                assert!(was_ours, "{page:?} freed twice, or not of this part");
                self.engine.cache.remove(page);
                self.arena.recycle(page);
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
        let stamp =
            if self.room == Room::Merges { self.engine.draw_kept_stamp()? } else { self.engine.draw_stamp()? };
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

    /// Takes the private pages out, sealed and in order, ready to be written. From here on they count as written early: whatever
    /// happens to the write, their numbers are accounted for.
    pub(crate) fn take_private(&mut self) -> DirtyPages {
        let (owner, stamp) = (self.owner, self.stamp);
        let mut sealed: Vec<(PageNo, Bytes)> = Vec::with_capacity(self.dirty.len());
        for (page, mut bytes) in self.dirty.drain() {
            crate::page::seal(&mut bytes, page, stamp, owner);
            sealed.push((page, bytes.share()));
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
        std::mem::take(&mut self.arena).remainder()
    }

    /// Whether committing this part would change anything.
    pub(crate) fn is_changed(&self) -> bool {
        self.root != self.base.root || !self.freed.is_empty() || !self.effects.is_empty()
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
            0 => engine.appetites.of(self.owner).clamp(ARENA_PAGES_MIN, most),
            so_far => so_far.clamp(ARENA_PAGES_MIN, most),
        };
        let room = self.room;
        let reserve = |pages| {
            self.with_space(|| engine.space.reserve(&engine.disk, pages, room, |map, pages| map.reserve(pages)))
        };
        let extents = match reserve(want) {
            // No room for an arena; there may be room for a page.
            Err(FileError::Full { .. }) if want > 1 => reserve(1)?,
            other => other?,
        };
        self.reserved_pages += extents.iter().map(|e| e.pages).sum::<u64>();
        self.arena.add(extents);
        Ok(())
    }

    /// Runs `reserve`; when the file is full, a checkpoint may help, unless this is part of one.
    fn with_space<T>(&self, reserve: impl Fn() -> Result<T, FileError>) -> Result<T, FileError> {
        if self.room == Room::Merges { reserve() } else { self.engine.with_space(reserve) }
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

    fn above(&self, owner: Owner) -> Option<&(dyn Any + Send + Sync)> {
        debug_assert_eq!(owner, self.owner, "a part reads its owner");
        match &self.pending {
            Some(pending) => Some(&**pending),
            None => self.above.as_deref(),
        }
    }
}

/// Abort: every page of this part is free at once. After a commit there is nothing left to return.
impl Drop for Part {
    fn drop(&mut self) {
        self.engine.space.end_promise(self.promised_pages);
        if !self.in_pages {
            return self.engine.options.interlude(); // it has no page
        }
        // A broken engine does not wait for the end of a write.
        let late = self.engine.options.broken(Sabotage::ReturnsDuringWrite).then(|| self.take_private());
        let mut pages = self.take_remainder();
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
        self.engine.options.interlude();
        if let Some(late) = late {
            drop(self.engine.flush_images(&late));
        }
    }
}
