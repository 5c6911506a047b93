//! Do writers of different families work at the same time?

use crate::{
    bench::{Bench, Work},
    case::Workload,
    data::number,
    engine::{Durability, Setup},
    measured::Measured,
};
use spinney_bench_harness::race;

/// Of each writer.
const TRANSACTIONS: u64 = 100;
/// Of a transaction.
pub(crate) const RECORDS: u64 = 1000;
pub(crate) const VALUE_BYTES: usize = 1024;

pub(super) fn run(bench: &Bench) -> anyhow::Result<Measured> {
    let durability = match bench.case.workload {
        Workload::FamiliesEventual => Durability::Eventual,
        _ => Durability::Durable,
    };
    let setup = Setup { durability, value_bytes: VALUE_BYTES, ..bench.setup() };
    let transactions = bench.scaled(TRANSACTIONS);
    let writers = bench.case.threads;
    let store = bench.open(&setup)?;
    let mut measured = bench.measure(&setup, store, |store| {
        race(writers, |writer| {
            for transaction in 0..transactions {
                store.write(writer, &mut |txn| {
                    (transaction * RECORDS..(transaction + 1) * RECORDS)
                        .try_for_each(|record| txn.put(&record.to_be_bytes(), value(bench, writer, record)))
                })?;
            }
            Ok(())
        })?;
        let commits = transactions * u64::from(writers);
        Ok(Work::new(commits * RECORDS, commits))
    })?;
    measured.raw_bytes = measured.operations * (8 + VALUE_BYTES as u64);
    let count = transactions * RECORDS;
    bench.verify(&setup, |family| {
        let looked_at = (0..count).step_by(97).chain([count - 1]);
        (count, looked_at.map(move |record| (record.to_be_bytes().to_vec(), Some(value(bench, family, record)))))
    })?;
    Ok(measured)
}

fn value(bench: &Bench, writer: u32, record: u64) -> &[u8] {
    bench.pool.cut(number(writer, record), VALUE_BYTES)
}
