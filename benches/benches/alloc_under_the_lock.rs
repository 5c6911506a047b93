//! How long is the allocator's lock held for one commit? If it is more than some tens of microseconds for an
//! image of 340 pages, the map needs shards, or fragments another structure.

use criterion::{Criterion, criterion_group, criterion_main};
use spinney_alloc::{Allocator, Arena, Delta, Extent, ExtentSet, Freed, Geometry, Need, Owner, Seq, Stamp};
use std::hint::black_box;

const COMMIT_PAGES: u64 = 340;

/// A file of 1 GiB of which every `nth` page is free (all of it from page 16384 on when 0).
fn file(nth: u64) -> Allocator {
    let geometry = Geometry::new(4096).expect("a page size");
    let pages = 1 << 18;
    let mut alloc = Allocator::create(geometry, pages, &[]).expect("a new file");
    let mut used = ExtentSet::new();
    let wanted = if nth == 0 { 16384 } else { alloc.stats().free };
    while used.pages() < wanted {
        used.extend(alloc.reserve((wanted - used.pages()).min(16384)).expect("free pages"));
    }
    if nth > 0 {
        let holes =
            used.iter().flat_map(|run| (run.start.get()..run.end()).step_by(usize::try_from(nth).expect("small")));
        let holes: Vec<Extent> = holes.filter_map(|page| Extent::new(page, 1)).collect();
        alloc.give_back(holes);
    }
    alloc
}

/// Reserves and commits as many pages as an image has, and frees as many, one by one.
fn commit(alloc: &mut Allocator, seq: u64, freed: &[Extent]) -> Vec<Extent> {
    let mut arena = Arena::new();
    let mut appetite = 64;
    let mut taken = ExtentSet::new();
    while taken.pages() < COMMIT_PAGES {
        if arena.is_empty() {
            match alloc.reserve(appetite) {
                Ok(extents) => arena.add(extents),
                Err(Need::Growth { pages }) => alloc.grow(alloc.file_pages() + pages),
                Err(need) => unreachable!("{need:?}"),
            }
            appetite = (appetite * 2).min(1024);
        }
        taken.extend(arena.take_page().map(Extent::page));
    }
    alloc.give_back(arena.remainder());
    let freed = freed.iter().flat_map(|run| (run.start.get()..run.end()).filter_map(|page| Extent::new(page, 1)));
    let freed = freed.map(|extent| Freed { extent, birth: Stamp(1) }).collect();
    let allocated: Vec<Extent> = taken.iter().collect();
    alloc.commit(Delta { seq: Seq(seq), owner: Owner(1), death: Stamp(seq), allocated: allocated.clone(), freed });
    allocated
}

fn checkpoint(alloc: &mut Allocator, seq: u64) {
    alloc.begin_checkpoint(Seq(seq));
    alloc.save_as(seq);
    alloc.apply_checkpoint().expect("all in memory");
    let mut page = vec![0; 4096];
    for region in alloc.changed_regions() {
        alloc.encode_region(region, &mut page);
    }
    for directory in alloc.changed_directories() {
        alloc.encode_directory(directory, &mut page);
    }
    black_box(alloc.finish_checkpoint(&|_: Owner, _: Stamp, _: Stamp| None));
}

fn bench(c: &mut Criterion) {
    for (name, nth) in [("one long run", 0), ("every third page free", 3), ("every sixth page free", 6)] {
        let mut alloc = file(nth);
        let mut seq = 0;
        let mut freed = Vec::new();
        c.bench_function(&format!("commit of 340 pages, {name}"), |b| {
            b.iter(|| {
                seq += 1;
                freed = commit(&mut alloc, seq, &freed);
                if seq % 32 == 0 {
                    checkpoint(&mut alloc, seq);
                }
            });
        });
    }
}

criterion_group!(benches, bench);
criterion_main!(benches);
