//! What does a small commit cost, and do those who wait share it?

use crate::{
    bench::{Bench, Work},
    case::Workload,
    data::{KEY_BYTES, VALUE_BYTES, in_order, key, number, value},
    engine::{Durability, Setup, Store},
    measured::Measured,
};
use spinney_bench_harness::race;

/// What is committed, how often.
struct Plan {
    durability: Durability,
    /// In each family before.
    before: u64,
    /// Of each writer.
    commits: u64,
    /// Of each commit.
    records: u64,
}

impl Plan {
    fn new(bench: &Bench) -> Self {
        let durable = Durability::Durable;
        match bench.case.workload {
            Workload::Batch => Self {
                durability: durable,
                before: bench.scaled(200_000),
                commits: bench.scaled_of_thread(4000),
                records: 100,
            },
            Workload::SingleEventual => Self {
                durability: Durability::Eventual,
                before: bench.scaled(100_000),
                commits: bench.scaled_of_thread(1_000_000),
                records: 1,
            },
            _ => Self {
                durability: durable,
                before: bench.scaled(100_000),
                commits: bench.scaled_of_thread(20_000),
                records: 1,
            },
        }
    }

    /// What a writer's commit adds.
    fn numbers(&self, writer: u32, commit: u64) -> impl Iterator<Item = u64> + use<> {
        let first = self.before + commit * self.records;
        (first..first + self.records).map(move |record| number(writer, record))
    }
}

pub(super) fn run(bench: &Bench) -> anyhow::Result<Measured> {
    let plan = Plan::new(bench);
    let writers = bench.case.threads;
    let setup = Setup { durability: plan.durability, ..bench.setup() };
    let store = bench.open(&setup)?;
    fill(bench, &*store, writers, plan.before)?;
    let mut measured = bench.measure(&setup, store, |store| {
        race(writers, |writer| {
            for commit in 0..plan.commits {
                store.write(writer, &mut |txn| {
                    let mut numbers = plan.numbers(writer, commit);
                    numbers.try_for_each(|number| txn.put(&key(number), value(&bench.pool, number)))
                })?;
            }
            Ok(())
        })?;
        let commits = plan.commits * u64::from(writers);
        Ok(Work::new(commits * plan.records, commits))
    })?;
    let count = plan.before + plan.commits * plan.records;
    measured.raw_bytes = count * u64::from(writers) * (KEY_BYTES + VALUE_BYTES) as u64;
    bench.verify(&setup, |family| {
        let looked_at = (0..plan.before).step_by(97).chain((plan.before..count).rev().step_by(13));
        let entry = move |record| {
            let number = number(family, record);
            (key(number).to_vec(), Some(value(&bench.pool, number)))
        };
        (count, looked_at.map(entry))
    })?;
    Ok(measured)
}

/// Gives each family its first records, before anything is timed.
pub(super) fn fill(bench: &Bench, store: &dyn Store, families: u32, records: u64) -> anyhow::Result<()> {
    for family in 0..families {
        let entries = in_order(family, records);
        store.load(family, &mut entries.iter().map(|(key, number)| (&key[..], value(&bench.pool, *number))))?;
    }
    store.settle()
}
