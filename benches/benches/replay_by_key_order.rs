//! What does it cost to note an insertion for the log, and to repeat it from there?
//!
//! Opening after a crash repeats the log, so replay has to reach a million records per second, and more where keys are
//! neighbours: if random keys fall behind, batches are too small to share leaves. The difference between `insert/pages` and
//! `insert/effects` is what noting costs; if it were more than a few per cent, the choice of rule 3 should be made earlier.

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use rand::Rng;
use spinney_benches::{incompressible, random, settings};
use spinney_btree::{Durability, FamilyTxn, FileOptions, Owner, PagedFile, TableId, Tuning, Wait, page_check, replay};
use std::{
    hint::black_box,
    time::{Duration, Instant},
};

const OWNER: Owner = Owner(1);
const RECORDS: u64 = 100_000;

/// What it is called, its keys by number, and records per commit.
type Shape<'a> = (&'a str, &'a dyn Fn(u64) -> [u8; 8], usize);

/// A family of `entries` entries in memory that notes effects, if asked to.
fn file(entries: u64, value: &[u8], effects: bool) -> PagedFile {
    let options = FileOptions {
        budget_bytes: 1 << 30,
        page_check,
        background: false,
        replay: effects.then_some(replay),
        tuning: Tuning { log_bytes_max: 1 << 30, ..Tuning::default() },
        ..FileOptions::default()
    };
    let file = PagedFile::in_memory(options).expect("default options");
    let mut txn = file.begin(&[OWNER], Wait::Forever).expect("nobody else writes");
    let part = txn.part(OWNER).expect("begun with it");
    let mut family = FamilyTxn::new(part).expect("an empty family");
    let mut tree = family.family(part).into_table(TableId::DEFAULT).expect("the default table");
    tree.bulk_load((0..entries).map(|i| (key(i, entries), value))).expect("sorted");
    family.store(part).expect("memory has room");
    txn.commit(Durability::Immediate).expect("memory does not fail");
    file
}

/// Keys spread over a space that has room between them.
fn key(i: u64, entries: u64) -> [u8; 8] {
    (i * (u64::MAX / entries.max(1))).to_be_bytes()
}

/// The effects of commits of so many records each.
fn effects(file: &PagedFile, keys: impl Iterator<Item = [u8; 8]>, value: &[u8], per_commit: usize) -> Vec<Vec<u8>> {
    let keys: Vec<_> = keys.collect();
    let mut commits = Vec::new();
    for keys in keys.chunks(per_commit) {
        let mut txn = file.begin(&[OWNER], Wait::Forever).expect("nobody else writes");
        let part = txn.part(OWNER).expect("begun with it");
        let mut family = FamilyTxn::new(part).expect("a family");
        let mut tree = family.family(part).into_table(TableId::DEFAULT).expect("the default table");
        for key in keys {
            tree.insert(key, value).expect("memory has room");
        }
        family.store(part).expect("memory has room");
        commits.push(part.effects_mut().expect("not too many").clone());
    }
    commits
}

fn replay_by_key_order(criterion: &mut Criterion) {
    let value = incompressible(1, 100);
    let entries = 200_000;
    let mut group = criterion.benchmark_group("replay");
    group.throughput(Throughput::Elements(RECORDS));
    group.sample_size(20);
    let file = file(entries, &value, true);
    let scattered = |i: u64| i.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes();
    let shapes: [Shape<'_>; 4] = [
        ("new scattered keys, 1 per commit", &scattered, 1),
        ("new scattered keys, 100 per commit", &scattered, 100),
        ("new neighbours, 100 per commit", &|i| (u64::MAX / 2 + i).to_be_bytes(), 100),
        ("old scattered keys, 100 per commit", &|i| key(i * 7919 % entries, entries), 100),
    ];
    for (name, keys, per_commit) in shapes {
        let commits = effects(&file, (0..RECORDS).map(keys), &value, per_commit);
        let commits: Vec<&[u8]> = commits.iter().map(Vec::as_slice).collect();
        group.bench_function(name, |bencher| {
            bencher.iter_batched(
                || file.begin(&[OWNER], Wait::Forever).expect("nobody else writes"),
                |mut txn| {
                    replay(txn.part(OWNER).expect("begun with it"), &commits).expect("effects that fit");
                    txn
                },
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}

fn note(criterion: &mut Criterion) {
    let value = incompressible(1, 150);
    let entries = 100_000;
    let mut group = criterion.benchmark_group("insert");
    for (name, notes) in [("pages", false), ("effects", true)] {
        let file = file(entries, &value, notes);
        let mut txn = file.begin(&[OWNER], Wait::Forever).expect("nobody else writes");
        let part = txn.part(OWNER).expect("begun with it");
        let mut family = FamilyTxn::new(part).expect("a family");
        let mut rng = random(3);
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                if let Some(effects) = part.effects_mut().filter(|effects| effects.len() > 16 << 10) {
                    effects.clear();
                }
                let key = key(rng.random_range(0..entries), entries);
                let mut family = family.family(part);
                let mut tree = family.table(TableId::DEFAULT).expect("the default table");
                black_box(tree.insert(&key, &value).expect("memory has room"))
            });
        });
    }
    let file = file(entries, &value, true);
    let mut txn = file.begin(&[OWNER], Wait::Forever).expect("nobody else writes");
    let part = txn.part(OWNER).expect("begun with it");
    let mut family = FamilyTxn::new(part).expect("a family");
    let mut rng = random(4);
    for effects in [1, 100] {
        group.bench_function(format!("store after {effects}"), |bencher| {
            bencher.iter_custom(|rounds| {
                let mut spent = Duration::ZERO;
                for _ in 0..rounds {
                    part.effects_mut().expect("not too many").clear();
                    let mut tree = family.family(part).into_table(TableId::DEFAULT).expect("the default table");
                    for _ in 0..effects {
                        let key = key(rng.random_range(0..entries), entries);
                        tree.insert(&key, &value).expect("memory has room");
                    }
                    let start = Instant::now();
                    family.store(part).expect("memory has room");
                    spent += start.elapsed();
                }
                spent
            });
        });
    }
    group.finish();
}

criterion_group! { name = benches; config = settings(); targets = replay_by_key_order, note }
criterion_main!(benches);
