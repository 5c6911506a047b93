//! What does a commit cost beside the disk, by the number of those who commit at one time?
//!
//! In memory, so that what is left is the log's queue, its leader and the wake-ups. The rate of all should not fall as they become more; if it
//! does, waking whom a group has served is the first to look at.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use spinney::{Durability, Family, Options};
use spinney_benches::{incompressible, settings};
use std::{
    thread,
    time::{Duration, Instant},
};

fn run(families: &[Family], commits: u64, value: &[u8], durability: Durability) -> Duration {
    let begun = Instant::now();
    thread::scope(|scope| {
        for family in families {
            scope.spawn(move || {
                for commit in 0..commits {
                    let mut txn = family.begin().expect("each has its own");
                    txn.insert((commit % 1000).to_be_bytes(), value).expect("memory has room");
                    txn.commit_with(durability).expect("memory does not fail");
                }
            });
        }
    });
    begun.elapsed()
}

fn log_append_by_committers(criterion: &mut Criterion) {
    let value = incompressible(1, 150);
    for (name, durability) in [("immediate", Durability::Immediate), ("eventual", Durability::Eventual)] {
        let mut group = criterion.benchmark_group(format!("log_append_by_committers/{name}"));
        for committers in [1_u32, 2, 4, 8, 16, 32, 64] {
            let db = Options::new().memory_budget(1 << 30).in_memory().expect("default options");
            let families: Vec<_> =
                (0..committers).map(|number| db.family(&number.to_string()).expect("memory has room")).collect();
            group.throughput(Throughput::Elements(u64::from(committers)));
            group.bench_function(BenchmarkId::from_parameter(committers), |bencher| {
                bencher.iter_custom(|commits| run(&families, commits, &value, durability));
            });
        }
        group.finish();
    }
}

criterion_group! { name = benches; config = settings(); targets = log_append_by_committers }
criterion_main!(benches);
