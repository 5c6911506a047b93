//! Finding free pages: the longest runs, at the lowest addresses, without looking at every map.
//!
//! Each directory and each region knows a length that none of its free runs exceeds. A search looks
//! only where that is enough, and corrects it where it was too hopeful; so a map is looked at again
//! only after something in it became free.

use crate::{
    allocator::{Allocator, count},
    error::Need,
    words::Extent,
};
use std::ops::Range;

/// An arena has at most this many extents, or one for so many pages of it if that is more: where all runs are short, one search
/// through the maps has to last for a while.
const ARENA_EXTENTS_MAX: usize = 32;
const PAGES_PER_EXTENT: u64 = 4;

/// At most this many maps are looked at for the fragments of one arena.
const REGIONS_PER_ARENA_MAX: usize = 4;

/// Fragments are taken when they come to at least this part of what was asked for ...
const ARENA_PART_MIN: u64 = 8;

/// ... and are on average this long, or in a small file this part of it ...
const FRAGMENT_PAGES_MIN: u64 = 32;
const FRAGMENTS_PER_FILE: u64 = 64;

/// ... or when this part of the file is free: then it is long enough.
const FREE_PART_MIN: u64 = 4;

impl Allocator {
    /// Reserves about `pages` pages for a transaction, in as few extents as possible: one run of
    /// that length at the lowest address that has it; else the longest runs there are, up to 32 or a quarter
    /// of `pages`, which may come to less.
    ///
    /// Asks for growth when nothing is free; and also, as long as less than a quarter of the file is
    /// free, when those runs come to less than an eighth of `pages` or are shorter than 32 pages on
    /// average (in a file below 8 MiB, than 1/64 of it). So a file that is overwritten at random
    /// grows by at most a third for the sake of long runs.
    ///
    /// # Errors
    /// [`Need`]; then nothing was reserved.
    ///
    /// # Panics
    /// When `pages` is 0.
    pub fn reserve(&mut self, pages: u64) -> Result<Vec<Extent>, Need> {
        assert!(pages > 0, "reserve at least one page");
        if let Some(extent) = self.first_fit(pages)? {
            return Ok(vec![self.lend(extent)]);
        }
        let fragments = self.fragments(pages)?;
        let mut arena = Vec::new();
        let mut missing = pages;
        for run in fragments {
            if missing > 0 {
                arena.push(Extent { pages: run.pages.min(missing), ..run });
                missing -= run.pages.min(missing);
            }
        }
        let (got, extents) = (pages - missing, arena.len() as u64);
        let run_min = FRAGMENT_PAGES_MIN.min(pages).min(self.file_pages / FRAGMENTS_PER_FILE);
        let good = got.saturating_mul(ARENA_PART_MIN) >= pages && got >= run_min * extents;
        if arena.is_empty() || !(good || self.free_pages() >= self.file_pages / FREE_PART_MIN) {
            return Err(self.growth(pages));
        }
        Ok(arena.into_iter().map(|extent| self.lend(extent)).collect())
    }

    /// Reserves `pages` adjacent pages, at the lowest address that has them.
    ///
    /// # Errors
    /// [`Need`]; then nothing was reserved.
    ///
    /// # Panics
    /// When `pages` is 0 or more than [`max_run_pages`](crate::Geometry::max_run_pages).
    pub fn reserve_run(&mut self, pages: u64) -> Result<Extent, Need> {
        assert!(0 < pages && pages <= self.geometry.max_run_pages(), "no run can have {pages} pages");
        match self.first_fit(pages)? {
            Some(extent) => Ok(self.lend(extent)),
            None => Err(self.growth(pages)),
        }
    }

    /// Marks free pages lent.
    pub(crate) fn lend(&mut self, extent: Extent) -> Extent {
        let (region, range) = self.locate(extent).expect("a free run inside a region");
        let taken = self.take(region, range);
        assert_eq!(u64::from(taken), extent.pages, "granted twice: {extent:?}");
        self.lent += extent.pages;
        extent
    }

    /// Undoes [`Allocator::lend`].
    pub(crate) fn unlend(&mut self, extents: Vec<Extent>) {
        for extent in extents {
            self.lent -= extent.pages;
            self.give(extent);
        }
    }

    /// `pages` free pages at the lowest address that has as many side by side.
    fn first_fit(&mut self, pages: u64) -> Result<Option<Extent>, Need> {
        let Ok(want) = u32::try_from(pages.min(u64::from(self.geometry.region_pages()) + 1)) else { return Ok(None) };
        for directory in 0..count(&self.directories) {
            if self.directory_bound(directory) < want {
                continue;
            }
            self.directory_ready(directory)?;
            let mut longest = 0;
            for region in self.regions_in_file(directory) {
                let bound = self.region_bound(region);
                if bound < want {
                    longest = longest.max(bound);
                    continue;
                }
                self.region_ready(region)?;
                let limit = self.geometry.pages_in_file(region, self.file_pages);
                match self.region(region).live_map().first_fit(want, limit) {
                    Ok(run) => return Ok(Some(self.geometry.extent(region, run.start..run.start + want))),
                    Err(found) => {
                        self.region_mut(region).live.longest = found;
                        longest = longest.max(found);
                    }
                }
            }
            self.directories[directory as usize].longest = longest;
        }
        Ok(None)
    }

    /// The longest free runs of the few regions that may have the longest, longest first, the lowest
    /// of equals.
    fn fragments(&mut self, pages: u64) -> Result<Vec<Extent>, Need> {
        let extents_max = extents_max(pages);
        let mut found: Vec<Extent> = Vec::new();
        let mut seen = Vec::new();
        while seen.len() < REGIONS_PER_ARENA_MAX && found.iter().map(|run| run.pages).sum::<u64>() < pages {
            // Another region is worth its search when its longest run is much longer than what it replaces.
            let replaced = if found.len() < extents_max { 0 } else { found[extents_max - 1].pages };
            let Some(region) = self.most_promising(&seen, 2 * replaced)? else { break };
            self.region_ready(region)?;
            seen.push(region);
            let limit = self.geometry.pages_in_file(region, self.file_pages);
            let bound = self.region_bound(region);
            let (runs, all_seen) = longest_of(self.region(region).live_map().free_runs(0, limit), bound, extents_max);
            if all_seen {
                self.region_mut(region).live.longest = runs.first().map_or(0, |run| run.end - run.start);
            }
            found.extend(runs.into_iter().map(|run| self.geometry.extent(region, run)));
            found.sort_unstable_by_key(|run| (std::cmp::Reverse(run.pages), run.start));
            found.truncate(extents_max);
        }
        Ok(found)
    }

    /// The region that may have the longest free run, at least one longer than `pages`, leaving out those
    /// `seen`.
    fn most_promising(&mut self, seen: &[u32], pages: u64) -> Result<Option<u32>, Need> {
        let mut best = (pages, None);
        for directory in 0..count(&self.directories) {
            if u64::from(self.directory_bound(directory)) <= best.0 {
                continue;
            }
            self.directory_ready(directory)?;
            let mut longest = 0;
            for region in self.regions_in_file(directory) {
                let bound = self.region_bound(region);
                longest = longest.max(bound);
                if u64::from(bound) > best.0 && !seen.contains(&region) {
                    best = (u64::from(bound), Some(region));
                }
            }
            self.directories[directory as usize].longest = longest;
        }
        Ok(best.1)
    }

    /// No free run of the directory is longer.
    fn directory_bound(&self, directory: u32) -> u32 {
        let used = self.geometry.fresh_free_of_directory(directory) - self.directories[directory as usize].live_free;
        let first = directory * self.geometry.regions_per_directory();
        let start = self.geometry.region_start(first);
        let end = self.file_pages.min(self.geometry.region_start(first + self.geometry.regions_per_directory()));
        let usable = (end - start) + self.geometry.fixed_before(start) - self.geometry.fixed_before(end);
        let free_in_file = u32::try_from(usable - used).unwrap_or(u32::MAX);
        self.directories[directory as usize].longest.min(free_in_file)
    }

    /// No free run of the region is longer. Its directory is in memory.
    pub(crate) fn region_bound(&self, region: u32) -> u32 {
        let live = self.region(region).live;
        let beyond = self.geometry.region_pages() - self.geometry.pages_in_file(region, self.file_pages);
        // A file that ends within fixed pages has none of the region's free ones.
        live.longest.min(live.free.saturating_sub(beyond))
    }

    /// How much longer the file must be for a run of `pages`, or of as many as a run can have.
    fn growth(&self, pages: u64) -> Need {
        let run = pages.min(self.geometry.max_run_pages());
        let end = self.file_pages;
        let (last, _) = self.geometry.split(end - 1);
        let in_last = self.geometry.pages_in_file(last, end);
        // A run that reaches the end of the file goes on behind it.
        let directory = &self.directories[self.geometry.directory_of(last) as usize];
        let known = directory.regions.is_some() && self.region(last).is_loaded();
        let free_from = if known { self.region(last).live_map().free_run_before(in_last) } else { in_last };
        let start = self.geometry.region_start(last) + u64::from(free_from.max(self.geometry.fixed_pages(last)));
        let next = last + 1;
        let fits = end < start + run && start + run <= self.geometry.region_start(next);
        let needed = if fits {
            start + run
        } else {
            self.geometry.region_start(next) + u64::from(self.geometry.fixed_pages(next)) + run
        };
        Need::Growth { pages: needed - end }
    }
}

/// How many extents an arena of `pages` pages may have.
fn extents_max(pages: u64) -> usize {
    usize::try_from(pages / PAGES_PER_EXTENT).map_or(ARENA_EXTENTS_MAX, |extents| extents.max(ARENA_EXTENTS_MAX))
}

/// The longest runs, longest first, the lowest of equals; `most` at most. None of `runs` is
/// longer than `bound`: as many that are longer than half of it will do, and the search ends there. Tells
/// whether it saw all.
fn longest_of(runs: impl Iterator<Item = Range<u32>>, bound: u32, most: usize) -> (Vec<Range<u32>>, bool) {
    let mut longest = Vec::with_capacity(2 * most);
    let (mut at_least, mut good) = (0, 0);
    for run in runs {
        let pages = run.end - run.start;
        if pages > at_least {
            longest.push(run);
            good += usize::from(pages > bound / 2);
            if good == most {
                keep_longest(&mut longest, most);
                return (longest, false);
            }
            if longest.len() == 2 * most {
                at_least = keep_longest(&mut longest, most);
            }
        }
    }
    keep_longest(&mut longest, most);
    (longest, true)
}

/// Sorts, and drops what an arena has no room for; returns the length of the shortest that stays.
fn keep_longest(runs: &mut Vec<Range<u32>>, most: usize) -> u32 {
    runs.sort_unstable_by_key(|run| (std::cmp::Reverse(run.end - run.start), run.start));
    runs.truncate(most);
    runs.last().map_or(0, |run| run.end - run.start)
}
