//! The allocator with its I/O: loads map pages when they are first needed, and grows the file.

use crate::{disk::Disk, error::FileError, owners::NO_OWNER, page::PagePtr};
use parking_lot::Mutex;
use spinney_alloc::{Allocator, Extent, Home, MapError, Need, Stamp};

pub(crate) const KIND_MAP_REGION: u8 = 1;
pub(crate) const KIND_MAP_DIRECTORY: u8 = 2;
/// The file grows by at least this many pages at a time, and by at most [`GROWTH_BYTES_MAX`] ahead of need.
const GROWTH_PAGES_MIN: u64 = 16;
const GROWTH_BYTES_MAX: u64 = 64 << 20;
/// Pages held back from whoever adds, so that whoever removes finds some in a full file: a part of the file, as a divisor, and at
/// most so many. A removal needs twice the height of its tree, and gives back more.
const HELD_BACK_PART: u64 = 16;
const HELD_BACK_PAGES_MAX: u64 = 64;

/// The shared map behind its short lock.
pub(crate) struct Space {
    map: Mutex<Allocator>,
    /// Held while the file grows, so that two writers do not both extend it. Never together with `map`.
    growing: Mutex<()>,
    max_pages: u64,
}

impl Space {
    pub(crate) fn new(map: Allocator, max_pages: u64) -> Self {
        Self { map: Mutex::new(map), growing: Mutex::new(()), max_pages }
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

    /// The same for what never needs a larger file, so that it may run inside [`while_not_growing`](Space::while_not_growing).
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

    /// Reserves an arena of about `pages` pages; leaves what is held back, and grows the file instead.
    ///
    /// # Errors
    /// [`FileError::Full`], and those of reading map pages.
    pub(crate) fn reserve(&self, disk: &Disk, pages: u64) -> Result<Vec<Extent>, FileError> {
        self.with(disk, |map| {
            hold_back(map, pages)?;
            map.reserve(pages)
        })
    }

    /// The same of adjacent pages.
    ///
    /// # Errors
    /// As [`reserve`](Space::reserve).
    pub(crate) fn reserve_run(&self, disk: &Disk, pages: u64) -> Result<Extent, FileError> {
        self.with(disk, |map| {
            hold_back(map, pages)?;
            map.reserve_run(pages)
        })
    }

    /// One page, if need be of those that are held back.
    ///
    /// # Errors
    /// As [`reserve`](Space::reserve).
    pub(crate) fn reserve_last(&self, disk: &Disk) -> Result<Vec<Extent>, FileError> {
        self.with(disk, |map| map.reserve(1))
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

/// Asks for a larger file when `pages` more would take of what is held back.
fn hold_back(map: &Allocator, pages: u64) -> Result<(), Need> {
    let stats = map.stats();
    let held_back = (stats.file_pages / HELD_BACK_PART).min(HELD_BACK_PAGES_MAX);
    if stats.free < pages + held_back { Err(Need::Growth { pages }) } else { Ok(()) }
}

fn read_map_page(disk: &Disk, home: Home, kind: u8) -> Result<Vec<u8>, FileError> {
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
