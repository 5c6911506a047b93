//! What do a search and an insertion cost, by the number of entries?
//!
//! The search should grow by one node's search per level; if it grows faster, the cache's page table or the node format is the
//! limit.

use criterion::{Criterion, criterion_group, criterion_main};
use rand::Rng;
use spinney::Options;
use spinney_benches::{incompressible, random, settings};
use std::hint::black_box;

fn get_and_insert_by_tree_size(criterion: &mut Criterion) {
    let value = incompressible(1, 150);
    for entries in [1_000_u64, 100_000, 1_000_000] {
        let db = Options::new().memory_budget(1 << 30).in_memory().expect("default options");
        let family = db.family("bench").expect("memory has room");
        let mut txn = family.begin().expect("nobody else writes");
        txn.bulk_load((0..entries).map(|key| (key.to_be_bytes(), &value))).expect("sorted");
        txn.commit().expect("memory does not fail");
        let snap = db.snapshot();
        let mut rng = random(2);
        criterion.bench_function(&format!("get/{entries}"), |bencher| {
            bencher.iter(|| {
                let key = rng.random_range(0..entries).to_be_bytes();
                black_box(snap.get_with(&family, key, <[u8]>::len).expect("memory does not fail"))
            });
        });
        let mut txn = family.begin().expect("nobody else writes");
        criterion.bench_function(&format!("insert/{entries}"), |bencher| {
            bencher.iter(|| {
                let key = rng.random_range(0..entries).to_be_bytes();
                txn.insert(key, &value).expect("memory has room")
            });
        });
    }
}

criterion_group! { name = benches; config = settings(); targets = get_and_insert_by_tree_size }
criterion_main!(benches);
