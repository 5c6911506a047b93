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

/// An arena has at most this many extents.
const ARENA_EXTENTS_MAX: usize = 16;

/// An arena is too small to be worth its fragments below this part of what was asked for ...
const ARENA_PART_MIN: u64 = 8;

/// ... unless this part of the file is free: then the file is long enough.
const FREE_PART_MIN: u64 = 4;

impl Allocator {
    /// Reserves about `pages` pages for a transaction, in as few extents as possible: one run of
    /// that length at the lowest address that has it; else the longest runs there are, at most 16 of
    /// them, which may come to less. Asks for growth when nothing is free, or when the fragments come
    /// to less than an eighth of `pages` while less than a quarter of the file is free.
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
        let free_pages = self.free_pages();
        let mut arena = Vec::new();
        let mut missing = pages;
        while missing > 0 && arena.len() < ARENA_EXTENTS_MAX {
            match self.longest_run() {
                Ok(Some(run)) => {
                    let extent = Extent { start: run.start, pages: run.pages.min(missing) };
                    missing -= extent.pages;
                    arena.push(self.lend(extent));
                }
                Ok(None) => break,
                Err(need) => {
                    self.unlend(arena);
                    return Err(need);
                }
            }
        }
        let got = pages - missing;
        let worth_it = got.saturating_mul(ARENA_PART_MIN) >= pages || free_pages >= self.file_pages / FREE_PART_MIN;
        if arena.is_empty() || !worth_it {
            self.unlend(arena);
            return Err(self.growth(pages));
        }
        Ok(arena)
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

    /// The longest run of free pages, the lowest of equals.
    fn longest_run(&mut self) -> Result<Option<Extent>, Need> {
        // Each turn returns, or lowers one bound to what is really there.
        loop {
            let Some((directory, bound)) =
                best((0..count(&self.directories)).map(|directory| (directory, self.directory_bound(directory))))
            else {
                return Ok(None);
            };
            self.directory_ready(directory)?;
            let (region, region_bound) =
                best(self.regions_in_file(directory).map(|region| (region, self.region_bound(region))))
                    .unwrap_or((0, 0));
            if region_bound < bound {
                self.directories[directory as usize].longest = region_bound;
                continue;
            }
            self.region_ready(region)?;
            let limit = self.geometry.pages_in_file(region, self.file_pages);
            let run = self.region(region).live_map().longest(limit);
            let found = run.end - run.start;
            self.region_mut(region).live.longest = found;
            if found == region_bound {
                return Ok(Some(self.geometry.extent(region, run)));
            }
        }
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

/// The largest bound above 0, the lowest address of equals.
fn best(bounds: impl Iterator<Item = (u32, u32)>) -> Option<(u32, u32)> {
    bounds.filter(|&(_, bound)| bound > 0).fold(None, |best, at| match best {
        Some((_, bound)) if bound >= at.1 => best,
        _ => Some(at),
    })
}
