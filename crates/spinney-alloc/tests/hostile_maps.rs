//! Map pages and superblock lines that no correct file holds: a typed error, never a panic.

#![allow(clippy::unwrap_used, reason = "a test stops where something is wrong")]

use proptest::prelude::*;
use spinney_alloc::{
    Allocator, Delta, DirectoryEntry, Extent, Freed, Geometry, MapError, Need, Owner, ReplayError, Seq, Stamp,
};

const NUMBER: u64 = 5;
const FILE_PAGES: u64 = 500;

fn geometry() -> Geometry {
    Geometry::new(4096).unwrap()
}

fn extent(start: u64, pages: u64) -> Extent {
    Extent::new(start, pages).unwrap()
}

struct Saved {
    entries: Vec<DirectoryEntry>,
    directory: Vec<u8>,
    region: Vec<u8>,
}

/// A file of 500 pages with pages 100 to 149 in use, as its first checkpoint wrote it.
fn saved() -> Saved {
    let mut alloc = Allocator::create(geometry(), FILE_PAGES, &[extent(100, 50)]).unwrap();
    alloc.begin_checkpoint(Seq(0));
    alloc.save_as(NUMBER);
    alloc.apply_checkpoint().unwrap();
    let (mut region, mut directory) = (vec![0; 4096], vec![0; 4096]);
    alloc.encode_region(0, &mut region);
    alloc.encode_directory(0, &mut directory);
    region[16..24].copy_from_slice(&NUMBER.to_le_bytes());
    directory[16..24].copy_from_slice(&NUMBER.to_le_bytes());
    Saved { entries: alloc.superblock_entries(), directory, region }
}

/// Loads both pages, then uses the allocator; says what was wrong with the pages.
fn load_and_use(entries: Vec<DirectoryEntry>, directory: &[u8], region: &[u8]) -> Result<(), MapError> {
    let mut alloc = Allocator::open(geometry(), FILE_PAGES, entries)?;
    alloc.load_directory(0, directory)?;
    alloc.load_region(0, region)?;
    for pages in [1, 64, 400, 1_000_000] {
        if let Ok(extents) = alloc.reserve(pages) {
            alloc.give_back(extents);
        }
    }
    if let Ok(Some(tail)) = alloc.reserve_tail(u64::MAX) {
        alloc.shrink(tail.start.get());
    }
    let _ = (alloc.durable_used_end(), alloc.stats(), alloc.trim());
    Ok(())
}

#[test]
fn what_was_saved_is_accepted() {
    let Saved { entries, directory, region } = saved();
    load_and_use(entries, &directory, &region).unwrap();
}

#[test]
fn any_flipped_bit_of_a_map_page_is_noticed() {
    let Saved { entries, directory, region } = saved();
    for bit in 28 * 8..4096 * 8 {
        let mut damaged = region.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        let result = load_and_use(entries.clone(), &directory, &damaged);
        assert!(matches!(result, Err(MapError::Region { region: 0, .. })), "bit {bit}: {result:?}");
    }
}

#[test]
fn any_flipped_count_of_a_directory_is_noticed() {
    let Saved { entries, directory, region } = saved();
    for bit in (28 * 8..4096 * 8).filter(|bit| !(32 * 8..40 * 8).contains(bit)) {
        let mut damaged = directory.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        let result = load_and_use(entries.clone(), &damaged, &region);
        assert!(result.is_err(), "bit {bit}");
    }
}

#[test]
fn impossible_superblock_lines_are_refused() {
    let open = |entries: &[(u64, u64)]| {
        let entries = entries.iter().map(|&(saved, free_pages)| DirectoryEntry { saved, free_pages }).collect();
        Allocator::open(geometry(), FILE_PAGES, entries).map(|_| ())
    };
    let whole = 254 * 32512 - 254 * 2 - 4;
    assert_eq!(open(&[(0, 0), (0, 0)]), Ok(()), "a longer file once, all of it as at creation");
    assert_eq!(open(&[(2, whole - 50)]), Ok(()));
    for wrong in [&[(0, 1)][..], &[(1, 5)], &[(2, whole + 1)], &[(2, whole - 500)], &[(0, 0), (2, whole)]] {
        assert!(matches!(open(wrong), Err(MapError::Directory { .. })), "{wrong:?}");
    }
    for file_pages in [0, 5, geometry().max_file_pages() + 1, u64::MAX] {
        let result = Allocator::open(geometry(), file_pages, Vec::new()).map(|_| ());
        assert!(matches!(result, Err(MapError::FileSize { .. })), "{file_pages}");
    }
}

#[test]
fn impossible_extents_in_use_are_refused() {
    for in_use in [[extent(5, 2), extent(50, 1)], [extent(40, 4), extent(43, 1)], [extent(490, 11), extent(50, 1)]] {
        let result = Allocator::create(geometry(), FILE_PAGES, &in_use).map(|_| ());
        assert!(matches!(result, Err(MapError::Extent { .. })), "{in_use:?}");
    }
}

#[test]
fn a_log_that_grants_what_it_cannot_is_refused() {
    let Saved { entries, directory, region } = saved();
    let replay = |seq, allocated: &[Extent], freed: &[Extent]| Delta {
        seq: Seq(seq),
        owner: Owner(1),
        death: Stamp(seq),
        allocated: allocated.to_vec(),
        freed: freed.iter().map(|&extent| Freed { extent, birth: Stamp(1) }).collect(),
    };
    let mut alloc = Allocator::open(geometry(), FILE_PAGES, entries).unwrap();
    alloc.adopt_permanent(extent(100, 10)).unwrap();
    assert!(alloc.adopt_permanent(extent(109, 2)).is_err());
    let first = replay(1, &[extent(200, 10)], &[extent(120, 10)]);
    assert_eq!(alloc.replay(&first), Err(ReplayError::Need(Need::Directory(0))));
    alloc.load_directory(0, &directory).unwrap();
    assert_eq!(alloc.replay(&first), Err(ReplayError::Need(Need::Region(0))));
    alloc.load_region(0, &region).unwrap();
    alloc.replay(&first).unwrap();
    for wrong in [
        replay(2, &[extent(3, 1)], &[]),
        replay(2, &[extent(499, 2)], &[]),
        replay(2, &[extent(99, 2)], &[]),
        replay(2, &[extent(129, 1)], &[]),
        replay(2, &[], &[extent(1, 1)]),
        replay(2, &[], &[extent(u64::from(u32::MAX), 1)]),
    ] {
        assert!(matches!(alloc.replay(&wrong), Err(ReplayError::Map(MapError::Extent { .. }))), "{wrong:?}");
    }
    // Freed twice, freed though free, freed though permanent, granted though in use: no effect.
    alloc.replay(&replay(2, &[extent(205, 10)], &[extent(125, 10), extent(300, 5), extent(105, 1)])).unwrap();
    assert_eq!(alloc.stats().free, FILE_PAGES - 6 - 50 - 15);
    alloc.begin_checkpoint(Seq(2));
    alloc.save_as(NUMBER + 1);
    alloc.apply_checkpoint().unwrap();
    let mut page = vec![0; 4096];
    assert_eq!(alloc.encode_region(0, &mut page).get(), 3);
    assert_eq!(alloc.encode_directory(0, &mut page).get(), 5);
    alloc.finish_checkpoint(&|_: Owner, _: Stamp, _: Stamp| None);
    let stats = alloc.stats();
    assert_eq!((stats.free, stats.used), (FILE_PAGES - 6 - 35 - 15, 50));
}

proptest! {
    #[test]
    fn no_page_whatever_makes_it_panic(
        directory_edits in prop::collection::vec((28..200_usize, any::<u8>()), 0..6),
        region_edits in prop::collection::vec((28..200_usize, any::<u8>()), 0..6),
        saved_line in prop_oneof![Just(NUMBER << 1), any::<u64>()],
        free in prop::option::of(any::<u64>()),
    ) {
        let mut saved = saved();
        saved.entries[0].saved = saved_line;
        saved.entries[0].free_pages = free.unwrap_or(saved.entries[0].free_pages);
        directory_edits.into_iter().for_each(|(at, byte)| saved.directory[at] = byte);
        region_edits.into_iter().for_each(|(at, byte)| saved.region[at] = byte);
        let _ = load_and_use(saved.entries, &saved.directory, &saved.region);
    }
}
