//! A clean page in memory, with the few bits that decide how long it stays.

use crate::{
    PagePtr,
    budget::{Budget, Charge},
};
use bytes::Bytes;
use std::sync::{
    Arc,
    atomic::{AtomicU8, Ordering::Relaxed},
};

/// Which queue a frame waits in; see [`super::eviction`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Place {
    Probation,
    Main,
    Superseded,
}

/// A clean page. Immutable but for its counters, and so shared without a lock.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) ptr: PagePtr,
    pub(super) bytes: Bytes,
    /// Tells this frame from another that held the same page before it was evicted.
    pub(super) ticket: u64,
    used: AtomicU8,
    place: AtomicU8,
    account: AtomicU8,
    budget: Arc<Budget>,
}

/// Under which heading a frame stands in the budget.
mod account {
    pub(super) const NONE: u8 = 0;
    pub(super) const RESIDENT: u8 = 1;
    pub(super) const LIMBO: u8 = 2;
}

impl Frame {
    /// Uses that are told apart. Beyond it a hit stores nothing.
    pub(super) const USED_MAX: u8 = 3;
    /// What a frame costs beside its page, in bytes: itself, its queue entry, its allocations' headers.
    pub(super) const OVERHEAD_BYTES: u64 = 128;

    pub(super) fn new(ptr: PagePtr, bytes: Bytes, ticket: u64, budget: Arc<Budget>) -> Self {
        let [used, place, account] = [0, Place::Probation as u8, account::NONE].map(AtomicU8::new);
        Self { ptr, bytes, ticket, used, place, account, budget }
    }

    /// What a frame for so many bytes of page costs.
    pub(super) fn cost_of(page_bytes: usize) -> u64 {
        page_bytes as u64 + Self::OVERHEAD_BYTES
    }

    /// What it counts for in the budget, in bytes.
    pub(super) fn cost(&self) -> u64 {
        Self::cost_of(self.bytes.len())
    }

    /// Notes a hit. A hot page is at the maximum, so its line is only ever read and stays in every core's cache. Two
    /// threads may count one use together: it is a hint.
    #[inline]
    pub(super) fn touch(&self) {
        let used = self.used.load(Relaxed);
        if used < Self::USED_MAX {
            self.used.store(used + 1, Relaxed);
        }
    }

    pub(super) fn used(&self) -> u8 {
        self.used.load(Relaxed)
    }

    pub(super) fn set_used(&self, used: u8) {
        self.used.store(used, Relaxed);
    }

    pub(super) fn place(&self) -> Place {
        match self.place.load(Relaxed) {
            0 => Place::Probation,
            1 => Place::Main,
            _ => Place::Superseded,
        }
    }

    /// Only under the queue lock, so the counts per place add up.
    pub(super) fn set_place(&self, place: Place) {
        self.place.store(place as u8, Relaxed);
    }

    /// Charges for a frame that enters the cache.
    pub(super) fn charge(&self) {
        let before = self.account.swap(account::RESIDENT, Relaxed);
        assert_eq!(before, account::NONE, "{:?} entered the cache twice", self.ptr);
        self.budget.charge(Charge::Frames, self.cost());
    }

    /// Takes the charge back for a frame that leaves it. Until the last reader has gone it is in limbo.
    pub(super) fn release(&self) {
        let before = self.account.swap(account::LIMBO, Relaxed);
        self.budget.charge(Charge::Limbo, self.cost());
        match before {
            account::RESIDENT => self.budget.credit(Charge::Frames, self.cost()),
            _ => panic!("{:?} left the cache twice", self.ptr),
        }
    }
}

impl Drop for Frame {
    fn drop(&mut self) {
        match *self.account.get_mut() {
            account::RESIDENT => self.budget.credit(Charge::Frames, self.cost()), // the cache itself is dropped
            account::LIMBO => self.budget.credit(Charge::Limbo, self.cost()),
            _ => {}
        }
    }
}
