//! How long opening takes, after a clean close and after a kill.

use crate::{
    bench::{Bench, Work, verify},
    data::{KEY_BYTES, in_order, key, number},
    engine::Setup,
    measured::Measured,
};
use anyhow::{bail, ensure};
use rustix::process::{Signal, getpid, kill_process};

const VALUE_BYTES: usize = 1000;
/// 1 GiB of keys and values.
const RECORDS: u64 = (1 << 30) / (KEY_BYTES + VALUE_BYTES) as u64;
/// Of one record each, before the kill.
const COMMITS: u64 = 5000;

pub(super) fn run(bench: &Bench) -> anyhow::Result<Option<Measured>> {
    let setup = Setup { value_bytes: VALUE_BYTES, ..bench.setup() };
    match bench.case.variant {
        "fill" => fill(bench, &setup).map(|()| None),
        "kill" => kill(bench, &setup).map(|()| None),
        _ => open(bench, &setup).map(Some),
    }
}

fn fill(bench: &Bench, setup: &Setup) -> anyhow::Result<()> {
    let entries = in_order(0, bench.scaled(RECORDS));
    let store = bench.open(setup)?;
    store.load(0, &mut entries.iter().map(|(key, number)| (&key[..], value(bench, *number))))?;
    store.settle()?;
    store.close()
}

/// Commits, and ends as nobody should.
fn kill(bench: &Bench, setup: &Setup) -> anyhow::Result<()> {
    let store = bench.open(setup)?;
    for record in records_after(bench) {
        let number = number(0, record);
        store.write(0, &mut |txn| txn.put(&key(number), value(bench, number)))?;
    }
    kill_process(getpid(), Signal::KILL)?;
    bail!("still alive")
}

fn open(bench: &Bench, setup: &Setup) -> anyhow::Result<Measured> {
    let mut newest = bench.scaled(RECORDS) - 1;
    if bench.case.variant == "killed" {
        newest += bench.scaled(COMMITS);
    }
    bench.meter.before_engine()?;
    let mut store = None;
    let (span, ()) = bench.meter.timed(|| {
        let opened = bench.engine.open(&bench.folder, setup)?;
        let mut is_there = false;
        opened.read(0, &mut |view| {
            is_there = view.get(&key(number(0, newest)), &mut |_| ())?;
            Ok(())
        })?;
        ensure!(is_there, "the newest record is gone");
        store = Some(opened);
        Ok(())
    })?;
    let Some(store) = store else { bail!("nothing was opened") };
    let entries = (0..=newest).rev().step_by(97).map(|record| number(0, record));
    verify(&*store, 0, newest + 1, entries.map(|n| (key(n).to_vec(), Some(value(bench, n)))))?;
    let mut measured = bench.measure(setup, store, |_| Ok(Work::new(1, 0)))?;
    measured.seconds = span.elapsed.as_secs_f64();
    measured.settled_seconds = measured.seconds;
    measured.cpu_seconds = span.cpu.as_secs_f64();
    measured.read_bytes = span.io.read_bytes;
    Ok(measured)
}

/// Those of the commits before the kill.
fn records_after(bench: &Bench) -> std::ops::Range<u64> {
    let first = bench.scaled(RECORDS);
    first..first + bench.scaled(COMMITS)
}

fn value(bench: &Bench, number: u64) -> &[u8] {
    bench.pool.cut(number, VALUE_BYTES)
}
