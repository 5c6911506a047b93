//! Pages that merging will take: promised when a small commit is made, so that a file that is full can still be merged and written.

use std::sync::atomic::{AtomicU64, Ordering};

/// A merge copies the leaf and the branches above it, of trees of up to six levels; many keys share most of that.
const PAGES_PER_KEY: u64 = 6;
/// New pages are at least half full, and a large value leaves part of its last page empty.
const PAGES_PER_PAGE_OF_EFFECTS: u64 = 8;

/// The pages promised to all that small commits left and no checkpoint has merged yet.
///
/// Whoever promises adds first and looks afterwards whether the file has as many, under the map's lock; whoever reserves pages reads under
/// that lock what is promised. So one of two sees the other.
#[derive(Debug, Default)]
pub(crate) struct Promises {
    pages: AtomicU64,
    /// A broken engine promises nothing, and makes every commit.
    is_broken: bool,
}

impl Promises {
    pub(crate) fn new(is_broken: bool) -> Self {
        Self { pages: AtomicU64::new(0), is_broken }
    }

    /// What to promise for a commit of so many keys, in a file with so many pages in use: the most that merging it may take.
    pub(crate) fn for_commit(keys: usize, effect_bytes: usize, pages_used: u64, page_bytes: usize) -> u64 {
        let of_effects = PAGES_PER_PAGE_OF_EFFECTS * effect_bytes as u64 / page_bytes as u64;
        (PAGES_PER_KEY * keys as u64).min(pages_used) + of_effects + 2
    }

    pub(crate) fn pages(&self) -> u64 {
        self.pages.load(Ordering::SeqCst)
    }

    /// Returns what is promised then.
    pub(crate) fn add(&self, pages: u64) -> u64 {
        if self.is_broken {
            return 0;
        }
        self.pages.fetch_add(pages, Ordering::SeqCst) + pages
    }

    /// They were taken, or will not be.
    pub(crate) fn end(&self, pages: u64) {
        if !self.is_broken {
            self.pages.fetch_sub(pages, Ordering::SeqCst);
        }
    }
}
