//! A file of 1 TiB: what a call reads and keeps in memory follows what it touches, not the length.

#![allow(clippy::unwrap_used, reason = "a test stops where something is wrong")]

use spinney_alloc::{Allocator, DirectoryEntry, Extent, Geometry, Need, Seq};

const FILE_PAGES: u64 = (1 << 40) / 4096;
/// Saved by checkpoint 1, in the first home.
const SAVED: u64 = 1 << 1;

struct Reader {
    alloc: Allocator,
    directories: usize,
    regions: usize,
}

impl Reader {
    /// Every page of the file is in use but for the last eight of each region.
    fn open() -> Self {
        let geometry = Geometry::new(4096).unwrap();
        let directories = FILE_PAGES.div_ceil(254 * 32512);
        let regions = FILE_PAGES / 32512;
        let mut entries = Vec::new();
        for directory in 0..directories {
            let saved = (regions - directory * 254).min(254);
            let fresh: u64 = if saved < 254 { (254 - saved) * 32510 } else { 0 };
            entries.push(DirectoryEntry { saved: SAVED, free_pages: saved * 8 + fresh });
        }
        let alloc = Allocator::open(geometry, FILE_PAGES, entries).unwrap();
        Self { alloc, directories: 0, regions: 0 }
    }

    fn satisfy(&mut self, need: Need) {
        let mut page = vec![0; 4096];
        page[16..24].copy_from_slice(&1_u64.to_le_bytes());
        match need {
            Need::Directory(directory) => {
                self.directories += 1;
                page[28] = 2;
                let saved = (FILE_PAGES / 32512 - u64::from(directory) * 254).min(254);
                for line in page[32..].chunks_exact_mut(16).take(usize::try_from(saved).unwrap()) {
                    line[..8].copy_from_slice(&SAVED.to_le_bytes());
                    line[8..12].copy_from_slice(&8_u32.to_le_bytes());
                    line[12..].copy_from_slice(&8_u32.to_le_bytes());
                }
                self.alloc.load_directory(directory, &page).unwrap();
            }
            Need::Region(region) => {
                self.regions += 1;
                page[28] = 1;
                page[32..4095].fill(0xFF);
                self.alloc.load_region(region, &page).unwrap();
            }
            Need::Growth { pages } => self.alloc.grow(self.alloc.file_pages() + pages),
        }
    }

    fn reserve(&mut self, pages: u64) -> Vec<Extent> {
        loop {
            match self.alloc.reserve(pages) {
                Ok(extents) => return extents,
                Err(need) => self.satisfy(need),
            }
        }
    }
}

#[test]
fn the_first_page_costs_two_reads() {
    let mut reader = Reader::open();
    assert_eq!((reader.directories, reader.regions), (0, 0));
    let first = reader.reserve(8);
    assert_eq!(first, [Extent::new(32504, 8).unwrap()]);
    assert_eq!((reader.directories, reader.regions), (1, 1));
    reader.reserve(8);
    assert_eq!((reader.directories, reader.regions), (1, 2));
}

#[test]
fn a_long_run_is_found_by_summaries_alone() {
    let mut reader = Reader::open();
    // No region has as many but the last, which was never saved and needs no reading.
    let extents = reader.reserve(64);
    assert_eq!(extents[0].start.get() / 32512, FILE_PAGES / 32512);
    assert_eq!(reader.regions, 0);
    let directories = usize::try_from(FILE_PAGES.div_ceil(254 * 32512)).unwrap();
    assert_eq!(reader.directories, directories, "each summary is read once");
    reader.reserve(64);
    assert_eq!((reader.directories, reader.regions), (directories, 0));
}

#[test]
fn maps_as_their_pages_say_are_forgotten() {
    let mut reader = Reader::open();
    let lent: Vec<Vec<Extent>> = (0..300).map(|_| reader.reserve(8)).collect();
    assert_eq!(reader.regions, 300);
    reader.alloc.trim();
    assert!(lent.iter().all(|extents| extents[0].pages == 8), "what is lent stays known");
    lent.into_iter().for_each(|extents| reader.alloc.give_back(extents));
    reader.alloc.trim();
    // The lowest have been used longest ago, so they were forgotten and are read again.
    reader.reserve(8);
    assert_eq!(reader.regions, 301);
    assert_eq!(reader.alloc.stats().lent, 8);
    reader.alloc.begin_checkpoint(Seq(1));
    reader.alloc.apply_checkpoint().unwrap();
    assert_eq!(reader.alloc.changed_regions(), [], "arenas are not saved");
}
