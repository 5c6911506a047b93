//! What do ordered iteration, sorted loads and removals cost, by the number of entries?
//!
//! Per entry, iteration and loading should not depend on the tree's size; removal should grow like a search, and the
//! removal of a range not with what is in it.

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use rand::Rng;
use spinney::{Database, Family, Options};
use spinney_benches::{incompressible, random, settings};
use std::hint::black_box;

/// Of a range that is walked.
const WALKED: usize = 1000;

fn filled(entries: u64, value: &[u8]) -> (Database, Family) {
    let db = Options::new().memory_budget(1 << 30).in_memory().expect("default options");
    let family = db.family("bench").expect("memory has room");
    load(&family, entries, value);
    (db, family)
}

fn load(family: &Family, entries: u64, value: &[u8]) {
    let mut txn = family.begin().expect("nobody else writes");
    txn.bulk_load((0..entries).map(|key| (key.to_be_bytes(), value))).expect("sorted");
    txn.commit().expect("memory does not fail");
}

fn range_load_and_remove_by_tree_size(criterion: &mut Criterion) {
    let value = incompressible(1, 150);
    for entries in [10_000_u64, 1_000_000] {
        let (db, family) = filled(entries, &value);
        let snap = db.snapshot();
        let mut rng = random(2);

        let mut group = criterion.benchmark_group("range");
        group.throughput(Throughput::Elements(WALKED as u64));
        for name in ["forward", "backward"] {
            group.bench_function(BenchmarkId::new(name, entries), |bencher| {
                bencher.iter(|| {
                    let from = rng.random_range(WALKED as u64..entries - WALKED as u64).to_be_bytes();
                    let bytes = |entry: spinney::Result<(spinney::Value, spinney::Value)>| {
                        entry.map_or(0, |(key, value)| key.len() + value.len())
                    };
                    let walked: usize = if name == "forward" {
                        snap.range(&family, from..).take(WALKED).map(bytes).sum()
                    } else {
                        snap.range(&family, ..from).rev().take(WALKED).map(bytes).sum()
                    };
                    black_box(walked)
                });
            });
        }
        group.finish();

        let mut group = criterion.benchmark_group("bulk_load");
        group.sample_size(10).throughput(Throughput::Elements(entries));
        group.bench_function(BenchmarkId::from_parameter(entries), |bencher| {
            bencher.iter_batched(
                || filled(0, &value),
                |(db, family)| {
                    load(&family, entries, &value);
                    (db, family)
                },
                BatchSize::PerIteration,
            );
        });
        group.finish();

        let mut group = criterion.benchmark_group("remove");
        // Put back at once, so that there is always something to remove.
        let mut txn = family.begin().expect("nobody else writes");
        group.bench_function(BenchmarkId::new("one, and put back", entries), |bencher| {
            bencher.iter(|| {
                let key = rng.random_range(0..entries).to_be_bytes();
                txn.remove(key).expect("memory has room");
                txn.insert(key, &value).expect("memory has room")
            });
        });
        drop(txn);
        group.bench_function(BenchmarkId::new("a third as a range", entries), |bencher| {
            bencher.iter_batched(
                || family.begin().expect("the one before was dropped"),
                |mut txn| {
                    let range = (entries / 3).to_be_bytes()..(entries / 3 * 2).to_be_bytes();
                    black_box(txn.remove_range(range).expect("memory has room"));
                    txn
                },
                BatchSize::PerIteration,
            );
        });
        group.finish();
    }
}

criterion_group! { name = benches; config = settings(); targets = range_load_and_remove_by_tree_size }
criterion_main!(benches);
