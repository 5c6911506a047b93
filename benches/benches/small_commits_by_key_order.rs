//! What does it cost to keep a small commit in memory, as a commit does and as opening does after a crash, and to merge many into pages?
//!
//! Opening after a crash repeats the log, so adding has to reach a million records per second. Merging is the price of small commits that
//! is paid later: if scattered keys cost more there than in a transaction of their own, more of them should be gathered first.

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use rand::Rng;
use spinney_benches::{incompressible, random, settings};
use spinney_btree::{
    Above, Durability, FamilyTxn, FileOptions, Owner, PagedFile, SMALL_COMMITS, Stamp, TableId, Told, Tuning, Wait,
    page_check,
};
use std::hint::black_box;

const OWNER: Owner = Owner(1);
const RECORDS: u64 = 100_000;

/// What it is called, its keys by number, and records per commit.
type Shape<'a> = (&'a str, &'a dyn Fn(u64) -> [u8; 8], usize);

/// A family of `entries` entries in memory, with small commits if asked to.
fn file(entries: u64, value: &[u8], effects: bool) -> PagedFile {
    let options = FileOptions {
        budget_bytes: 1 << 30,
        page_check,
        background: false,
        small_commits: effects.then_some(SMALL_COMMITS),
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
        assert!(!part.is_in_pages(), "small commits");
        commits.push(part.effects().to_vec());
    }
    commits
}

fn small_commits_by_key_order(criterion: &mut Criterion) {
    let value = incompressible(1, 100);
    let entries = 200_000;
    let mut group = criterion.benchmark_group("small commits");
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
        group.bench_function(format!("add, {name}"), |bencher| bencher.iter(|| black_box(add(&commits))));
        let above = (SMALL_COMMITS.freeze)(&add(&commits));
        group.bench_function(format!("merge, {name}"), |bencher| {
            bencher.iter_batched(
                || file.begin(&[OWNER], Wait::Forever).expect("nobody else writes"),
                |mut txn| {
                    let part = txn.part(OWNER).expect("begun with it");
                    part.enter_pages().expect("nothing is above them");
                    (SMALL_COMMITS.merge)(part, &above).expect("effects that fit");
                    txn
                },
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}

/// What is above a root after these commits.
fn add(commits: &[Vec<u8>]) -> Above {
    let one = |before: Option<Above>, (stamp, effects): (u64, &Vec<u8>)| {
        Some((SMALL_COMMITS.add)(before.as_ref(), Stamp(stamp), Told::Lent(effects)).expect("effects that fit"))
    };
    (1..).zip(commits).fold(None, one).expect("some commits")
}

fn insert(criterion: &mut Criterion) {
    let value = incompressible(1, 150);
    let entries = 100_000;
    let mut group = criterion.benchmark_group("insert");
    for (name, is_small) in [("pages", false), ("small", true)] {
        let file = file(entries, &value, is_small);
        let mut rng = random(3);
        group.bench_function(name, |bencher| {
            bencher.iter_batched(
                || file.begin(&[OWNER], Wait::Forever).expect("nobody else writes"),
                |mut txn| {
                    let part = txn.part(OWNER).expect("begun with it");
                    let mut family = FamilyTxn::new(part).expect("a family");
                    let mut tree = family.family(part).into_table(TableId::DEFAULT).expect("the default table");
                    for _ in 0..100 {
                        let key = key(rng.random_range(0..entries), entries);
                        black_box(tree.insert(&key, &value).expect("memory has room"));
                    }
                    family.store(part).expect("memory has room");
                    txn
                },
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}

criterion_group! { name = benches; config = settings(); targets = small_commits_by_key_order, insert }
criterion_main!(benches);
