//! Many records at once: every second one in random order, and a range of a third.

use crate::{
    bench::{Bench, Work},
    data::{KEY_BYTES, Key, key, number, value},
    measured::Measured,
    workload::bulk,
};

/// A third of all keys lies from the first of these to the second.
const RANGE: [Key; 2] = [[0x55; KEY_BYTES], [0xAA; KEY_BYTES]];

pub(super) fn run(bench: &Bench) -> anyhow::Result<Measured> {
    let (setup, records) = (bulk::setup(bench), bulk::records(bench));
    let is_range = bench.case.variant == "range";
    let is_removed = |record: u64, key: &Key| {
        if is_range { (RANGE[0]..RANGE[1]).contains(key) } else { record.is_multiple_of(2) }
    };
    let removed = (0..records).filter(|&record| is_removed(record, &key(number(0, record)))).count() as u64;
    let store = bench.open(&setup)?;
    let mut measured = bench.measure(&setup, store, |store| {
        store.write(0, &mut |txn| {
            if is_range {
                return txn.remove_range(&RANGE[0], &RANGE[1]);
            }
            (0..records).step_by(2).try_for_each(|record| txn.remove(&key(number(0, record))))
        })?;
        Ok(Work::new(removed, 1))
    })?;
    measured.raw_bytes = bulk::raw_bytes(bench) / records * (records - removed);
    bench.verify(&setup, |family| {
        let entry = move |record| {
            let number = number(family, record);
            let key = key(number);
            (key.to_vec(), (!is_removed(record, &key)).then(|| value(&bench.pool, number)))
        };
        (records - removed, (0..records).step_by(997).map(entry))
    })?;
    Ok(measured)
}
