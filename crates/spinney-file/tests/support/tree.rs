//! A structure of pages that stands for a tree: each owner's descriptor points to a directory page, which lists content
//! pages and raw extents, each filled from an id. So every page, pointer and stamp is checked without a tree.

use rand::{Rng, rngs::SmallRng};
use spinney_file::{Descriptor, FileError, Owner, PageHeader, PagePtr, PagedFile, Pages, Part, Pin, Snapshot};
use std::collections::BTreeMap;

/// The owners of random runs.
pub const OWNERS: [Owner; 3] = [Owner(0), Owner(37), Owner(74)];

/// What one owner holds: the number of the commit that wrote it, ids of its pages, and of its raw extents with their lengths
/// in pages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Content {
    pub commit: u64,
    pub pages: Vec<u64>,
    pub extents: Vec<(u64, u64)>,
}

/// What every owner holds that was ever committed.
pub type State = BTreeMap<Owner, Content>;

/// One owner's structure: pointers beside ids.
#[derive(Clone, Debug, Default)]
pub struct Tree {
    dir: Option<PagePtr>,
    commit: u64,
    pages: Vec<(PagePtr, u64)>,
    extents: Vec<(PagePtr, u64, u64)>,
}

impl Tree {
    /// Reads and checks all of it.
    pub fn read(pages: &impl Pages, owner: Owner, root: &Descriptor) -> Result<Self, FileError> {
        let mut tree = Self::default();
        let Some(dir) = ptr_at(root, 0) else { return Ok(tree) };
        let pin = Pin::new();
        let page = pages.page(&pin, owner, dir)?;
        tree.dir = Some(dir);
        let mut at = PageHeader::BYTES;
        tree.commit = u64_at(page, at);
        let (page_count, extent_count) = (u64_at(page, at + 8), u64_at(page, at + 16));
        at += 24;
        for _ in 0..page_count {
            let (ptr, id) = (ptr_at(page, at).unwrap(), u64_at(page, at + 16));
            let content = pages.page(&pin, owner, ptr)?;
            let words = &mut content[PageHeader::BYTES..].chunks_exact(8);
            assert!(words.all(|w| u64_at(w, 0) == id), "page {ptr:?} is not {id}");
            tree.pages.push((ptr, id));
            at += 24;
        }
        for _ in 0..extent_count {
            let (ptr, id, len) = (ptr_at(page, at).unwrap(), u64_at(page, at + 16), u64_at(page, at + 24));
            let raw = pages.read_raw(ptr.page, 0, len as usize * pages.page_bytes())?;
            assert!(raw.chunks_exact(8).all(|w| u64_at(w, 0) == id), "extent {ptr:?} is not {id}");
            tree.extents.push((ptr, id, len));
            at += 32;
        }
        Ok(tree)
    }

    /// The structure that `part` builds on.
    pub fn of(part: &Part) -> Result<Self, FileError> {
        Self::read(part, part.owner(), part.root())
    }

    pub fn content(&self) -> Content {
        Content {
            commit: self.commit,
            pages: self.pages.iter().map(|p| p.1).collect(),
            extents: self.extents.iter().map(|e| (e.1, e.2)).collect(),
        }
    }

    /// Pages it occupies.
    pub fn page_count(&self) -> u64 {
        u64::from(self.dir.is_some()) + self.pages.len() as u64 + self.extents.iter().map(|e| e.2).sum::<u64>()
    }

    pub fn add_page(&mut self, part: &mut Part, id: u64) -> Result<(), FileError> {
        self.pages.push((new_page(part, id)?, id));
        Ok(())
    }

    pub fn replace_page(&mut self, part: &mut Part, at: usize, id: u64) -> Result<(), FileError> {
        part.free(self.pages[at].0);
        self.pages[at] = (new_page(part, id)?, id);
        Ok(())
    }

    pub fn remove_page(&mut self, part: &mut Part, at: usize) {
        part.free(self.pages.remove(at).0);
    }

    pub fn add_extent(&mut self, part: &mut Part, id: u64, len: u64) -> Result<(), FileError> {
        let ptr = part.allocate_extent(len)?;
        let mut bytes = vec![0; len as usize * part.page_bytes()];
        fill(&mut bytes, id);
        part.write_raw(ptr.page, bytes.into())?;
        self.extents.push((ptr, id, len));
        Ok(())
    }

    pub fn remove_extent(&mut self, part: &mut Part, at: usize) {
        let (ptr, _, len) = self.extents.remove(at);
        part.free_extent(ptr, len);
    }

    /// Writes a new directory page and makes it the root; returns what the owner now holds.
    pub fn store(mut self, part: &mut Part, commit: u64) -> Result<Content, FileError> {
        if let Some(old) = self.dir {
            part.free(old);
        }
        let dir = part.allocate()?;
        let mut words = vec![commit, self.pages.len() as u64, self.extents.len() as u64];
        for (ptr, id) in &self.pages {
            words.extend([ptr.page.get(), ptr.stamp.0, *id]);
        }
        for (ptr, id, len) in &self.extents {
            words.extend([ptr.page.get(), ptr.stamp.0, *id, *len]);
        }
        let out = part.page_mut(dir)[PageHeader::BYTES..].chunks_exact_mut(8);
        assert!(words.len() <= out.len(), "a directory is one page");
        for (word, out) in words.iter().zip(out) {
            out.copy_from_slice(&word.to_le_bytes());
        }
        let mut root = [0; 64];
        root[..16].copy_from_slice(&dir.encode());
        part.set_root(root);
        self.commit = commit;
        Ok(self.content())
    }
}

/// One random change of one owner; the directory page is always new.
pub fn change(part: &mut Part, rng: &mut SmallRng, commit: u64, next_id: &mut u64) -> Result<Content, FileError> {
    let mut tree = Tree::of(part)?;
    for _ in 0..rng.random_range(1..5) {
        *next_id += 1;
        match rng.random_range(0..10) {
            0..5 => tree.add_page(part, *next_id)?,
            5..7 if !tree.pages.is_empty() => {
                let at = rng.random_range(0..tree.pages.len());
                tree.replace_page(part, at, *next_id)?;
            }
            7 if !tree.pages.is_empty() => tree.remove_page(part, rng.random_range(0..tree.pages.len())),
            8 if tree.extents.len() < 3 => tree.add_extent(part, *next_id, rng.random_range(1..5))?,
            _ if !tree.extents.is_empty() => tree.remove_extent(part, rng.random_range(0..tree.extents.len())),
            _ => {}
        }
        if tree.pages.len() > 40 {
            (0..30).for_each(|_| tree.remove_page(part, 0));
        }
        if rng.random_ratio(1, 12) {
            part.spill()?;
        }
    }
    tree.store(part, commit)
}

/// Reads everything that `snapshot` shows of `owners`; also how many pages they occupy.
pub fn state_in(snapshot: &Snapshot, owners: &[Owner]) -> Result<(State, u64), FileError> {
    let mut state = State::new();
    let mut pages = 0;
    for &owner in owners {
        if let Some(root) = snapshot.root(owner)? {
            let tree = Tree::read(snapshot.file(), owner, &root)?;
            pages += tree.page_count();
            state.insert(owner, tree.content());
        }
    }
    Ok((state, pages))
}

/// The newest visible state of the owners of random runs, and how many pages they occupy.
pub fn state_of(file: &PagedFile) -> Result<(State, u64), FileError> {
    state_in(&file.snapshot(), &OWNERS)
}

/// The number of the newest commit that a state holds.
pub fn commit_of(state: &State) -> u64 {
    state.values().map(|c| c.commit).max().unwrap_or(0)
}

/// Asserts that every page of the file is accounted for once, given how many are reachable from roots.
pub fn check_accounting(file: &PagedFile, reachable: u64) -> Result<(), FileError> {
    let own: u64 = file.own_extents()?.iter().map(|e| e.pages).sum();
    let stats = file.stats().pages;
    let elsewhere = stats.free + stats.awaiting_checkpoint + stats.pinned + stats.lent + stats.fixed;
    assert_eq!(reachable + own + elsewhere, stats.file_pages, "every page once: {stats:?}, own {own}");
    Ok(())
}

fn new_page(part: &mut Part, id: u64) -> Result<PagePtr, FileError> {
    let ptr = part.allocate()?;
    fill(&mut part.page_mut(ptr)[PageHeader::BYTES..], id);
    Ok(ptr)
}

fn fill(bytes: &mut [u8], id: u64) {
    bytes.chunks_exact_mut(8).for_each(|w| w.copy_from_slice(&id.to_le_bytes()));
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

fn ptr_at(bytes: &[u8], at: usize) -> Option<PagePtr> {
    PagePtr::decode(bytes[at..at + 16].try_into().unwrap())
}
