//! Interleavings of readers of the page cache with each other, with evictions and with new writings of a page, with the weak memory of the
//! language, by loom. The sources of `slot` and `flight` are compiled with loom's atomics and locks; what joins them is
//! written here once more, as `cache.rs` has it, over a table of two pages and a queue without second chances. Each mistake must be found.
//!
//! Epochs are modelled as what `crossbeam-epoch` promises: what is destroyed goes when every guard has gone that was there by
//! then, and whoever pins after that sees what happened before.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    dead_code,
    unreachable_pub,
    reason = "test code, which uses a part of the modules"
)]

use bytes::Bytes;
use flight::{Flights, Turn};
use loom::thread;
use models::{assert_noticed, check, is_made, preemptions};
use slot::{Pin, Slot};
use spinney_alloc::{PageNo, Stamp};
use spinney_file::{FileError, PagePtr};
use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};
use sync::Mutex;

#[path = "../src/cache/flight.rs"]
mod flight;
mod models;
#[path = "../src/cache/slot.rs"]
mod slot;

/// The names of `src/sync.rs`, by loom.
mod sync {
    use super::{Mistake, is_made};
    use std::ops::{Deref, DerefMut};

    #[derive(Debug, Default)]
    pub(crate) struct Mutex<T>(loom::sync::Mutex<T>);

    /// Of loom's guard, which a condition variable takes by value.
    pub(crate) struct MutexGuard<'a, T>(Option<loom::sync::MutexGuard<'a, T>>);

    impl<T> Mutex<T> {
        pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
            MutexGuard(Some(self.0.lock().unwrap()))
        }
    }

    impl<T> Deref for MutexGuard<'_, T> {
        type Target = T;

        fn deref(&self) -> &T {
            self.0.as_ref().unwrap()
        }
    }

    impl<T> DerefMut for MutexGuard<'_, T> {
        fn deref_mut(&mut self) -> &mut T {
            self.0.as_mut().unwrap()
        }
    }

    #[derive(Debug, Default)]
    pub(crate) struct Condvar(loom::sync::Condvar);

    impl Condvar {
        pub(crate) fn wait_while<T>(&self, guard: &mut MutexGuard<'_, T>, mut waits: impl FnMut(&mut T) -> bool) {
            while waits(guard) {
                guard.0 = Some(self.0.wait(guard.0.take().unwrap()).unwrap());
            }
        }

        pub(crate) fn notify_all(&self) {
            if !is_made(Mistake::LandsInSilence) {
                self.0.notify_all();
            }
        }
    }

    /// As much of `crossbeam-epoch` as `slot` uses. Values stay in memory, so that whoever looks too late is told so.
    pub(crate) mod epoch {
        use super::{Mistake, is_made};
        use loom::sync::atomic::AtomicUsize;
        use std::{
            collections::BTreeSet,
            marker::PhantomData,
            sync::{
                Arc, Mutex, PoisonError,
                atomic::{AtomicBool, Ordering},
            },
        };

        /// What became of a value.
        #[derive(Debug)]
        struct Life {
            /// Stored before a pointer is, with no order of its own: whoever follows the pointer must see it.
            made: loom::sync::atomic::AtomicBool,
            retired: AtomicBool,
            destroyed: AtomicBool,
        }

        #[derive(Default)]
        struct Registry {
            guards_made: u64,
            live: BTreeSet<u64>,
            /// Waits until no guard is left of those that were there.
            garbage: Vec<(BTreeSet<u64>, Arc<Life>)>,
        }

        loom::lazy_static! {
            static ref REGISTRY: loom::sync::Mutex<Registry> = loom::sync::Mutex::new(Registry::default());
        }

        /// Everything that was taken out of slots is destroyed when no guard is left.
        pub(crate) fn assert_clean() {
            let registry = REGISTRY.lock().unwrap();
            assert!(registry.live.is_empty() && registry.garbage.is_empty(), "{} values stay", registry.garbage.len());
        }

        pub(crate) fn pin() -> Guard {
            let mut registry = REGISTRY.lock().unwrap();
            registry.guards_made += 1;
            let number = registry.guards_made;
            registry.live.insert(number);
            Guard { number, seen: Mutex::new(Vec::new()) }
        }

        pub(crate) struct Guard {
            /// 0 for one that protects nothing.
            number: u64,
            seen: Mutex<Vec<Arc<Life>>>,
        }

        static UNPROTECTED: Guard = Guard { number: 0, seen: Mutex::new(Vec::new()) };

        pub(crate) unsafe fn unprotected() -> &'static Guard {
            &UNPROTECTED
        }

        impl Guard {
            pub(crate) fn repin(&mut self) {
                *self = pin();
            }

            /// Garbage goes by itself here, as early as it may.
            pub(crate) fn flush(&self) {}

            pub(crate) unsafe fn defer_destroy<T: 'static>(&self, old: Shared<'_, T>) {
                let life = &old.node.expect("not null").life;
                assert!(!life.retired.swap(true, Ordering::Relaxed), "a value is taken out twice");
                let mut registry = REGISTRY.lock().unwrap();
                let holders = registry.live.clone();
                if holders.is_empty() || is_made(Mistake::DestroysAtOnce) {
                    life.destroyed.store(true, Ordering::Relaxed);
                } else {
                    registry.garbage.push((holders, Arc::clone(life)));
                }
            }
        }

        impl Drop for Guard {
            fn drop(&mut self) {
                if self.number == 0 {
                    return;
                }
                for life in self.seen.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
                    assert!(!life.destroyed.load(Ordering::Relaxed), "a value is destroyed under a reader");
                }
                let mut registry = REGISTRY.lock().unwrap();
                registry.live.remove(&self.number);
                for (holders, life) in &mut registry.garbage {
                    holders.remove(&self.number);
                    if holders.is_empty() {
                        life.destroyed.store(true, Ordering::Relaxed);
                    }
                }
                registry.garbage.retain(|(holders, _)| !holders.is_empty());
            }
        }

        #[derive(Debug)]
        struct Node<T> {
            value: T,
            life: Arc<Life>,
        }

        pub(crate) struct Owned<T>(Node<T>);

        impl<T> From<Box<T>> for Owned<T> {
            fn from(value: Box<T>) -> Self {
                let made = loom::sync::atomic::AtomicBool::new(false);
                let life = Life { made, retired: AtomicBool::new(false), destroyed: AtomicBool::new(false) };
                Self(Node { value: *value, life: Arc::new(life) })
            }
        }

        impl<T: 'static> Owned<T> {
            pub(crate) fn into_shared(self, _guard: &Guard) -> Shared<'_, T> {
                self.0.life.made.store(true, Ordering::Relaxed);
                // A few hundred bytes for each interleaving, for the life of the test.
                Shared { node: Some(Box::leak(Box::new(self.0))), guard: PhantomData }
            }
        }

        pub(crate) struct Shared<'g, T: 'static> {
            node: Option<&'static Node<T>>,
            guard: PhantomData<&'g Guard>,
        }

        impl<T: 'static> Clone for Shared<'_, T> {
            fn clone(&self) -> Self {
                *self
            }
        }

        impl<T: 'static> Copy for Shared<'_, T> {}

        impl<'g, T: 'static> Shared<'g, T> {
            pub(crate) fn null() -> Self {
                Self { node: None, guard: PhantomData }
            }

            pub(crate) fn is_null(&self) -> bool {
                self.node.is_none()
            }

            pub(crate) unsafe fn as_ref(&self) -> Option<&'g T> {
                self.node.map(|node| {
                    assert!(!node.life.destroyed.load(Ordering::Relaxed), "a pointer is followed too late");
                    assert!(node.life.made.load(Ordering::Relaxed), "a pointer is seen, and what it points to is not");
                    &node.value
                })
            }
        }

        /// Everything that was ever put there, no step of the model, and a number that says what is there now. 0 is nothing.
        pub(crate) struct Atomic<T: 'static> {
            all: Mutex<Vec<&'static Node<T>>>,
            now: AtomicUsize,
        }

        impl<T: 'static> Atomic<T> {
            pub(crate) fn null() -> Self {
                Self { all: Mutex::default(), now: AtomicUsize::new(0) }
            }

            fn shared<'g>(&self, number: usize, guard: &'g Guard) -> Shared<'g, T> {
                let node = number.checked_sub(1).map(|index| self.all.lock().unwrap()[index]);
                if guard.number != 0 {
                    guard.seen.lock().unwrap().extend(node.map(|node| Arc::clone(&node.life)));
                }
                Shared { node, guard: PhantomData }
            }

            pub(crate) fn load<'g>(&self, ordering: Ordering, guard: &'g Guard) -> Shared<'g, T> {
                let ordering = if is_made(Mistake::RelaxedPointers) { Ordering::Relaxed } else { ordering };
                self.shared(self.now.load(ordering), guard)
            }

            pub(crate) fn swap<'g>(&self, new: Shared<'_, T>, ordering: Ordering, guard: &'g Guard) -> Shared<'g, T> {
                let number = new.node.map_or(0, |node| {
                    let mut all = self.all.lock().unwrap();
                    all.push(node);
                    all.len()
                });
                let old = if is_made(Mistake::SwapsInTwoSteps) {
                    let old = self.now.load(Ordering::Acquire);
                    self.now.store(number, Ordering::Release);
                    old
                } else {
                    self.now.swap(number, ordering)
                };
                self.shared(old, guard)
            }
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mistake {
    /// A value that is taken out of a slot goes although a guard is there.
    DestroysAtOnce,
    /// Who takes a value out of a slot reads it first and replaces it then.
    SwapsInTwoSteps,
    /// A pointer is loaded without what it points to.
    RelaxedPointers,
    /// A load that has ended wakes nobody.
    LandsInSilence,
    /// A load ends before its page is in the table.
    LandsFirst,
    /// Whoever is to load does not look once more whether somebody's load has just ended.
    LooksOnce,
    /// A frame is found by its page alone.
    FramesByNumber,
    /// An older writing takes the place of a newer one.
    OlderOverNewer,
    /// The table changes while somebody else changes it.
    ChangesUnlocked,
    /// A full cache takes one more.
    NeverEvicts,
    /// What a reader waited for is lost to him when it has been evicted since.
    WaitsInVain,
}

const PAGES: usize = 2;

struct Frame {
    ptr: PagePtr,
    bytes: Bytes,
}

/// `PageCache`, with as many frames as there is room for. What is `cache.rs`'s is in its order and has its names.
struct Cache {
    table: [Slot<Frame>; PAGES],
    /// The pages that have a frame, the oldest first.
    queue: Mutex<VecDeque<usize>>,
    flights: Flights,
    room: usize,
    loads: AtomicUsize,
    loading: AtomicUsize,
}

fn ptr(page: usize, stamp: u64) -> PagePtr {
    PagePtr { page: PageNo::new(page as u64 + 1).unwrap(), stamp: Stamp(stamp) }
}

fn slot_of(ptr: PagePtr) -> usize {
    ptr.page.get() as usize - 1
}

/// What the file has in that writing of a page.
fn content(ptr: PagePtr) -> Bytes {
    Bytes::copy_from_slice(&[ptr.page.get() as u8, ptr.stamp.0 as u8])
}

impl Cache {
    fn new(room: usize) -> Self {
        let (loads, loading) = Default::default();
        let table = [Slot::empty(), Slot::empty()];
        Self { table, queue: Mutex::default(), flights: Flights::default(), room, loads, loading }
    }

    fn find<'p>(&self, ptr: PagePtr, pin: &'p Pin) -> Option<&'p Frame> {
        self.table[slot_of(ptr)].get(pin)
    }

    fn get<'p>(&self, pin: &'p Pin, ptr: PagePtr) -> Option<&'p Bytes> {
        let frame = self.find(ptr, pin)?;
        if frame.ptr.stamp != ptr.stamp && !is_made(Mistake::FramesByNumber) {
            return None;
        }
        Some(&frame.bytes)
    }

    fn get_or_load<'p>(&self, pin: &'p Pin, ptr: PagePtr, gives_up: bool) -> Result<&'p Bytes, FileError> {
        match self.get(pin, ptr) {
            Some(page) => Ok(page),
            None => self.load(pin, ptr, gives_up),
        }
    }

    fn load<'p>(&self, pin: &'p Pin, ptr: PagePtr, gives_up: bool) -> Result<&'p Bytes, FileError> {
        let bytes = match self.flights.join(ptr, || ()) {
            Turn::Waited(result) => result?,
            Turn::Load(lead) => {
                if gives_up {
                    return Err(FileError::Poisoned); // as if it had panicked: nobody is told
                }
                if !is_made(Mistake::LooksOnce)
                    && let Some(frame) = self.find(ptr, pin).filter(|frame| frame.ptr == ptr)
                {
                    lead.land(Ok(frame.bytes.clone()));
                    return Ok(&frame.bytes);
                }
                let bytes = self.read(ptr);
                if is_made(Mistake::LandsFirst) {
                    lead.land(Ok(bytes.clone()));
                    return Ok(self.install(pin, ptr, bytes));
                }
                let cached = self.install(pin, ptr, bytes.clone());
                lead.land(Ok(bytes));
                return Ok(cached);
            }
        };
        Ok(match self.find(ptr, pin).filter(|frame| frame.ptr == ptr) {
            Some(frame) => &frame.bytes,
            None if is_made(Mistake::WaitsInVain) => return Err(FileError::Poisoned),
            None => pin.hold(Box::new(bytes)),
        })
    }

    /// From the file; one at a time of each page.
    fn read(&self, ptr: PagePtr) -> Bytes {
        let flag = 1 << (8 * slot_of(ptr) + ptr.stamp.0 as usize);
        assert_eq!(self.loading.fetch_or(flag, Relaxed) & flag, 0, "two load {ptr:?} at a time");
        self.loads.fetch_add(1, Relaxed);
        thread::yield_now();
        self.loading.fetch_and(!flag, Relaxed);
        content(ptr)
    }

    fn install<'p>(&self, pin: &'p Pin, ptr: PagePtr, bytes: Bytes) -> &'p Bytes {
        let mut queue = self.queue.lock();
        if let Some(resident) = self.find(ptr, pin) {
            if resident.ptr.stamp == ptr.stamp {
                return &resident.bytes;
            }
            if resident.ptr.stamp > ptr.stamp && !is_made(Mistake::OlderOverNewer) {
                return pin.hold(Box::new(bytes));
            }
            self.take(resident, &mut queue, pin);
        }
        while queue.len() >= self.room && !is_made(Mistake::NeverEvicts) {
            let victim = self.table[queue[0]].get(pin).expect("what is queued is in the table");
            self.take(victim, &mut queue, pin);
        }
        if is_made(Mistake::ChangesUnlocked) {
            drop(queue);
            queue = self.queue.lock();
        }
        let old = self.table[slot_of(ptr)].replace(Some(Box::new(Frame { ptr, bytes })), pin);
        assert!(old.is_none(), "the caller takes an older frame out first");
        queue.push_back(slot_of(ptr));
        &self.find(ptr, pin).expect("frames change under the queue lock only").bytes
    }

    fn insert(&self, ptr: PagePtr) {
        self.install(&Pin::new(), ptr, content(ptr));
    }

    fn remove(&self, page: usize) {
        let pin = Pin::new();
        if self.table[page].get(&pin).is_some() {
            let mut queue = self.queue.lock();
            if let Some(frame) = self.table[page].get(&pin) {
                self.take(frame, &mut queue, &pin);
            }
        }
    }

    fn take(&self, frame: &Frame, queue: &mut VecDeque<usize>, pin: &Pin) {
        let taken = self.table[slot_of(frame.ptr)].replace(None, pin);
        assert!(taken.is_some_and(|taken| std::ptr::eq(taken, frame)), "{:?} was not in the table", frame.ptr);
        queue.retain(|&page| page != slot_of(frame.ptr));
    }

    /// What a reader does: a page that is what its pointer says, for as long as he has his pin.
    fn reads(&self, ptr: PagePtr) {
        let pin = Pin::new();
        let page = self.get_or_load(&pin, ptr, false).expect("it can be read");
        thread::yield_now();
        assert_eq!(*page, content(ptr), "another page, or another writing of it");
    }

    /// Nobody is left: what is in the table is in the queue, and fits.
    fn ends(self) {
        let pin = Pin::new();
        let queued = self.queue.lock().len();
        assert_eq!(queued, self.table.iter().filter(|slot| slot.get(&pin).is_some()).count());
        assert!(queued <= self.room, "{queued} frames, and room for {}", self.room);
        drop(pin);
        drop(self);
        sync::epoch::assert_clean();
    }
}

/// Threads over one cache; the last one is this one.
fn together<const N: usize>(cache: Cache, others: [fn(&Cache); N], this: fn(&Cache)) -> Cache {
    let cache = Arc::new(cache);
    let threads: Vec<_> = others
        .into_iter()
        .map(|other| {
            let cache = Arc::clone(&cache);
            thread::spawn(move || other(&cache))
        })
        .collect();
    this(&cache);
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    Arc::into_inner(cache).expect("all threads ended")
}

#[test]
fn a_page_that_three_want_is_loaded_once() {
    check(preemptions(3), || {
        let read: fn(&Cache) = |cache| cache.reads(ptr(0, 1));
        let cache = together(Cache::new(2), [read, read], read);
        assert_eq!(cache.loads.load(Relaxed), 1, "it was loaded again");
        cache.ends();
    });
}

#[test]
fn who_gives_up_leaves_the_load_to_others() {
    check(preemptions(3), || {
        let give_up: fn(&Cache) = |cache| {
            let (pin, ptr) = (Pin::new(), ptr(0, 1));
            match cache.get_or_load(&pin, ptr, true) {
                Ok(page) => assert_eq!(*page, content(ptr)),
                Err(error) => assert!(matches!(error, FileError::Poisoned)),
            }
        };
        let read: fn(&Cache) = |cache| cache.reads(ptr(0, 1));
        let cache = together(Cache::new(2), [give_up, read], read);
        assert_eq!(cache.loads.load(Relaxed), 1);
        cache.ends();
    });
}

/// Room for one: each page that comes takes another from under its readers.
#[test]
fn what_is_pinned_outlives_its_eviction() {
    check(preemptions(3), || {
        let read: fn(&Cache) = |cache| cache.reads(ptr(0, 1));
        together(Cache::new(1), [read, read], |cache| cache.reads(ptr(1, 1))).ends();
    });
}

/// A page is freed and written anew while two still read its old writing, one of them from the file.
#[test]
fn a_pointer_finds_its_own_writing() {
    check(preemptions(3), || {
        let read: fn(&Cache) = |cache| cache.reads(ptr(0, 1));
        let write: fn(&Cache) = |cache| {
            cache.remove(0);
            cache.insert(ptr(0, 2));
            let pin = Pin::new();
            let page = cache.get(&pin, ptr(0, 2)).expect("an older writing does not take its place");
            assert_eq!(*page, content(ptr(0, 2)));
        };
        let cache = Cache::new(2);
        cache.insert(ptr(0, 1));
        together(cache, [read, read], write).ends();
    });
}

/// Two threads take a value out of a slot. In the cache one lock keeps them apart; a slot does not need it.
#[test]
fn a_slot_gives_each_value_back_once() {
    check(None, || {
        let slot = Arc::new(Slot::empty());
        slot.replace(Some(Box::new(1)), &Pin::new());
        let other = Arc::clone(&slot);
        let thread = thread::spawn(move || {
            let pin = Pin::new();
            let (seen, taken) = (other.get(&pin).copied(), other.replace(Some(Box::new(2)), &pin).copied());
            assert!(seen.is_none_or(|seen| seen == 1) && taken.is_none_or(|taken| taken == 1));
            taken
        });
        let pin = Pin::new();
        assert!(slot.get(&pin).is_none_or(|&seen| seen == 1 || seen == 2));
        let taken = slot.replace(None, &pin).copied();
        drop(pin);
        let taken = [taken, thread.join().unwrap()];
        assert!(taken == [Some(1), None] || taken == [Some(2), Some(1)], "{taken:?}");
        drop(Arc::into_inner(slot));
        sync::epoch::assert_clean();
    });
}

#[test]
fn the_model_finds_every_mistake() {
    for (mistake, test) in [
        (Mistake::DestroysAtOnce, "what_is_pinned_outlives_its_eviction"),
        (Mistake::SwapsInTwoSteps, "a_slot_gives_each_value_back_once"),
        (Mistake::RelaxedPointers, "a_slot_gives_each_value_back_once"),
        (Mistake::LandsInSilence, "a_page_that_three_want_is_loaded_once"),
        (Mistake::LandsFirst, "a_page_that_three_want_is_loaded_once"),
        (Mistake::LooksOnce, "a_page_that_three_want_is_loaded_once"),
        (Mistake::FramesByNumber, "a_pointer_finds_its_own_writing"),
        (Mistake::OlderOverNewer, "a_pointer_finds_its_own_writing"),
        (Mistake::ChangesUnlocked, "what_is_pinned_outlives_its_eviction"),
        (Mistake::NeverEvicts, "what_is_pinned_outlives_its_eviction"),
        (Mistake::WaitsInVain, "what_is_pinned_outlives_its_eviction"),
    ] {
        assert_noticed(mistake, test);
    }
}
