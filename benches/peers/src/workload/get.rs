//! Random records, with a cache for all of them and with one for a tenth.

use crate::{
    bench::{Bench, Work},
    data::{KEY_BYTES, VALUE_BYTES, key, number},
    engine::{Scan, Setup, Store},
    measured::Measured,
    workload::bulk,
};
use anyhow::ensure;
use rand::{Rng, SeedableRng, rngs::SmallRng};
use spinney_bench_harness::race;

/// Of all threads.
const GETS: u64 = 1_000_000;
/// Before anything is timed.
const GETS_BEFORE: u64 = 200_000;

pub(super) fn run(bench: &Bench) -> anyhow::Result<Measured> {
    let threads = bench.case.threads;
    let whole = bulk::setup(bench);
    let budget_bytes = if bench.case.variant == "tenth" { bulk::raw_bytes(bench) / 10 } else { whole.budget_bytes };
    let setup = Setup { budget_bytes, readers: threads, ..whole };
    let store = bench.open(&setup)?;
    if bench.case.variant == "warm" {
        warm(&*store)?;
    }
    // Each thread for itself, as caches and connections may be a thread's.
    let before = bench.scaled(GETS_BEFORE / u64::from(threads));
    race(threads, |thread| get(bench, &*store, u64::from(thread) + 100, before))?;
    let gets = bench.scaled_of_thread(GETS);
    bench.measure(&setup, store, |store| {
        race(threads, |thread| get(bench, store, u64::from(thread), gets))?;
        Ok(Work::new(gets * u64::from(threads), 0))
    })
}

/// Reads everything once.
pub(super) fn warm(store: &dyn Store) -> anyhow::Result<()> {
    store.read(0, &mut |view| view.scan(Scan::default(), &mut |_, _| ()).map(drop))
}

fn get(bench: &Bench, store: &dyn Store, seed: u64, gets: u64) -> anyhow::Result<()> {
    let mut random = SmallRng::seed_from_u64(seed);
    let records = bulk::records(bench);
    store.read(0, &mut |view| {
        for _ in 0..gets {
            let key = key(number(0, random.random_range(0..records)));
            let mut bytes = 0;
            view.get(&key, &mut |value| bytes = value.len())?;
            ensure!(bytes == VALUE_BYTES, "a value of {bytes} bytes, key of {KEY_BYTES}: {key:x?}");
        }
        Ok(())
    })
}
