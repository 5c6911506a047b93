//! The allocator with its I/O: loads map pages when they are first needed, and grows the file.

use crate::{
    commit::Weight,
    disk::Disk,
    error::{FileError, IoOp},
    owners::NO_OWNER,
    page::PagePtr,
    promises::Promises,
    sync::Mutex,
};
use spinney_alloc::{Allocator, Extent, Home, MapError, Need, Stamp};
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

pub(crate) const KIND_MAP_REGION: u8 = 1;
pub(crate) const KIND_MAP_DIRECTORY: u8 = 2;
/// The file grows by at least this many pages at a time, and by at most [`GROWTH_BYTES_MAX`] ahead of need.
const GROWTH_PAGES_MIN: u64 = 16;
const GROWTH_BYTES_MAX: u64 = 64 << 20;

/// Pages that stay free for whoever removes data: removing needs some too, and where none is left nothing could be removed any more. So
/// many in a small file (a quarter of a tiny one), and one for each [`FILE_PAGES_PER_KEPT`] of it more, up to the largest number: enough for
/// the paths to both ends of a range in trees of six levels, their neighbours, the family's directory and the tree of names.
const KEPT_PAGES_MIN: u64 = 16;
const KEPT_PAGES_MAX: u64 = 64;
const FILE_PAGES_PER_KEPT: u64 = 128;

/// What a key and its value take in a log, to tell from its bytes how many there are.
const BYTES_PER_RECOVERED_KEY: usize = 32;
/// Pages of a larger file that nobody can have: those that describe a new region.
const DESCRIBING_PAGES: u64 = 8;

/// Who wants pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Room {
    /// It has only removed so far.
    Removes,
    /// It has added something.
    Adds,
    /// It removes something large, whatever small things it adds for it.
    Clears,
    /// It merges, and has been promised what it takes.
    Merges,
}

/// The file grows rather than that an arena gets less than this part of what it wants.
const ARENA_PARTS: u64 = 8;

fn kept_pages(file_pages: u64) -> u64 {
    (KEPT_PAGES_MIN + file_pages / FILE_PAGES_PER_KEPT).min(file_pages / 4).min(KEPT_PAGES_MAX)
}

/// The shared map behind its short lock.
pub(crate) struct Space {
    map: Mutex<Allocator>,
    /// Held while the file grows, so that two writers do not both extend it. Never together with `map`.
    growing: Mutex<()>,
    max_pages: u64,
    promises: Arc<Promises>,
    /// How far the file could grow when somebody asked last, in pages.
    growable: AtomicU64,
}

impl Space {
    pub(crate) fn new(map: Allocator, max_pages: u64, promises: Arc<Promises>) -> Self {
        Self { map: Mutex::new(map), growing: Mutex::new(()), max_pages, promises, growable: AtomicU64::new(0) }
    }

    /// Promises pages to what a small commit leaves, and says how many, if there are as many besides all that was promised before; those
    /// that only removing may take not to one that adds. They are taken, and the file grows, when it is merged. If others fill the file
    /// system in the meantime, merging waits until it has room again.
    pub(crate) fn promise(&self, disk: &Disk, keys: usize, bytes: usize, room: Room) -> Option<u64> {
        let (pages, promised, free, file_pages) = self.map(|map| {
            let (free, file_pages) = (map.free_count(), map.file_pages());
            let kept = if room == Room::Adds { kept_pages(file_pages) } else { 0 };
            let pages = Promises::for_commit(keys, bytes, file_pages - free, disk.page_bytes);
            (pages, self.promises.add(pages), free.saturating_sub(kept), file_pages)
        });
        let is_covered = promised <= free + self.growable.load(Ordering::Relaxed) / 2
            || promised <= free + self.growable(disk, file_pages);
        if !is_covered {
            self.promises.end(pages);
        }
        is_covered.then_some(pages)
    }

    /// What an owner's commits take that a log has: what was promised before is promised again.
    pub(crate) fn promise_again(&self, disk: &Disk, commits: usize, bytes: usize) -> Weight {
        let used = self.map(|map| map.file_pages() - map.free_count());
        let keys = commits.max(bytes / BYTES_PER_RECOVERED_KEY);
        let promised_pages = Promises::for_commit(keys, bytes, used, disk.page_bytes);
        self.promises.add(promised_pages);
        Weight { bytes, keys, promised_pages }
    }

    /// Pages were promised to a commit that was not made.
    pub(crate) fn end_promise(&self, pages: u64) {
        self.promises.end(pages);
    }

    /// How many pages the file could grow by.
    fn growable(&self, disk: &Disk, file_pages: u64) -> u64 {
        let room = disk.storage.room().map_or(u64::MAX, |bytes| bytes / disk.page_bytes as u64);
        let pages = self.max_pages.saturating_sub(file_pages).min(room).saturating_sub(DESCRIBING_PAGES);
        self.growable.store(pages, Ordering::Relaxed);
        pages
    }

    /// Free pages that somebody may have who `keeps` those for removing or not.
    fn spare(&self, disk: &Disk, map: &Allocator, room: Room, keeps: bool) -> u64 {
        let promised = if room == Room::Merges { 0 } else { self.promises.pages() };
        let owed = if promised == 0 { 0 } else { promised.saturating_sub(self.growable(disk, map.file_pages())) };
        let kept = if keeps { kept_pages(map.file_pages()) } else { 0 };
        map.free_count().saturating_sub(kept + owed)
    }

    /// Runs `f` on the map under its lock, as often as it needs something first: a map page, or a larger file.
    pub(crate) fn with<T>(
        &self,
        disk: &Disk,
        mut f: impl FnMut(&mut Allocator) -> Result<T, Need>,
    ) -> Result<T, FileError> {
        loop {
            let need = match f(&mut self.map.lock()) {
                Ok(done) => return Ok(done),
                Err(need) => need,
            };
            self.satisfy(disk, need)?;
        }
    }

    /// Runs `f`, which reserves up to so many pages. The file grows rather than that pages are taken which are kept for removing; where it
    /// cannot, who adds gets none of them, and others get one at a time. What is promised to others stays.
    ///
    /// # Errors
    /// [`FileError::Full`].
    pub(crate) fn reserve<T>(
        &self,
        disk: &Disk,
        pages: u64,
        room: Room,
        mut f: impl FnMut(&mut Allocator, u64) -> Result<T, Need>,
    ) -> Result<T, FileError> {
        let granted = self.with(disk, |map| {
            let spare = self.spare(disk, map, room, true);
            if spare < pages.div_ceil(ARENA_PARTS) { Err(Need::Growth { pages: 1 }) } else { f(map, pages.min(spare)) }
        });
        match granted {
            // Whatever keeps the file from growing, what is free will do.
            Err(error @ (FileError::Full { .. } | FileError::Io { op: IoOp::Allocate, .. })) => {
                self.with(disk, |map| match self.spare(disk, map, room, true) {
                    0 if room == Room::Adds || self.spare(disk, map, room, false) == 0 => Ok(Err(error.clone())),
                    0 => f(map, 1).map(Ok),
                    spare => f(map, pages.min(spare)).map(Ok),
                })?
            }
            granted => granted,
        }
    }

    /// The same for pages side by side, all or none.
    ///
    /// # Errors
    /// [`FileError::Full`].
    pub(crate) fn reserve_run(&self, disk: &Disk, pages: u64, room: Room) -> Result<Extent, FileError> {
        self.with(disk, |map| {
            let spare = self.spare(disk, map, room, room == Room::Adds);
            if spare < pages { Err(Need::Growth { pages: pages - spare }) } else { map.reserve_run(pages) }
        })
    }

    /// Like [`with`](Space::with) for what never needs a larger file, so that it may run inside [`while_not_growing`](Space::while_not_growing).
    pub(crate) fn with_no_growth<T>(
        &self,
        disk: &Disk,
        mut f: impl FnMut(&mut Allocator) -> Result<T, Need>,
    ) -> Result<T, FileError> {
        self.with(disk, |map| {
            f(map).inspect_err(|need| {
                assert!(!matches!(need, Need::Growth { .. }), "no growth is needed to give space back");
            })
        })
    }

    /// Runs `f` while nobody extends the file.
    pub(crate) fn while_not_growing<T>(&self, f: impl FnOnce() -> T) -> T {
        let _growing = self.growing.lock();
        f()
    }

    /// Does what the map needs.
    pub(crate) fn satisfy(&self, disk: &Disk, need: Need) -> Result<(), FileError> {
        match need {
            Need::Directory(number) => self.load_directory(disk, number),
            Need::Region(number) => self.load_region(disk, number),
            Need::Growth { pages } => self.grow(disk, pages),
        }
    }

    /// Runs `f` on the map; for what needs nothing.
    pub(crate) fn map<T>(&self, f: impl FnOnce(&mut Allocator) -> T) -> T {
        f(&mut self.map.lock())
    }

    fn load_directory(&self, disk: &Disk, number: u32) -> Result<(), FileError> {
        let home = self.map.lock().directory_home(number);
        let Some(home) = home else {
            return Err(FileError::Damaged {
                at: 0,
                why: "the allocator asks for a map directory that was never saved",
            });
        };
        let page = read_map_page(disk, home, KIND_MAP_DIRECTORY)?;
        self.map.lock().load_directory(number, &page).map_err(|e| bad_map(disk, home, &e))
    }

    fn load_region(&self, disk: &Disk, number: u32) -> Result<(), FileError> {
        let home = loop {
            let asked = self.map.lock().region_home(number);
            match asked {
                Ok(Some(home)) => break home,
                Ok(None) => {
                    return Err(FileError::Damaged {
                        at: 0,
                        why: "the allocator asks for a map region that was never saved",
                    });
                }
                Err(Need::Directory(d)) => self.load_directory(disk, d)?,
                Err(_) => unreachable!("a home is known from its directory"),
            }
        };
        let page = read_map_page(disk, home, KIND_MAP_REGION)?;
        self.map.lock().load_region(number, &page).map_err(|e| bad_map(disk, home, &e))
    }

    /// Extends the file by at least `pages`, by more if it is large: real blocks, ahead of need.
    fn grow(&self, disk: &Disk, pages: u64) -> Result<(), FileError> {
        let before = self.map.lock().file_pages();
        let _growing = self.growing.lock();
        let now = self.map.lock().file_pages();
        if now > before {
            return Ok(()); // somebody else grew it meanwhile: look again
        }
        let page_bytes = disk.page_bytes as u64;
        // One more page than asked: a new map region begins with pages of its own.
        let least = pages + 4;
        let ahead = (now / 4).clamp(GROWTH_PAGES_MIN, GROWTH_BYTES_MAX / page_bytes).max(least);
        let room = self.max_pages.saturating_sub(now);
        let full = FileError::Full { bytes_wanted: pages * page_bytes };
        if room < pages {
            return Err(full);
        }
        for step in [ahead.min(room), least.min(room)] {
            match disk.allocate(now * page_bytes, step * page_bytes) {
                Ok(()) => {
                    self.map.lock().grow(now + step);
                    self.growable.store(0, Ordering::Relaxed); // to be asked again
                    return Ok(());
                }
                Err(FileError::Full { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Err(full)
    }

    /// Grows ahead when little is free, so that no commit has to.
    pub(crate) fn grow_ahead(&self, disk: &Disk) -> Result<(), FileError> {
        let stats = self.map.lock().stats();
        let ahead = (stats.file_pages / 16).min(GROWTH_BYTES_MAX / disk.page_bytes as u64);
        if stats.file_pages > 1024 && stats.free < ahead { self.grow(disk, ahead) } else { Ok(()) }
    }

    /// Returns unused or aborted pages.
    pub(crate) fn give_back(&self, extents: impl IntoIterator<Item = Extent>) {
        self.map.lock().give_back(extents);
    }
}

pub(crate) fn read_map_page(disk: &Disk, home: Home, kind: u8) -> Result<Vec<u8>, FileError> {
    let ptr = PagePtr { page: home.page, stamp: Stamp(home.number) };
    let page = disk.read_page(ptr, Some(NO_OWNER))?;
    if page[28] == kind {
        Ok(page)
    } else {
        Err(FileError::Corrupt {
            page: home.page,
            owner: Some(NO_OWNER),
            at: disk.offset(home.page),
            why: "not the kind of map page expected here",
        })
    }
}

fn bad_map(disk: &Disk, home: Home, error: &MapError) -> FileError {
    FileError::Corrupt { page: home.page, owner: Some(NO_OWNER), at: disk.offset(home.page), why: why(error) }
}

/// What is wrong with a map, in words.
pub(crate) fn why(error: &MapError) -> &'static str {
    match error {
        MapError::Region { why, .. } | MapError::Directory { why, .. } | MapError::Extent { why, .. } => why,
        _ => "the allocation map does not fit the file",
    }
}

impl std::fmt::Debug for Space {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Space").field("stats", &self.map.lock().stats()).finish_non_exhaustive()
    }
}
