//! One bound, in bytes, for everything this file keeps in memory.
//!
//! Always `frames <= max(one frame, limit - nodes - dirty - unwritten)` once the cache has shrunk to it: clean pages are what
//! gives way, because they can be read again.

use std::sync::atomic::{AtomicU64, Ordering};

/// What memory is spent on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Charge {
    /// Clean pages in the cache, with their bookkeeping.
    Frames,
    /// Nodes of the cache's page table, and its memory of evicted pages.
    Nodes,
    /// Pages of open transactions.
    Dirty,
    /// What small commits left above the trees, as far as current versions have it.
    Unwritten,
    /// Evicted frames that a reader may still be looking at. Not part of the sum: it is gone after the readers'
    /// current operations, and making room for it would evict what they are about to need.
    Limbo,
}

/// The budget shared by cache, page table and dirty pages of all owners.
///
/// Counters that nothing else depends on: every access is `Relaxed`.
#[derive(Debug)]
pub(crate) struct Budget {
    limit: u64,
    spent: [AtomicU64; 5],
}

impl Budget {
    /// A budget of `limit` bytes.
    pub(crate) fn new(limit: u64) -> Self {
        Self { limit, spent: [const { AtomicU64::new(0) }; 5] }
    }

    /// The bound, in bytes.
    pub(crate) fn limit(&self) -> u64 {
        self.limit
    }

    /// Adds to what is spent. Never fails: whoever charges makes room before or after, see
    /// [`cache_room`](Self::cache_room) and [`dirty_room`](Self::dirty_room).
    pub(crate) fn charge(&self, what: Charge, bytes: u64) {
        self.spent[what as usize].fetch_add(bytes, Ordering::Relaxed);
    }

    /// Takes back what was charged.
    pub(crate) fn credit(&self, what: Charge, bytes: u64) {
        let before = self.spent[what as usize].fetch_sub(bytes, Ordering::Relaxed);
        assert!(before >= bytes, "{what:?}: {bytes} bytes given back, {before} spent");
    }

    /// Bytes spent on one thing.
    pub(crate) fn spent(&self, what: Charge) -> u64 {
        self.spent[what as usize].load(Ordering::Relaxed)
    }

    /// Bytes that clean pages may take in all: what nodes and dirty pages leave.
    pub(crate) fn cache_room(&self) -> u64 {
        let taken = self.spent(Charge::Nodes) + self.spent(Charge::Dirty) + self.spent(Charge::Unwritten);
        self.limit.saturating_sub(taken)
    }

    /// Everything that counts against the limit, in bytes.
    pub(crate) fn total(&self) -> u64 {
        let spent = [Charge::Frames, Charge::Nodes, Charge::Dirty, Charge::Unwritten].map(|what| self.spent(what));
        spent.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dirty_pages_and_nodes_push_clean_ones_out() {
        let budget = Budget::new(1000);
        budget.charge(Charge::Frames, 900);
        assert_eq!(budget.cache_room(), 1000);
        budget.charge(Charge::Dirty, 300);
        budget.charge(Charge::Nodes, 100);
        budget.charge(Charge::Limbo, 5000);
        assert_eq!((budget.cache_room(), budget.total()), (600, 1300));
        budget.charge(Charge::Dirty, 5000);
        assert_eq!(budget.cache_room(), 0);
        budget.credit(Charge::Dirty, 5300);
        assert_eq!(budget.cache_room(), 900);
    }

    #[test]
    #[should_panic(expected = "given back")]
    fn giving_back_more_than_was_taken_is_a_bug() {
        Budget::new(10).credit(Charge::Dirty, 1);
    }
}
