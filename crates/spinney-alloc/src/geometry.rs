//! Where the allocation map lives in a file: fixed places, computed from the page size alone.
//!
//! ```text
//! |header|region twins|directory twins| pages of region 0 ... |twins| pages of region 1 ...
//! 0      H            H+2             H+4                     R     R+2
//! ```
//! A *region* is as many pages as one map page has bits for; its map page has two homes at its start,
//! written in turn. A *directory* sums up the regions one page has room for; its two homes follow
//! those of its first region.
//!
//! Invariant: every region starts with fixed pages, so no extent that is ever granted crosses a
//! region's boundary.

use crate::words::{Extent, PageNo};
use std::ops::Range;

/// Bytes at the start of every page that belong to the layer that writes pages.
pub(crate) const PAGE_HEADER_BYTES: usize = 32;

/// Bytes of one region's line in a directory page.
pub(crate) const REGION_ENTRY_BYTES: usize = 16;

/// Homes of one map page, and of one directory page.
const TWINS: u32 = 2;

/// The layout of a file's allocation map, a function of its page size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    page_bytes: u32,
    header_pages: u32,
    region_pages: u32,
    regions_per_directory: u32,
}

impl Geometry {
    /// How many directories a file can have: as many as a superblock lists.
    pub const MAX_DIRECTORIES: u32 = 128;

    /// `None` unless `page_bytes` is a power of two from 4096 to 65536.
    pub const fn new(page_bytes: usize) -> Option<Self> {
        if !page_bytes.is_power_of_two() || page_bytes < 4096 || page_bytes > 65536 {
            return None;
        }
        let payload = page_bytes - PAGE_HEADER_BYTES;
        #[expect(clippy::cast_possible_truncation, reason = "all at most 524288: eight times the page size")]
        Some(Self {
            page_bytes: page_bytes as u32,
            // Two superblock slots of 4 KiB.
            header_pages: if page_bytes >= 8192 { 1 } else { 2 },
            region_pages: (payload * 8) as u32,
            regions_per_directory: (payload / REGION_ENTRY_BYTES) as u32,
        })
    }

    /// A layout with regions of `region_pages` (a multiple of 64) and directories of
    /// `regions_per_directory`, so that a test meets many of both in a small file. Such a file is
    /// not of the published format.
    ///
    /// # Panics
    /// When a map page or a directory page would not fit `page_bytes`.
    #[cfg(any(test, feature = "testing"))]
    pub fn tiny(page_bytes: usize, region_pages: u32, regions_per_directory: u32) -> Self {
        assert!(region_pages.is_multiple_of(64) && region_pages > 0 && regions_per_directory > 0);
        let payload = page_bytes - PAGE_HEADER_BYTES;
        assert!(region_pages as usize / 8 <= payload, "a region's bits must fit a page");
        assert!(regions_per_directory as usize * REGION_ENTRY_BYTES <= payload, "a directory must fit a page");
        let page_bytes = u32::try_from(page_bytes).expect("a page size");
        let header_pages = 8192_u32.div_ceil(page_bytes).clamp(1, 2);
        Self { page_bytes, header_pages, region_pages, regions_per_directory }
    }

    /// Bytes per page.
    pub const fn page_bytes(self) -> usize {
        self.page_bytes as usize
    }

    /// Pages at the start of the file that hold the superblock slots.
    pub const fn header_pages(self) -> u32 {
        self.header_pages
    }

    /// Pages one map page stands for.
    pub const fn region_pages(self) -> u32 {
        self.region_pages
    }

    /// Regions one directory page sums up.
    pub const fn regions_per_directory(self) -> u32 {
        self.regions_per_directory
    }

    /// The longest file this layout can describe, in pages.
    pub const fn max_file_pages(self) -> u64 {
        Self::MAX_DIRECTORIES as u64 * self.regions_per_directory as u64 * self.region_pages as u64
    }

    /// The shortest file: header, and the homes of the first region and of the first directory.
    pub const fn min_file_pages(self) -> u64 {
        self.fixed_pages(0) as u64
    }

    /// The longest extent that can be granted anywhere, in pages.
    pub const fn max_run_pages(self) -> u64 {
        (self.region_pages - 2 * TWINS) as u64
    }

    /// The region `page` belongs to.
    ///
    /// # Panics
    /// When `page` is beyond the longest file.
    pub const fn region_of(self, page: PageNo) -> u32 {
        self.split(page.get()).0
    }

    /// The directory that sums up `region`.
    pub const fn directory_of(self, region: u32) -> u32 {
        region / self.regions_per_directory
    }

    /// The first of the two adjacent homes of `region`'s map page.
    pub const fn region_twins(self, region: u32) -> PageNo {
        let start = if region == 0 { self.header_pages as u64 } else { self.region_start(region) };
        PageNo::new(start).expect("a region inside the longest file")
    }

    /// The first of the two adjacent homes of `directory`'s page.
    pub const fn directory_twins(self, directory: u32) -> PageNo {
        let twins = self.region_twins(directory * self.regions_per_directory);
        PageNo::new(twins.get() + TWINS as u64).expect("a directory inside the longest file")
    }

    /// How many pages at the start of `region` are never granted: the homes of map pages, and in
    /// region 0 the header.
    pub const fn fixed_pages(self, region: u32) -> u32 {
        let header = if region == 0 { self.header_pages } else { 0 };
        let directory = if region.is_multiple_of(self.regions_per_directory) { TWINS } else { 0 };
        header + TWINS + directory
    }

    /// The fixed pages of `region`, as page numbers; page 0 is no [`PageNo`].
    pub const fn fixed(self, region: u32) -> Range<u64> {
        let start = self.region_start(region);
        start..start + self.fixed_pages(region) as u64
    }

    /// The number of `region`'s first page.
    pub(crate) const fn region_start(self, region: u32) -> u64 {
        region as u64 * self.region_pages as u64
    }

    /// A page number's region, and its offset there.
    pub(crate) const fn split(self, page: u64) -> (u32, u32) {
        assert!(page < self.max_file_pages(), "a page beyond the longest file");
        #[expect(clippy::cast_possible_truncation, reason = "at most MAX_DIRECTORIES x regions_per_directory")]
        let region = (page / self.region_pages as u64) as u32;
        #[expect(clippy::cast_possible_truncation, reason = "less than region_pages")]
        let offset = (page % self.region_pages as u64) as u32;
        (region, offset)
    }

    /// The region of `extent` and its offsets there; `None` when it touches fixed pages or two
    /// regions, or ends after page `file_pages`.
    pub(crate) fn locate(self, extent: Extent, file_pages: u64) -> Option<(u32, Range<u32>)> {
        if extent.end() > file_pages || extent.pages > u64::from(self.region_pages) {
            return None;
        }
        let (region, first) = self.split(extent.start.get());
        let end = first + u32::try_from(extent.pages).ok()?;
        (first >= self.fixed_pages(region) && end <= self.region_pages).then_some((region, first..end))
    }

    /// The extent at offsets `range` of `region`.
    pub(crate) fn extent(self, region: u32, range: Range<u32>) -> Extent {
        let start = self.region_start(region) + u64::from(range.start);
        Extent::new(start, u64::from(range.end - range.start)).expect("a run inside a region, after its fixed pages")
    }

    /// How many pages of `region` a file of `file_pages` has.
    pub(crate) fn pages_in_file(self, region: u32, file_pages: u64) -> u32 {
        let rest = file_pages.saturating_sub(self.region_start(region));
        u32::try_from(rest).map_or(self.region_pages, |rest| rest.min(self.region_pages))
    }

    /// How many regions a file of `file_pages` has, the last one perhaps in part.
    pub(crate) fn region_count(self, file_pages: u64) -> u32 {
        if file_pages == 0 { 0 } else { self.split(file_pages - 1).0 + 1 }
    }

    /// How many directories a file of `file_pages` has.
    pub(crate) fn directory_count(self, file_pages: u64) -> u32 {
        self.region_count(file_pages).div_ceil(self.regions_per_directory)
    }

    /// Free pages of a whole region as it is at creation.
    pub(crate) const fn fresh_free(self, region: u32) -> u32 {
        self.region_pages - self.fixed_pages(region)
    }

    /// Free pages of all regions of a directory as they are at creation.
    pub(crate) const fn fresh_free_of_directory(self, directory: u32) -> u64 {
        let first = directory * self.regions_per_directory;
        let others = self.regions_per_directory as u64 - 1;
        self.fresh_free(first) as u64 + others * (self.region_pages - TWINS) as u64
    }

    /// Fixed pages among the first `pages` of a file.
    pub(crate) fn fixed_before(self, pages: u64) -> u64 {
        if pages == 0 {
            return 0;
        }
        let (last, offset) = self.split(pages - 1);
        let whole = u64::from(last) * u64::from(TWINS)
            + u64::from(last.div_ceil(self.regions_per_directory)) * u64::from(TWINS)
            + if last > 0 { u64::from(self.header_pages) } else { 0 };
        whole + u64::from((offset + 1).min(self.fixed_pages(last)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_page_sizes_of_the_format_have_a_geometry() {
        for bytes in [0, 1, 2048, 4095, 5000, 131_072] {
            assert_eq!(Geometry::new(bytes), None, "{bytes}");
        }
        for (bytes, header, region, per_directory) in
            [(4096, 2, 32512, 254), (8192, 1, 65280, 510), (65536, 1, 524_032, 4094)]
        {
            let geometry = Geometry::new(bytes).unwrap();
            assert_eq!(geometry.header_pages(), header);
            assert_eq!(geometry.region_pages(), region);
            assert_eq!(geometry.regions_per_directory(), per_directory);
            assert!(geometry.max_file_pages() <= PageNo::MAX);
        }
    }

    #[test]
    fn homes_are_where_the_format_says() {
        let geometry = Geometry::new(4096).unwrap();
        assert_eq!(geometry.region_twins(0).get(), 2);
        assert_eq!(geometry.directory_twins(0).get(), 4);
        assert_eq!(geometry.fixed(0), 0..6);
        assert_eq!(geometry.region_twins(1).get(), 32512);
        assert_eq!(geometry.fixed(1), 32512..32514);
        assert_eq!(geometry.directory_twins(1).get(), 254 * 32512 + 2);
        assert_eq!(geometry.fixed_pages(254), 4);
    }

    #[test]
    fn fixed_pages_are_counted_as_they_stand() {
        let geometry = Geometry::tiny(96, 64, 3);
        let mut counted = 0;
        for page in 0..64 * 3 * 4 {
            let (region, offset) = geometry.split(page);
            counted += u64::from(offset < geometry.fixed_pages(region));
            assert_eq!(geometry.fixed_before(page + 1), counted, "page {page}");
        }
        let free: u64 = (0..3).map(|r| u64::from(geometry.fresh_free(r))).sum();
        assert_eq!(geometry.fresh_free_of_directory(0), free);
    }

    #[test]
    fn an_extent_on_fixed_pages_or_over_two_regions_is_nowhere() {
        let geometry = Geometry::tiny(96, 64, 3);
        let at = |start, pages| geometry.locate(Extent::new(start, pages).unwrap(), 200);
        assert_eq!(at(6, 58), Some((0, 6..64)));
        assert_eq!(at(5, 2), None);
        assert_eq!(at(60, 8), None);
        assert_eq!(at(65, 1), None);
        assert_eq!(at(66, 1), Some((1, 2..3)));
        assert_eq!(at(199, 2), None);
        assert_eq!(at(199, u64::from(u32::MAX) + 5), None);
    }
}
