//! Entries in order: a few from a random key, and all.

use crate::{
    bench::{Bench, Work},
    data::{key, number},
    engine::{Scan, Setup},
    measured::Measured,
    workload::{bulk, get},
};
use anyhow::ensure;

const SCANS: u64 = 200_000;
const ENTRIES: u64 = 10;
/// No family has so many records.
const ELSEWHERE: u32 = 1 << 20;

pub(super) fn run(bench: &Bench) -> anyhow::Result<Measured> {
    let setup = Setup { readers: 1, ..bulk::setup(bench) };
    let store = bench.open(&setup)?;
    get::warm(&*store)?;
    bench.measure(&setup, store, |store| {
        let mut operations = 0;
        let mut bytes = 0;
        let mut show = |key: &[u8], value: &[u8]| bytes += key.len() + value.len();
        store.read(0, &mut |view| {
            if bench.case.variant != "short" {
                let scan = Scan { is_backward: bench.case.variant == "backward", ..Scan::default() };
                operations = view.scan(scan, &mut show)?;
                ensure!(operations == bulk::records(bench), "{operations} entries");
                return Ok(());
            }
            for number in (0..bench.scaled(SCANS)).map(|scan| number(ELSEWHERE, scan)) {
                let scan = Scan { from: Some(&key(number)), limit: Some(ENTRIES), ..Scan::default() };
                operations += view.scan(scan, &mut show)?;
            }
            Ok(())
        })?;
        ensure!(bytes > 0, "nothing was shown");
        Ok(Work::new(operations, 0))
    })
}
