//! Clean pages in memory, bounded by the budget, found by page number without a lock.
//!
//! ```text
//!   get ----> [table] --frame, stamp equal--> hit: no lock, no hash, no store to a shared line
//!                | absent or another stamp
//!                v
//!            [flights] one load for each page --> put into [table], queued for [eviction]
//! ```
//! A frame is a hit only if its stamp equals the pointer's, so a frame of a page that has been reused since is never
//! mistaken for it. Pages are immutable, so a reader needs protection from eviction only, and has it from its
//! [`Pin`]. Lock order: a flight, the queue; neither is held during a load.

mod eviction; // who leaves when it is full
mod flight; // one load of a page at a time
mod frame; // a page in memory
mod slot; // pointers that are followed without a lock; the unsafe code
mod table; // page number to frame

pub use slot::Pin;

use crate::{
    Extent, FileError, PageNo, PagePtr,
    budget::{Budget, Charge},
    counters::StripedCounter,
};
use bytes::Bytes;
use eviction::Eviction;
use flight::{Flights, Turn};
use frame::Frame;
use parking_lot::Mutex;
use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
};
use table::Table;

/// Frames that may be taken out before somebody collects their memory. A thread keeps up to 64 to itself.
const UNCOLLECTED_MAX: usize = 32;

/// The cache of one file, for all its owners.
pub(crate) struct PageCache {
    table: Table,
    /// Held by whoever changes the table.
    queue: Mutex<Eviction>,
    /// Frames taken out since memory was last collected.
    uncollected: AtomicUsize,
    flights: Flights,
    budget: Arc<Budget>,
    hits: StripedCounter,
    misses: AtomicU64,
    loads: AtomicU64,
    waits: AtomicU64,
    evictions: AtomicU64,
}

/// What the cache holds and has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CacheStats {
    /// Pages in the cache.
    pub frames: u64,
    /// Memory of those pages with their bookkeeping, in bytes.
    pub frame_bytes: u64,
    /// Memory of the page table and of what is remembered about evicted pages, in bytes.
    pub node_bytes: u64,
    /// Memory of evicted pages that a reader may still be looking at, in bytes.
    pub limbo_bytes: u64,
    /// Lookups that found their page. Counted without synchronising, so a few may be missing when more than 64
    /// threads read.
    pub hits: u64,
    /// Lookups that had to load their page, or wait for it.
    pub misses: u64,
    /// Loads from the file.
    pub loads: u64,
    /// Lookups that waited for a load somebody else had begun.
    pub loads_waited: u64,
    /// Pages that left for want of room.
    pub evictions: u64,
}

impl PageCache {
    /// An empty cache that takes what the budget leaves, and at least one page.
    pub(crate) fn new(budget: Arc<Budget>) -> Self {
        Self {
            table: Table::default(),
            queue: Mutex::default(),
            uncollected: AtomicUsize::new(0),
            flights: Flights::default(),
            budget,
            hits: StripedCounter::default(),
            misses: AtomicU64::new(0),
            loads: AtomicU64::new(0),
            waits: AtomicU64::new(0),
            evictions: AtomicU64::new(0),
        }
    }

    /// The page that `ptr` means, if it is here. A few loads; no lock, no shared store.
    #[inline]
    pub(crate) fn get<'p>(&self, pin: &'p Pin, ptr: PagePtr) -> Option<&'p Bytes> {
        let frame = self.table.find(ptr.page, pin)?;
        if frame.ptr.stamp != ptr.stamp {
            return None; // the page was reused since one of the two was made
        }
        frame.touch();
        self.hits.add_one();
        Some(&frame.bytes)
    }

    /// Whatever is here under that number: a broken engine's lookup.
    pub(crate) fn any<'p>(&self, pin: &'p Pin, page: PageNo) -> Option<&'p Bytes> {
        self.table.find(page, pin).map(|frame| &frame.bytes)
    }

    /// The page that `ptr` means, brought by `load` if it is not here. One caller at a time loads a page; the others
    /// wait for that one and share its result. `load` returns the page verified, in a buffer of its own (part of a
    /// larger one would keep all of it in memory, unaccounted), and must not ask this cache for the same page.
    ///
    /// # Errors
    /// What `load` returned, to everybody who waited for it. Nothing is cached then.
    pub(crate) fn get_or_load<'p>(
        &self,
        pin: &'p Pin,
        ptr: PagePtr,
        load: impl FnOnce() -> Result<Bytes, FileError>,
    ) -> Result<&'p Bytes, FileError> {
        match self.get(pin, ptr) {
            Some(page) => Ok(page),
            None => self.load(pin, ptr, load),
        }
    }

    #[cold]
    fn load<'p>(
        &self,
        pin: &'p Pin,
        ptr: PagePtr,
        load: impl FnOnce() -> Result<Bytes, FileError>,
    ) -> Result<&'p Bytes, FileError> {
        self.misses.fetch_add(1, Relaxed);
        let count_wait = || {
            self.waits.fetch_add(1, Relaxed);
        };
        let bytes = match self.flights.join(ptr, count_wait) {
            Turn::Waited(result) => result?,
            Turn::Load(lead) => {
                // Somebody's load may have ended between the lookup and the join.
                if let Some(frame) = self.table.find(ptr.page, pin).filter(|frame| frame.ptr == ptr) {
                    lead.land(Ok(frame.bytes.clone()));
                    return Ok(&frame.bytes);
                }
                self.loads.fetch_add(1, Relaxed);
                let result = load();
                let cached = result.clone().map(|bytes| self.install(pin, ptr, bytes));
                lead.land(result); // after the page is in the table, so that nobody loads it again
                return cached;
            }
        };
        // Mostly it is there. If it has been evicted already, what the loader brought is as good.
        Ok(match self.table.find(ptr.page, pin).filter(|frame| frame.ptr == ptr) {
            Some(frame) => &frame.bytes,
            None => pin.hold(Box::new(bytes)),
        })
    }

    /// Puts a clean page here that has just been written. An older writing of the page goes; a newer one stays.
    pub(crate) fn insert(&self, ptr: PagePtr, page: Bytes) {
        self.install(&Pin::new(), ptr, page);
    }

    /// Drops whatever is cached under this number, because the page has become free.
    pub(crate) fn remove(&self, page: PageNo) {
        self.remove_extent(Extent::page(page));
    }

    /// Drops what is cached of pages in this extent, because they have become free. Costs what is cached, not what the extent could
    /// hold.
    pub(crate) fn remove_extent(&self, extent: Extent) {
        let mut pin = Pin::new();
        let mut from = extent.start.get();
        while let Some(page) = self.table.first_in(from, extent.end(), &pin).map(|frame| frame.ptr.page) {
            {
                let mut queue = self.queue.lock();
                if let Some(frame) = self.table.find(page, &pin) {
                    self.take(frame, &mut queue, &pin);
                }
            }
            from = page.get() + 1;
            self.collect_if_due(&pin);
            pin.repin();
        }
    }

    /// Notes that a commit has replaced this page: it goes before any other when room is wanted. Older snapshots still
    /// find it until then.
    pub(crate) fn supersede(&self, page: PageNo) {
        let pin = Pin::new();
        if self.table.find(page, &pin).is_some() {
            let mut queue = self.queue.lock();
            if let Some(frame) = self.table.find(page, &pin) {
                queue.supersede(frame, &self.table, &pin);
            }
        }
    }

    /// Evicts until the cache fits what the budget leaves it: to be called when dirty pages have grown.
    pub(crate) fn shrink_to_budget(&self) {
        if self.budget.spent(Charge::Frames) > self.budget.cache_room() {
            let pin = Pin::new();
            self.make_room(0, &mut self.queue.lock(), &pin);
            self.collect_if_due(&pin);
        }
    }

    /// Counts so far. Costs a pass over the counters.
    pub(crate) fn stats(&self) -> CacheStats {
        CacheStats {
            frames: self.queue.lock().frame_count() as u64,
            frame_bytes: self.budget.spent(Charge::Frames),
            node_bytes: self.budget.spent(Charge::Nodes),
            limbo_bytes: self.budget.spent(Charge::Limbo),
            hits: self.hits.sum(),
            misses: self.misses.load(Relaxed),
            loads: self.loads.load(Relaxed),
            loads_waited: self.waits.load(Relaxed),
            evictions: self.evictions.load(Relaxed),
        }
    }

    fn install<'p>(&self, pin: &'p Pin, ptr: PagePtr, bytes: Bytes) -> &'p Bytes {
        let page = self.install_uncollected(pin, ptr, bytes);
        self.collect_if_due(pin);
        page
    }

    fn install_uncollected<'p>(&self, pin: &'p Pin, ptr: PagePtr, bytes: Bytes) -> &'p Bytes {
        let mut queue = self.queue.lock();
        if let Some(resident) = self.table.find(ptr.page, pin) {
            if resident.ptr.stamp == ptr.stamp {
                return &resident.bytes;
            }
            if resident.ptr.stamp > ptr.stamp {
                return pin.hold(Box::new(bytes)); // a load that began before the page was written anew
            }
            self.take(resident, &mut queue, pin);
        }
        let frame = Box::new(Frame::new(ptr, bytes, queue.ticket(), self.budget.clone()));
        self.table.reserve(ptr.page, pin, &self.budget); // first, so that its nodes are part of the sum
        self.make_room(frame.cost(), &mut queue, pin);
        let frame = self.table.put(frame, pin, &self.budget);
        frame.charge();
        queue.admit(frame, &self.budget);
        &frame.bytes
    }

    /// Evicts until `bytes` more fit, or nothing is left.
    fn make_room(&self, bytes: u64, queue: &mut Eviction, pin: &Pin) {
        loop {
            let room = self.budget.cache_room(); // each time: nodes go with their frames
            if self.budget.spent(Charge::Frames) + bytes <= room {
                return;
            }
            let Some(frame) = queue.victim(room, &self.table, pin) else { return };
            self.take(frame, queue, pin);
            self.evictions.fetch_add(1, Relaxed);
        }
    }

    /// Takes a frame out of table, queue and budget. Who is looking at it may go on.
    fn take(&self, frame: &Frame, queue: &mut Eviction, pin: &Pin) {
        let taken = self.table.take(frame.ptr.page, pin, &self.budget);
        assert!(taken.is_some_and(|taken| std::ptr::eq(taken, frame)), "{:?} was not in the table", frame.ptr);
        frame.release();
        queue.forget(frame, &self.table, pin);
        self.uncollected.fetch_add(1, Relaxed);
    }

    /// Gives memory back when enough of it waits. Not under the queue lock: it frees pages.
    fn collect_if_due(&self, pin: &Pin) {
        if self.uncollected.load(Relaxed) >= UNCOLLECTED_MAX {
            self.uncollected.store(0, Relaxed);
            pin.collect();
        }
    }
}

impl Drop for PageCache {
    fn drop(&mut self) {
        // Frame by frame, so that the table is empty when its nodes go: they would free their children one by one,
        // later, on a thread that happens to collect.
        self.remove_extent(Extent::new(1, PageNo::MAX).expect("all page numbers"));
    }
}

impl fmt::Debug for PageCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PageCache").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod slot_tests; // not in `slot`, which the model compiles
#[cfg(test)]
mod tests;
