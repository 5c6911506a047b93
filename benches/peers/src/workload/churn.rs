//! The same records again and again: does it stay as fast, and as small?

use crate::{
    bench::{Bench, Work},
    data::{KEY_BYTES, VALUE_BYTES, key, number, value},
    engine::{Durability, Setup, Store},
    measured::Measured,
    meter::{Io, size_of},
    workload::single,
};
use rand::{Rng, SeedableRng, rngs::SmallRng};
use std::time::Instant;

const RECORDS: u64 = 1_000_000;
/// So many times as many changes as records, each a window of time.
const TIMES: u32 = 10;
/// Of a commit.
const CHANGES: u64 = 100;
/// One change in so many is a removal.
const REMOVALS: u32 = 10;

/// The version of each record; 0 is none.
struct State {
    versions: Vec<u32>,
    random: SmallRng,
}

pub(super) fn run(bench: &Bench) -> anyhow::Result<Measured> {
    let setup = Setup { durability: Durability::Eventual, ..bench.setup() };
    let records = bench.scaled(RECORDS);
    let commits = records / CHANGES;
    let store = bench.open(&setup)?;
    single::fill(bench, &*store, 1, records)?;
    let mut state = State { versions: vec![1; usize::try_from(records)?], random: SmallRng::seed_from_u64(1) };
    let mut measured = bench.measure(&setup, store, |store| {
        let mut work = Work::new(u64::from(TIMES) * commits * CHANGES, u64::from(TIMES) * commits);
        for window in 1..=TIMES {
            let (before, begun) = (Io::now()?, Instant::now());
            for _ in 0..commits {
                change(bench, store, &mut state)?;
            }
            let rate = (commits * CHANGES) as f64 / begun.elapsed().as_secs_f64();
            let io = Io::now()?.since(before);
            work.more.insert(format!("{window:02} per second"), rate);
            work.more.insert(
                format!("{window:02} KiB per write"),
                io.handed_bytes as f64 / 1024.0 / io.write_calls.max(1) as f64,
            );
            work.more.insert(format!("{window:02} MiB of file"), size_of(&bench.folder)? as f64 / f64::from(1 << 20));
        }
        Ok(work)
    })?;
    let live = state.versions.iter().filter(|&&version| version > 0).count() as u64;
    measured.raw_bytes = live * (KEY_BYTES + VALUE_BYTES) as u64;
    bench.verify(&setup, |family| {
        let entry = move |(record, version): (u64, u32)| {
            let number = number(family, record);
            (key(number).to_vec(), (version > 0).then(|| versioned(bench, number, version)))
        };
        (live, (0..).zip(state.versions.iter().copied()).step_by(97).map(entry))
    })?;
    Ok(measured)
}

fn change(bench: &Bench, store: &dyn Store, state: &mut State) -> anyhow::Result<()> {
    store.write(0, &mut |txn| {
        for _ in 0..CHANGES {
            let record = state.random.random_range(0..state.versions.len());
            let number = number(0, record as u64);
            let version = &mut state.versions[record];
            if state.random.random_ratio(1, REMOVALS) {
                *version = 0;
                txn.remove(&key(number))?;
            } else {
                *version += 1;
                txn.put(&key(number), versioned(bench, number, *version))?;
            }
        }
        Ok(())
    })
}

/// The first version is what the family was filled with.
fn versioned(bench: &Bench, number: u64, version: u32) -> &[u8] {
    value(&bench.pool, number ^ u64::from(version - 1) << 44)
}
