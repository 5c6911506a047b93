//! Which snapshots live, and which pages they still need.
//!
//! Registering takes no lock: a reader claims a slot, *then* loads the newest visible version, then stores
//! what it loaded (rule 11). While a slot is claimed and not yet filled it protects everything.
//!
//! **Ordering.** Reader: claim slot, fence, load version. Collector: a commit became visible (version stored), fence, read slots.
//! Both fences are sequentially consistent, so either the collector sees the claimed slot, or the reader's load
//! sees that version or a newer one, in which case the pages that commit freed are not reachable from it.

use crate::{
    sync::{ArcSwapOption, AtomicBool, AtomicU64, Mutex, Ordering, READERS_PER_CHUNK as CHUNK, fence, thread_local},
    version::Version,
};
use spinney_alloc::{Owner, Seq, Stamp};
use std::{
    cell::Cell,
    fmt,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

/// Holder of what an unfinished registration might need: asked again at the next occasion.
pub(crate) const REGISTERING: u64 = u64::MAX;

/// What one snapshot protects.
#[derive(Debug)]
pub(crate) struct Registration {
    pub(crate) id: u64,
    pub(crate) version: Arc<Version>,
    /// `None`: every owner. Sorted.
    covers: Option<Box<[Owner]>>,
    since: Instant,
    /// Freed pages hang on this snapshot; its end must be told to the allocator.
    hung: AtomicBool,
}

#[derive(Default)]
struct Slot {
    taken: AtomicBool,
    held: ArcSwapOption<Registration>,
}

struct Chunk {
    slots: [Slot; CHUNK],
    next: OnceLock<Box<Chunk>>,
}

impl Chunk {
    fn new() -> Self {
        Self { slots: std::array::from_fn(|_| Slot::default()), next: OnceLock::new() }
    }
}

/// All live snapshots.
pub(crate) struct Readers {
    first: Chunk,
    next_id: AtomicU64,
    /// Snapshots that ended while pages hung on them.
    ended: Mutex<Vec<u64>>,
    any_ended: AtomicBool,
}

/// A snapshot's place among the readers; leaving it ends the protection.
pub(crate) struct Place {
    chunk: usize,
    slot: usize,
    pub(crate) held: Arc<Registration>,
}

/// A live snapshot, as statistics show it.
#[derive(Clone, Debug)]
pub struct SnapshotInfo {
    /// Identifies the snapshot while the file is open.
    pub id: u64,
    /// The commit it shows.
    pub seq: Seq,
    /// For how long it has been held.
    pub age: Duration,
    /// The owners it covers; `None` for all.
    pub covers: Option<Vec<Owner>>,
}

impl Readers {
    pub(crate) fn new() -> Self {
        Self {
            first: Chunk::new(),
            next_id: AtomicU64::new(1),
            ended: Mutex::default(),
            any_ended: AtomicBool::new(false),
        }
    }

    fn chunks(&self) -> impl Iterator<Item = &Chunk> {
        std::iter::successors(Some(&self.first), |c| c.next.get().map(|b| &**b))
    }

    /// Registers the version that `load` gives, covering `covers` (`None`: all). No lock, no wait.
    pub(crate) fn register(&self, covers: Option<Box<[Owner]>>, load: impl FnOnce() -> Arc<Version>) -> Place {
        let (chunk, slot, cell) = self.claim();
        // Partner: the fence in `for_each`. See the module's header.
        fence(Ordering::SeqCst);
        let version = load();
        let held = Arc::new(Registration {
            id: self.next_id.fetch_add(1, Ordering::Relaxed),
            version,
            covers,
            since: Instant::now(),
            hung: AtomicBool::new(false),
        });
        cell.held.store(Some(Arc::clone(&held)));
        Place { chunk, slot, held }
    }

    fn claim(&self) -> (usize, usize, &Slot) {
        // A thread starts where it found a slot last time, so threads rarely meet.
        thread_local! {
            #[allow(clippy::missing_const_for_thread_local, reason = "loom's has no `const`")]
            static HINT: Cell<usize> = Cell::new(0);
        }
        let hint = HINT.with(Cell::get);
        let mut chunk = &self.first;
        for number in 0.. {
            for i in 0..CHUNK {
                let at = (hint + i) % CHUNK;
                let slot = &chunk.slots[at];
                if !slot.taken.load(Ordering::Relaxed)
                    && slot.taken.compare_exchange(false, true, Ordering::SeqCst, Ordering::Relaxed).is_ok()
                {
                    HINT.with(|hint| hint.set(at));
                    return (number, at, slot);
                }
            }
            chunk = chunk.next.get_or_init(|| Box::new(Chunk::new()));
        }
        unreachable!("there is always another chunk")
    }

    /// Ends a registration. `true` when pages hang on it, so that somebody should collect them soon.
    pub(crate) fn leave(&self, place: &Place) -> bool {
        let chunk = self.chunks().nth(place.chunk).expect("chunks are never removed");
        let slot = &chunk.slots[place.slot];
        slot.held.store(None);
        // Partner: the fence in `hang`: either the collector finds the slot empty, or we find the mark.
        fence(Ordering::SeqCst);
        let hung = place.held.hung.load(Ordering::Relaxed);
        slot.taken.store(false, Ordering::Release);
        if hung {
            self.ended.lock().push(place.held.id);
            self.any_ended.store(true, Ordering::Release);
        }
        hung
    }

    /// Snapshots that ended with pages hanging on them, each told once.
    pub(crate) fn take_ended(&self) -> Vec<u64> {
        if !self.any_ended.swap(false, Ordering::Acquire) {
            return Vec::new();
        }
        std::mem::take(&mut *self.ended.lock())
    }

    /// The newest live snapshot that can reach a page of `owner` that lived in `[birth, death)` (rule 10), marked so that its end is told;
    /// `root_of` gives an owner's root stamp in a version.
    pub(crate) fn holder(
        &self,
        owner: Owner,
        birth: Stamp,
        death: Stamp,
        root_of: impl Fn(&Version, Owner) -> Stamp,
    ) -> Option<u64> {
        loop {
            let mut newest: Option<(Stamp, Arc<Registration>, &Slot)> = None;
            // Partner: the fence in `register`.
            fence(Ordering::SeqCst);
            for chunk in self.chunks() {
                for slot in chunk.slots.iter().filter(|s| s.taken.load(Ordering::Acquire)) {
                    let Some(held) = slot.held.load_full() else {
                        // Between claiming and storing, or between emptying and leaving.
                        return Some(REGISTERING);
                    };
                    if held.covers.as_ref().is_some_and(|c| c.binary_search(&owner).is_err()) {
                        continue;
                    }
                    let root = root_of(&held.version, owner);
                    if birth <= root && root < death && newest.as_ref().is_none_or(|(r, ..)| *r < root) {
                        newest = Some((root, held, slot));
                    }
                }
            }
            let (_, held, slot) = newest?;
            held.hung.store(true, Ordering::SeqCst);
            fence(Ordering::SeqCst);
            if slot.held.load().as_ref().is_some_and(|now| Arc::ptr_eq(now, &held)) {
                return Some(held.id);
            }
        }
    }

    /// Every live snapshot.
    pub(crate) fn infos(&self) -> Vec<SnapshotInfo> {
        let mut infos = Vec::new();
        for chunk in self.chunks() {
            for held in chunk.slots.iter().filter_map(|s| s.held.load_full()) {
                infos.push(SnapshotInfo {
                    id: held.id,
                    seq: held.version.seq,
                    age: held.since.elapsed(),
                    covers: held.covers.as_ref().map(|c| c.to_vec()),
                });
            }
        }
        infos
    }
}

impl Registration {
    pub(crate) fn covers(&self, owner: Owner) -> bool {
        self.covers.as_ref().is_none_or(|c| c.binary_search(&owner).is_ok())
    }
}

impl fmt::Debug for Readers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.infos()).finish()
    }
}
