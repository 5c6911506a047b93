//! Comparing what is with what should be, while everybody goes on: pages as the storage has them, the map of one instant,
//! and what this crate keeps for itself.

use crate::{
    engine::Engine,
    error::FileError,
    file::PagedFile,
    page::PagePtr,
    snapshot::Snapshot,
    space::{KIND_MAP_DIRECTORY, KIND_MAP_REGION, read_map_page},
    superblock::{SLOT_AT, SLOT_BYTES, Slot, Superblock},
};
use bytes::Bytes;
use spinney_alloc::{Extent, Owner, PageNo, Which};
use std::collections::BTreeMap;

/// Page numbers, one bit each, in pieces that exist once touched.
#[derive(Clone, Debug, Default)]
pub struct PageSet {
    pieces: BTreeMap<u64, Box<[u64; PIECE_WORDS]>>,
    pages: u64,
}

const PIECE_WORDS: usize = 64;
const PIECE_PAGES: u64 = PIECE_WORDS as u64 * 64;

/// Where the bit of a page is inside its piece.
fn place(page: u64) -> (usize, u64) {
    ((page % PIECE_PAGES / 64) as usize, 1 << (page % 64))
}

impl PageSet {
    /// Adds a page; `false` when it was there.
    pub fn insert(&mut self, page: u64) -> bool {
        let (word, bit) = place(page);
        let piece = self.pieces.entry(page / PIECE_PAGES).or_insert_with(|| Box::new([0; PIECE_WORDS]));
        let is_new = piece[word] & bit == 0;
        piece[word] |= bit;
        self.pages += u64::from(is_new);
        is_new
    }

    /// Takes a page out; `false` when it was not there.
    pub fn remove(&mut self, page: u64) -> bool {
        let (word, bit) = place(page);
        let Some(piece) = self.pieces.get_mut(&(page / PIECE_PAGES)) else { return false };
        let was_there = piece[word] & bit != 0;
        piece[word] &= !bit;
        self.pages -= u64::from(was_there);
        was_there
    }

    /// Whether a page is there.
    pub fn contains(&self, page: u64) -> bool {
        let (word, bit) = place(page);
        self.pieces.get(&(page / PIECE_PAGES)).is_some_and(|piece| piece[word] & bit != 0)
    }

    /// How many there are.
    pub fn len(&self) -> u64 {
        self.pages
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.pages == 0
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = u64> + '_ {
        self.pieces.iter().flat_map(|(&piece, words)| {
            let pages = (piece * PIECE_PAGES..).zip(0..PIECE_PAGES).map(|(page, _)| page);
            pages.filter(|&page| words[place(page).0] & place(page).1 != 0)
        })
    }
}

impl Extend<Extent> for PageSet {
    fn extend<I: IntoIterator<Item = Extent>>(&mut self, extents: I) {
        for extent in extents {
            for page in extent.start.get()..extent.end() {
                self.insert(page);
            }
        }
    }
}

/// One instant of a file in use: what its owners had, and which pages were in use for it. Holding it pins what the snapshot reaches.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Audit {
    /// Every owner's roots at the checkpoint that was made for this.
    pub snapshot: Snapshot,
    /// Pages that the map of that checkpoint has in use for owners. In a sound file the roots reach exactly these.
    pub in_use: PageSet,
    /// Pages of the file by then.
    pub file_pages: u64,
    /// Of them, free ones.
    pub free_pages: u64,
    /// Of them, header, map, owner table and log.
    pub own_pages: u64,
    /// Own pages that the map has not in use.
    pub own_missing: Vec<PageNo>,
}

impl PagedFile {
    /// Makes a checkpoint and takes its version and its map, so that what can be reached is comparable with what counts as used, while
    /// everybody goes on. Costs a checkpoint and one reading of the map, and a bit of memory per page in use; until it returns no
    /// other checkpoint begins.
    ///
    /// # Errors
    /// Those of a checkpoint, and of reading the map.
    pub fn audit(&self) -> Result<Audit, FileError> {
        let engine = self.engine();
        engine.check_writable()?;
        let mut turn = engine.checkpoints.turn();
        let (_, version) = engine.checkpoint_in_turn(&mut turn)?;
        let snapshot = Snapshot::of_checkpoint(self.clone(), version);
        let (mut in_use, file_pages, fixed) = engine.pages_in_use(Which::Durable)?;
        let pages_in_use = in_use.len();
        let mut own_missing = Vec::new();
        // Homes of owner table pages that were given since are in no map yet.
        for home in engine.owners.homes(&engine.disk)? {
            if in_use.remove(home.get()) && !in_use.remove(home.get() + 1) {
                own_missing.extend(PageNo::new(home.get() + 1));
            }
        }
        for extent in turn.superblock.log.extents() {
            let missing = (extent.start.get()..extent.end()).filter(|&page| !in_use.remove(page));
            own_missing.extend(missing.filter_map(PageNo::new));
        }
        let own_pages = pages_in_use - in_use.len() + fixed;
        let free_pages = file_pages.saturating_sub(pages_in_use + fixed);
        Ok(Audit { snapshot, in_use, file_pages, free_pages, own_pages, own_missing })
    }

    /// Pages that are in use now, as far as the map knows: those that owners reach, those that wait for a checkpoint or for a reader, and
    /// this crate's own, but for header and map. One reading of the map.
    ///
    /// # Errors
    /// Those of reading the map.
    pub fn pages_in_use(&self) -> Result<PageSet, FileError> {
        self.engine().pages_in_use(Which::Live).map(|(pages, _, _)| pages)
    }

    /// The page behind `ptr` as the storage has it: read and verified even if it is in the cache, and not kept there.
    ///
    /// # Errors
    /// As [`Pages::page`](crate::Pages::page).
    pub fn page_stored(&self, owner: Owner, ptr: PagePtr) -> Result<Bytes, FileError> {
        self.engine().load(owner, ptr)
    }

    /// Reads what this crate keeps for itself from storage, as the newest checkpoint left it, and verifies it: both superblocks, map, owner
    /// table. What is wrong is told to `found`; returns how many pages were read. No checkpoint begins while superblocks and owner table are
    /// read, nor while a page of the map is; in between they may.
    pub fn verify_own(&self, found: &mut dyn FnMut(FileError)) -> u64 {
        let engine = self.engine();
        let mut pages = {
            let newest = engine.checkpoints.turn();
            engine.verify_superblocks(&newest.superblock, found) + engine.owners.verify(&engine.disk, found)
        };
        let (regions, per_directory) =
            engine.space.map(|map| (map.region_count(), map.geometry().regions_per_directory()));
        for region in 0..regions {
            let _turn = engine.checkpoints.turn();
            if region % per_directory == 0 {
                let home = engine.space.map(|map| map.directory_home(region / per_directory));
                pages += engine.verify_map_page(home, KIND_MAP_DIRECTORY, found);
            }
            // A directory that cannot be loaded has been told of above.
            if let Ok(home) = engine.space.with(&engine.disk, |map| map.region_home(region)) {
                pages += engine.verify_map_page(home, KIND_MAP_REGION, found);
            }
        }
        pages
    }
}

impl Engine {
    /// Pages in use in one of the maps, the file's length in pages, and how many are fixed.
    fn pages_in_use(&self, which: Which) -> Result<(PageSet, u64, u64), FileError> {
        let mut pages = PageSet::default();
        let (regions, file_pages, fixed) =
            self.space.map(|map| (map.region_count(), map.file_pages(), map.fixed_pages()));
        for region in 0..regions {
            pages.extend(self.space.with_no_growth(&self.disk, |map| map.used_runs(region, which))?);
            // A file of any size is looked through in bounded memory.
            if region % 64 == 63 {
                self.space.map(|map| map.trim());
            }
        }
        Ok((pages, file_pages, fixed))
    }

    fn verify_superblocks(&self, newest: &Superblock, found: &mut dyn FnMut(FileError)) -> u64 {
        for (slot, at) in SLOT_AT.into_iter().enumerate() {
            let mut bytes = vec![0; SLOT_BYTES];
            let decoded = self.disk.read(at, &mut bytes).and_then(|()| Superblock::decode(&bytes));
            let wrong = match decoded {
                Err(error) => Some(error),
                Ok(Slot::Valid(valid)) if slot == newest.slot() && valid.number != newest.number => {
                    Some(FileError::Damaged { at, why: "the newest superblock is not the one that was written last" })
                }
                // The other slot is blank until a second checkpoint, and after a crash that tore it.
                Ok(Slot::Valid(_)) => None,
                Ok(Slot::Blank) if slot != newest.slot() => None,
                Ok(Slot::Blank | Slot::Invalid) => {
                    Some(FileError::Damaged { at, why: "a superblock is damaged; the next checkpoints write it anew" })
                }
            };
            wrong.into_iter().for_each(&mut *found);
        }
        2
    }

    fn verify_map_page(&self, home: Option<spinney_alloc::Home>, kind: u8, found: &mut dyn FnMut(FileError)) -> u64 {
        let Some(home) = home else { return 0 };
        read_map_page(&self.disk, home, kind).map_or_else(found, drop);
        1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn a_page_set_is_a_set(ops in proptest::collection::vec((any::<bool>(), prop_oneof![0u64..200, 0u64..50_000]), 0..200)) {
            let (mut set, mut model) = (PageSet::default(), BTreeSet::new());
            for (adds, page) in ops {
                if adds {
                    prop_assert_eq!(set.insert(page), model.insert(page));
                } else {
                    prop_assert_eq!(set.remove(page), model.remove(&page));
                }
                prop_assert_eq!(set.len(), model.len() as u64);
                prop_assert_eq!(set.contains(page), model.contains(&page));
            }
            prop_assert!(set.iter().eq(model.iter().copied()));
        }
    }
}
