//! What does a search of one node cost, by what its keys and values are?
//!
//! Trees of one leaf, and of one branch above small leaves. Fixed widths save the table of offsets, a shared prefix is
//! compared once, and heads decide without looking at a key: if one of the kinds is much slower than the others, its search deserves work.

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use rand::{Rng, RngCore};
use spinney::{Family, Options};
use spinney_benches::{incompressible, random, settings};
use std::hint::black_box;

/// Keys of a kind, sorted.
fn keys(kind: &str, count: usize) -> Vec<Vec<u8>> {
    let mut rng = random(3);
    let mut keys: Vec<Vec<u8>> = (0..count as u64)
        .map(|number| match kind {
            "u64 in order" => number.to_be_bytes().to_vec(),
            "24 B random" => {
                let mut key = vec![0; 24];
                rng.fill_bytes(&mut key);
                key
            }
            "shared prefix" => format!("customers/europe/orders/{:08}", number * 7919).into_bytes(),
            "equal heads" => [&[7; 16][..], &rng.next_u64().to_be_bytes()].concat(),
            _ => {
                let mut key = vec![0; rng.random_range(4..40)];
                rng.fill_bytes(&mut key);
                key
            }
        })
        .collect();
    keys.sort_unstable();
    keys.dedup();
    keys
}

fn filled(keys: &[Vec<u8>], value: &[u8]) -> Family {
    let db = Options::new().memory_budget(64 << 20).in_memory().expect("default options");
    let family = db.family("bench").expect("memory has room");
    let mut txn = family.begin().expect("nobody else writes");
    txn.bulk_load(keys.iter().map(|key| (key, value))).expect("sorted");
    txn.commit().expect("memory does not fail");
    family
}

fn node_search_by_kind(criterion: &mut Criterion) {
    let value = incompressible(1, 8);
    for (level, count) in [("leaf", 64), ("branch and leaf", 4000)] {
        let mut group = criterion.benchmark_group(format!("node_search_by_kind/{level}"));
        for kind in ["u64 in order", "24 B random", "shared prefix", "equal heads", "any length"] {
            let keys = keys(kind, count);
            let family = filled(&keys, &value);
            let snap = family.database().snapshot();
            let mut rng = random(2);
            group.bench_function(BenchmarkId::from_parameter(kind), |bencher| {
                bencher.iter(|| {
                    let key = &keys[rng.random_range(0..keys.len())];
                    black_box(snap.get_with(&family, key, <[u8]>::len).expect("memory does not fail"))
                });
            });
        }
        group.finish();
    }
}

criterion_group! { name = benches; config = settings(); targets = node_search_by_kind }
criterion_main!(benches);
