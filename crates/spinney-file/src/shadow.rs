//! Test builds only: a second opinion on which pages are in use, asked before every write.
//!
//! It is kept from commits and frees alone, apart from the allocator, so an allocator that grants a protected page is caught by
//! the first write to it (rules 7 and 9 of the reliability notes: nothing durable is overwritten, one write per page and stamp).

use parking_lot::Mutex;
use rustc_hash::{FxHashMap, FxHashSet};
use spinney_alloc::{Extent, Stamp};

#[derive(Debug, Default)]
pub(crate) struct Shadow {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Claimed by a commit and not yet granted again.
    in_use: FxHashSet<u64>,
    /// The stamp each page was last written with.
    written: FxHashMap<u64, Stamp>,
}

impl Shadow {
    pub(crate) fn claimed(&self, extents: &[Extent]) {
        let mut state = self.state.lock();
        for page in extents.iter().flat_map(|e| e.start.get()..e.end()) {
            assert!(state.in_use.insert(page), "page {page} is claimed by two commits");
        }
    }

    pub(crate) fn freed(&self, extent: Extent) {
        let mut state = self.state.lock();
        for page in extent.start.get()..extent.end() {
            state.in_use.remove(&page);
        }
    }

    /// Pages are about to be written.
    pub(crate) fn writes(&self, extents: &[Extent], stamp: Stamp) {
        let mut state = self.state.lock();
        for page in extents.iter().flat_map(|e| e.start.get()..e.end()) {
            assert!(!state.in_use.contains(&page), "page {page} is protected and about to be overwritten");
            let before = state.written.insert(page, stamp);
            // Not "before < stamp": a page that an aborted transaction had spilled may go to one that began earlier.
            assert!(before != Some(stamp), "page {page} is written twice with {stamp:?}");
        }
    }
}
