//! Reads and writes, a few records of many.

use crate::{
    bench::{Bench, Work},
    data::{KEY_BYTES, VALUE_BYTES, key, number, skewed, value},
    engine::{Durability, Setup, Store},
    measured::Measured,
    workload::single,
};
use anyhow::ensure;
use rand::{SeedableRng, rngs::SmallRng};
use spinney_bench_harness::race;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Of each family.
const RECORDS: u64 = 200_000;
/// Of each thread.
const ROUNDS: u64 = 50_000;
/// Of a round: so many reads of a view, and as many records of a commit.
const RECORDS_AT_A_TIME: u64 = 10;
/// Of all readers beside a writer.
const GETS: u64 = 400_000;

pub(super) fn run(bench: &Bench) -> anyhow::Result<Measured> {
    let threads = bench.case.threads;
    let (setup, records, rounds) = (setup(bench, threads), bench.scaled(RECORDS), bench.scaled(ROUNDS));
    let store = bench.open(&setup)?;
    single::fill(bench, &*store, threads, records)?;
    let mut measured = bench.measure(&setup, store, |store| {
        race(threads, |thread| {
            let mut random = SmallRng::seed_from_u64(u64::from(thread));
            for round in 0..rounds {
                get(store, thread, &mut random, records)?;
                put(bench, store, thread, round, &mut random, records)?;
            }
            Ok(())
        })?;
        let commits = rounds * u64::from(threads);
        Ok(Work::new(2 * RECORDS_AT_A_TIME * commits, commits))
    })?;
    finish(bench, &setup, &mut measured, records)?;
    Ok(measured)
}

/// Readers of the family that a writer writes, which goes on until they are done.
pub(super) fn beside_a_writer(bench: &Bench) -> anyhow::Result<Measured> {
    let readers = bench.case.threads;
    let (setup, records) = (setup(bench, readers), bench.scaled(RECORDS));
    let views = bench.scaled_of_thread(GETS) / RECORDS_AT_A_TIME;
    let store = bench.open(&setup)?;
    single::fill(bench, &*store, 1, records)?;
    let (reading, commits) = (AtomicU32::new(readers), AtomicU64::new(0));
    let mut measured = bench.measure(&setup, store, |store| {
        let (elapsed, _) = race(readers + 1, |thread| {
            let mut random = SmallRng::seed_from_u64(u64::from(thread));
            if thread == readers {
                // Relaxed, both: nothing else is told by them.
                while reading.load(Ordering::Relaxed) > 0 {
                    let commit = commits.fetch_add(1, Ordering::Relaxed);
                    put(bench, store, 0, commit, &mut random, records)?;
                }
                return Ok(());
            }
            let result = (0..views).try_for_each(|_| get(store, 0, &mut random, records));
            reading.fetch_sub(1, Ordering::Relaxed);
            result
        })?;
        let commits = commits.load(Ordering::Relaxed);
        let mut work = Work::new(views * RECORDS_AT_A_TIME * u64::from(readers), commits);
        let written = commits * RECORDS_AT_A_TIME;
        work.more.insert("records written per second".to_owned(), written as f64 / elapsed.as_secs_f64());
        Ok(work)
    })?;
    finish(bench, &setup, &mut measured, records)?;
    Ok(measured)
}

fn setup(bench: &Bench, readers: u32) -> Setup {
    Setup { durability: Durability::Eventual, readers, ..bench.setup() }
}

fn get(store: &dyn Store, family: u32, random: &mut SmallRng, records: u64) -> anyhow::Result<()> {
    store.read(family, &mut |view| {
        for _ in 0..RECORDS_AT_A_TIME {
            let key = key(number(family, skewed(random, records)));
            let mut bytes = 0;
            view.get(&key, &mut |value| bytes = value.len())?;
            ensure!(bytes == VALUE_BYTES, "a value of {bytes} bytes");
        }
        Ok(())
    })
}

fn put(
    bench: &Bench,
    store: &dyn Store,
    family: u32,
    round: u64,
    random: &mut SmallRng,
    records: u64,
) -> anyhow::Result<()> {
    store.write(family, &mut |txn| {
        for _ in 0..RECORDS_AT_A_TIME {
            let number = number(family, skewed(random, records));
            txn.put(&key(number), value(&bench.pool, number + round))?;
        }
        Ok(())
    })
}

/// No record came or went; which value one has at the end is not followed.
fn finish(bench: &Bench, setup: &Setup, measured: &mut Measured, records: u64) -> anyhow::Result<()> {
    measured.raw_bytes = u64::from(setup.families) * records * (KEY_BYTES + VALUE_BYTES) as u64;
    bench.verify(setup, |_| (records, std::iter::empty()))
}
