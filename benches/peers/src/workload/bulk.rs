//! One transaction of millions of records, in random order and in the order of their keys.

use crate::{
    bench::{Bench, Work},
    data::{KEY_BYTES, VALUE_BYTES, in_order, key, number, value},
    engine::Setup,
    measured::Measured,
};

/// Enough for all of the data.
const BUDGET_BYTES: u64 = 2 << 30;
const RECORDS: u64 = 5_000_000;

/// How an engine is opened for the data.
pub(super) fn setup(bench: &Bench) -> Setup {
    Setup { budget_bytes: BUDGET_BYTES, ..bench.setup() }
}

/// How many records there are.
pub(super) fn records(bench: &Bench) -> u64 {
    bench.scaled(RECORDS)
}

/// Bytes of their keys and values.
pub(super) fn raw_bytes(bench: &Bench) -> u64 {
    records(bench) * (KEY_BYTES + VALUE_BYTES) as u64
}

pub(super) fn run(bench: &Bench) -> anyhow::Result<Measured> {
    let (setup, records) = (setup(bench), records(bench));
    let entries = if bench.case.variant == "sorted" { in_order(0, records) } else { Vec::new() };
    let store = bench.open(&setup)?;
    let mut measured = bench.measure(&setup, store, |store| {
        if entries.is_empty() {
            store.write(0, &mut |txn| {
                let mut numbers = (0..records).map(|record| number(0, record));
                numbers.try_for_each(|number| txn.put(&key(number), value(&bench.pool, number)))
            })?;
        } else {
            store.load(0, &mut entries.iter().map(|(key, number)| (&key[..], value(&bench.pool, *number))))?;
        }
        Ok(Work::new(records, 1))
    })?;
    measured.raw_bytes = raw_bytes(bench);
    bench.verify(&setup, |family| {
        let looked_at = (0..records).step_by(997).map(move |record| number(family, record));
        (records, looked_at.map(|number| (key(number).to_vec(), Some(value(&bench.pool, number)))))
    })?;
    Ok(measured)
}
