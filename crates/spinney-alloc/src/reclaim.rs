//! Space that goes back: to the file system by cutting or punching the file, and memory by
//! forgetting maps that are as their pages say.

use crate::{allocator::Allocator, error::Need, region::Saved, words::Extent};
use std::ops::Range;

/// Regions that [`Allocator::trim`] keeps in memory though they could be read again.
const IDLE_REGIONS_KEPT: usize = 64;

/// Runs of blank pages remembered; beyond, all are forgotten and punched once more.
const BLANK_RUNS_MAX: usize = 1 << 16;

impl Allocator {
    /// Reserves the free pages at the end of the file, at most `max_pages`, so that the file can be cut
    /// there; `None` when its last page is in use. Homes of the map that nothing needs count as free. The
    /// next step is [`Allocator::shrink`], or [`Allocator::give_back`] with the same extent.
    ///
    /// Homes are needed as long as the newest checkpoint points to them. A region that has become free
    /// as a whole has no page from the checkpoint on that freed it.
    ///
    /// # Errors
    /// [`Need::Directory`] and [`Need::Region`]; then nothing was reserved.
    ///
    /// # Panics
    /// When the tail is reserved already.
    pub fn reserve_tail(&mut self, max_pages: u64) -> Result<Option<Extent>, Need> {
        assert!(self.tail.is_none(), "the tail is reserved already");
        let start = self.tail_start()?.max(self.file_pages.saturating_sub(max_pages));
        let Some(tail) = Extent::new(start, self.file_pages - start) else { return Ok(None) };
        let parts = self.parts(tail);
        for (region, _) in &parts {
            self.region_ready(*region)?;
        }
        for (region, range) in parts {
            self.lend(self.geometry.extent(region, range));
        }
        self.tail = Some(tail);
        Ok(Some(tail))
    }

    /// The file ends at page `file_pages` from now on. Reserved pages before that are free again.
    ///
    /// # Panics
    /// When the pages from there on are not reserved by [`Allocator::reserve_tail`].
    pub fn shrink(&mut self, file_pages: u64) {
        let tail = self.tail.expect("the tail is reserved");
        assert!(tail.start.get() <= file_pages && file_pages <= tail.end(), "shrink to {file_pages}, tail {tail:?}");
        self.return_tail();
        let regions = self.geometry.region_count(file_pages)..self.geometry.region_count(self.file_pages);
        self.file_pages = file_pages;
        regions.for_each(|region| self.region_mut(region).unload());
        self.directories.truncate(self.geometry.directory_count(file_pages) as usize);
        if let Some(cut) = Extent::new(file_pages, tail.end() - file_pages) {
            self.blank.subtract(cut);
        }
    }

    /// Reserves free runs of at least `min_run` pages that may hold data, at most `max_pages` in all, to
    /// be punched out of the file and then given back. Goes through the file once, over as many calls
    /// as it takes; an empty list ends the round. What was punched is not returned again before it
    /// has been granted to somebody else (or the file reopened).
    ///
    /// # Errors
    /// [`Need::Directory`] and [`Need::Region`]; then nothing was reserved.
    pub fn reserve_for_punch(&mut self, max_pages: u64, min_run: u64) -> Result<Vec<Extent>, Need> {
        let min_run = min_run.max(1);
        let mut found = Vec::new();
        let mut room = max_pages;
        while room > 0 && self.punched_to < self.file_pages {
            let (region, from) = self.geometry.split(self.punched_to);
            match self.runs_to_punch(region, from, min_run) {
                Ok(runs) => {
                    self.punched_to = self.geometry.region_start(region + 1);
                    for run in runs {
                        let extent = Extent { start: run.start, pages: run.pages.min(room) };
                        found.push(self.lend(extent));
                        self.punching.insert(extent);
                        room -= extent.pages;
                        if room == 0 {
                            self.punched_to = extent.end();
                            break;
                        }
                    }
                }
                Err(_) if !found.is_empty() => return Ok(found),
                Err(need) => return Err(need),
            }
        }
        if found.is_empty() {
            self.punched_to = 0;
        }
        Ok(found)
    }

    /// Forgets the maps of regions that are as their pages say, but for a few used lately: a large
    /// file needs memory for what is being changed, not for its length. To be called now and then,
    /// after a checkpoint say. O(regions of directories in memory).
    pub fn trim(&mut self) {
        let mut idle: Vec<(u64, u32)> = Vec::new();
        let per_directory = self.geometry.regions_per_directory();
        for (directory, known) in (0..).zip(&self.directories) {
            for (region, known) in (directory * per_directory..).zip(known.regions.iter().flatten()) {
                if known.is_loaded() && known.is_settled() && !self.changed.contains(&region) {
                    idle.push((known.used_at, region));
                }
            }
        }
        let forget = idle.len().saturating_sub(self.idle_regions_kept());
        idle.sort_unstable();
        for &(_, region) in &idle[..forget] {
            self.region_mut(region).unload();
        }
    }

    /// The tail's pages are free again.
    pub(crate) fn return_tail(&mut self) {
        let tail = self.tail.take().expect("the tail is reserved");
        let parts = self.parts(tail).into_iter().map(|(region, range)| self.geometry.extent(region, range)).collect();
        self.unlend(parts);
    }

    /// Remembers that free pages hold no data.
    pub(crate) fn note_blank(&mut self, extent: Extent) {
        self.blank.insert(extent);
        if self.blank.runs() > BLANK_RUNS_MAX {
            self.blank.clear();
        }
    }

    /// Where the free end of the file starts, homes of the map included that nothing needs.
    fn tail_start(&mut self) -> Result<u64, Need> {
        let mut end = self.file_pages;
        loop {
            let (region, last) = self.geometry.split(end - 1);
            let directory = self.geometry.directory_of(region);
            self.directory_ready(directory)?;
            let start = self.geometry.region_start(region);
            let fixed = self.geometry.fixed_pages(region).min(last + 1);
            if self.region(region).live.free < self.geometry.fresh_free(region) {
                if self.region_bound(region) == 0 {
                    return Ok(end);
                }
                self.region_ready(region)?;
                let free_from = self.region(region).live_map().free_run_before(last + 1);
                return Ok(start + u64::from(free_from));
            }
            let first_of_directory = region.is_multiple_of(self.geometry.regions_per_directory());
            let directory_needed = first_of_directory && self.directories[directory as usize].saved != Saved::NEVER;
            let needed = self.region(region).saved != Saved::NEVER || directory_needed;
            if region == 0 || needed {
                return Ok(start + u64::from(fixed));
            }
            end = start;
        }
    }

    /// The regions of the tail, with the offsets there that are not fixed.
    fn parts(&self, tail: Extent) -> Vec<(u32, Range<u32>)> {
        let (first, from) = self.geometry.split(tail.start.get());
        let (last, _) = self.geometry.split(tail.end() - 1);
        (first..=last)
            .map(|region| {
                let start = if region == first { from } else { 0 };
                let end = self.geometry.pages_in_file(region, self.file_pages);
                (region, start.max(self.geometry.fixed_pages(region))..end)
            })
            .filter(|(_, range)| range.start < range.end)
            .collect()
    }

    fn runs_to_punch(&mut self, region: u32, from: u32, min_run: u64) -> Result<Vec<Extent>, Need> {
        self.directory_ready(self.geometry.directory_of(region))?;
        if u64::from(self.region_bound(region)) < min_run {
            return Ok(Vec::new());
        }
        self.region_ready(region)?;
        let limit = self.geometry.pages_in_file(region, self.file_pages);
        let free = self.region(region).live_map().free_runs(from, limit);
        let with_data = free.flat_map(|run| self.blank.gaps(self.geometry.extent(region, run)));
        Ok(with_data.filter(|run| run.pages >= min_run).collect())
    }

    #[cfg(test)]
    fn idle_regions_kept(&self) -> usize {
        if self.geometry.region_pages() < 1000 { 1 } else { IDLE_REGIONS_KEPT }
    }

    #[cfg(not(test))]
    #[expect(clippy::unused_self, reason = "tests keep fewer in small files")]
    const fn idle_regions_kept(&self) -> usize {
        IDLE_REGIONS_KEPT
    }
}
