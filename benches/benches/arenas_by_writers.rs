//! What do writers cost each other when each allocates from an arena of its own and gives back what it freed?
//!
//! The shared map is locked for a reservation and for the commit only. If eight writers allocate fewer pages per second than one, the
//! arenas are too small, or the map needs more than one lock.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use spinney_alloc::{Allocator, Arena, Delta, Extent, ExtentSet, Freed, Geometry, Need, Owner, Seq, Stamp};
use spinney_benches::settings;
use std::{
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

/// Of each writer's commit: what 1000 records of 1 KiB take.
const COMMIT_PAGES: u64 = 340;
/// An arena of a writer that writes so much.
const ARENA_PAGES: u64 = 512;
/// A checkpoint lets freed pages be granted again.
const COMMITS_PER_CHECKPOINT: u64 = 32;

/// The map that writers share, and the seq of the newest commit.
struct Shared {
    alloc: Allocator,
    seq: u64,
}

impl Shared {
    fn new() -> Mutex<Self> {
        let geometry = Geometry::new(4096).expect("a page size");
        Mutex::new(Self { alloc: Allocator::create(geometry, 1 << 18, &[]).expect("a new file"), seq: 0 })
    }

    fn reserve(&mut self) -> Vec<Extent> {
        loop {
            match self.alloc.reserve(ARENA_PAGES) {
                Ok(extents) => return extents.into_iter().collect(),
                Err(Need::Growth { pages }) => self.alloc.grow(self.alloc.file_pages() + pages),
                Err(need) => unreachable!("{need:?}"),
            }
        }
    }

    fn commit(&mut self, writer: u32, allocated: Vec<Extent>, freed: &[Extent], rest: Vec<Extent>) {
        self.seq += 1;
        self.alloc.give_back(rest);
        let freed = freed.iter().map(|&extent| Freed { extent, birth: Stamp(1) }).collect();
        let (seq, death) = (Seq(self.seq), Stamp(self.seq));
        self.alloc.commit(Delta { seq, owner: Owner(writer), death, allocated, freed });
        if self.seq.is_multiple_of(COMMITS_PER_CHECKPOINT) {
            self.alloc.begin_checkpoint(seq);
            self.alloc.save_as(self.seq);
            self.alloc.apply_checkpoint().expect("all in memory");
            self.alloc.finish_checkpoint(&|_: Owner, _: Stamp, _: Stamp| None);
        }
    }
}

/// One commit: takes pages one by one, then frees those of the commit before.
fn commit(shared: &Mutex<Shared>, writer: u32, before: &[Extent]) -> Vec<Extent> {
    let lock = || shared.lock().unwrap_or_else(PoisonError::into_inner);
    let (mut arena, mut taken) = (Arena::new(), ExtentSet::new());
    while taken.pages() < COMMIT_PAGES {
        if arena.is_empty() {
            let extents = lock().reserve();
            arena.add(extents);
        }
        taken.extend(arena.take_page().map(Extent::page));
    }
    let allocated: Vec<Extent> = taken.iter().collect();
    lock().commit(writer, allocated.clone(), before, arena.remainder());
    allocated
}

fn run(writers: u32, commits: u64) -> Duration {
    let shared = Shared::new();
    let begun = Instant::now();
    thread::scope(|scope| {
        for writer in 1..=writers {
            let shared = &shared;
            scope.spawn(move || (0..commits).fold(Vec::new(), |before, _| commit(shared, writer, &before)));
        }
    });
    begun.elapsed()
}

fn arenas_by_writers(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("arenas_by_writers");
    for writers in [1, 2, 4, 8] {
        group.throughput(Throughput::Elements(COMMIT_PAGES * u64::from(writers)));
        group.bench_function(BenchmarkId::from_parameter(writers), |bencher| {
            bencher.iter_custom(|commits| run(writers, commits));
        });
    }
    group.finish();
}

criterion_group! { name = benches; config = settings(); targets = arenas_by_writers }
criterion_main!(benches);
