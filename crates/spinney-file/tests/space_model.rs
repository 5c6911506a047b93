//! Interleavings of writers that reserve and refill arenas, give pages back and are promised some, with each other and with a checkpoint, by
//! loom. The sources of `space` and `promises` are compiled, with loom's lock around the map, and the allocator is the real one; what a writer
//! and a checkpoint do with them is written here once more, as `part.rs`, `commit.rs` and `checkpoint.rs` have it. Each mistake
//! must be found.
//!
//! The counter of promises is no step of the model: all who use it enter the map's lock next, and there threads change.

#![allow(clippy::unwrap_used, dead_code, unreachable_pub, reason = "test code, which uses a part of the modules")]

use disk::Disk;
use loom::thread;
use models::{assert_noticed, check, is_made, preemptions};
use promises::Promises;
use space::{Room, Space};
use spinney_alloc::{Allocator, Arena, Delta, Extent, Freed, Geometry, Owner, PageNo, Seq, Stamp, Which};
use spinney_file::FileError;
use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex as Plain},
};
use sync::Mutex;

mod models;
#[path = "../src/promises.rs"]
mod promises;
#[path = "../src/space.rs"]
mod space;

/// The names of `src/sync.rs`, by loom.
mod sync {
    #[derive(Debug, Default)]
    pub(crate) struct Mutex<T>(loom::sync::Mutex<T>);

    impl<T> Mutex<T> {
        pub(crate) fn new(value: T) -> Self {
            Self(loom::sync::Mutex::new(value))
        }

        pub(crate) fn lock(&self) -> loom::sync::MutexGuard<'_, T> {
            self.0.lock().unwrap()
        }
    }
}

// As much of the modules that `space` is made of as it asks for.

mod commit {
    pub(crate) struct Weight {
        pub(crate) bytes: usize,
        pub(crate) keys: usize,
        pub(crate) promised_pages: u64,
    }
}

mod error {
    pub(crate) use spinney_file::{FileError, IoOp};
}

mod owners {
    pub(crate) const NO_OWNER: spinney_alloc::Owner = spinney_alloc::Owner(u32::MAX);
}

mod page {
    pub(crate) use spinney_file::PagePtr;
}

mod disk {
    use super::{FileError, Plain};
    use spinney_alloc::{Owner, PageNo};
    use spinney_file::PagePtr;

    /// Grows, and does nothing else.
    pub(crate) struct Disk {
        pub(crate) page_bytes: usize,
        pub(crate) storage: Room,
        pub(crate) bytes: Plain<u64>,
    }

    pub(crate) struct Room;

    impl Room {
        pub(crate) fn room(&self) -> Option<u64> {
            None
        }
    }

    impl Disk {
        pub(crate) fn offset(&self, page: PageNo) -> u64 {
            page.get() * self.page_bytes as u64
        }

        pub(crate) fn read_page(&self, _: PagePtr, _: Option<Owner>) -> Result<Vec<u8>, FileError> {
            panic!("the whole map is in memory")
        }

        pub(crate) fn allocate(&self, at: u64, bytes: u64) -> Result<(), FileError> {
            let mut end = self.bytes.lock().unwrap();
            assert_eq!(at, *end, "two grow the file at a time");
            *end += bytes;
            Ok(())
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mistake {
    /// What a commit freed is granted when the commit is appended.
    FreesAtOnce,
    /// What a snapshot can reach is granted with the next checkpoint.
    ForgetsSnapshots,
    /// A checkpoint frees before its superblock is durable.
    FinishesEarly,
    /// A checkpoint takes what commits did, and learns only then which is its last.
    CutsLate,
    /// A page is given back with the rest of the arena it was taken from.
    GivesBackTaken,
    /// Refilling gives the rest of the arena back and keeps it.
    RefillsTwice,
    /// Whoever promises looks whether there are as many pages, and adds then.
    LooksFirst,
    /// What is promised is granted to others.
    GrantsPromised,
}

const FILE_PAGES: u64 = 64;
const WRITERS: usize = 2;

/// Who has what, as an onlooker sees it: no step of the model, and changed under the map's lock only.
#[derive(Default)]
struct Ledger {
    /// Granted to somebody, and not free again yet.
    granted: BTreeSet<u64>,
    /// What the newest durable superblock reaches, and what the coming one will.
    durable: BTreeSet<u64>,
    coming: BTreeSet<u64>,
    /// What a snapshot that is held reaches.
    held: BTreeSet<u64>,
}

impl Ledger {
    fn grant(&mut self, extents: &[Extent]) {
        for page in extents.iter().flat_map(|extent| extent.start.get()..extent.end()) {
            assert!(!self.durable.contains(&page), "page {page} is in the newest checkpoint");
            assert!(!self.coming.contains(&page), "page {page} is in the coming checkpoint");
            assert!(!self.held.contains(&page), "page {page} is in a snapshot");
            assert!(self.granted.insert(page), "page {page} is granted twice");
        }
    }

    fn free(&mut self, extents: &[Extent]) {
        for page in extents.iter().flat_map(|extent| extent.start.get()..extent.end()) {
            assert!(self.granted.remove(&page), "page {page} is freed twice");
        }
    }
}

/// Commits that no checkpoint has taken, and the tips of the owners: under the append lock.
#[derive(Default)]
struct Append {
    seq: u64,
    deltas: Vec<Delta>,
    tips: [u64; WRITERS],
}

struct File {
    space: Space,
    disk: Disk,
    promises: Arc<Promises>,
    append: Mutex<Append>,
    ledger: Plain<Ledger>,
}

impl File {
    /// With so many free pages beside those that are kept for removing, and a page of each writer in a finished checkpoint.
    fn new(free: u64, max_pages: u64) -> Self {
        let mut map = Allocator::create(Geometry::new(4096).unwrap(), FILE_PAGES, &[]).unwrap();
        let kept = FILE_PAGES / 4;
        let tips: Vec<Extent> = (0..WRITERS).map(|_| map.reserve_run(1).unwrap()).collect();
        let rest = map.stats().free - free - kept;
        map.reserve_run(rest).unwrap();
        let mut append = Append { seq: 1, ..Append::default() };
        let mut ledger = Ledger::default();
        for (owner, &tip) in tips.iter().enumerate() {
            map.commit(delta(1, owner, tip, None));
            append.tips[owner] = tip.start.get();
        }
        map.begin_checkpoint(Seq(1));
        map.save_as(1);
        save(&mut map);
        assert_eq!(map.finish_checkpoint(&|_: Owner, _: Stamp, _: Stamp| None), []);
        ledger.granted.extend(append.tips);
        ledger.durable.extend(append.tips);
        let promises = Arc::new(Promises::new(false));
        Self {
            space: Space::new(map, max_pages, Arc::clone(&promises)),
            disk: Disk { page_bytes: 4096, storage: disk::Room, bytes: Plain::new(FILE_PAGES * 4096) },
            promises,
            append: Mutex::new(append),
            ledger: Plain::new(ledger),
        }
    }

    fn ledger(&self) -> std::sync::MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap()
    }

    /// Pages for a transaction, as many as there are up to so many.
    fn reserve(&self, pages: u64, room: Room) -> Result<Vec<Extent>, FileError> {
        let room = if is_made(Mistake::GrantsPromised) { Room::Merges } else { room };
        self.space.reserve(&self.disk, pages, room, |map, pages| {
            let extents = map.reserve(pages)?;
            self.ledger().grant(&extents);
            Ok(extents)
        })
    }

    fn give_back(&self, extents: Vec<Extent>) {
        self.space.map(|map| {
            self.ledger().free(&extents);
            map.give_back(extents);
        });
    }

    /// A transaction that copies its owner's page; its arena runs out once.
    fn write(&self, owner: usize) {
        let mut arena = Arena::new();
        let first = self.reserve(1, Room::Adds).expect("there is one");
        arena.add(first.clone());
        let page = arena.take_page().unwrap();
        if let Ok(more) = self.reserve(2, Room::Adds) {
            arena.add(more);
        }
        if is_made(Mistake::RefillsTwice) {
            let again: Vec<Extent> = (0..arena.len()).filter_map(|_| arena.take_page()).map(Extent::page).collect();
            self.give_back(again.clone());
            arena.add(again);
        }
        let other = arena.take_page();
        let old = {
            let mut append = self.append.lock();
            append.seq += 1;
            let old = std::mem::replace(&mut append.tips[owner], page.get());
            let delta = delta(append.seq, owner, Extent::page(page), Some(old));
            append.deltas.push(delta);
            Extent::new(old, 1).unwrap()
        };
        let mut left = arena.remainder();
        left.extend(other.map(Extent::page)); // taken, and not needed after all
        if is_made(Mistake::GivesBackTaken) {
            left.push(Extent::page(page));
        }
        if is_made(Mistake::FreesAtOnce) {
            left.push(old);
        }
        if !left.is_empty() {
            self.give_back(left);
        }
    }

    fn checkpoint(&self, number: u64, protects: impl Fn(u64) -> bool) {
        let cut_at = |append: &Append| {
            self.ledger().coming = append.tips.into();
            append.seq
        };
        let (mut cut, deltas) = {
            let mut append = self.append.lock();
            (cut_at(&append), std::mem::take(&mut append.deltas))
        };
        if is_made(Mistake::CutsLate) {
            cut = cut_at(&self.append.lock());
        }
        self.space.map(|map| deltas.into_iter().for_each(|delta| map.commit(delta)));
        self.space.map(|map| {
            map.begin_checkpoint(Seq(cut));
            map.save_as(number);
        });
        self.space.map(|map| {
            save(map);
            let in_use = map.used_runs(0, Which::Durable).expect("the whole map is in memory");
            let in_use: BTreeSet<u64> = in_use.iter().flat_map(|run| run.start.get()..run.end()).collect();
            assert!(self.ledger().coming.is_subset(&in_use), "the checkpoint reaches pages that are free in its map");
        });
        let superblock = || {
            let mut ledger = self.ledger();
            ledger.durable = std::mem::take(&mut ledger.coming);
        };
        if !is_made(Mistake::FinishesEarly) {
            superblock();
        }
        self.space.map(|map| {
            // The snapshot of stamp 1, if there is one, covers the first owner.
            let holder = |owner: Owner, birth: Stamp, death: Stamp| {
                let reaches = birth.0 <= 1 && 1 < death.0 && protects(u64::from(owner.0));
                reaches.then_some(7)
            };
            let free = if is_made(Mistake::ForgetsSnapshots) {
                map.finish_checkpoint(&|_: Owner, _: Stamp, _: Stamp| None)
            } else {
                map.finish_checkpoint(&holder)
            };
            self.ledger().free(&free);
        });
        if is_made(Mistake::FinishesEarly) {
            thread::yield_now();
            superblock();
        }
    }
}

fn delta(seq: u64, owner: usize, allocated: Extent, freed: Option<u64>) -> Delta {
    let freed = freed.map(|page| Freed { extent: Extent::page(PageNo::new(page).unwrap()), birth: Stamp(1) });
    let owner = Owner(u32::try_from(owner).unwrap());
    Delta { seq: Seq(seq), owner, death: Stamp(seq), allocated: vec![allocated], freed: freed.into_iter().collect() }
}

/// What a checkpoint does between its beginning and its superblock.
fn save(map: &mut Allocator) {
    map.apply_checkpoint().expect("the whole map is in memory");
    let mut page = vec![0; 4096];
    for region in map.changed_regions() {
        map.encode_region(region, &mut page);
    }
    for directory in map.changed_directories() {
        map.encode_directory(directory, &mut page);
    }
}

/// Two writers and a checkpoint; a snapshot holds what the first owner had before, or there is none.
fn writers_and_a_checkpoint(is_held: bool) {
    let file = Arc::new(File::new(6, FILE_PAGES));
    if is_held {
        let first = file.append.lock().tips[0];
        file.ledger().held.insert(first);
    }
    let threads: Vec<_> = (0..WRITERS)
        .map(|owner| {
            let file = Arc::clone(&file);
            thread::spawn(move || {
                file.write(owner);
            })
        })
        .collect();
    let protects = move |owner| is_held && owner == 0;
    file.checkpoint(2, protects);
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    file.checkpoint(3, protects);
    // Everything that is free can be had.
    let stats = file.space.map(|map| map.stats());
    assert_eq!(stats.pinned, u64::from(is_held));
    for _ in 0..stats.free {
        file.reserve(1, Room::Merges).expect("it is free");
    }
}

#[test]
fn two_writers_and_a_checkpoint() {
    check(preemptions(4), || writers_and_a_checkpoint(false));
}

#[test]
fn two_writers_a_checkpoint_and_a_snapshot() {
    check(preemptions(4), || writers_and_a_checkpoint(true));
}

/// A file that has to grow for both.
#[test]
fn two_writers_grow_the_file() {
    check(preemptions(4), || {
        let file = Arc::new(File::new(0, 256));
        let other = Arc::clone(&file);
        let thread = thread::spawn(move || drop(other.reserve(8, Room::Adds).expect("it grows")));
        file.reserve(8, Room::Adds).expect("it grows");
        thread.join().unwrap();
        let pages = file.space.map(|map| map.file_pages());
        assert_eq!(pages * 4096, *file.disk.bytes.lock().unwrap());
    });
}

/// What is promised to a commit of no keys and so many bytes.
const PAGES: u64 = 4;
const BYTES: usize = 1024;

/// Room for one of two: a small commit that is promised what its merge takes, or a transaction that takes it at once.
#[test]
fn what_is_promised_is_there() {
    check(preemptions(4), || {
        let file = Arc::new(File::new(PAGES, FILE_PAGES));
        let other = Arc::clone(&file);
        let thread = thread::spawn(move || drop(other.reserve(PAGES, Room::Adds)));
        let another = Arc::clone(&file);
        let second = thread::spawn(move || another.promise());
        let promised = u64::from(file.promise()) + u64::from(second.join().unwrap());
        thread.join().unwrap();
        assert!(file.promises.pages() == PAGES * promised && promised <= 1, "{promised} have been promised all of it");
        let free = file.space.map(|map| map.stats().free) - FILE_PAGES / 4;
        assert!(PAGES * promised <= free, "{promised} times {PAGES} pages are promised, {free} are there");
    });
}

impl File {
    fn promise(&self) -> bool {
        let promised = self.space.promise(&self.disk, 0, BYTES, Room::Adds);
        assert!(promised.is_none_or(|pages| pages == PAGES));
        if promised.is_some() && is_made(Mistake::LooksFirst) {
            self.promises.end(PAGES);
            thread::yield_now();
            self.promises.add(PAGES);
        }
        promised.is_some()
    }
}

#[test]
fn the_model_finds_every_mistake() {
    for (mistake, test) in [
        (Mistake::FreesAtOnce, "two_writers_and_a_checkpoint"),
        (Mistake::ForgetsSnapshots, "two_writers_a_checkpoint_and_a_snapshot"),
        (Mistake::FinishesEarly, "two_writers_and_a_checkpoint"),
        (Mistake::CutsLate, "two_writers_and_a_checkpoint"),
        (Mistake::GivesBackTaken, "two_writers_and_a_checkpoint"),
        (Mistake::RefillsTwice, "two_writers_and_a_checkpoint"),
        (Mistake::LooksFirst, "what_is_promised_is_there"),
        (Mistake::GrantsPromised, "what_is_promised_is_there"),
    ] {
        assert_noticed(mistake, test);
    }
}
