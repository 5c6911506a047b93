//! The allocator: directories, regions, and the pages of them that are lent.
//!
//! Invariants, each asserted where pages change hands:
//! - a page is in exactly one place: free, lent, in use by a commit, awaiting a checkpoint, hanging on
//!   a snapshot, permanent, or fixed;
//! - free in the live map implies free in the durable map;
//! - a region whose maps are not in memory is as its page says, in both maps.

use crate::{
    bitmap::Bitmap,
    canary::Rule,
    checkpoint::{Checkpoint, Dying, Pinned},
    commit::Delta,
    error::{MapError, Need},
    extent_set::ExtentSet,
    geometry::Geometry,
    map_page::{self, DirectoryEntry},
    region::{Region, Saved},
    stats::AllocStats,
    words::{Extent, PageNo},
};
use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    ops::Range,
};

/// Where the current copy of a map page or directory page is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Home {
    /// The page to read.
    pub page: PageNo,
    /// The stamp it must carry: the number of the checkpoint that wrote it.
    pub number: u64,
}

/// Knows which pages of a file are free, in the present (the *live* map) and as of the newest
/// checkpoint (the *durable* map), and when a page may be granted again.
///
/// It does no I/O: a call that needs a page of the map, or a longer file, changes nothing and
/// returns a [`Need`]; the caller sees to it and calls again. It has no lock: the caller holds one
/// around each call, but not while it reads.
///
/// Memory: about 60 bytes per region of a directory in use, plus one or two page sizes per region
/// in memory (see [`Allocator::trim`]), plus what commits since the newest checkpoint freed.
pub struct Allocator {
    pub(crate) geometry: Geometry,
    pub(crate) file_pages: u64,
    pub(crate) directories: Vec<Directory>,
    /// Pages in use in the live map, fixed ones apart.
    pub(crate) in_use: u64,
    /// Reserved, and neither committed, given back nor made permanent.
    pub(crate) lent: u64,
    /// Uses of regions so far: the clock of [`Region::used_at`].
    pub(crate) uses: u64,

    /// Commits that are not in the durable map, oldest first.
    pub(crate) noted: VecDeque<Delta>,
    /// Pages freed by commits and permanent extents given up, until a checkpoint has finished.
    pub(crate) awaiting: u64,
    /// What replayed commits released, so that a log cannot release a page twice.
    pub(crate) replayed_frees: ExtentSet,
    /// Permanent extents taken (`true`) and given up that are not in the durable map, in order.
    pub(crate) permanent_noted: VecDeque<(Extent, bool)>,
    pub(crate) permanent: ExtentSet,

    pub(crate) checkpoint: Option<Checkpoint>,
    /// Regions whose durable map differs from their page on disk.
    pub(crate) changed: BTreeSet<u32>,
    /// Free in the durable map, in use in the live map until the checkpoint has finished.
    pub(crate) dying: Vec<Dying>,
    pub(crate) permanent_dying: Vec<Extent>,
    /// What would be free but for a snapshot, by the snapshot's id.
    pub(crate) pinned: HashMap<u64, Pinned>,

    /// The end of the file, reserved to be cut off.
    pub(crate) tail: Option<Extent>,
    /// Free pages that hold no data: never written, or punched since.
    pub(crate) blank: ExtentSet,
    /// Reserved to be punched.
    pub(crate) punching: ExtentSet,
    /// Where the search for runs to punch goes on.
    pub(crate) punched_to: u64,

    /// The rule a test has switched off.
    #[cfg(test)]
    pub(crate) broken: Option<Rule>,
}

/// A directory as memory knows it.
pub(crate) struct Directory {
    pub(crate) saved: Saved,
    pub(crate) saving: Option<Saved>,
    /// Free pages of its whole regions, also beyond the end of the file.
    pub(crate) live_free: u64,
    pub(crate) durable_free: u64,
    /// Never less than the longest free run of its regions inside the file.
    pub(crate) longest: u32,
    /// `None` until it is loaded.
    pub(crate) regions: Option<Box<[Region]>>,
}

impl Directory {
    fn fresh(geometry: Geometry, directory: u32) -> Self {
        let free = geometry.fresh_free_of_directory(directory);
        Self {
            saved: Saved::NEVER,
            saving: None,
            live_free: free,
            durable_free: free,
            longest: geometry.region_pages(),
            regions: None,
        }
    }
}

impl Allocator {
    /// The allocator of a new file of `file_pages`, of which `in_use` are permanent (the log, say).
    /// Nothing of it is on disk before the first checkpoint.
    ///
    /// # Errors
    /// [`MapError::FileSize`]; [`MapError::Extent`] when one of `in_use` is not in the file, touches
    /// fixed pages, crosses the boundary of a region or is there twice.
    pub fn create(geometry: Geometry, file_pages: u64, in_use: &[Extent]) -> Result<Self, MapError> {
        let mut new = Self::open(geometry, file_pages, Vec::new())?;
        new.blank.extend(Extent::new(1, file_pages - 1));
        for &extent in in_use {
            let (region, range) = new.locate(extent)?;
            new.directory_ready(geometry.directory_of(region))
                .and_then(|()| new.region_ready(region))
                .expect("never saved");
            let taken = new.take(region, range.clone());
            if taken < range.end - range.start {
                return Err(MapError::Extent { extent, why: "in use twice" });
            }
            new.keep(region, range);
            new.permanent.insert(extent);
        }
        Ok(new)
    }

    /// The allocator of a file of `file_pages`, with the superblock's line per directory; a missing
    /// line counts as never saved. Loads nothing.
    ///
    /// # Errors
    /// [`MapError::FileSize`]; [`MapError::Directory`] for an impossible line.
    pub fn open(geometry: Geometry, file_pages: u64, entries: Vec<DirectoryEntry>) -> Result<Self, MapError> {
        let (min, max) = (geometry.min_file_pages(), geometry.max_file_pages());
        if !(min..=max).contains(&file_pages) {
            return Err(MapError::FileSize { file_pages, min, max });
        }
        let count = geometry.directory_count(file_pages);
        let mut directories: Vec<Directory> = (0..count).map(|d| Directory::fresh(geometry, d)).collect();
        let mut in_use = 0;
        for (id, entry) in (0_u32..).zip(entries) {
            let saved = Saved(entry.saved);
            let why = match directories.get_mut(id as usize) {
                _ if saved == Saved::NEVER && entry.free_pages == 0 => continue,
                _ if saved.number() == 0 => "never saved, but it counts free pages",
                None => "it lies beyond the end of the file",
                Some(directory) if entry.free_pages > directory.live_free => "more free pages than it has",
                Some(_) if !homes_in_file(geometry, id, file_pages) => "it lies beyond the end of the file",
                Some(directory) => {
                    in_use += directory.live_free - entry.free_pages;
                    directory.saved = saved;
                    (directory.live_free, directory.durable_free) = (entry.free_pages, entry.free_pages);
                    continue;
                }
            };
            return Err(MapError::Directory { directory: id, why });
        }
        if in_use + geometry.fixed_before(file_pages) > file_pages {
            let why = "the directories count more pages in use than the file has";
            return Err(MapError::Directory { directory: 0, why });
        }
        Ok(Self {
            geometry,
            file_pages,
            directories,
            in_use,
            lent: 0,
            uses: 0,
            noted: VecDeque::new(),
            awaiting: 0,
            replayed_frees: ExtentSet::new(),
            permanent_noted: VecDeque::new(),
            permanent: ExtentSet::new(),
            checkpoint: None,
            changed: BTreeSet::new(),
            dying: Vec::new(),
            permanent_dying: Vec::new(),
            pinned: HashMap::new(),
            tail: None,
            blank: ExtentSet::new(),
            punching: ExtentSet::new(),
            punched_to: 0,
            #[cfg(test)]
            broken: None,
        })
    }

    /// The file's length in pages, as far as the allocator was told.
    pub const fn file_pages(&self) -> u64 {
        self.file_pages
    }

    /// The layout of the file.
    pub const fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// The file has become longer and its new pages may be granted.
    ///
    /// # Panics
    /// When `file_pages` is less than before or more than
    /// [`max_file_pages`](Geometry::max_file_pages), or while the tail is reserved to be cut.
    pub fn grow(&mut self, file_pages: u64) {
        assert!(self.file_pages <= file_pages && file_pages <= self.geometry.max_file_pages(), "grow to {file_pages}");
        assert!(self.tail.is_none(), "the end of the file is reserved to be cut off");
        let (before, geometry) = (self.file_pages, self.geometry);
        self.file_pages = file_pages;
        for directory in count(&self.directories)..geometry.directory_count(file_pages) {
            self.directories.push(Directory::fresh(geometry, directory));
        }
        // Longest runs were known inside the file only; here they have become longer.
        for region in geometry.region_count(before) - 1..geometry.region_count(file_pages) {
            let directory = &mut self.directories[geometry.directory_of(region) as usize];
            directory.longest = geometry.region_pages();
            if let Some(regions) = &mut directory.regions {
                regions[(region % geometry.regions_per_directory()) as usize].live.longest = geometry.region_pages();
            }
        }
        if let Some(new) = Extent::new(before, file_pages - before) {
            self.blank.insert(new);
        }
    }

    /// Where to read the directory; `None` when it was never saved and needs no reading, or lies
    /// beyond the end of the file.
    pub fn directory_home(&self, directory: u32) -> Option<Home> {
        let known = self.directories.get(directory as usize)?;
        home(known.saved, self.geometry.directory_twins(directory))
    }

    /// Where to read the region's map page; `None` when it was never saved and needs no reading, or
    /// lies beyond the end of the file.
    ///
    /// # Errors
    /// [`Need::Directory`].
    pub fn region_home(&self, region: u32) -> Result<Option<Home>, Need> {
        let directory = self.geometry.directory_of(region);
        let Some(known) = self.directories.get(directory as usize) else { return Ok(None) };
        match &known.regions {
            Some(regions) => {
                let saved = regions[(region % self.geometry.regions_per_directory()) as usize].saved;
                Ok(home(saved, self.geometry.region_twins(region)))
            }
            None if known.saved == Saved::NEVER => Ok(None),
            None => Err(Need::Directory(directory)),
        }
    }

    /// Takes in a directory page read from [`Allocator::directory_home`], header included and
    /// verified. Does nothing when it is loaded already, or when the page was replaced meanwhile.
    ///
    /// # Errors
    /// [`MapError::Directory`].
    pub fn load_directory(&mut self, directory: u32, page: &[u8]) -> Result<(), MapError> {
        let (geometry, file_pages) = (self.geometry, self.file_pages);
        let Some(known) = self.directories.get_mut(directory as usize) else { return Ok(()) };
        if known.regions.is_some() || page.len() < 32 || map_page::stamp(page) != known.saved.number() {
            return Ok(());
        }
        let entry = DirectoryEntry { saved: known.saved.0, free_pages: known.durable_free };
        known.regions = Some(map_page::decode_directory(geometry, directory, file_pages, entry, page)?);
        Ok(())
    }

    /// Takes in a map page read from [`Allocator::region_home`], header included and verified. Does
    /// nothing when it is loaded already, or when the page was replaced meanwhile.
    ///
    /// # Errors
    /// [`MapError::Region`].
    pub fn load_region(&mut self, region: u32, page: &[u8]) -> Result<(), MapError> {
        let believe_all = self.broken(Rule::StalePagesAreIgnored);
        let (geometry, file_pages) = (self.geometry, self.file_pages);
        let index = (region % geometry.regions_per_directory()) as usize;
        let directory = self.directories.get_mut(geometry.directory_of(region) as usize);
        let Some(regions) = directory.and_then(|d| d.regions.as_mut()) else { return Ok(()) };
        let known = &mut regions[index];
        let stale = page.len() < 32 || map_page::stamp(page) != known.saved.number();
        if known.is_loaded() || known.saved == Saved::NEVER || (stale && !believe_all) {
            return Ok(());
        }
        let map = map_page::decode_region(geometry, region, file_pages, known.durable, page)?;
        known.load(map);
        known.used_at = self.uses;
        Ok(())
    }

    /// Takes unused extents back: what is left of an arena, or all an aborted transaction had. They
    /// are free at once; the durable map never knew of them. No write to them may be in flight.
    ///
    /// # Panics
    /// When a page was not reserved.
    pub fn give_back(&mut self, extents: impl IntoIterator<Item = Extent>) {
        if self.broken(Rule::AbortsFree) {
            return;
        }
        for extent in extents {
            if self.tail == Some(extent) {
                self.return_tail();
                continue;
            }
            assert!(self.lent >= extent.pages, "{extent:?} was not reserved");
            self.lent -= extent.pages;
            self.give(extent);
            if self.punching.remove(extent) {
                self.note_blank(extent);
            }
        }
    }

    /// How many pages there are of each kind. O(snapshots that pin something).
    pub fn stats(&self) -> AllocStats {
        let pinned = self.pinned.values().map(|pinned| pinned.pages).sum();
        let free = self.free_pages();
        let fixed = self.geometry.fixed_before(self.file_pages);
        let accounted = free + fixed + self.lent + self.awaiting + pinned;
        AllocStats {
            file_pages: self.file_pages,
            free,
            lent: self.lent,
            awaiting_checkpoint: self.awaiting,
            pinned,
            fixed,
            // A damaged file may name pages twice; a count is no reason to stop.
            used: self.file_pages.saturating_sub(accounted),
        }
    }

    /// Free pages inside the file.
    pub(crate) fn free_pages(&self) -> u64 {
        self.file_pages - self.geometry.fixed_before(self.file_pages) - self.in_use
    }

    /// Makes sure the directory is in memory.
    pub(crate) fn directory_ready(&mut self, directory: u32) -> Result<(), Need> {
        let known = &mut self.directories[directory as usize];
        if known.regions.is_none() {
            if known.saved != Saved::NEVER {
                return Err(Need::Directory(directory));
            }
            known.regions = Some(map_page::fresh_regions(self.geometry, directory));
        }
        Ok(())
    }

    /// Makes sure the region's maps are in memory.
    pub(crate) fn region_ready(&mut self, region: u32) -> Result<(), Need> {
        self.directory_ready(self.geometry.directory_of(region))?;
        let (geometry, uses) = (self.geometry, self.uses + 1);
        self.uses = uses;
        let known = self.region_mut(region);
        known.used_at = uses;
        if !known.is_loaded() {
            if known.saved != Saved::NEVER {
                return Err(Need::Region(region));
            }
            known.load(Bitmap::new(geometry.region_pages(), geometry.fixed_pages(region)));
        }
        Ok(())
    }

    /// A region of a directory in memory.
    pub(crate) fn region(&self, region: u32) -> &Region {
        let directory = &self.directories[self.geometry.directory_of(region) as usize];
        let index = (region % self.geometry.regions_per_directory()) as usize;
        &directory.regions.as_ref().expect("a directory in memory")[index]
    }

    /// A region of a directory in memory.
    pub(crate) fn region_mut(&mut self, region: u32) -> &mut Region {
        let directory = &mut self.directories[self.geometry.directory_of(region) as usize];
        let index = (region % self.geometry.regions_per_directory()) as usize;
        &mut directory.regions.as_mut().expect("a directory in memory")[index]
    }

    /// The regions of `directory` that are in the file.
    pub(crate) fn regions_in_file(&self, directory: u32) -> Range<u32> {
        let first = directory * self.geometry.regions_per_directory();
        let end = first + self.geometry.regions_per_directory();
        first..end.min(self.geometry.region_count(self.file_pages))
    }

    /// The region of an extent from outside, and its offsets there.
    pub(crate) fn locate(&self, extent: Extent) -> Result<(u32, Range<u32>), MapError> {
        let why = "it is not in the file, on fixed pages, or in two regions";
        self.geometry.locate(extent, self.file_pages).ok_or(MapError::Extent { extent, why })
    }

    /// Marks pages in use in the live map; returns how many were free.
    pub(crate) fn take(&mut self, region: u32, range: Range<u32>) -> u32 {
        if !self.blank.is_empty() {
            self.blank.subtract(self.geometry.extent(region, range.clone()));
        }
        let taken = self.region_mut(region).take(range);
        self.directories[self.geometry.directory_of(region) as usize].live_free -= u64::from(taken);
        self.in_use += u64::from(taken);
        taken
    }

    /// Frees pages in the live map.
    pub(crate) fn give(&mut self, extent: Extent) {
        let (region, range) = self.locate(extent).expect("an extent that was granted");
        let limit = self.geometry.pages_in_file(region, self.file_pages);
        let forgetful = self.broken(Rule::FreedRunsAreFound);
        let known = self.region_mut(region);
        let before = known.live.longest;
        known.give(range, limit);
        if forgetful {
            known.live.longest = before;
        }
        let longest = known.live.longest;
        let directory = &mut self.directories[self.geometry.directory_of(region) as usize];
        directory.longest = directory.longest.max(longest);
        directory.live_free += extent.pages;
        self.in_use -= extent.pages;
    }

    /// Marks pages, in use in the live map, in use in the durable map.
    pub(crate) fn keep(&mut self, region: u32, range: Range<u32>) {
        let known = self.region_mut(region);
        let before = known.durable.free;
        if known.keep(range) {
            known.saving = None;
            let kept = before - known.durable.free;
            self.directories[self.geometry.directory_of(region) as usize].durable_free -= u64::from(kept);
            self.changed.insert(region);
        }
    }

    /// Frees pages in the durable map; returns those that were in use there.
    pub(crate) fn drop_durable(&mut self, region: u32, range: Range<u32>) -> Vec<Extent> {
        let geometry = self.geometry;
        let known = self.region_mut(region);
        let runs = known.drop_durable(range);
        if !runs.is_empty() {
            known.saving = None;
            self.changed.insert(region);
        }
        let dropped: Vec<Extent> = runs.into_iter().map(|run| geometry.extent(region, run)).collect();
        let pages: u64 = dropped.iter().map(|extent| extent.pages).sum();
        self.directories[geometry.directory_of(region) as usize].durable_free += pages;
        dropped
    }

    /// Whether a test has switched `rule` off.
    #[cfg(test)]
    pub(crate) fn broken(&self, rule: Rule) -> bool {
        self.broken == Some(rule)
    }

    /// Every rule holds.
    #[cfg(not(test))]
    #[inline]
    #[expect(clippy::unused_self, reason = "tests ask the allocator")]
    pub(crate) const fn broken(&self, _: Rule) -> bool {
        false
    }
}

/// How many directories a list has: at most [`Geometry::MAX_DIRECTORIES`].
pub(crate) fn count(directories: &[Directory]) -> u32 {
    u32::try_from(directories.len()).expect("at most MAX_DIRECTORIES")
}

fn home(saved: Saved, twins: PageNo) -> Option<Home> {
    let page = PageNo::new(twins.get() + saved.side()).expect("the homes of a file that exists");
    (saved != Saved::NEVER).then_some(Home { page, number: saved.number() })
}

fn homes_in_file(geometry: Geometry, directory: u32, file_pages: u64) -> bool {
    let region = directory * geometry.regions_per_directory();
    geometry.pages_in_file(region, file_pages) >= geometry.fixed_pages(region)
}
