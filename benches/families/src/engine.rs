//! Spinney, in its variants: writes, then reopens and compares.

use crate::{measure::Measured, workload::Job};
use anyhow::{Context, ensure};
use spinney::{Database, Family, FileStats, Options, Tuning};
use spinney_bench_harness::{Counts, race, settle};
use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// What is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Variant {
    /// A family per writer in one file, everything at its default.
    Spinney,
    /// The same with a write per page.
    MergingOff,
    /// And with pages taken one by one from the shared map.
    MergingAndArenasOff,
    /// A file per writer.
    SeparateFiles,
    /// No database: the same bytes to one file.
    Bare,
}

impl Variant {
    /// Spinney before the bare disk, which needs to know how many bytes that wrote.
    pub(crate) const ALL: [Self; 5] =
        [Self::Spinney, Self::MergingOff, Self::MergingAndArenasOff, Self::SeparateFiles, Self::Bare];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Spinney => "Spinney, one file",
            Self::MergingOff => "merging off",
            Self::MergingAndArenasOff => "merging and arenas off",
            Self::SeparateFiles => "a file per writer",
            Self::Bare => "bare disk",
        }
    }

    fn tuning(self) -> Tuning {
        Tuning {
            merge: !matches!(self, Self::MergingOff | Self::MergingAndArenasOff),
            arenas: self != Self::MergingAndArenasOff,
            ..Tuning::default()
        }
    }
}

/// One file, and the families of the writers that share it.
struct Store {
    path: PathBuf,
    db: Database,
    families: Vec<(u32, Family)>,
    before: FileStats,
}

/// Measures one variant and verifies what it stored.
pub(crate) fn run(variant: Variant, folder: &Path, job: &Job<'_>) -> anyhow::Result<Measured> {
    let writers: Vec<u32> = (0..job.writers).collect();
    let together = if variant == Variant::SeparateFiles { 1 } else { writers.len() };
    let mut stores = Vec::new();
    for (number, writers) in writers.chunks(together).enumerate() {
        stores.push(create(&folder.join(format!("{number}.spinney")), variant, writers)?);
    }
    settle(folder)?;

    let family_of = |writer: u32| &stores[writer as usize / together].families[writer as usize % together].1;
    let (elapsed, latencies) = race(job.writers, |writer| write(family_of(writer), writer, job))?;
    let records = job.records_of_writer() * u64::from(job.writers);
    let mut measured = Measured { elapsed, records, latencies: latencies.concat(), ..Measured::default() };
    for store in stores {
        measured.counts += Counts::between(&store.before, &store.db.stats()?.file);
        drop(store.families);
        store.db.close()?;
        measured.file_bytes += fs::metadata(&store.path)?.len();
    }
    for (number, writers) in writers.chunks(together).enumerate() {
        let path = folder.join(format!("{number}.spinney"));
        verify(&path, writers, job).with_context(|| format!("{} after reopening", path.display()))?;
        fs::remove_file(&path)?;
    }
    Ok(measured)
}

fn create(path: &Path, variant: Variant, writers: &[u32]) -> anyhow::Result<Store> {
    let db = Options::new().tuning(variant.tuning()).create(path)?;
    let mut families = Vec::new();
    for &writer in writers {
        families.push((writer, db.family(&format!("writer {writer}"))?));
    }
    let before = db.stats()?.file;
    Ok(Store { path: path.to_owned(), db, families, before })
}

/// One writer's transactions; returns how long each commit took.
fn write(family: &Family, writer: u32, job: &Job<'_>) -> anyhow::Result<Vec<Duration>> {
    let mut latencies = Vec::with_capacity(job.transactions as usize);
    for transaction in 0..job.transactions {
        let mut txn = family.begin()?;
        let mut table = txn.family(family)?;
        for record in job.records_of(transaction) {
            table.insert(record.to_be_bytes(), job.values.of(writer, record, 0))?;
        }
        let begun = Instant::now();
        txn.commit()?;
        latencies.push(begun.elapsed());
    }
    Ok(latencies)
}

/// Every record is counted, and one of 97 compared.
fn verify(path: &Path, writers: &[u32], job: &Job<'_>) -> anyhow::Result<()> {
    let db = Options::new().create_missing(false).open(path)?;
    let snapshot = db.snapshot();
    for &writer in writers {
        let name = format!("writer {writer}");
        let family = db.open_family(&name)?.with_context(|| format!("family `{name}` is gone"))?;
        let count = snapshot.len(&family)?;
        ensure!(count == job.records_of_writer(), "{name} has {count} records");
        for record in (0..count).step_by(97).chain([count - 1]) {
            let is_same = |value: &[u8]| value == job.values.of(writer, record, 0);
            let found = snapshot.get_with(&family, record.to_be_bytes(), is_same)?;
            ensure!(found == Some(true), "{name}, record {record}: {found:?}");
        }
    }
    drop(snapshot);
    Ok(db.close()?)
}
