//! What does a page cost when it is cached, when it is not and there is room, and when another one has to go for it?
//!
//! A hit is part of every search, several times: beyond some tens of nanoseconds the cache's page table is to blame. A miss is
//! a system call and a checksum; an eviction that costs as much again would say that choosing who goes is too slow.

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use rand::seq::SliceRandom;
use spinney_benches::{random, settings};
use spinney_file::{Durability, FileOptions, Owner, PagePtr, PagedFile, Pages, Wait};
use std::{hint::black_box, path::Path};

const OWNER: Owner = Owner(1);
const PAGES: usize = 4096;
/// Of a batch.
const READS: usize = 1024;

fn options(budget_pages: u64) -> FileOptions {
    FileOptions { budget_bytes: budget_pages * 4096, background: false, ..FileOptions::default() }
}

/// A file of so many pages, and where they are, in random order.
fn fill(path: &Path) -> Vec<PagePtr> {
    let file = PagedFile::open_path(path, options(1 << 16)).expect("a new file");
    let mut txn = file.begin(&[OWNER], Wait::Forever).expect("nobody else writes");
    let part = txn.part(OWNER).expect("begun with it");
    let mut pages: Vec<_> = (0..PAGES).map(|_| part.allocate().expect("the disk has room")).collect();
    let mut root = [0; 64];
    root[..16].copy_from_slice(&pages[0].encode());
    part.set_root(root);
    txn.commit(Durability::Immediate).expect("the disk works");
    file.close().expect("the disk works");
    pages.shuffle(&mut random(1));
    pages
}

fn read(file: &PagedFile, pages: &[PagePtr]) {
    let pin = file.pin();
    for &page in pages {
        black_box(file.page(&pin, OWNER, page).expect("committed")[100]);
    }
}

fn page_by_cache_state(criterion: &mut Criterion) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("pages.spinney");
    let pages = fill(&path);
    let open = |budget_pages| PagedFile::open_path(&path, options(budget_pages)).expect("closed above");
    let mut group = criterion.benchmark_group("page_by_cache_state");
    group.throughput(Throughput::Elements(READS as u64));
    let file = open(1 << 16);
    read(&file, &pages);
    group.bench_function("hit", |bencher| bencher.iter(|| read(&file, &pages[..READS])));
    drop(file);
    group.bench_function("miss", |bencher| {
        bencher.iter_batched_ref(|| open(1 << 16), |file| read(file, &pages[..READS]), BatchSize::PerIteration);
    });
    // A sixteenth fits, and each page is the one that was seen the longest time ago.
    let file = open(PAGES as u64 / 16);
    let mut next = pages.chunks(READS).cycle();
    group.bench_function("miss that evicts", |bencher| {
        bencher.iter(|| read(&file, next.next().expect("a cycle has no end")));
    });
    group.finish();
}

criterion_group! { name = benches; config = settings(); targets = page_by_cache_state }
criterion_main!(benches);
