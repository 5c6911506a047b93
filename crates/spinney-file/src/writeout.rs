//! Pages that small commits left in the cache go to their place: for a checkpoint, for an image, or early, so that
//! checkpoints find little to do.

use crate::{
    cache::Pin,
    commit::DirtyPages,
    counters::FlushCounters,
    engine::Engine,
    error::FileError,
    page::{self, PageHeader, PagePtr},
};
use bytes::Bytes;
use spinney_alloc::{PageNo, Stamp};
use std::sync::atomic::Ordering;

/// Pages copied, sealed and written at a time: memory for as many is not in the budget.
const PAGES_AT_A_TIME: usize = 256;

impl Engine {
    /// Writes those of `pages` that are in the cache only, coalesced and un-synced, and lets the cache evict them. The numbers of
    /// all of them stay theirs until this returns: the caller sees to that.
    pub(crate) fn write_unwritten(&self, pages: &mut [PagePtr], counters: &FlushCounters) -> Result<(), FileError> {
        pages.sort_unstable_by_key(|ptr| ptr.page);
        for some in pages.chunks(PAGES_AT_A_TIME) {
            let sealed = self.sealed_copies(some);
            self.flush_pages(&DirtyPages { sealed, raw: Vec::new() }, counters)?;
            self.cache.written(some);
        }
        Ok(())
    }

    /// Copies of pages that are in the cache only, complete with checksums. A page in memory never changes, not even in its header.
    pub(crate) fn sealed_copies(&self, pages: &[PagePtr]) -> Vec<(PageNo, Bytes)> {
        let mut copies = Vec::with_capacity(pages.len());
        for ptr in pages {
            let pin = Pin::new();
            if let Some(bytes) = self.cache.dirty_page(*ptr, &pin) {
                let mut copy = bytes.to_vec();
                let owner = PageHeader::owner(&copy);
                page::seal(&mut copy, ptr.page, ptr.stamp, owner);
                #[cfg(any(test, feature = "testing"))]
                self.shadow.writes_copy(ptr.page, ptr.stamp);
                copies.push((ptr.page, copy.into()));
            }
        }
        copies
    }

    /// Writes pages early that have not been superseded since the last time this looked, unless a checkpoint is doing it.
    pub(crate) fn write_out(&self) -> Result<(), FileError> {
        let Some(_turn) = self.checkpoints.try_turn() else { return Ok(()) };
        self.written_out_at.store(self.pipeline.log_bytes(), Ordering::Relaxed);
        let now = self.next_stamp.load(Ordering::Acquire);
        let before = Stamp(self.cold_before.swap(now, Ordering::AcqRel));
        let done = self.write_unwritten(&mut self.pipeline.begin_round(before), &self.disk.counters.checkpoints);
        self.pipeline.end_round();
        done
    }

    /// Writes all pages that small commits left.
    pub(crate) fn write_out_all(&self) -> Result<(), FileError> {
        self.cold_before.store(u64::MAX, Ordering::Release);
        self.write_out()
    }

    /// Whether a page is in the cache only.
    pub(crate) fn is_unwritten(&self, ptr: PagePtr) -> bool {
        self.cache.dirty_page(ptr, &Pin::new()).is_some()
    }
}
