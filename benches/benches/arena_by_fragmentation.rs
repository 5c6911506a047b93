//! What does an arena cost when free space is in pieces?
//!
//! A transaction reserves its arena under the lock that all writers share, so this time is the one that
//! they can cost each other. While it stays at a few microseconds in a file whose free space is scattered, a search
//! of the map's bits is good enough; beyond that an index of free runs would pay.

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use spinney_alloc::{Allocator, Extent, Geometry};
use spinney_benches::settings;
use std::hint::black_box;

/// 1 GiB of pages of 4 KiB.
const FILE_PAGES: u64 = 1 << 18;

/// An arena of 256 KiB: the first that a transaction asks for.
const ARENA_PAGES: u64 = 64;

/// A file in which one page after every `free_run` free ones is in use.
fn scattered(free_run: u64) -> Allocator {
    let geometry = Geometry::new(4096).expect("a page size");
    let in_use: Vec<Extent> = (1..)
        .map(|count| count * (free_run + 1))
        .take_while(|page| *page < FILE_PAGES)
        .filter_map(|page| Extent::new(page, 1))
        .filter(|extent| !geometry.fixed(geometry.region_of(extent.start)).contains(&extent.start.get()))
        .collect();
    Allocator::create(geometry, FILE_PAGES, &in_use).expect("a file of these pages")
}

fn arena_by_fragmentation(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("arena_by_fragmentation");
    for free_run in [1, 4, 16, 64, FILE_PAGES] {
        let mut alloc = scattered(free_run);
        group.bench_function(BenchmarkId::from_parameter(free_run), |bencher| {
            bencher.iter(|| {
                let arena = alloc.reserve(ARENA_PAGES).expect("plenty is free");
                alloc.give_back(black_box(arena));
            });
        });
    }
    group.finish();
}

criterion_group! { name = benches; config = settings(); targets = arena_by_fragmentation }
criterion_main!(benches);
