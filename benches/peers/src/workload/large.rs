//! Values of 1 MiB: written, read, and read in part.

use crate::{
    bench::{Bench, Work},
    data::{KEY_BYTES, key, number},
    engine::Setup,
    measured::Measured,
};
use anyhow::ensure;
use rand::{SeedableRng, rngs::SmallRng, seq::SliceRandom};

pub(crate) const VALUE_BYTES: usize = 1 << 20;
const VALUES: u64 = 2000;
/// Of a commit.
pub(crate) const VALUES_AT_A_TIME: u64 = 10;
pub(crate) const PART_BYTES: usize = 4096;

/// How many values there are: whole commits.
pub(crate) fn values(bench: &Bench) -> u64 {
    bench.scaled(VALUES).next_multiple_of(VALUES_AT_A_TIME)
}

/// All values in an order that is random, and the same for all.
pub(crate) fn shuffled(bench: &Bench) -> Vec<u64> {
    let mut order: Vec<_> = (0..values(bench)).collect();
    order.shuffle(&mut SmallRng::seed_from_u64(1));
    order
}

pub(super) fn run(bench: &Bench) -> anyhow::Result<Measured> {
    let setup = Setup { value_bytes: VALUE_BYTES, readers: 1, ..bench.setup() };
    if bench.case.variant == "write" { write(bench, &setup) } else { read(bench, &setup) }
}

fn write(bench: &Bench, setup: &Setup) -> anyhow::Result<Measured> {
    let values = values(bench);
    let store = bench.open(setup)?;
    let mut measured = bench.measure(setup, store, |store| {
        let commits = values / VALUES_AT_A_TIME;
        for commit in 0..commits {
            store.write(0, &mut |txn| {
                let mut records = commit * VALUES_AT_A_TIME..(commit + 1) * VALUES_AT_A_TIME;
                records.try_for_each(|record| txn.put(&key(number(0, record)), value(bench, record)))
            })?;
        }
        Ok(Work::new(values, commits))
    })?;
    measured.raw_bytes = values * (KEY_BYTES + VALUE_BYTES) as u64;
    bench.verify(setup, |_| {
        let looked_at = (0..values).step_by(17);
        (values, looked_at.map(|record| (key(number(0, record)).to_vec(), Some(value(bench, record)))))
    })?;
    Ok(measured)
}

fn read(bench: &Bench, setup: &Setup) -> anyhow::Result<Measured> {
    let order = shuffled(bench);
    let is_part = bench.case.variant == "part";
    let middle = VALUE_BYTES / 2;
    let store = bench.open(setup)?;
    bench.measure(setup, store, |store| {
        store.read(0, &mut |view| {
            for &record in &order {
                let key = key(number(0, record));
                let mut is_same = false;
                if is_part {
                    let expected = &value(bench, record)[middle..middle + PART_BYTES];
                    view.get_part(&key, middle, PART_BYTES, &mut |part| is_same = part == expected)?;
                } else {
                    let expected = value(bench, record);
                    view.get(&key, &mut |whole| is_same = whole == expected)?;
                }
                ensure!(is_same, "value {record} is not what was written");
            }
            Ok(())
        })?;
        Ok(Work::new(order.len() as u64, 0))
    })
}

fn value(bench: &Bench, record: u64) -> &[u8] {
    bench.pool.cut(number(0, record), VALUE_BYTES)
}
