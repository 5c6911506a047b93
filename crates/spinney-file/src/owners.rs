//! The owner table: owner -> root descriptor, as checkpoints save it.
//!
//! Table pages hold the roots of adjacent owners; directory pages say where table pages are; the superblock says where
//! directory pages are. Each page has two homes, written in turn, so saving allocates nothing. Pages are read on
//! first use.

use crate::{
    disk::Disk,
    error::FileError,
    options::{FileOptions, Sabotage},
    page::{PageHeader, PagePtr},
    superblock::{OWNER_DIRS_MAX, TwinEntry, get_u64, put_u64},
    version::{FAN_OUT, OwnerRoot, RootLeaf, Version},
};
use parking_lot::Mutex;
use rustc_hash::{FxHashMap, FxHashSet};
use spinney_alloc::{Extent, Owner, PageNo, Stamp};
use std::{
    collections::{BTreeSet, hash_map::Entry},
    fmt,
    sync::OnceLock,
};

/// Whose pages map, owner table and their directories are.
pub(crate) const NO_OWNER: Owner = Owner(u32::MAX);
pub(crate) const KIND_OWNER_TABLE: u8 = 3;
pub(crate) const KIND_OWNER_DIRECTORY: u8 = 4;

/// One root in a table page, [`ENTRY_BYTES`] long: | 0 | 64 | descriptor |, | 64 | 8 | stamp; 0: never committed |.
pub(crate) const ENTRY_BYTES: usize = 72;
/// One table page in a directory page: | 0 | 8 | first home |, | 8 | 8 | number << 1 | side |.
const TWIN_BYTES: usize = 16;
const LEAVES_PER_SPAN: usize = 256;

type Span = Box<[OnceLock<Box<RootLeaf>>]>;

/// See the module.
pub(crate) struct OwnerTable {
    leaves_per_page: u32,
    pages_per_dir: u32,
    homes: Mutex<Homes>,
    /// Roots as they were at opening, by leaf: filled on first use and before the first change, never changed.
    opening: Box<[OnceLock<Span>]>,
}

#[derive(Default)]
struct Homes {
    dirs: Vec<TwinEntry>,
    /// Directory pages in memory, by number.
    loaded: FxHashMap<u32, Vec<TwinEntry>>,
    /// Homes allocated since the checkpoint in progress (or the last one) began: its map does not have them.
    fresh: FxHashSet<u64>,
    /// Directory pages with homes that no finished checkpoint has saved.
    unsaved_dirs: BTreeSet<u32>,
}

/// A checkpoint's new places, to be taken over once it is durable.
#[derive(Debug, Default)]
pub(crate) struct SavedOwners {
    pages: Vec<(u32, u64)>,
    dirs: Vec<(u32, u64)>,
}

static NEVER: RootLeaf = [OwnerRoot::NONE; FAN_OUT];

impl OwnerTable {
    pub(crate) fn new(page_bytes: usize, dirs: Vec<TwinEntry>) -> Self {
        let payload = page_bytes - PageHeader::BYTES;
        let leaves_per_page = payload / (ENTRY_BYTES * FAN_OUT);
        let pages_per_dir = payload / TWIN_BYTES;
        let spans = (dirs.len() * pages_per_dir * leaves_per_page).div_ceil(LEAVES_PER_SPAN);
        let narrow = |n: usize| u32::try_from(n).expect("bounded by the page size");
        Self {
            leaves_per_page: narrow(leaves_per_page),
            pages_per_dir: narrow(pages_per_dir),
            homes: Mutex::new(Homes { dirs, ..Homes::default() }),
            opening: (0..spans).map(|_| OnceLock::new()).collect(),
        }
    }

    /// How many owners fit: a larger number is refused.
    pub(crate) fn owners_max(&self) -> u32 {
        let leaves = OWNER_DIRS_MAX as u64 * u64::from(self.pages_per_dir) * u64::from(self.leaves_per_page);
        u32::try_from(leaves * FAN_OUT as u64).unwrap_or(NO_OWNER.0)
    }

    /// The table page that holds a leaf.
    pub(crate) fn page_of(&self, leaf: u32) -> u32 {
        leaf / self.leaves_per_page
    }

    /// A leaf as it was at opening. Reads one or two pages the first time, nothing later.
    pub(crate) fn at_opening(&self, disk: &Disk, leaf: u32) -> Result<&RootLeaf, FileError> {
        let Some(span) = self.opening.get(leaf as usize / LEAVES_PER_SPAN) else {
            return Ok(&NEVER);
        };
        let span = span.get_or_init(|| (0..LEAVES_PER_SPAN).map(|_| OnceLock::new()).collect());
        let cell = &span[leaf as usize % LEAVES_PER_SPAN];
        if let Some(roots) = cell.get() {
            return Ok(roots);
        }
        match self.read_page(disk, self.page_of(leaf)) {
            Ok(None) => Ok(cell.get_or_init(|| Box::new(NEVER))),
            Ok(Some(page)) => {
                let first = (leaf % self.leaves_per_page) as usize * FAN_OUT * ENTRY_BYTES + PageHeader::BYTES;
                let mut roots = Box::new(NEVER);
                for (root, bytes) in roots.iter_mut().zip(page[first..].chunks_exact(ENTRY_BYTES)) {
                    root.root.copy_from_slice(&bytes[..64]);
                    root.stamp = Stamp(get_u64(bytes, 64));
                }
                Ok(cell.get_or_init(|| roots))
            }
            // Two checkpoints may have rewritten the page meanwhile; whoever did that filled the leaf first.
            Err(error) => cell.get().map(|roots| &**roots).ok_or(error),
        }
    }

    /// A leaf as it was at opening, if it was needed so far.
    pub(crate) fn loaded(&self, leaf: u32) -> Option<&RootLeaf> {
        let span = self.opening.get(leaf as usize / LEAVES_PER_SPAN)?.get()?;
        span[leaf as usize % LEAVES_PER_SPAN].get().map(|roots| &**roots)
    }

    fn read_page(&self, disk: &Disk, page: u32) -> Result<Option<Vec<u8>>, FileError> {
        let entry = {
            let mut homes = self.homes.lock();
            let Some(dir) = self.directory(disk, &mut homes, page / self.pages_per_dir)? else { return Ok(None) };
            dir[(page % self.pages_per_dir) as usize]
        };
        read_twin(disk, entry)
    }

    /// The directory page `dir`, loaded; `None` when it has no homes yet.
    fn directory<'h>(
        &self,
        disk: &Disk,
        homes: &'h mut Homes,
        dir: u32,
    ) -> Result<Option<&'h mut Vec<TwinEntry>>, FileError> {
        let Some(&entry) = homes.dirs.get(dir as usize) else { return Ok(None) };
        if let Entry::Vacant(vacant) = homes.loaded.entry(dir) {
            let entries = match read_twin(disk, entry)? {
                None => vec![TwinEntry::default(); self.pages_per_dir as usize],
                Some(page) => page[PageHeader::BYTES..]
                    .chunks_exact(TWIN_BYTES)
                    .map(|e| TwinEntry { home: get_u64(e, 0), saved: get_u64(e, 8) })
                    .collect(),
            };
            if !entries.iter().all(|twin| twin.is_inside(PageNo::MAX)) {
                return Err(FileError::Damaged { at: 0, why: "the owner directory names a page that cannot exist" });
            }
            vacant.insert(entries);
        }
        Ok(homes.loaded.get_mut(&dir))
    }

    /// Makes sure that the table page of `leaf` and its directory have homes, called before the first commit of an owner,
    /// so that saving needs no space. `reserve` reserves two adjacent pages; `keep` makes them permanent.
    ///
    /// # Errors
    /// Those of `reserve`, and of reading a directory page.
    pub(crate) fn ensure_homes(
        &self,
        disk: &Disk,
        leaf: u32,
        reserve: impl Fn() -> Result<Extent, FileError>,
        keep: impl Fn(Extent),
        give_back: impl Fn(Extent),
    ) -> Result<(), FileError> {
        let page = self.page_of(leaf);
        let (dir, place) = (page / self.pages_per_dir, (page % self.pages_per_dir) as usize);
        // The lock is not held while pages are reserved: that may take a checkpoint, which needs the lock.
        let mut spare: Option<Extent> = None;
        loop {
            let mut homes = self.homes.lock();
            let missing_dir = homes.dirs.len() <= dir as usize;
            let missing_page =
                missing_dir || self.directory(disk, &mut homes, dir)?.is_none_or(|entries| entries[place].home == 0);
            if !missing_page {
                drop(homes);
                spare.into_iter().for_each(give_back);
                return Ok(());
            }
            if let Some(pair) = spare.take() {
                keep(pair);
                homes.fresh.insert(pair.start.get());
                let home = TwinEntry { home: pair.start.get(), saved: 0 };
                if missing_dir {
                    homes.dirs.push(home);
                } else {
                    homes.unsaved_dirs.insert(dir);
                    homes.loaded.get_mut(&dir).expect("loaded above")[place] = home;
                }
            } else {
                drop(homes);
                spare = Some(reserve()?);
            }
        }
    }

    /// Runs `freeze`, which fixes what the map of the checkpoint in progress contains, while no home is being given: a home is either in
    /// that map or fresh, and a fresh one is not saved.
    pub(crate) fn freeze_with<E>(&self, freeze: impl FnOnce() -> Result<(), E>) -> Result<(), E> {
        let mut homes = self.homes.lock();
        freeze()?;
        homes.fresh.clear();
        Ok(())
    }

    /// Writes the table pages in `changed` as `version` has them, and their directories, as checkpoint `number`.
    pub(crate) fn save(
        &self,
        disk: &Disk,
        options: &FileOptions,
        version: &Version,
        changed: &BTreeSet<u32>,
        number: u64,
    ) -> Result<SavedOwners, FileError> {
        let turn = u64::from(!options.broken(Sabotage::OwnersInOneHome));
        let mut saved = SavedOwners::default();
        let mut page = vec![0; disk.page_bytes];
        for &number_of_page in changed {
            page.fill(0);
            page[PageHeader::KIND] = KIND_OWNER_TABLE;
            let first = number_of_page * self.leaves_per_page;
            for (leaf, out) in
                (first..first + self.leaves_per_page).zip(page[PageHeader::BYTES..].chunks_mut(FAN_OUT * ENTRY_BYTES))
            {
                let roots = match version.changed_leaf(leaf) {
                    Some(roots) => roots,
                    None => self.at_opening(disk, leaf)?,
                };
                for (root, out) in roots.iter().zip(out.chunks_exact_mut(ENTRY_BYTES)) {
                    out[..64].copy_from_slice(&root.root);
                    put_u64(out, 64, root.stamp.0);
                }
            }
            let entry = {
                let mut homes = self.homes.lock();
                let dir = self.directory(disk, &mut homes, number_of_page / self.pages_per_dir)?;
                dir.expect("a changed page has homes")[(number_of_page % self.pages_per_dir) as usize]
            };
            saved.pages.push((number_of_page, write_twin(disk, entry, turn, number, &mut page)?));
        }
        let mut dirs = self.homes.lock().unsaved_dirs.clone();
        dirs.extend(changed.iter().map(|p| p / self.pages_per_dir));
        for dir in dirs {
            page.fill(0);
            page[PageHeader::KIND] = KIND_OWNER_DIRECTORY;
            let entry = {
                let mut homes = self.homes.lock();
                let mut entries = self.directory(disk, &mut homes, dir)?.expect("it has homes").clone();
                for &(p, saved) in saved.pages.iter().filter(|(p, _)| p / self.pages_per_dir == dir) {
                    entries[(p % self.pages_per_dir) as usize].saved = saved;
                }
                for (entry, out) in entries.iter().zip(page[PageHeader::BYTES..].chunks_exact_mut(TWIN_BYTES)) {
                    if !homes.fresh.contains(&entry.home) {
                        put_u64(out, 0, entry.home);
                        put_u64(out, 8, entry.saved);
                    }
                }
                if homes.fresh.contains(&homes.dirs[dir as usize].home) {
                    continue;
                }
                homes.dirs[dir as usize]
            };
            saved.dirs.push((dir, write_twin(disk, entry, turn, number, &mut page)?));
        }
        Ok(saved)
    }

    /// The superblock's entries if `saved` takes effect.
    pub(crate) fn superblock_entries(&self, saved: &SavedOwners) -> Vec<TwinEntry> {
        let homes = self.homes.lock();
        let mut dirs: Vec<TwinEntry> =
            homes.dirs.iter().copied().take_while(|d| !homes.fresh.contains(&d.home)).collect();
        for &(dir, to) in &saved.dirs {
            dirs[dir as usize].saved = to;
        }
        dirs
    }

    /// The checkpoint that wrote `saved` is durable.
    pub(crate) fn finish(&self, saved: SavedOwners) {
        let mut guard = self.homes.lock();
        let homes = &mut *guard;
        for (dir, to) in saved.dirs {
            homes.dirs[dir as usize].saved = to;
            let entries = homes.loaded.get(&dir).expect("loaded when it was saved");
            if !entries.iter().any(|e| homes.fresh.contains(&e.home)) {
                homes.unsaved_dirs.remove(&dir);
            }
        }
        for (page, to) in saved.pages {
            let entries = homes.loaded.get_mut(&(page / self.pages_per_dir)).expect("loaded when it was saved");
            entries[(page % self.pages_per_dir) as usize].saved = to;
        }
    }

    /// The leaves that were ever saved, in order. What the directory cannot tell is told to `found`.
    pub(crate) fn saved_leaves(&self, disk: &Disk, found: &mut dyn FnMut(FileError)) -> Vec<u32> {
        let mut homes = self.homes.lock();
        let mut leaves = Vec::new();
        for dir in 0..u32::try_from(homes.dirs.len()).expect("88 at most") {
            match self.directory(disk, &mut homes, dir) {
                Ok(None) => {}
                Ok(Some(entries)) => {
                    for (page, _) in (dir * self.pages_per_dir..).zip(entries).filter(|(_, twin)| twin.saved != 0) {
                        leaves.extend(page * self.leaves_per_page..(page + 1) * self.leaves_per_page);
                    }
                }
                Err(error) => found(error),
            }
        }
        leaves
    }

    /// Reads every page of the table from storage as the newest checkpoint left it, for whoever keeps checkpoints from beginning. What
    /// does not verify is told to `found`; returns how many pages were read.
    pub(crate) fn verify(&self, disk: &Disk, found: &mut dyn FnMut(FileError)) -> u64 {
        let dirs = self.homes.lock().dirs.clone();
        let mut pages = 0;
        for dir in dirs {
            let page = match read_twin(disk, dir) {
                Ok(None) => continue,
                Ok(Some(page)) => page,
                Err(error) => {
                    found(error);
                    continue;
                }
            };
            pages += 1;
            for entry in page[PageHeader::BYTES..].chunks_exact(TWIN_BYTES) {
                match read_twin(disk, TwinEntry { home: get_u64(entry, 0), saved: get_u64(entry, 8) }) {
                    Ok(table) => pages += u64::from(table.is_some()),
                    Err(error) => found(error),
                }
            }
        }
        pages
    }

    /// Every page this table occupies, for accounting: all homes, current or not. Reads directories not yet in memory.
    pub(crate) fn homes(&self, disk: &Disk) -> Result<Vec<PageNo>, FileError> {
        let mut homes = self.homes.lock();
        let mut pages = Vec::new();
        for dir in 0..u32::try_from(homes.dirs.len()).expect("88 at most") {
            pages.extend(PageNo::new(homes.dirs[dir as usize].home));
            if let Some(entries) = self.directory(disk, &mut homes, dir)? {
                pages.extend(entries.iter().filter_map(|e| PageNo::new(e.home)));
            }
        }
        Ok(pages)
    }
}

/// Reads the current home of a page with two homes; `None` when it was never saved.
fn read_twin(disk: &Disk, entry: TwinEntry) -> Result<Option<Vec<u8>>, FileError> {
    if entry.saved == 0 {
        return Ok(None);
    }
    let page = PageNo::new(entry.home.saturating_add(entry.saved & 1))
        .ok_or(FileError::Damaged { at: 0, why: "the owner directory names a page that cannot exist" })?;
    disk.read_page(PagePtr { page, stamp: Stamp(entry.saved >> 1) }, Some(NO_OWNER)).map(Some)
}

/// Writes the home that is not current, `turn` being 1, and returns what the entry's `saved` becomes.
fn write_twin(disk: &Disk, entry: TwinEntry, turn: u64, number: u64, page: &mut [u8]) -> Result<u64, FileError> {
    let side = if entry.saved == 0 { 0 } else { (entry.saved & 1) ^ turn };
    let home = PageNo::new(entry.home + side).expect("homes were allocated");
    disk.write_page(PagePtr { page: home, stamp: Stamp(number) }, NO_OWNER, page)?;
    Ok(number << 1 | side)
}

impl fmt::Debug for OwnerTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OwnerTable").field("dirs", &self.homes.lock().dirs).finish_non_exhaustive()
    }
}
