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
use std::sync::Arc;

/// Pages born since some moment.
#[derive(Debug, Default)]
struct Born {
    /// Were in the cache only when they were committed. Which of them have been written since, the cache knows.
    cached: FxHashMap<PageNo, Stamp>,
    /// Were in their final place by then, un-synced.
    written: ExtentSet,
}

impl Born {
    /// Takes out pages that were freed; `false` when they are not here. They were all born in one commit.
    fn remove(&mut self, extent: Extent) -> bool {
        (extent.pages == 1 && self.cached.remove(&extent.start).is_some())
            || !self.written.is_empty() && self.written.remove(extent)
    }

    fn contains(&self, extent: Extent) -> bool {
        (extent.pages == 1 && self.cached.contains_key(&extent.start)) || self.written.contains(extent.start)
    }

    fn pages(&self) -> u64 {
        self.cached.len() as u64 + self.written.pages()
    }

    fn extents(&self) -> impl Iterator<Item = Extent> + '_ {
        self.cached.keys().map(|&page| Extent::page(page)).chain(self.written.iter())
    }
}

/// What an image takes over from the small commits before it.
#[derive(Debug, Default)]
pub(crate) struct Inherited {
    /// Pages to claim, and to write unless they have been.
    pub(crate) cached: Vec<PagePtr>,
    /// Pages to claim.
    pub(crate) written: ExtentSet,
    /// What older images and the checkpoint reach and the tip does not; of the image itself, too.
    pub(crate) releases: ExtentSet,
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
            let twice = self.fresh.cached.insert(ptr.page, ptr.stamp).is_some();
            assert!(!twice, "{ptr:?} is alive already");
        }
        self.fresh.written.extend(written.iter());
    }

    /// Takes what a commit freed out of the fresh pages, leaving them in `freed`; returns the others, which wait for a checkpoint.
    /// Of those, `superseded` gets the ones that may be in the cache only.
    fn free(&mut self, freed: &mut Vec<Freed>, superseded: &mut Vec<PagePtr>) -> Vec<Freed> {
        let mut older = Vec::new();
        freed.retain(|freed| {
            let is_fresh = self.fresh.remove(freed.extent);
            if !is_fresh {
                let page = freed.extent.start;
                superseded.extend(self.noted.cached.get(&page).map(|&stamp| PagePtr { page, stamp }));
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

    /// What an image that frees `freed` inherits.
    pub(crate) fn inherited(&self, freed: &[Freed]) -> Inherited {
        let mut rest: FxHashMap<PageNo, Stamp> = FxHashMap::default();
        let mut written = ExtentSet::default();
        for born in [&self.fresh, &self.noted] {
            rest.extend(&born.cached);
            written.extend(born.written.iter());
        }
        for Freed { extent, .. } in freed {
            rest.remove(&extent.start);
            written.subtract(*extent);
        }
        let older = freed.iter().map(|f| f.extent).filter(|&extent| !self.fresh.contains(extent));
        Inherited {
            cached: rest.into_iter().map(|(page, stamp)| PagePtr { page, stamp }).collect(),
            written,
            releases: self.releases.iter().copied().chain(older).collect(),
        }
    }

    /// Pages that the allocator learns of now.
    pub(crate) fn fresh_extents(&self) -> impl Iterator<Item = Extent> + '_ {
        self.fresh.extents()
    }

    /// Pages that were in the cache only when they were committed.
    pub(crate) fn cached(&self) -> impl Iterator<Item = PagePtr> + '_ {
        [&self.fresh, &self.noted].into_iter().flat_map(|b| &b.cached).map(|(&page, &stamp)| PagePtr { page, stamp })
    }

    /// Pages that were in their place by then.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn written(&self) -> impl Iterator<Item = Extent> + '_ {
        [&self.fresh, &self.noted].into_iter().flat_map(|b| b.written.iter())
    }

    /// The checkpoint that covered `frozen` failed: but for what was freed since, all of it is unwritten again.
    fn take_back(&mut self, mut frozen: Self, freed: &[Extent], superseded: &mut Vec<PagePtr>) {
        for &extent in freed {
            let page = extent.start;
            let stamps = [&frozen.fresh, &frozen.noted].map(|born| born.cached.get(&page).copied());
            superseded.extend(stamps.into_iter().flatten().map(|stamp| PagePtr { page, stamp }));
            let _ = frozen.fresh.remove(extent) || frozen.noted.remove(extent);
        }
        for born in [frozen.fresh, frozen.noted] {
            for (page, stamp) in born.cached {
                assert!(self.noted.cached.insert(page, stamp).is_none(), "page {page} is alive twice");
            }
            self.noted.written.extend(born.written.iter());
        }
        self.releases.splice(0..0, frozen.releases);
    }
}

/// The unwritten pages of all owners.
#[derive(Debug, Default)]
pub(crate) struct UnwrittenPages {
    /// Since the newest checkpoint began.
    pub(crate) now: FxHashMap<Owner, Unwritten>,
    /// Covered by the checkpoint in progress, and what commits freed of them since.
    frozen: Option<Arc<FxHashMap<Owner, Unwritten>>>,
    frozen_freed: FxHashMap<Owner, Vec<Extent>>,
    /// Superseded pages in the cache only that somebody may still need: written with the others, so that they may be evicted.
    pub(crate) held: Vec<PagePtr>,
    /// Times pages of several commits were written together: begun and finished. Between the two no number they had is granted.
    pub(crate) rounds: (u64, u64),
}

impl UnwrittenPages {
    /// What a commit of `owner` freed: leaves in `freed` what nothing on disk knows, returns the rest.
    pub(crate) fn free(&mut self, owner: Owner, freed: &mut Vec<Freed>) -> Vec<Freed> {
        if freed.is_empty() {
            return Vec::new();
        }
        let older = self.now.entry(owner).or_default().free(freed, &mut self.held);
        if self.frozen.as_ref().is_some_and(|frozen| frozen.contains_key(&owner)) {
            self.frozen_freed.entry(owner).or_default().extend(older.iter().map(|f| f.extent));
        }
        older
    }

    /// When what is freed now may be granted again, as far as writing goes: once so many rounds are finished.
    pub(crate) fn round(&self) -> u64 {
        if self.rounds.0 > self.rounds.1 { self.rounds.0 } else { 0 }
    }

    /// A checkpoint begins, and a round with it: it covers all there is.
    pub(crate) fn freeze(&mut self) -> (Arc<FxHashMap<Owner, Unwritten>>, Vec<PagePtr>) {
        assert!(self.frozen.is_none(), "one checkpoint at a time");
        let frozen = Arc::new(std::mem::take(&mut self.now));
        self.frozen = Some(Arc::clone(&frozen));
        self.rounds.0 += 1;
        (frozen, std::mem::take(&mut self.held))
    }

    /// It is durable.
    pub(crate) fn forget_frozen(&mut self) {
        self.frozen = None;
        self.frozen_freed.clear();
    }

    /// It failed.
    pub(crate) fn take_back(&mut self) {
        let frozen = self.frozen.take().map(|frozen| Arc::try_unwrap(frozen).expect("the checkpoint has let go of it"));
        let freed = std::mem::take(&mut self.frozen_freed);
        for (owner, unwritten) in frozen.unwrap_or_default() {
            let freed = freed.get(&owner).map_or(&[][..], |freed| freed);
            self.now.entry(owner).or_default().take_back(unwritten, freed, &mut self.held);
        }
    }

    /// Fresh pages of all owners.
    pub(crate) fn fresh_pages(&self) -> u64 {
        self.now.values().map(|unwritten| unwritten.fresh.pages()).sum()
    }
}
