//! What small commits leave in memory: pages of an owner's tip that neither its last image nor the newest checkpoint names.
//!
//! ```text
//!   commit --> fresh --checkpoint begins--> frozen --it is durable--> forgotten: the map has them
//!                |                            `-----it fails--------> noted: written and saved by the next
//!                `--image of the owner--> claimed by its record
//! ```
//! A fresh page is in no map. When it is superseded it was never there: its number can be granted again as soon as nobody
//! looks at it (see [`crate::desk`]), and if it was not written by then it never will be.

use crate::page::PagePtr;
use rustc_hash::FxHashMap;
use spinney_alloc::{Extent, ExtentSet, Freed, Owner, PageNo, Stamp};

/// Pages born since some moment.
#[derive(Debug, Default)]
pub(crate) struct Born {
    /// In the cache only, by number.
    dirty: FxHashMap<PageNo, Stamp>,
    /// In their final place, un-synced.
    written: ExtentSet,
}

impl Born {
    /// Takes out pages that were freed; `false` when they are not here. They were all born in one commit.
    fn remove(&mut self, extent: Extent) -> bool {
        (extent.pages == 1 && self.dirty.remove(&extent.start).is_some())
            || !self.written.is_empty() && self.written.remove(extent)
    }

    fn pages(&self) -> u64 {
        self.dirty.len() as u64 + self.written.pages()
    }

    fn append(&mut self, other: Self) {
        self.dirty.extend(other.dirty);
        self.written.extend(other.written.iter());
    }

    fn extents(&self) -> impl Iterator<Item = Extent> + '_ {
        self.dirty.keys().map(|&page| Extent::page(page)).chain(self.written.iter())
    }

    /// Pages in the cache have been written.
    fn note_written(&mut self, ptr: PagePtr) {
        if self.dirty.get(&ptr.page) == Some(&ptr.stamp) {
            self.dirty.remove(&ptr.page);
            self.written.insert(Extent::page(ptr.page));
        }
    }
}

/// One owner's pages since its *base*: the newer of its last image and the newest checkpoint.
#[derive(Debug, Default)]
pub(crate) struct Unwritten {
    /// In no map.
    fresh: Born,
    /// A checkpoint told the allocator of these and then failed: in use there, and written by the next.
    noted: Born,
    /// What commits since the base freed of older pages.
    releases: Vec<Extent>,
}

impl Unwritten {
    /// A commit made these pages.
    pub(crate) fn add(&mut self, dirty: impl IntoIterator<Item = PagePtr>, written: &ExtentSet) {
        for ptr in dirty {
            let twice = self.fresh.dirty.insert(ptr.page, ptr.stamp).is_some();
            assert!(!twice, "{ptr:?} is alive already");
        }
        self.fresh.written.extend(written.iter());
    }

    /// Takes what a commit freed out of the fresh pages, leaving them in `freed`; returns the others, which wait for a checkpoint.
    pub(crate) fn free(&mut self, freed: &mut Vec<Freed>) -> Vec<Freed> {
        let mut older = Vec::new();
        freed.retain(|freed| {
            let is_fresh = self.fresh.remove(freed.extent);
            if !is_fresh {
                self.noted.remove(freed.extent);
                self.releases.push(freed.extent);
                older.push(*freed);
            }
            is_fresh
        });
        older
    }

    /// Pages an image of this owner must write or claim.
    pub(crate) fn pages(&self) -> u64 {
        self.fresh.pages() + self.noted.pages()
    }

    /// What an image that frees `freed` has to write, and what it claims though it was written before.
    pub(crate) fn inherited(&self, freed: &[Freed]) -> (Vec<PagePtr>, ExtentSet) {
        let mut rest: FxHashMap<PageNo, Stamp> = FxHashMap::default();
        let mut written = ExtentSet::default();
        for born in [&self.fresh, &self.noted] {
            rest.extend(&born.dirty);
            written.extend(born.written.iter());
        }
        for Freed { extent, .. } in freed {
            rest.remove(&extent.start);
            written.subtract(*extent);
        }
        (rest.into_iter().map(|(page, stamp)| PagePtr { page, stamp }).collect(), written)
    }

    /// What older images and the checkpoint reach and the tip does not.
    pub(crate) fn releases(&self) -> &[Extent] {
        &self.releases
    }

    /// Pages that the allocator learns of now.
    pub(crate) fn fresh_extents(&self) -> impl Iterator<Item = Extent> + '_ {
        self.fresh.extents()
    }

    /// Pages that are in the cache only.
    pub(crate) fn dirty(&self) -> impl Iterator<Item = PagePtr> + '_ {
        [&self.fresh, &self.noted].into_iter().flat_map(|b| &b.dirty).map(|(&page, &stamp)| PagePtr { page, stamp })
    }

    /// Pages that are in their place already.
    pub(crate) fn written(&self) -> impl Iterator<Item = Extent> + '_ {
        [&self.fresh, &self.noted].into_iter().flat_map(|b| b.written.iter())
    }

    /// A page has been written, unless it was superseded meanwhile.
    pub(crate) fn note_written(&mut self, ptr: PagePtr) {
        self.fresh.note_written(ptr);
        self.noted.note_written(ptr);
    }

    /// A page that a checkpoint in progress covers was freed.
    pub(crate) fn free_frozen(&mut self, extent: Extent) {
        let _ = self.fresh.remove(extent) || self.noted.remove(extent);
    }

    /// The checkpoint that covered `frozen` failed: all of it is unwritten again.
    pub(crate) fn take_back(&mut self, frozen: Self) {
        self.noted.append(frozen.fresh);
        self.noted.append(frozen.noted);
        self.releases.splice(0..0, frozen.releases);
    }
}

/// The unwritten pages of all owners.
#[derive(Debug, Default)]
pub(crate) struct UnwrittenPages {
    /// Since the newest checkpoint began.
    pub(crate) now: FxHashMap<Owner, Unwritten>,
    /// Covered by the checkpoint in progress.
    pub(crate) frozen: FxHashMap<Owner, Unwritten>,
    /// Superseded pages in the cache only, which a snapshot still reaches: written with the others, so that they may be evicted.
    pub(crate) held: Vec<PagePtr>,
    /// Times pages of several commits were written together: begun and finished. Between the two no number they had is granted.
    pub(crate) rounds: (u64, u64),
}

impl UnwrittenPages {
    /// What a commit of `owner` freed: leaves in `freed` what nothing on disk knows, returns the rest.
    pub(crate) fn free(&mut self, owner: Owner, freed: &mut Vec<Freed>) -> Vec<Freed> {
        if let Some(frozen) = self.frozen.get_mut(&owner) {
            freed.iter().for_each(|freed| frozen.free_frozen(freed.extent));
        }
        self.now.entry(owner).or_default().free(freed)
    }

    /// When what is freed now may be granted again, as far as writing goes: once so many rounds are finished.
    pub(crate) fn round(&self) -> u64 {
        if self.rounds.0 > self.rounds.1 { self.rounds.0 } else { 0 }
    }
}
