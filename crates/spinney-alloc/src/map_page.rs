//! The allocation map on disk: map pages, directory pages, and lines of the superblock.
//!
//! All counts are of whole regions, pages beyond the end of the file included.
//! The layer that writes pages owns the first 32 bytes of each, but for its kind, level and flags.

use crate::{
    bitmap::Bitmap,
    error::MapError,
    geometry::{Geometry, PAGE_HEADER_BYTES, REGION_ENTRY_BYTES},
    region::{Region, Saved, Summary},
};
use std::ops::Range;

/// One directory's line in the superblock, 16 bytes.
///
/// | at | size | field      | meaning                                                               |
/// |---:|-----:|------------|-----------------------------------------------------------------------|
/// |  0 |    8 | saved      | number of the checkpoint that wrote it `<< 1` \| side; 0: as at creation |
/// |  8 |    8 | free_pages | free pages of all its regions; 0 when `saved` is                        |
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DirectoryEntry {
    /// Which of the directory page's homes is current, and the stamp it carries.
    pub saved: u64,
    /// Free pages in the regions it sums up.
    pub free_pages: u64,
}

/// A map page: which pages of one region are in use.
///
/// | at | size      | field  | meaning                                                         |
/// |---:|----------:|--------|-----------------------------------------------------------------|
/// |  0 |        32 | header | of every page; kind is 1, level and flags are 0                 |
/// | 32 | P - 32    | bits   | bit `i % 8` of byte `i / 8` is page `i` of the region; 1: in use |
pub(crate) const MAP_KIND: u8 = 1;

/// A directory page: a line of 16 bytes per region, all zero when the region is as at creation.
///
/// | at       | size | field   | meaning                                                        |
/// |---------:|-----:|---------|----------------------------------------------------------------|
/// |        0 |   32 | header  | of every page; kind is 2, level and flags are 0                |
/// | 32 + 16i |    8 | saved   | number of the checkpoint that wrote the map page `<< 1` \| side |
/// | 40 + 16i |    4 | free    | free pages of the region                                       |
/// | 44 + 16i |    4 | longest | pages of its longest free run                                  |
pub(crate) const DIRECTORY_KIND: u8 = 2;

const STAMP: Range<usize> = 16..24;
const KIND: usize = 28;
const LEVEL_AND_FLAGS: Range<usize> = 29..32;
const _: () = assert!(LEVEL_AND_FLAGS.end == PAGE_HEADER_BYTES);

/// The stamp in the header of `page`.
pub(crate) fn stamp(page: &[u8]) -> u64 {
    u64_at(page, STAMP.start)
}

/// Fills in a map page but for what the layer of pages owns.
pub(crate) fn encode_region(page: &mut [u8], map: &Bitmap) {
    start(page, MAP_KIND);
    map.write_to(&mut page[PAGE_HEADER_BYTES..]);
}

/// Reads a map page against what its directory says of it.
pub(crate) fn decode_region(
    geometry: Geometry,
    region: u32,
    file_pages: u64,
    expected: Summary,
    page: &[u8],
) -> Result<Bitmap, MapError> {
    let check = |holds: bool, why| if holds { Ok(()) } else { Err(MapError::Region { region, why }) };
    check(page.len() == geometry.page_bytes() && page[KIND] == MAP_KIND, "not a map page")?;
    check(page[LEVEL_AND_FLAGS].iter().all(|&b| b == 0), "reserved bytes are not zero")?;
    let payload = &page[PAGE_HEADER_BYTES..];
    let (pages, fixed) = (geometry.region_pages(), geometry.fixed_pages(region));
    check(payload[pages as usize / 8..].iter().all(|&b| b == 0), "bytes after the last page's bit are not zero")?;
    let map = Bitmap::from_bytes(pages, payload);
    check(map.count(0..fixed) == fixed, "a home of the map is marked free")?;
    let in_file = geometry.pages_in_file(region, file_pages);
    check(map.count(in_file..pages) == 0, "pages beyond the end of the file are in use")?;
    let longest = map.longest(pages);
    let found = Summary { free: pages - map.count(0..pages), longest: longest.end - longest.start };
    check(found == expected, "its directory counts other pages free")?;
    Ok(map)
}

/// Fills in a directory page but for what the layer of pages owns. `saved` tells where each
/// region's current copy is.
pub(crate) fn encode_directory<'a>(page: &mut [u8], regions: impl Iterator<Item = (&'a Region, Saved)>) {
    start(page, DIRECTORY_KIND);
    for (line, (region, saved)) in page[PAGE_HEADER_BYTES..].chunks_exact_mut(REGION_ENTRY_BYTES).zip(regions) {
        if saved != Saved::NEVER {
            line[..8].copy_from_slice(&saved.0.to_le_bytes());
            line[8..12].copy_from_slice(&region.durable.free.to_le_bytes());
            line[12..].copy_from_slice(&region.durable.longest.to_le_bytes());
        }
    }
}

/// Reads a directory page against its line in the superblock.
pub(crate) fn decode_directory(
    geometry: Geometry,
    directory: u32,
    file_pages: u64,
    entry: DirectoryEntry,
    page: &[u8],
) -> Result<Box<[Region]>, MapError> {
    let check = |holds: bool, why| if holds { Ok(()) } else { Err(MapError::Directory { directory, why }) };
    check(page.len() == geometry.page_bytes() && page[KIND] == DIRECTORY_KIND, "not a directory page")?;
    check(page[LEVEL_AND_FLAGS].iter().all(|&b| b == 0), "reserved bytes are not zero")?;
    let (lines, rest) =
        page[PAGE_HEADER_BYTES..].split_at(geometry.regions_per_directory() as usize * REGION_ENTRY_BYTES);
    check(rest.iter().all(|&b| b == 0), "bytes after the last region are not zero")?;
    let mut regions = fresh_regions(geometry, directory);
    let mut free_pages = 0;
    for (index, line) in (0..).zip(lines.chunks_exact(REGION_ENTRY_BYTES)) {
        let (id, region) = (directory * geometry.regions_per_directory() + index, &mut regions[index as usize]);
        let (saved, free, longest) = (Saved(u64_at(line, 0)), u32_at(line, 8), u32_at(line, 12));
        if saved == Saved::NEVER {
            check(free == 0 && longest == 0, "a region as at creation has counts")?;
        } else {
            check(saved.number() > 0 && saved.number() <= Saved(entry.saved).number(), "a region saved later than it")?;
            check(free <= geometry.fresh_free(id), "a region with more free pages than it has")?;
            check(longest <= free && (longest > 0) == (free > 0), "a region with an impossible longest run")?;
            let homes = geometry.pages_in_file(id, file_pages) >= geometry.fixed_pages(id);
            check(homes, "a region that lies beyond the end of the file")?;
            *region = Region::new(saved, Summary { free, longest });
        }
        free_pages += u64::from(region.live.free);
    }
    check(free_pages == entry.free_pages, "the superblock counts other pages free")?;
    Ok(regions)
}

/// The regions of `directory` as they are at creation.
pub(crate) fn fresh_regions(geometry: Geometry, directory: u32) -> Box<[Region]> {
    let first = directory * geometry.regions_per_directory();
    (first..first + geometry.regions_per_directory())
        .map(|region| {
            let free = geometry.fresh_free(region);
            Region::new(Saved::NEVER, Summary { free, longest: free })
        })
        .collect()
}

fn start(page: &mut [u8], kind: u8) {
    page[KIND] = kind;
    page[LEVEL_AND_FLAGS].fill(0);
    page[PAGE_HEADER_BYTES..].fill(0);
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(*bytes[at..].first_chunk().expect("eight bytes"))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(*bytes[at..].first_chunk().expect("four bytes"))
}
