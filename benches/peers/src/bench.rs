//! One case of one engine in this process: opens, times, closes, reopens and compares.

use crate::{
    case::Case,
    engine::{Class, Durability, Engine, Scan, Setup, Store},
    measured::Measured,
    meter::{self, Meter},
};
use anyhow::{Context, ensure};
use spinney_bench_harness::{Pool, settle};
use std::{
    collections::BTreeMap,
    path::PathBuf,
    time::{Duration, Instant},
};

/// Of whatever an engine keeps in memory, where a workload says nothing else.
const BUDGET_BYTES: u64 = 1 << 30;

/// What a process works with.
pub(crate) struct Bench {
    pub(crate) engine: Engine,
    pub(crate) case: Case,
    pub(crate) folder: PathBuf,
    pub(crate) scale: f64,
    pub(crate) pool: Pool,
    pub(crate) meter: Meter,
}

/// What a timed part did.
#[derive(Clone, Debug, Default)]
pub(crate) struct Work {
    pub(crate) operations: u64,
    pub(crate) commits: u64,
    pub(crate) more: BTreeMap<String, f64>,
}

impl Work {
    pub(crate) fn new(operations: u64, commits: u64) -> Self {
        Self { operations, commits, more: BTreeMap::new() }
    }
}

impl Bench {
    /// A number of records or commits, as the scale has it.
    pub(crate) fn scaled(&self, full: u64) -> u64 {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "not negative, and no larger than `full`"
        )]
        let scaled = (full as f64 * self.scale).round() as u64;
        scaled.max(1)
    }

    /// A number of things, divided among the threads.
    pub(crate) fn scaled_of_thread(&self, full: u64) -> u64 {
        self.scaled(full / u64::from(self.case.threads))
    }

    /// A setup for small values and durable commits.
    pub(crate) fn setup(&self) -> Setup {
        Setup {
            families: self.case.families(),
            durability: Durability::Durable,
            budget_bytes: BUDGET_BYTES,
            value_bytes: crate::data::VALUE_BYTES,
            readers: 0,
        }
    }

    pub(crate) fn open(&self, setup: &Setup) -> anyhow::Result<Box<dyn Store>> {
        self.meter.before_engine()?;
        self.engine.open(&self.folder, setup).context("opening")
    }

    /// Times `work` on an opened engine, then closes it. The timed part begins on a disk that has nothing else to do.
    pub(crate) fn measure(
        &self,
        setup: &Setup,
        store: Box<dyn Store>,
        work: impl FnOnce(&dyn Store) -> anyhow::Result<Work>,
    ) -> anyhow::Result<Measured> {
        settle(&self.folder)?;
        let (span, work) = self.meter.timed(|| work(&*store))?;
        let settling = Instant::now();
        let settled = if work.commits > 0 {
            store.settle().context("settling")?;
            settling.elapsed()
        } else {
            Duration::ZERO
        };
        let class = match (work.commits, setup.durability) {
            (0, _) => Class::Read,
            (_, Durability::Durable) => Class::Durable,
            (_, Durability::Eventual) => self.engine.eventual_class(),
        };
        store.close().context("closing")?;
        Ok(Measured {
            class,
            operations: work.operations,
            commits: work.commits,
            seconds: span.elapsed.as_secs_f64(),
            settled_seconds: (span.elapsed + settled).as_secs_f64(),
            cpu_seconds: span.cpu.as_secs_f64(),
            written_bytes: self.meter.io_since_timed()?.written_bytes,
            write_calls: span.io.write_calls,
            handed_bytes: span.io.handed_bytes,
            read_bytes: span.io.read_bytes,
            anonymous_bytes: self.meter.anonymous_peak_bytes()?,
            resident_bytes: meter::resident_peak_bytes()?,
            budget_bytes: setup.budget_bytes,
            file_bytes: meter::size_of(&self.folder)?,
            raw_bytes: 0,
            more: work.more,
        })
    }

    /// Reopens and compares: each family's entries are counted by walking, and some are looked at. `expected` tells of a family how
    /// many there are and shows entries, or keys that must not be there.
    pub(crate) fn verify<'a, Entries>(
        &self,
        setup: &Setup,
        expected: impl Fn(u32) -> (u64, Entries),
    ) -> anyhow::Result<()>
    where
        Entries: Iterator<Item = (Vec<u8>, Option<&'a [u8]>)>,
    {
        let store = self.engine.open(&self.folder, setup).context("reopening")?;
        for family in 0..setup.families {
            let (count, entries) = expected(family);
            verify(&*store, family, count, entries).with_context(|| format!("family {family} after reopening"))?;
        }
        store.close()
    }
}

/// Counts a family's entries by walking, and looks at some.
pub(crate) fn verify<'a>(
    store: &dyn Store,
    family: u32,
    count: u64,
    mut entries: impl Iterator<Item = (Vec<u8>, Option<&'a [u8]>)>,
) -> anyhow::Result<()> {
    store.read(family, &mut |view| {
        let walked = view.scan(Scan::default(), &mut |_, _| ())?;
        ensure!(walked == count, "{walked} entries, not {count}");
        entries.try_for_each(|(key, expected)| {
            let mut is_same = expected.is_none();
            let is_there = view.get(&key, &mut |value| is_same = Some(value) == expected)?;
            ensure!(is_same && is_there == expected.is_some(), "key {key:x?}: there {is_there}, the same {is_same}");
            Ok(())
        })
    })
}
